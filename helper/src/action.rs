//! The life of one lease: read the action, fetch, stage, execute, collect, upload. Each phase's knowledge is in its
//! own room; here stands their order, and what is shared between actions.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use dbuild_cache::{Store, StoreConfig};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::protobuf::{Any, Timestamp};
use dbuild_proto::{Digest, DigestFunction, MAX_MESSAGE, pool};
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::announce::Listener;
use crate::command::Job;
use crate::execute::{Finished, Patience, execute};
use crate::fault::{Trouble, blocking};
use crate::fetch::Fetcher;
use crate::input::Directories;
use crate::jobserver::{self, Jobservers};
use crate::layout::{Cover, Plan, Wish, plan};
use crate::lock::{Role, lock};
use crate::remote::{Payload, Remote, Scope, endpoint};
use crate::sandbox::{Sandbox, spec};
use crate::skeleton::{Skeleton, Skeletons, files};
use crate::stage::StageError;
use crate::tree::Input;
use crate::trees::{Tree, Trees};
use crate::{HelperConfig, HelperError, Limits, collect};

/// Staging is tried again when the store has lost a blob between fetching and linking.
const STAGE_TRIES: u32 = 3;

/// What actions share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    limits: Limits,
    host_files: bool,
    data_dir: PathBuf,
    fetcher: Fetcher,
    directories: Directories,
    trees: Arc<Trees>,
    sandbox: Sandbox,
    skeletons: Arc<Skeletons>,
    jobservers: Arc<Jobservers>,
    /// One permit per slot, taken while a directory is removed.
    removals: Arc<Semaphore>,
    slots: u32,
    /// Processor time of the actions that have ended, in microseconds.
    cpu_us: AtomicU64,
    /// Held as long as the helper runs.
    _lock: OwnedFd,
}

/// When each phase began; `ExecutedActionMetadata` tells the client.
struct Times {
    worker_start: SystemTime,
    fetch_start: SystemTime,
    fetch_end: SystemTime,
}

/// An action on disk, ready to run. Dropping it removes its directory.
struct Staged {
    skeleton: Skeleton,
    plan: Arc<Plan>,
    /// In the order of the plan's shared covers; holding them keeps them on disk.
    trees: Vec<Arc<Tree>>,
}

impl Worker {
    /// Takes the data directory, removes what a killed helper left in it, and tries the sandbox. `patience` is how long a
    /// worker that has the directory may take to end.
    pub async fn open(config: &HelperConfig, patience: Duration) -> Result<Worker, HelperError> {
        let url = |reason: String| HelperError::Url { url: config.coordinator.clone(), reason };
        let endpoint = endpoint(&config.coordinator).map_err(|error| url(error.to_string()))?;
        fs_err::create_dir_all(&config.data_dir)?;
        // Mounts and the launcher, which has another working directory, need a full path.
        let data_dir = fs_err::canonicalize(&config.data_dir)?;
        let lock = lock(&data_dir, Role::Worker, patience).await?;
        let runs = data_dir.join("run-v1");
        crate::stage::remove_tree(&runs)?;
        fs_err::create_dir_all(runs.join("probe"))?;
        let trees_bytes = config.max_bytes / 4;
        let trees = Trees::open(&data_dir.join("trees-v1"), trees_bytes)?;
        let max_bytes = config.max_bytes - trees_bytes;
        let store = Store::open(StoreConfig { dir: data_dir.join("store"), max_bytes })?;
        let sandbox = Sandbox::open(config.launcher.clone(), config.sandbox, &runs.join("probe")).await?;
        let mut limits = config.limits.clone();
        if limits.memory_bytes == 0 {
            limits.memory_bytes = crate::state::memory_total();
        }
        let shared = Shared {
            name: config.name.clone(),
            limits,
            host_files: config.host_files,
            data_dir,
            fetcher: Fetcher::new(store, Remote::new(&endpoint)),
            directories: Directories::default(),
            trees: Arc::new(trees),
            sandbox,
            skeletons: Arc::new(Skeletons::new(runs, config.slots.max(1))),
            jobservers: Jobservers::new(config.slots),
            removals: Arc::new(Semaphore::new(config.slots.max(1) as usize)),
            slots: config.slots.max(1),
            cpu_us: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Worker { shared: Arc::new(shared) })
    }

    /// A directory on the file system that the helper fills.
    pub fn data_dir(&self) -> &Path {
        &self.shared.data_dir
    }

