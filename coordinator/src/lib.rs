//! The coordinator: a Remote Execution API v2 server, the queue in front of the helpers, and the pool
//! protocol that helpers speak.
//!
//! [`pool`] decides and does nothing else; [`service`] talks to the network and to the store and decides
//! nothing. The crate is silent, takes its configuration as a struct, and keeps only soft state besides
//! the store: after a restart helpers attach again and clients execute again.

pub mod config;
pub mod pool;
pub mod service;

pub use config::{CoordinatorConfig, Membership};
pub use service::{runtime, serve};

/// Why a coordinator cannot serve; a fragment that fits "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    #[error("open the coordinator's store: failed to {0}")]
    Store(#[from] dbuild_cache::CacheError),
    #[error("serve gRPC: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error("open the coordinator's store: the task that opened it died")]
    Died,
}
