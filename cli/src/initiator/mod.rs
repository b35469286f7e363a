//! The initiator: one user's background process. It survives builds, so what it learned stays warm.
//!
//! `front` is where shims come in; `invocation` is one compiler call from its first frame to its last; `task` is one
//! source file, whose way leads through `near`, `pool` and `local`. This file is the process: its lock, its sockets,
//! its end.

mod client;
mod connection;
mod context;
mod control;
mod crates;
mod front;
mod invocation;
mod keeping;
mod local;
mod near;
pub mod outputs;
mod policy;
mod pool;
pub mod remote;
mod roots;
mod slots;
mod task;
mod warmth;

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use dbuild_cache::{Store, StoreConfig};
use dbuild_intake::{
    DirTable, FileTable, Known, Loaded, ScanLimits, ScannedInputs, Toolchains, TracedDepends, Watch,
};
use dbuild_registry::{Leader, is_registry};
use dbuild_shims::view::View;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

pub use client::Client;
pub use control::{Answer, Request};
pub use pool::SCAN_DIFFERS;
pub use warmth::Warmth;

use crate::config::{Config, processors};
use crate::error::{CliError, Context, Result};
use crate::limits::raise_files;
use crate::paths::{DataDir, short_socket_path};
use crate::record;
use crates::Needs;
use keeping::Keeping;
use remote::Remote;
use slots::Slots;

/// Files whose digests are kept warm.
const WARM_FILES: usize = 400_000;
/// Directories whose listings are kept warm.
const WARM_DIRECTORIES: usize = 20_000;

/// The longest that the compiler's own preprocessor may take to list inputs.
const FIND_LIMIT: Duration = Duration::from_secs(300);

/// How long file events gather before they are read, if no compile asks sooner.
const EVENTS_GATHER: Duration = Duration::from_millis(20);

/// How often an initiator without work looks whether it can still be found.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// What every invocation shares.
pub struct Initiator {
    config: Config,
    /// None while the cache cannot be used, with the reason.
    store: std::result::Result<Store, String>,
    files: Arc<FileTable>,
    directories: Arc<DirTable>,
    /// Keeps both true without looking.
    watch: Arc<Watch<Known>>,
    toolchains: Toolchains,
    /// What programs and procedural macros bring along.
    loaded: Loaded,
    /// Which crates crates need.
    needs: Needs,
    /// Finds the inputs of what is sent away.
    finder: ScannedInputs,
    /// Path of the interceptor, for traced runs.
    interceptor: PathBuf,
    /// Its content, once a helper needed it.
    interceptor_bytes: OnceLock<Arc<[u8]>>,
    /// How this process sees the file system; who sees another one is not served.
    view: View,
    slots: Slots,
    /// Turns for the search for inputs, which costs a processor as a compile does.
    scans: Slots,
    remotes: Mutex<HashMap<String, Remote>>,
    /// Who leads the pools that are named by a database.
    leaders: Mutex<HashMap<String, Arc<Leader>>>,
    recorder: record::Sender,
    /// Work for the cache that goes on behind answered calls.
    keeping: Keeping,
    /// Identity of this machine's processor, for `-march=native`.
    cpu: OnceLock<String>,
    /// How many traces were begun.
    traces: AtomicUsize,
    busy: AtomicUsize,
    /// How many connections there ever were.
    served: AtomicUsize,
    /// Rings when `busy` has become 0.
    idle: Notify,
    stopping: watch::Sender<bool>,
}

/// Serves until idle for long enough, or asked to stop. Returns at once when another initiator is there.
pub fn run(config: Config) -> Result<()> {
    fs_err::create_dir_all(config.data_dir.run()).context("make the run directory")?;
    log_to_file(&config);
    raise_files().map_err(CliError::new)?;
    let lock = fs_err::File::create(config.data_dir.initiator_lock()).context("open the lock")?;
    let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&lock, exclusive).is_err() {
        tracing::info!("another initiator is there");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // It talks and waits; what takes time is on threads of its own. More would mostly wake each other.
        .worker_threads((processors() as usize).div_ceil(4))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let served = runtime.block_on(serve(config));
    // Whatever still runs on blocking threads is reading or hashing; nothing waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(error) = &served {
        tracing::error!(%error, "the initiator ends");
    }
    drop(lock);
    served
}

