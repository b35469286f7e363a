//! The supervisor: the process that stands for a helper. It looks at the machine, says what it has to offer, keeps a worker
//! that does the work, and starts another when one dies or hangs.
//!
//! It runs nothing of anybody else's and holds no store, so there is little that can end it. A worker that died is known to
//! the coordinator at once by its connection's end; one that hangs is killed, which is the same.

mod backoff;
pub mod link;
pub mod manners;
mod report;
mod usage;

use std::ffi::OsString;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use dbuild_proto::pool::{FromWorker, Mood, State, ToWorker};
use dbuild_registry::{Leader, without_password};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior};

use crate::HelperError;
use crate::agent::SAMPLE;
use crate::lock::{Role, lock};
use crate::state::Sampler;
use backoff::Backoff;
use link::{Reader, Writer, link};
use manners::{Keeper, Look, Manners};
pub use report::Reporting;

/// A worker that says nothing for so many looks at the machine hangs; at its start it may take longer.
const SILENCE: (u32, u32) = (10, 60);
/// How long a worker may take to end when it is asked to.
const STOP: Duration = Duration::from_secs(12);

/// What a supervisor is told at its start.
#[derive(Clone, Debug)]
pub struct Supervision {
    /// Unique in the pool.
    pub name: String,
    /// As the worker's.
    pub slots: u32,
    /// The worker's; here it is looked at for its disk, and for [`PAUSED`].
    pub data_dir: PathBuf,
    pub manners: Manners,
    pub reporting: Reporting,
    /// Whose leases the worker takes.
    pub coordinator: Coordinator,
    /// The command that calls [`crate::work`]; the coordinator's URL is added to it as the last argument.
    pub worker: Vec<OsString>,
    /// A worker that ends with this code has said why, and another would say the same.
    pub refusal: i32,
    /// A worker that ends with this code has said why; another may do better, but not the very first.
    pub failure: i32,
}

/// Where a coordinator is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coordinator {
    /// Always at this URL.
    At(String),
    /// Whoever leads, says the database at this address.
    LeaderOf(String),
}

/// The file in a helper's data directory by which its owner pauses it.
pub const PAUSED: &str = "paused";

/// How a helper ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// Its worker could not begin, or was refused, and has said why on stderr.
    Refused,
}

enum WorkerEnd {
    Shutdown,
    Refused,
    /// Another coordinator leads.
    Moved,
    /// Why, as a fragment.
    Lost(String),
}

