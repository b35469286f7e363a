//! A helper: a machine that runs actions for one coordinator.
//!
//! It is two processes: the `supervisor`, which looks at the machine and keeps the other alive, and the worker, which takes
//! leases (`supervised` is its side of the socket between them). In the worker, `agent` keeps the pool stream, `action` is
//! the life of one lease, and each phase has its own room: `fetch` what the store lacks, `layout` decide what goes where, `stage` put it on disk, `execute` in the
//! `sandbox`, `collect` what came out. The helper does not know compilers, queues or why an action exists.

mod action;
mod agent;
mod announce;
mod collect;
mod command;
mod execute;
mod fault;
mod fetch;
mod input;
mod jobserver;
mod layout;
mod lock;
mod remote;
mod sandbox;
mod skeleton;
mod stage;
mod state;
mod supervised;
pub mod supervisor;
mod tree;
mod trees;

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::pool::ToWorker;

pub use sandbox::launcher::sandbox_init;
pub use supervised::work;
pub use supervisor::supervise;

/// How actions are kept apart from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxChoice {
    /// Namespaces; where the kernel refuses them the helper ends with a sentence that says what to do.
    Auto,
    /// No namespaces: the network and other processes stay reachable. As root, an action whose input root is
    /// its root runs in a chroot; as an ordinary user such actions are refused (fault `INFRASTRUCTURE`).
    None,
}

/// What one action may use. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Private writable memory of each process (`RLIMIT_DATA`); 0: the machine's memory.
    pub memory_bytes: u64,
    /// Processes of one action at a time (`RLIMIT_NPROC`, which counts inside the action's user namespace).
    pub processes: u64,
    /// The largest file that an action may write (`RLIMIT_FSIZE`).
    pub file_bytes: u64,
    /// All outputs of one action together.
    pub output_bytes: u64,
    /// stdout and stderr, each.
    pub stdio_bytes: u64,
    /// The action's own `/tmp`, which lives in memory.
    pub tmp_bytes: u64,
    /// Files, directories and symlinks of one input root, counted as they would be laid out.
    pub tree_nodes: u64,
    /// Directories one inside another.
    pub tree_depth: u32,
    /// How long an action without a timeout of its own may run, in milliseconds.
    pub default_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 0,
            processes: 4096,
            file_bytes: 8 << 30,
            output_bytes: 16 << 30,
            stdio_bytes: 64 << 20,
            tmp_bytes: 2 << 30,
            tree_nodes: 1_000_000,
            tree_depth: 256,
            default_timeout_ms: 3_600_000,
        }
    }
}

/// What a helper is told at its start.
#[derive(Clone, Debug)]
pub struct HelperConfig {
    /// URL of the coordinator, `http://HOST:PORT`.
    pub coordinator: String,
    /// Unique in the pool.
    pub name: String,
    /// Actions that run at a time.
    pub slots: u32,
    /// Kept blobs, kept trees and the directories of running actions; one helper per directory.
    pub data_dir: PathBuf,
    /// What blobs and trees together may take of the disk, in bytes (an action's own files come on top).
    pub max_bytes: u64,
    pub sandbox: SandboxChoice,
    pub limits: Limits,
    /// Whether actions that bring no file system of their own (Bazel's and its like) may see this machine's,
    /// read-only. Without it they are refused.
    pub host_files: bool,
    /// The command that calls [`sandbox_init`]; it gets no further arguments.
    pub launcher: Vec<OsString>,
}

impl HelperConfig {
    /// The defaults: 64 GiB of store, namespaces, `dbuild sandbox-exec` of the running binary as launcher.
    pub fn new(
        coordinator: impl Into<String>,
        name: impl Into<String>,
        data_dir: impl Into<PathBuf>,
    ) -> Self {
        HelperConfig {
            coordinator: coordinator.into(),
            name: name.into(),
            slots: 1,
            data_dir: data_dir.into(),
            max_bytes: 64 << 30,
            sandbox: SandboxChoice::Auto,
            limits: Limits::default(),
            host_files: true,
            launcher: vec!["/proc/self/exe".into(), "sandbox-exec".into()],
        }
    }
}

/// Why a helper ended, or could not begin; fits "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("use coordinator URL {url:?}: {reason}")]
    Url { url: String, reason: String },
    #[error("use data directory {0:?}: another helper runs in it")]
    Locked(PathBuf),
    #[error("prepare the data directory: {0}")]
    Io(#[from] std::io::Error),
    #[error("open the helper's store: {0}")]
    Store(#[from] dbuild_cache::CacheError),
    /// One sentence that says what to do.
    #[error("set up the sandbox: {0}")]
    Sandbox(String),
    #[error("join the pool: {0}")]
    Refused(String),
    /// Why, as a fragment.
    #[error("keep a worker running: {0}")]
    GaveUp(String),
}

impl HelperError {
    /// Whether another try would end as this one did, until somebody changes something.
    pub fn is_for_good(&self) -> bool {
        use HelperError::{GaveUp, Io, Locked, Refused, Sandbox, Store, Url};
        match self {
            Url { .. } | Locked(_) | Sandbox(_) | Refused(_) => true,
            Io(_) | Store(_) | GaveUp(_) => false,
        }
    }
}

/// Serves the coordinator until `shutdown` completes, in this process and without a supervisor. Reconnects for ever; an
/// action whose stream was lost is abandoned. When this returns no action runs and no directory of an action is left.
pub async fn run(config: HelperConfig, shutdown: impl Future<Output = ()>) -> Result<(), HelperError> {
    let worker = action::Worker::open(&config, Duration::ZERO).await?;
    let (tell, told) = tokio::sync::watch::channel(ToWorker::default());
    let mut sampler = state::Sampler::new(worker.data_dir());
    let samples = async {
        loop {
            tell.send_replace(ToWorker { state: Some(sampler.sample(0).state) });
            tokio::time::sleep(agent::SAMPLE).await;
        }
    };
    tokio::select! {
        served = agent::serve(&config, worker, told, Arc::default(), shutdown) => served,
        () = samples => Ok(()),
    }
}