async fn serve(config: Config) -> Result<()> {
    let data = config.data_dir.clone();
    // Left by an initiator that was killed: nobody else can be using them, because we hold the lock.
    fs_err::remove_dir_all(data.scratch()).or_else(ignore_missing).context("clear the scratch directory")?;
    fs_err::create_dir_all(data.scratch()).context("make the scratch directory")?;
    let interceptor = crate::embedded::directory(&data).context("find the shims")?;
    let initiator = Arc::new(Initiator::new(config, interceptor.join(dbuild_shims::vars::INTERCEPT_FILE)));
    front::open(&initiator, bind(&data.shim_socket())?).context("start threads")?;
    let control = bind(&data.control_socket())?;
    control.set_nonblocking(true).context("listen")?;
    let control = UnixListener::from_std(control).context("listen")?;
    tracing::info!(pid = std::process::id(), "the initiator is ready");

    let watch = initiator.watch.clone();
    std::thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || keep_settled(&watch))
        .context("start a thread")?;
    let shim_socket = data.shim_socket();
    let own_socket = socket_identity(&shim_socket);
    let mut connections = JoinSet::new();
    let mut stopped = initiator.stopping.subscribe();
    loop {
        tokio::select! {
            accepted = control.accept() => accept(&initiator, &mut connections, accepted).await,
            Some(_) = connections.join_next() => {}
            () = initiator.idle_long_enough() => break,
            () = initiator.cut_off(&shim_socket, own_socket) => {
                tracing::warn!("the run directory was removed; nobody can reach this initiator");
                return Ok(());
            }
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    // From here on new calls start a new initiator, or run by themselves.
    for socket in [data.shim_socket(), data.control_socket()] {
        fs_err::remove_file(socket).or_else(ignore_missing).context("remove a socket")?;
    }
    drop(control);
    initiator.leave_known_files();
    let (reply, flushed) = tokio::sync::oneshot::channel();
    initiator.record(record::Event::Flush(reply));
    // The recorder may be gone already; then there is nothing to wait for.
    let _ = flushed.await;
    tracing::info!("the initiator ends");
    Ok(())
}

/// Reads file events as they come, so that the kernel's queue of them does not overflow while nobody asks. Ends with
/// the process.
fn keep_settled(watch: &Watch<Known>) {
    while watch.wait() {
        // Events come in crowds; one reading for each would be many.
        std::thread::sleep(EVENTS_GATHER);
        watch.settle();
    }
}

async fn accept(
    initiator: &Arc<Initiator>,
    connections: &mut JoinSet<()>,
    accepted: std::io::Result<(UnixStream, tokio::net::unix::SocketAddr)>,
) {
    let stream = match accepted {
        Ok((stream, _)) => stream,
        Err(error) => {
            tracing::warn!(%error, "failed to accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            return;
        }
    };
    let initiator = initiator.clone();
    let busy = Busy::begin(&initiator);
    connections.spawn(async move {
        if let Err(error) = control::serve(&initiator, stream).await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop(busy);
    });
}

/// Somebody is connected: the initiator does not end meanwhile.
struct Busy(Arc<Initiator>);

impl Busy {
    fn begin(initiator: &Arc<Initiator>) -> Busy {
        initiator.busy.fetch_add(1, Ordering::AcqRel);
        initiator.served.fetch_add(1, Ordering::AcqRel);
        Busy(initiator.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Initiator {
    fn new(config: Config, interceptor: PathBuf) -> Self {
        let store =
            Store::open(StoreConfig { dir: config.data_dir.cache(), max_bytes: config.cache_max_bytes })
                .map_err(|error| format!("the cache cannot be used: {error}"));
        if let Err(reason) = &store {
            tracing::warn!(reason, "working without a cache");
        }
        let watch = Arc::new(Watch::start(WARM_FILES));
        let files = Arc::new(FileTable::new(WARM_FILES, SystemTime::now).watched(watch.clone()));
        if let Ok(store) = &store {
            match files.take_over(store) {
                Ok(count) => tracing::info!(count, "large files are known from before"),
                Err(error) => tracing::warn!(%error, "failed to read what was known of files"),
            }
        }
        let directories = Arc::new(DirTable::new(WARM_DIRECTORIES, SystemTime::now).watched(watch.clone()));
        let traced = TracedDepends {
            interceptor: interceptor.clone(),
            scratch: config.data_dir.scratch(),
            own: own_directories(&config.data_dir, &interceptor),
            files: files.clone(),
            limit: FIND_LIMIT,
        };
        Initiator {
            finder: ScannedInputs::new(traced, directories.clone(), ScanLimits::default()),
            store,
            watch,
            loaded: Loaded::default(),
            needs: Needs::default(),
            interceptor_bytes: OnceLock::new(),
            keeping: Keeping::default(),
            toolchains: Toolchains::new(files.clone(), directories.clone(), SystemTime::now),
            directories,
            files,
            interceptor,
            view: dbuild_shims::view::own(),
            slots: Slots::new(),
            scans: Slots::new(),
            remotes: Mutex::default(),
            leaders: Mutex::default(),
            recorder: record::Recorder::start(config.data_dir.records()),
            cpu: OnceLock::new(),
            traces: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            idle: Notify::new(),
            stopping: watch::Sender::new(false),
            config,
        }
    }

    /// Tells the recorder; it outlives every connection.
    pub fn record(&self, event: record::Event) {
        if self.recorder.send(event).is_err() {
            tracing::debug!("the recorder is gone");
        }
    }

    /// Ends the process soon; connections that are open are cut, and their shims go on by themselves.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Tells the next initiator what is known of large files.
    fn leave_known_files(&self) {
        if let Ok(store) = &self.store
            && let Err(error) = self.files.leave(store)
        {
            tracing::debug!(%error, "failed to write what is known of files");
        }
    }

    /// The client of the coordinator at `url`, or of the one that leads, says the database at `url`.
    async fn remote(&self, url: &str) -> std::result::Result<Remote, remote::Fault> {
        if !is_registry(url) {
            return self.remote_at(url);
        }
        let leader = self.leader(url)?.get().await;
        let unknown = |why| remote::Fault::new(format!("the coordinator is not known: {why}"));
        self.remote_at(&leader.map_err(unknown)?)
    }

    fn leader(&self, url: &str) -> std::result::Result<Arc<Leader>, remote::Fault> {
        let mut leaders = self.leaders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(leader) = leaders.get(url) {
            return Ok(leader.clone());
        }
        let leader = Leader::follow(url).map_err(|error| remote::Fault::new(format!("failed to {error}")))?;
        let leader = Arc::new(leader);
        leaders.insert(url.to_owned(), leader.clone());
        Ok(leader)
    }

    fn remote_at(&self, url: &str) -> std::result::Result<Remote, remote::Fault> {
        let mut remotes = self.remotes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(remote) = remotes.get(url) {
            return Ok(remote.clone());
        }
        let remote = Remote::new(url)?;
        remotes.insert(url.to_owned(), remote.clone());
        Ok(remote)
    }

    /// As [`Initiator::remote`], but only one that was asked before; needs no runtime.
    fn known_remote(&self, url: &str) -> Option<Remote> {
        let leaders = self.leaders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let leader = leaders.get(url).and_then(|leader| leader.peek());
        let remotes = self.remotes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        remotes.get(leader.as_deref().unwrap_or(url)).cloned()
    }

    fn own_directories(&self) -> Vec<PathBuf> {
        own_directories(&self.config.data_dir, &self.interceptor)
    }

    /// The interceptor as it travels.
    fn interceptor_bytes(&self) -> std::io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.interceptor_bytes.get() {
            return Ok(bytes.clone());
        }
        let bytes: Arc<[u8]> = fs_err::read(&self.interceptor)?.into();
        Ok(self.interceptor_bytes.get_or_init(|| bytes).clone())
    }

    /// A name in the scratch directory that no other trace has.
    fn new_trace(&self) -> PathBuf {
        let number = self.traces.fetch_add(1, Ordering::Relaxed);
        self.config.data_dir.scratch().join(format!("trace-{number}"))
    }

    /// What `-march=native` means here: model and features as the kernel tells them.
    fn cpu(&self) -> &str {
        self.cpu.get_or_init(|| {
            let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let wanted = ["vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features"];
            let line =
                |line: &&str| line.split_once(':').is_some_and(|(name, _)| wanted.contains(&name.trim()));
            // The first processor speaks for all, as it does for the compiler.
            let first = text.split("\n\n").next().unwrap_or_default();
            first.lines().filter(line).collect::<Vec<_>>().join("\n")
        })
    }

    /// Resolves when the socket is not there any more, or is another's, and nobody is connected.
    async fn cut_off(&self, socket: &std::path::Path, own: Option<(u64, u64)>) {
        loop {
            tokio::time::sleep(LOOK_AROUND).await;
            if self.busy.load(Ordering::Acquire) == 0 && socket_identity(socket) != own {
                return;
            }
        }
    }

    /// Resolves after the configured time without any connection.
    async fn idle_long_enough(&self) {
        let limit = Duration::from_secs(self.config.idle_seconds);
        loop {
            let became_idle = self.idle.notified();
            if self.busy.load(Ordering::Acquire) > 0 {
                became_idle.await;
                continue;
            }
            let before = self.served.load(Ordering::Acquire);
            tokio::time::sleep(limit).await;
            let after = self.served.load(Ordering::Acquire);
            if self.busy.load(Ordering::Acquire) == 0 && after == before {
                return;
            }
        }
    }
}

/// Directories of dbuild's own: what lies in them is no input of any compile.
fn own_directories(data: &DataDir, interceptor: &std::path::Path) -> Vec<PathBuf> {
    let mut own = vec![data.run(), data.shims(), data.scratch()];
    own.extend(interceptor.parent().map(std::path::Path::to_path_buf));
    own
}

/// Device and number of a file.
fn socket_identity(path: &std::path::Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Listens on a socket that only this user can reach.
fn bind(path: &std::path::Path) -> Result<std::os::unix::net::UnixListener> {
    fs_err::remove_file(path).or_else(ignore_missing).context("remove a stale socket")?;
    let (short, _guard) = short_socket_path(path).context("open the run directory")?;
    let listener = std::os::unix::net::UnixListener::bind(&short)
        .map_err(|error| CliError::new(format!("failed to listen on {}: {error}", path.display())))?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600)).context("protect a socket")?;
    Ok(listener)
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The log is a file, because nobody's terminal is ours; `DBUILD_LOG` says how much.
fn log_to_file(config: &Config) {
    let Ok(file) = std::fs::File::create(config.data_dir.initiator_log()) else { return };
    let filter = tracing_subscriber::EnvFilter::try_from_env("DBUILD_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(file)).init();
}
