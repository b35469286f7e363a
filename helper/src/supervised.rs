//! The worker's side of a helper of two processes: it hears of the machine from its supervisor, tells it once a second that
//! it is alive, and ends when the supervisor does.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dbuild_proto::pool::{FromWorker, ToWorker};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::action::Worker;
use crate::agent::{SAMPLE, Vitals, serve};
use crate::supervisor::link::{Reader, Writer, link};
use crate::supervisor::manners::Mode;
use crate::{HelperConfig, HelperError};

/// How long a worker may take to end after its supervisor.
const LAST: Duration = Duration::from_secs(10);

/// Works for the supervisor whose socket is this process's stdin, until that is closed.
///
/// # Errors
/// As [`crate::run`]; and when stdin is no socket.
pub async fn work(config: HelperConfig, mode: Mode) -> Result<(), HelperError> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    end_with(socket.try_clone()?.into());
    lower_priority(mode);
    let (reader, writer) = link(socket)?;
    let (tell, told) = watch::channel(ToWorker::default());
    let vitals = Arc::new(Vitals::default());
    let gone = CancellationToken::new();
    tokio::spawn(hear(reader, tell, gone.clone()));
    let (worker_is, is_worker) = watch::channel(None);
    tokio::spawn(pulse(writer, Arc::clone(&vitals), is_worker));
    // Of a supervisor that was killed and started again, the worker before this one may still be ending.
    let worker = Worker::open(&config, LAST + SAMPLE).await?;
    worker_is.send_replace(Some(worker.clone()));
    serve(&config, worker, told, vitals, gone.cancelled_owned()).await
}

/// Ends this process for sure some time after its supervisor, even if it hangs. A thread of its own, which nothing else can
/// hold up.
fn end_with(socket: OwnedFd) {
    let watch = move || {
        let mut fds = [PollFd::new(&socket, PollFlags::RDHUP | PollFlags::HUP)];
        while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
        std::thread::sleep(LAST);
        std::process::exit(1);
    };
    // Without a thread to spare it ends as it should in all cases but a hang.
    drop(std::thread::Builder::new().name("supervisor".to_owned()).spawn(watch));
}

async fn hear(mut reader: Reader, tell: watch::Sender<ToWorker>, gone: CancellationToken) {
    let _gone = gone.drop_guard();
    while let Ok(message) = reader.next().await {
        tell.send_replace(message);
    }
}

async fn pulse(mut writer: Writer, vitals: Arc<Vitals>, worker: watch::Receiver<Option<Worker>>) {
    let mut ticks = tokio::time::interval(SAMPLE);
    loop {
        ticks.tick().await;
        let worker = worker.borrow().clone();
        let alive = FromWorker {
            running: vitals.running.load(Relaxed),
            tasks_done: vitals.done.load(Relaxed),
            tasks_failed: vitals.failed.load(Relaxed),
            cpu_us: worker.as_ref().map_or(0, Worker::cpu_us),
            store_bytes: worker.as_ref().map_or(0, Worker::store_bytes),
            trees: worker.as_ref().map_or_else(Vec::new, Worker::trees),
            state_interval_ms: vitals.state_interval_ms.load(Relaxed),
        };
        if writer.send(&alive).await.is_err() {
            return;
        }
    }
}

/// Gives way to others of this machine: this process and all that it starts. What is refused stays as it is.
fn lower_priority(mode: Mode) {
    // `ioprio_set(2)`: class and level in one number.
    const BEST_EFFORT: i32 = 2 << 13;
    const IDLE: i32 = 3 << 13;
    let (nice, io) = match mode {
        Mode::Dedicated => (5, BEST_EFFORT | 6),
        Mode::Proportional => (10, BEST_EFFORT | 7),
        Mode::Idle => (19, IDLE),
    };
    let lowered = rustix::process::nice(nice);
    // SAFETY: takes three numbers; 1 and 0 are this thread, whose children inherit it.
    let io = unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, io) };
    if lowered.is_err() || io != 0 {
        tracing::info!("this helper's priority could not be lowered");
    }
}
