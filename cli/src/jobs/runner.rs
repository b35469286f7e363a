//! Where a job runs: on the pool, or here where there is none or it fails.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use dbuild_cache::{Store, StoreConfig};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction};
use tokio::sync::Semaphore;

use super::action::Described;
use super::staging::Staging;
use super::{Job, PATH, action, outputs};
use crate::config::{Config, processors};
use crate::error::{CliError, Context, EXIT_CANNOT_INVOKE, EXIT_NOT_FOUND, Result};
use crate::initiator::remote::{Fault, Purpose, Remote};

/// What came of a job.
#[derive(Debug)]
pub struct Done {
    /// As a shell says it: 128+n for signal n.
    pub code: u8,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Outputs that it did not write.
    pub missing: Vec<PathBuf>,
    pub place: Place,
}

/// Where a job ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Answered from the pool's cache.
    Cached,
    Helper(String),
    Here,
}

/// Runs jobs in one directory. Cheap to clone.
#[derive(Clone)]
pub struct Runner(Arc<Inner>);

struct Inner {
    cwd: PathBuf,
    session: String,
    /// The pool and the near cache, if there is a pool; else why not.
    pool: Result<(Remote, Store), String>,
    /// Jobs that may run here at a time.
    here: Semaphore,
    /// Why jobs ran here, as far as it was said.
    said: Mutex<HashSet<String>>,
}

/// Reasons that are said.
const MOST_REASONS: usize = 10;

impl Runner {
    /// A runner in the current directory, over the pool at `url`. Needs a runtime.
    pub fn new(config: &Config, url: Option<&str>) -> Result<Runner> {
        let cwd = std::env::current_dir().context("find the current directory")?;
        let pool = match url {
            None => Err("no coordinator is configured".to_owned()),
            Some(url) => {
                let store = StoreConfig { dir: config.data_dir.cache(), max_bytes: config.cache_max_bytes };
                let store = Store::open(store).context("open the cache")?;
                Ok((Remote::new(url).map_err(|fault| CliError::new(fault.message))?, store))
            }
        };
        let here = Semaphore::new(processors() as usize);
        Ok(Runner(Arc::new(Inner { cwd, session: session(), pool, here, said: Mutex::default() })))
    }

    /// Runs one job to its end. A fault of the pool's is said, and the job runs here.
    ///
    /// # Errors
    /// Inputs that cannot be read, outputs that cannot be put in their places, a program that cannot be started here.
    pub async fn run(&self, job: &Job) -> Result<Done> {
        let (remote, store) = match &self.0.pool {
            Ok(pool) => pool,
            Err(why) => return self.here(job, why).await,
        };
        let described = describe(job.clone(), &self.0.cwd).await?;
        let staging = Staging::new(job, &self.0.cwd)?;
        let ran = async {
            remote.ready(&self.0.session).await?;
            let purpose = Purpose { session: &self.0.session, expected: None, begun: None };
            let response = remote.run_action(described.digest, &described.blobs, store, purpose).await?;
            self.done(remote, store, job, &staging, response).await
        };
        match ran.await {
            Ok(done) => {
                let missing = staging.deliver(job, &self.0.cwd)?;
                Ok(Done { missing, ..done })
            }
            Err(fault) => self.here(job, &fault.message).await,
        }
    }

    /// What came of a job on the pool; its outputs are in `staging`.
    async fn done(
        &self,
        remote: &Remote,
        store: &Store,
        job: &Job,
        staging: &Staging,
        response: re::ExecuteResponse,
    ) -> Result<Done, Fault> {
        let result = response.result.as_ref().ok_or_else(|| Fault::new("the pool gave no result"))?;
        outputs::bring(remote, store, job, staging.path(), result).await?;
        printed(remote, store, response).await
    }

    async fn here(&self, job: &Job, why: &str) -> Result<Done> {
        self.say(why);
        let _slot = self.0.here.acquire().await.context("wait for a slot")?;
        let cwd = &self.0.cwd;
        let staging = {
            let (job, cwd) = (job.clone(), cwd.clone());
            let furnished = tokio::task::spawn_blocking(move || {
                let staging = Staging::new(&job, &cwd)?;
                staging.furnish(&job, &cwd)?;
                Ok::<_, CliError>(staging)
            });
            furnished.await.context("copy the inputs")??
        };
        let program = &job.argv[0];
        let output = tokio::process::Command::new(program)
            .args(&job.argv[1..])
            .env_clear()
            .env("PATH", PATH)
            .envs(&job.env)
            .current_dir(staging.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = output.await.map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let code = if missing { EXIT_NOT_FOUND } else { EXIT_CANNOT_INVOKE };
            CliError::new(format!("failed to run {program}: {error}")).code(code)
        })?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        let code = output.status.code().or(signal.map(|signal| 128 + signal)).unwrap_or(1);
        let code = u8::try_from(code).unwrap_or(u8::MAX);
        let missing = staging.deliver(job, cwd)?;
        Ok(Done { code, stdout: output.stdout, stderr: output.stderr, missing, place: Place::Here })
    }

    /// Says why jobs run here, each reason once.
    fn say(&self, why: &str) {
        let mut said = self.0.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.len() < MOST_REASONS && said.insert(why.to_owned()) {
            eprintln!("dbuild: {why}; jobs run here");
        }
    }
}

/// What one shell or script submits is one build to the pool.
pub fn session() -> String {
    format!("job-{}", std::os::unix::process::parent_id())
}

/// The job's action, with its inputs as they are now.
pub async fn describe(job: Job, cwd: &Path) -> Result<Described> {
    let cwd = cwd.to_owned();
    tokio::task::spawn_blocking(move || action::describe(&job, &cwd)).await.context("read the inputs")?
}

/// What a job printed on the pool, and how it ended.
pub async fn printed(remote: &Remote, store: &Store, response: re::ExecuteResponse) -> Result<Done, Fault> {
    let result = response.result.ok_or_else(|| Fault::new("the pool gave no result"))?;
    let stdout = text(remote, store, result.stdout_raw, result.stdout_digest).await?;
    let stderr = text(remote, store, result.stderr_raw, result.stderr_digest).await?;
    let helper = result.execution_metadata.unwrap_or_default().worker;
    let place = if response.cached_result { Place::Cached } else { Place::Helper(helper) };
    // Codes above 255 are no process's.
    let code = u8::try_from(result.exit_code).unwrap_or(u8::MAX);
    Ok(Done { code, stdout, stderr, missing: Vec::new(), place })
}

/// What a job printed: in the result itself, or a blob.
async fn text(
    remote: &Remote,
    store: &Store,
    raw: Vec<u8>,
    digest: Option<re::Digest>,
) -> Result<Vec<u8>, Fault> {
    let Some(digest) = digest.filter(|_| raw.is_empty()) else { return Ok(raw) };
    let digest = Digest::from_wire(&digest)
        .map_err(|error| Fault::new(format!("the pool gave a bad digest: {error}")))?;
    remote.download(store, &[digest]).await?;
    store
        .read(DigestFunction::Blake3, &digest)
        .map_err(|error| Fault::new(format!("failed to read what the job printed: {error}")))
}