    /// Processor time of all actions that have ended, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        self.shared.cpu_us.load(Relaxed)
    }

    /// Bytes that are kept, blobs and trees: an estimate that costs nothing.
    pub fn store_bytes(&self) -> u64 {
        self.shared.fetcher.store().counters().disk_bytes.saturating_add(self.shared.trees.bytes())
    }

    /// The trees that are kept; see `State.trees` of the pool protocol.
    pub fn trees(&self) -> Vec<String> {
        self.shared.trees.names()
    }

    /// Waits until no directory of an action is left.
    pub async fn settle(&self) {
        // The semaphore is never closed; with all its permits in hand nothing is being removed.
        let _all = self.shared.removals.acquire_many(self.shared.slots).await;
        let skeletons = Arc::clone(&self.shared.skeletons);
        // It can only fail by a panic, which has been reported.
        let _ = tokio::task::spawn_blocking(move || skeletons.clear()).await;
    }

    /// Runs one lease to its outcome. No process of the action is left when this returns. `tell` takes what is ready before.
    pub async fn run(
        &self,
        lease: &pool::Lease,
        cancel: CancellationToken,
        tell: impl Fn(re::ActionResult) + Sync,
    ) -> pool::lease_result::Outcome {
        match self.shared.run(lease, &cancel, &tell).await {
            Ok(result) => pool::lease_result::Outcome::ActionResult(result.encode_to_vec()),
            Err(trouble) => pool::lease_result::Outcome::Fault(trouble.to_fault()),
        }
    }
}

impl Shared {
    async fn run(
        &self,
        lease: &pool::Lease,
        cancel: &CancellationToken,
        tell: &(impl Fn(re::ActionResult) + Sync),
    ) -> Result<re::ActionResult, Trouble> {
        let worker_start = SystemTime::now();
        let (scope, job, mut staged, times) = unless(cancel, async {
            let (scope, job) = self.read(lease).await?;
            self.admit(&job)?;
            let fetch_start = SystemTime::now();
            let staged = self.stage(&scope, &job).await?;
            let times = Times { worker_start, fetch_start, fetch_end: SystemTime::now() };
            Ok((scope, job, staged, times))
        })
        .await?;
        let patience = Patience {
            timeout: Duration::from_millis(match lease.timeout_ms {
                0 => self.limits.default_timeout_ms,
                timeout => timeout,
            }),
            cancel: cancel.clone(),
            stdio_bytes: self.limits.stdio_bytes,
        };
        let (heard, mut words) = mpsc::unbounded_channel();
        let owner = self.sandbox.other_uid(job.root_is_root);
        let (seat, jobserver) = match job.jobserver {
            Some(_) => {
                let seat = self.jobservers.seat_with_pot(owner);
                let (seat, ends) = seat.map_err(|error| Trouble::here("make a jobserver", error))?;
                (seat, Some(ends))
            }
            None => (self.jobservers.seat(), None),
        };
        let spec = self.spec(&job, &staged);
        let ran = async {
            let ran =
                execute(&self.sandbox, spec, jobserver, &patience, Listener::new(heard), &self.cpu_us).await;
            drop(seat);
            ran
        };
        let telling = unless(cancel, async {
            while let Some(stderr) = words.recv().await {
                match self.ready(&scope, &job, &staged, stderr).await {
                    Ok(result) => tell(result),
                    // It comes with the result, then.
                    Err(trouble) => tracing::info!("what is ready could not be told: {trouble:?}"),
                }
            }
            Ok(())
        });
        let (ran, _) = tokio::join!(ran, telling);
        // The mounts are gone with the action: the trees may go too.
        staged.trees.clear();
        // Where nothing is mounted an action may have changed what is kept; and one that was ended by force may, if
        // the kernel is stuck, not be gone.
        let keep = ran.is_ok() && job.root_is_root && self.sandbox.namespaces();
        let outcome = match ran {
            Ok(finished) => unless(cancel, self.publish(&scope, job, &staged, finished, times)).await,
            Err(trouble) => Err(trouble),
        };
        self.discard(staged.skeleton, keep).await;
        outcome
    }

    /// Has what an action wrote removed while its result is on the way, or with it the rest of its directory. Waits
    /// only when more is being removed than actions can run: then the disk is what is slow.
    async fn discard(&self, skeleton: Skeleton, keep: bool) {
        let permit = Arc::clone(&self.removals).acquire_owned().await;
        let skeletons = Arc::clone(&self.skeletons);
        tokio::task::spawn_blocking(move || {
            if keep {
                skeletons.give_back(skeleton);
            } else {
                drop(skeleton);
            }
            drop(permit);
        });
    }

