//! What end-to-end tests stand on: a hermetic place to run real `dbuild` processes, eyes for what they leave behind,
//! real projects to build, and the table of cases.
//!
//! It knows dbuild only from outside: its command line, its environment variables and its JSON; a liar (`liar.rs`) also
//! its pool's protocol. Everything here may
//! panic: it is only ever called by tests.

// A test that cannot set up its world ends there; the message of the panic is the report.
#![allow(clippy::unwrap_used)]

mod befall;
mod binary;
pub mod case;
mod cluster;
mod counters;
mod desk;
pub mod disturbed;
pub mod expect;
mod liar;
mod mounts;
mod net;
mod process;
pub mod project;
mod proxy;
mod ran;
mod sandbox;
mod skip;
mod slow;
mod snapshot;
mod terminal;
pub mod trial;
mod twice;

pub use binary::{dbuild, is_stand_in, stand_in};
pub use cluster::{HelperLine, HelperPlan, Site, TestCluster, namespaces_work};
pub use counters::Counters;
pub use desk::{Desk, Said};
pub use liar::{Liar, Lie};
pub use mounts::{Mount, can_mount};
pub use net::Net;
pub use process::{Process, processes_of, processes_saying, wait_until};
pub use proxy::{Line, Proxy};
pub use ran::{PATIENCE, Ran, Stdio, run_bounded, without_own_lines};
pub use sandbox::Sandbox;
pub use skip::{Skips, have};
pub use slow::Slow;
pub use snapshot::{Snapshot, glob};
pub use terminal::{run_on_terminal, terminal};
pub use twice::{Twice, counted};