/// Keeps a worker until `shutdown`. When this returns no worker is left.
///
/// # Errors
/// [`HelperError::Locked`] when another helper has the data directory, [`HelperError::GaveUp`] when workers die one after
/// the other.
pub async fn supervise(
    config: Supervision,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, HelperError> {
    fs_err::create_dir_all(&config.data_dir)?;
    let _ours = lock(&config.data_dir, Role::Supervisor, Duration::ZERO).await?;
    let mut watch = Watch::new(&config)?;
    let ended = keep(&config, &mut watch, pin!(shutdown)).await;
    watch.reporter.end().await;
    ended
}

async fn keep(
    config: &Supervision,
    watch: &mut Watch,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<Ended, HelperError> {
    let mut backoff = Backoff::default();
    let begun = Instant::now();
    let whom = Whom::find(&config.coordinator)?;
    loop {
        let coordinator = tokio::select! {
            () = shutdown.as_mut() => return Ok(Ended::Stopped),
            coordinator = whom.get() => coordinator,
        };
        backoff.started(begun.elapsed());
        let end = match Worker::start(&config.worker, &coordinator) {
            // No process, no memory: what a supervisor waits for to pass.
            Err(error) => WorkerEnd::Lost(format!("could not be started: {error}")),
            Ok(mut worker) => {
                let end = tokio::select! {
                    end = watch.over(&mut worker, config, shutdown.as_mut()) => end,
                    () = whom.changed(&coordinator) => WorkerEnd::Moved,
                };
                worker.end().await;
                end
            }
        };
        let why = match end {
            WorkerEnd::Shutdown => return Ok(Ended::Stopped),
            WorkerEnd::Refused => return Ok(Ended::Refused),
            WorkerEnd::Moved => {
                tracing::info!("{coordinator} does not lead any more");
                backoff = Backoff::default();
                watch.restarts += 1;
                continue;
            }
            WorkerEnd::Lost(why) => why,
        };
        let Some(wait) = backoff.ended(begun.elapsed()) else {
            return Err(HelperError::GaveUp(format!("{}; the last time {why}", Backoff::gave_up())));
        };
        tracing::warn!("the worker {why}; another is started in {} s", wait.as_secs());
        tokio::select! {
            () = shutdown.as_mut() => return Ok(Ended::Stopped),
            () = watch.without_worker(wait) => {}
        }
        // Only now: what was said of the last one is known to be older than the next.
        watch.restarts += 1;
    }
}

/// Who leads.
enum Whom {
    At(String),
    Leader(Leader),
}

impl Whom {
    fn find(coordinator: &Coordinator) -> Result<Whom, HelperError> {
        Ok(match coordinator {
            Coordinator::At(url) => Whom::At(url.clone()),
            Coordinator::LeaderOf(url) => Whom::Leader(Leader::follow(url).map_err(|error| {
                HelperError::Url { url: without_password(url), reason: error.to_string() }
            })?),
        })
    }

    /// The coordinator's URL; waits until there is one.
    async fn get(&self) -> String {
        let leader = match self {
            Whom::At(url) => return url.clone(),
            Whom::Leader(leader) => leader,
        };
        let mut said = false;
        loop {
            match leader.get().await {
                Ok(url) => return url,
                Err(why) if !std::mem::replace(&mut said, true) => {
                    tracing::warn!("no coordinator is known: {why}; trying again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(SAMPLE).await;
        }
    }

    /// Waits until another one leads.
    async fn changed(&self, from: &str) {
        let Whom::Leader(leader) = self else { return std::future::pending().await };
        // As long as nobody else leads, it may still be the one.
        while leader.get().await.map_or(true, |url| url == from) {
            tokio::time::sleep(SAMPLE).await;
        }
    }
}

/// A worker's process and the socket to it.
struct Worker {
    child: Child,
    pid: Pid,
    link: Option<(Reader, Writer)>,
}

impl Worker {
    fn start(words: &[OsString], coordinator: &str) -> Result<Worker, HelperError> {
        let (ours, theirs) = UnixStream::pair()?;
        let (program, args) = words.split_first().ok_or_else(|| std::io::Error::other("no command"))?;
        let mut command = Command::new(program);
        // A group of its own: an interrupt at the terminal is for the supervisor, and all of it can be killed at once.
        command
            .arg0("dbuild")
            .args(args)
            .arg(coordinator)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0);
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.ok_or_else(|| std::io::Error::other("the worker has no process id"))?;
        Ok(Worker { child, pid, link: Some(link(ours)?) })
    }

    /// Asks it to end by closing the socket, and makes sure of it.
    async fn end(mut self) {
        self.link = None;
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            self.kill();
            // Nothing but a disk that hangs in the kernel keeps a killed process.
            let _ = tokio::time::timeout(STOP, self.child.wait()).await;
        }
    }

    fn kill(&self) {
        // It may have ended by itself, which is what was wanted.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// What is known of machine and worker.
struct Watch {
    paused: PathBuf,
    sampler: Sampler,
    keeper: Keeper,
    reporter: report::Reporter,
    restarts: u32,
    /// What the last worker said last.
    last: FromWorker,
    /// Processor time of actions of workers that are gone, in microseconds.
    cpu_us_before: u64,
    begun: Instant,
}

impl Watch {
    fn new(config: &Supervision) -> Result<Watch, HelperError> {
        Ok(Watch {
            paused: config.data_dir.join(PAUSED),
            sampler: Sampler::new(&config.data_dir),
            keeper: Keeper::new(config.manners, config.slots),
            reporter: report::Reporter::start(config)?,
            restarts: 0,
            last: FromWorker::default(),
            cpu_us_before: 0,
            begun: Instant::now(),
        })
    }

    /// Watches over one worker until it ends, hangs, or `shutdown`.
    async fn over(
        &mut self,
        worker: &mut Worker,
        config: &Supervision,
        mut shutdown: impl Future<Output = ()> + Unpin,
    ) -> WorkerEnd {
        self.cpu_us_before += std::mem::take(&mut self.last).cpu_us;
        let Some((mut reader, mut writer)) = worker.link.take() else {
            return WorkerEnd::Lost("has no socket".to_owned());
        };
        let mut ticks = tokio::time::interval(SAMPLE);
        // After a suspension of the machine its looks do not come in a heap.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut silent, mut patience) = (0, SILENCE.1);
        let end = loop {
            tokio::select! {
                () = &mut shutdown => break WorkerEnd::Shutdown,
                ended = worker.child.wait() => break ended.map_or_else(
                    |error| WorkerEnd::Lost(format!("cannot be waited for: {error}")),
                    |status| ended_by(status, config, self.restarts == 0),
                ),
                alive = next(&mut reader) => {
                    (silent, patience) = (0, SILENCE.0);
                    self.last = alive;
                }
                _ = ticks.tick() => {
                    silent += 1;
                    if silent > patience {
                        worker.kill();
                        break WorkerEnd::Lost(format!("said nothing for {patience} s and was killed"));
                    }
                    let state = self.look(worker.pid.as_raw_nonzero().get() as u32);
                    let told = ToWorker { state: Some(state.clone()) };
                    self.reporter.tell(state);
                    // A worker that does not read does not say that it is alive either.
                    let _ = tokio::time::timeout(SAMPLE / 2, writer.send(&told)).await;
                }
            }
        };
        drop((reader, writer));
        end
    }

    /// Waits, and says meanwhile that there is no worker.
    async fn without_worker(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            let mut state = self.look(0);
            (state.mood, state.offered) = (Mood::Down.into(), Some(0));
            state.why = "its worker ended and is started again".to_owned();
            self.reporter.tell(state);
            tokio::time::sleep(SAMPLE.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// A sample of the machine with all that is known of the worker, and what follows for the offer.
    fn look(&mut self, worker: u32) -> State {
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        let cpu_us = self.cpu_us_before.saturating_add(self.last.cpu_us);
        let ended = (u128::from(cpu_us) * u128::from(ticks_per_second) / 1_000_000) as u64;
        let living = if worker == 0 { 0 } else { usage::ticks_of_tree(worker) };
        let sample = self.sampler.sample(ended.saturating_add(living));
        let state = sample.state;
        let look = Look {
            others_cpu: state.cpu_percent - state.own_cpu_percent,
            memory_total: state.memory_total,
            memory_available: state.memory_available,
            memory_pressure: state.memory_pressure,
            disk_total: sample.disk_total,
            disk_available: state.disk_available,
            paused: is_there(&self.paused),
        };
        let offer = self.keeper.look(self.begun.elapsed(), &look);
        State {
            running: self.last.running,
            tasks_done: self.last.tasks_done,
            tasks_failed: self.last.tasks_failed,
            store_bytes: self.last.store_bytes,
            trees: self.last.trees.clone(),
            offered: Some(offer.slots),
            mood: offer.mood.into(),
            why: offer.why,
            restarts: self.restarts,
            ..state
        }
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The worker's next message. Its end is told by the process's own, not here.
async fn next(reader: &mut Reader) -> FromWorker {
    match reader.next().await {
        Ok(alive) => alive,
        Err(_) => std::future::pending().await,
    }
}

fn ended_by(status: ExitStatus, config: &Supervision, first: bool) -> WorkerEnd {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) if code == config.refusal || (first && code == config.failure) => WorkerEnd::Refused,
        (Some(code), _) => WorkerEnd::Lost(format!("ended with exit code {code}")),
        (None, signal) => WorkerEnd::Lost(format!("was killed by signal {}", signal.unwrap_or_default())),
    }
}
