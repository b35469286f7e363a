//! The gRPC side: the Remote Execution API's services, the pool protocol, and `serve`, which binds them to
//! one listener. No scheduling is decided here.
//!
//! Store calls block, so each goes through `blocking`, that is `spawn_blocking`, even the tiny ones: one
//! `stat` behind a busy disk takes as long as any read, `block_in_place` would stall the other futures of
//! its task (a whole HTTP/2 connection), and it does not work on a current-thread runtime. The hand-over
//! costs about 10 µs; that is why calls take whole batches and whole messages at a time.

mod action_cache;
mod bytestream;
mod capabilities;
mod cas;
mod council;
mod desk;
mod detached;
mod execution;
mod job;
mod messages;
mod outputs;
mod packing;
mod pool;
mod refusal;
mod requester;
mod resource;
mod tree;
mod uploads;
mod verdict;

pub use refusal::{PreconditionFailure, Violation};

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dbuild_cache::{Store, StoreConfig};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::byte_stream_server::ByteStreamServer;
use dbuild_proto::{DigestError, DigestFunction, MAX_MESSAGE};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::{CoordinatorConfig, CoordinatorError};

/// How long open requests may go on after the shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(3);

/// What every service works on.
#[derive(Clone)]
struct Site {
    store: Store,
    config: Arc<CoordinatorConfig>,
    desk: desk::Desk,
    detached: Arc<detached::Detached>,
    inputs: Arc<tree::Inputs>,
    council: council::Council,
}

impl Site {
    /// The digest function of a request that carries `value`.
    fn function(&self, value: i32) -> Result<DigestFunction, DigestError> {
        DigestFunction::from_wire(value, self.config.default_digest_function)
    }
}

/// Threads for what blocks, for each processor, and at least. All of it is short and waits for the disk only, never for a
/// peer; with many threads every call wakes one and goes to sleep again, which costs more than the call.
const BLOCKING: (usize, usize) = (4, 8);

/// A runtime for one coordinator.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (each, least) = BLOCKING;
    let threads = (processors * each).max(least);
    tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(threads).build()
}

/// Runs what blocks where it may: see the module's text.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Status::internal(format!("a task of the coordinator died: {error}"))),
    }
}

/// Serves on `listener` until `shutdown` completes, then lets open requests finish for a few seconds.
///
/// Operations in flight and helpers are told at once; a client of theirs sees `UNAVAILABLE`.
pub async fn serve(
    listener: tokio::net::TcpListener,
    config: CoordinatorConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), CoordinatorError> {
    let store_config = StoreConfig { dir: config.data_dir.clone(), max_bytes: config.max_bytes };
    let store = tokio::task::spawn_blocking(move || Store::open(store_config)).await;
    let store = store.map_err(|_| CoordinatorError::Died)??;
    let stop = CancellationToken::new();
    // A coordinator whose future is dropped stops as well.
    let _stop_on_drop = stop.clone().drop_guard();
    let desk = desk::Desk::start(config.limits(), stop.clone());
    let site = Site {
        council: council::Council::sit(config.registry.clone(), desk.clone(), stop.clone()),
        desk,
        detached: Arc::default(),
        inputs: Arc::new(tree::Inputs::default()),
        store,
        config: Arc::new(config),
    };
    let server = routes(&site).serve_with_incoming_shutdown(
        TcpIncoming::from(listener).with_nodelay(Some(true)),
        stop.clone().cancelled_owned(),
    );
    tokio::pin!(server);
    tokio::select! {
        result = &mut server => return Ok(result?),
        () = shutdown => stop.cancel(),
    }
    match tokio::time::timeout(DRAIN, server).await {
        Ok(result) => Ok(result?),
        Err(_) => Ok(()),
    }
}

fn routes(site: &Site) -> tonic::transport::server::Router {
    macro_rules! sized {
        ($server:expr) => {
            $server.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
        };
    }
    use dbuild_proto::pool::pool_server::PoolServer;
    use re::action_cache_server::ActionCacheServer;
    use re::capabilities_server::CapabilitiesServer;
    use re::content_addressable_storage_server::ContentAddressableStorageServer;
    use re::execution_server::ExecutionServer;
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        // One stream for each Execute of a `make -j2000` on one connection, and transfers beside them.
        .max_concurrent_streams(4096)
        // A build that is interrupted resets as many at once, and that is no attack.
        .http2_max_pending_accept_reset_streams(Some(4096))
        .add_service(sized!(CapabilitiesServer::new(capabilities::Service(site.clone()))))
        .add_service(sized!(ContentAddressableStorageServer::new(cas::Service(site.clone()))))
        .add_service(sized!(ByteStreamServer::new(bytestream::Service::new(site.clone()))))
        .add_service(sized!(ActionCacheServer::new(action_cache::Service(site.clone()))))
        .add_service(sized!(ExecutionServer::new(execution::Service(site.clone()))))
        .add_service(sized!(PoolServer::new(pool::Service(site.clone()))))
}