    /// Reads action and command from the coordinator's store.
    async fn read(&self, lease: &pool::Lease) -> Result<(Scope, Job), Trouble> {
        let bad = |error: &dyn std::fmt::Display| Trouble::Bad(format!("read the action: {error}"));
        let function = DigestFunction::from_wire(lease.digest_function, DigestFunction::Blake3)
            .map_err(|error| bad(&error))?;
        let scope = Scope { instance: lease.instance_name.clone(), function };
        self.fetcher.keep(function, &lease.messages);
        let size = u64::try_from(lease.action_size).map_err(|error| bad(&error))?;
        let digest = Digest::from_hex(&lease.action_hash, size).map_err(|error| bad(&error))?;
        let action: re::Action = self.message(&scope, digest).await?;
        let command = Digest::from_field(action.command_digest.as_ref()).map_err(|error| bad(&error))?;
        let command: re::Command = self.message(&scope, command).await?;
        let job = Job::new(&action, command).map_err(|error| Trouble::Bad(error.to_string()))?;
        Ok((scope, job))
    }

    async fn message<M: Message + Default>(&self, scope: &Scope, digest: Digest) -> Result<M, Trouble> {
        if digest.size > MAX_MESSAGE as u64 {
            return Err(Trouble::Bad(format!(
                "read the action: {digest} is larger than {MAX_MESSAGE} bytes"
            )));
        }
        let read = self.fetcher.read(scope, HashSet::from([digest])).await?;
        let bytes = read.get(&digest).map_or(&[][..], |bytes| bytes);
        M::decode(bytes).map_err(|error| Trouble::Bad(format!("decode {digest}: {error}")))
    }

    /// Refuses what this helper's owner or its sandbox does not allow; another helper may.
    fn admit(&self, job: &Job) -> Result<(), Trouble> {
        if !self.sandbox.can_run(job.root_is_root) {
            return Err(Trouble::Infrastructure(
                "run an action in its own root: this helper runs without sandbox and not as root".to_owned(),
            ));
        }
        if !job.root_is_root && !self.host_files {
            return Err(Trouble::Infrastructure(
                "run an action that brings no file system: this helper does not show its own".to_owned(),
            ));
        }
        Ok(())
    }

    async fn stage(&self, scope: &Scope, job: &Job) -> Result<Staged, Trouble> {
        let input = self.directories.load(&self.fetcher, scope, job.input_root, &self.limits).await?;
        let wish = Wish {
            cwd: &job.cwd,
            outputs: &job.outputs,
            root_is_root: job.root_is_root,
            mounts: self.sandbox.namespaces(),
            other_uid: self.sandbox.other_uid(job.root_is_root).is_some(),
        };
        self.trees.begin();
        let worth = &mut |digest: &Digest| self.trees.worth(scope.function, digest);
        let plan = plan(&input, wish, worth).map_err(|error| Trouble::Bad(error.to_string()))?;
        let plan = Arc::new(plan);
        let trees = self.share(scope, &input, &plan).await?;
        let mut skeleton = self.skeletons.take(&plan.cwd, self.fetcher.store().counters().damaged);
        for _ in 0..STAGE_TRIES {
            let change = skeleton.change(&plan.steps, &plan.cwd);
            let unseen = self.fetcher.unseen(scope.function, files(&plan.steps, &change));
            self.fetcher.ensure(scope, unseen).await?;
            let (store, function, steps) = (self.fetcher.store().clone(), scope.function, Arc::clone(&plan));
            let owner = self.sandbox.other_uid(job.root_is_root);
            let staged = blocking(move || {
                let applied = skeleton.apply(&store, function, &steps.steps, change, owner);
                Ok(applied.map(|()| skeleton))
            });
            match staged.await? {
                Ok(skeleton) => return Ok(Staged { skeleton, plan, trees }),
                Err(StageError::Gone(digest)) => {
                    tracing::info!("the store lost {digest}; fetching again");
                    self.fetcher.forget();
                }
                Err(error) => return Err(Trouble::Infrastructure(error.to_string())),
            }
            skeleton = self.skeletons.empty();
        }
        Err(Trouble::Infrastructure("lay out the input root: the store loses blobs".to_owned()))
    }

    async fn share(&self, scope: &Scope, input: &Input, plan: &Plan) -> Result<Vec<Arc<Tree>>, Trouble> {
        let mut trees = Vec::new();
        for cover in &plan.covers {
            if let Cover::Shared(_, digest) = cover {
                trees.push(self.trees.acquire(&self.fetcher, scope, input, *digest).await?);
            }
        }
        Ok(trees)
    }

    fn spec(&self, job: &Job, staged: &Staged) -> spec::Spec {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let mut trees = staged.trees.iter();
        let covers = staged.plan.covers.iter().map(|cover| match cover {
            Cover::Writable(path) => {
                spec::Cover { target: bytes(path), writable: true, ..Default::default() }
            }
            Cover::ReadOnly(path) => spec::Cover { target: bytes(path), ..Default::default() },
            Cover::Shared(path, _) => {
                let source = trees.next().map(|tree| bytes(&tree.path)).unwrap_or_default();
                spec::Cover { target: bytes(path), source, writable: false }
            }
        });
        let jobserver = job.jobserver.as_ref().map(|name| format!("{name}={}", jobserver::flags()));
        spec::Spec {
            root: bytes(staged.skeleton.path()),
            root_is_root: job.root_is_root,
            covers: covers.collect(),
            tmp_bytes: if staged.plan.own_tmp { 0 } else { self.limits.tmp_bytes },
            argv: job.argv.iter().map(|argument| argument.clone().into_bytes()).collect(),
            env: job.env.iter().cloned().chain(jobserver).map(String::into_bytes).collect(),
            cwd: bytes(&staged.plan.cwd),
            data_bytes: self.limits.memory_bytes,
            // Without namespaces the count would be over all processes of the user.
            processes: if self.sandbox.namespaces() { self.limits.processes } else { 0 },
            file_bytes: self.limits.file_bytes,
            hidden: vec![bytes(&self.data_dir)],
            mode: 0,
        }
    }

    /// Uploads what is there of the outputs while the action runs.
    async fn ready(
        &self,
        scope: &Scope,
        job: &Job,
        staged: &Staged,
        stderr: Vec<u8>,
    ) -> Result<re::ActionResult, Trouble> {
        let (function, max_bytes) = (scope.function, self.limits.output_bytes);
        let (root, cwd) = (staged.skeleton.path().to_owned(), staged.plan.cwd.clone());
        let outputs = job.outputs.clone();
        let mut collected =
            blocking(move || collect::collect(&root, &cwd, &outputs, function, max_bytes)).await?;
        let (stderr_raw, stderr_digest) = collect::add_stream(&mut collected, function, stderr);
        self.fetcher.remote().upload(scope, collected.blobs.drain().collect()).await?;
        Ok(re::ActionResult { stderr_raw, stderr_digest, ..collected.result })
    }

    /// Collects and uploads, and only then lets anybody know of the result.
    async fn publish(
        &self,
        scope: &Scope,
        job: Job,
        staged: &Staged,
        finished: Finished,
        times: Times,
    ) -> Result<re::ActionResult, Trouble> {
        let (function, max_bytes) = (scope.function, self.limits.output_bytes);
        let (root, cwd) = (staged.skeleton.path().to_owned(), staged.plan.cwd.clone());
        let mut collected =
            blocking(move || collect::collect(&root, &cwd, &job.outputs, function, max_bytes)).await?;
        let metadata = self.metadata(&finished, &times);
        let (stdout_raw, stdout_digest) = collect::add_stream(&mut collected, function, finished.stdout);
        let (stderr_raw, stderr_digest) = collect::add_stream(&mut collected, function, finished.stderr);
        let blobs: Vec<(Digest, Payload)> = collected.blobs.drain().collect();
        self.fetcher.remote().upload(scope, blobs).await?;
        let metadata = re::ExecutedActionMetadata {
            output_upload_completed_timestamp: now(),
            worker_completed_timestamp: now(),
            ..metadata
        };
        let result = re::ActionResult {
            exit_code: finished.exit_code,
            stdout_raw,
            stdout_digest,
            stderr_raw,
            stderr_digest,
            execution_metadata: Some(metadata),
            ..collected.result
        };
        Ok(result)
    }

    fn metadata(&self, finished: &Finished, times: &Times) -> re::ExecutedActionMetadata {
        let mut auxiliary_metadata = Vec::new();
        if finished.signal != 0 {
            // An exit code of 128 + n may be either; this says which.
            let value = format!("killed by signal {}", finished.signal).encode_to_vec();
            let type_url = "type.googleapis.com/google.protobuf.StringValue".to_owned();
            auxiliary_metadata.push(Any { type_url, value });
        }
        tracing::debug!(
            exit_code = finished.exit_code,
            user_us = finished.report.user_us,
            system_us = finished.report.system_us,
            max_rss_kib = finished.report.max_rss_kib,
            "action ended"
        );
        re::ExecutedActionMetadata {
            worker: self.name.clone(),
            worker_start_timestamp: timestamp(times.worker_start),
            input_fetch_start_timestamp: timestamp(times.fetch_start),
            input_fetch_completed_timestamp: timestamp(times.fetch_end),
            execution_start_timestamp: timestamp(finished.started),
            execution_completed_timestamp: timestamp(finished.ended),
            output_upload_start_timestamp: timestamp(finished.ended),
            auxiliary_metadata,
            ..Default::default()
        }
    }
}

/// Runs a phase that leaves nothing behind when it is dropped, unless the lease is cancelled meanwhile.
async fn unless<T>(
    cancel: &CancellationToken,
    phase: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Trouble::Cancelled),
        done = phase => done,
    }
}

fn now() -> Option<Timestamp> {
    timestamp(SystemTime::now())
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 })
}
