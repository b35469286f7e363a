//! Jobs that the pool runs while nobody waits: given to it, and their results collected later, from any machine. A task's id
//! is the digest of its action, so what was asked for can be read back from the pool's store, and cannot be another thing
//! than what its owner described.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dbuild_cache::{Store, StoreConfig};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, MAX_MESSAGE};
use prost::Message;

use super::runner::{describe, printed, session};
use super::staging::Staging;
use super::{Done, Job, outputs, outputs_below};
use crate::config::Config;
use crate::error::{CliError, Context, Result};
use crate::initiator::remote::{Fault, Purpose, Remote, Waited};

/// A coordinator that was lost while a job is waited for is asked again for this long, and how often.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// The jobs that a pool runs by itself.
pub struct Detached {
    cwd: PathBuf,
    session: String,
    url: String,
    remote: Remote,
    store: Store,
}

impl Detached {
    /// Those of the pool at `url`. Needs a runtime.
    pub fn new(config: &Config, url: &str) -> Result<Detached> {
        let store = StoreConfig { dir: config.data_dir.cache(), max_bytes: config.cache_max_bytes };
        Ok(Detached {
            cwd: std::env::current_dir().context("find the current directory")?,
            session: session(),
            url: url.to_owned(),
            remote: Remote::new(url).map_err(said)?,
            store: Store::open(store).context("open the cache")?,
        })
    }

    /// Gives a job to the pool; its id.
    pub async fn submit(&self, job: Job) -> Result<Digest> {
        // What is to run in any case is like nothing that ran before: so it can be waited for like any other.
        let salt = if job.uncached { salt() } else { Vec::new() };
        let described = describe(Job { uncached: false, salt, ..job }, &self.cwd).await?;
        let given = self.remote.detach(described.digest, &described.blobs, self.purpose()).await;
        given.map_err(|fault| {
            CliError::new(format!("failed to give the job to the pool at {}: {}", self.url, fault.message))
                .hint("Without --detach a job runs here when the pool cannot take it.")
        })?;
        Ok(described.digest)
    }

    /// Waits for a job's end, and brings what it printed.
    pub async fn wait(&self, task: &Digest) -> Result<Done> {
        let response = self.end(task).await?;
        printed(&self.remote, &self.store, response).await.map_err(|fault| lacking(&fault))
    }

    /// As [`Detached::wait`]; its outputs are brought and put below the current directory.
    pub async fn fetch(&self, task: &Digest) -> Result<Done> {
        let response = self.end(task).await?;
        let job = self.job(task).await?;
        let staging = Staging::new(&job, &self.cwd)?;
        let result = response.result.clone().unwrap_or_default();
        let brought = outputs::bring(&self.remote, &self.store, &job, staging.path(), &result).await;
        brought.map_err(|fault| lacking(&fault))?;
        let done = printed(&self.remote, &self.store, response).await.map_err(|fault| lacking(&fault))?;
        Ok(Done { missing: staging.deliver(&job, &self.cwd)?, ..done })
    }

    fn purpose(&self) -> Purpose<'_> {
        Purpose { session: &self.session, expected: None, begun: None }
    }

    /// The answer at a job's end; it has a result. A coordinator that goes away meanwhile may come back.
    async fn end(&self, task: &Digest) -> Result<re::ExecuteResponse> {
        self.remote.ready(&self.session).await.map_err(|fault| {
            CliError::new(format!("failed to reach the coordinator at {}: {}", self.url, fault.message))
                .hint("The job is not touched by this: ask again when the coordinator can be reached.")
        })?;
        let mut lost_at = None;
        loop {
            let asked = Instant::now();
            let why = match self.remote.wait_for(task, self.purpose()).await.map_err(said)? {
                // Helpers come back some seconds after their coordinator.
                Waited::Ended(response) if lost_at.is_some() && is_without_helpers(&response) => {
                    "it has no helpers".to_owned()
                }
                Waited::Ended(response) => return ended(task, *response),
                Waited::Unknown => {
                    let unknown = format!("the pool at {} does not know job {task}", self.url);
                    return Err(CliError::new(unknown).hint(
                        "Was it submitted to this pool, with --detach? What nobody used for long is removed.",
                    ));
                }
                Waited::Lost(why) => why,
            };
            // It was there in between: this is another loss.
            if asked.elapsed() > PATIENCE {
                lost_at = None;
            }
            let lost_at: Instant = *lost_at.get_or_insert_with(|| {
                eprintln!("dbuild: the coordinator is lost; asking again for {} s", PATIENCE.as_secs());
                Instant::now()
            });
            if lost_at.elapsed() > PATIENCE {
                let (seconds, url) = (PATIENCE.as_secs(), &self.url);
                return Err(CliError::new(format!(
                    "waited {seconds} s in vain for the coordinator at {url}: {why}"
                ))
                .hint("The job may be done all the same: ask again when the coordinator can be reached."));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What was asked for, as far as its outputs go. An id may come from anybody: its paths are checked like a user's own.
    async fn job(&self, task: &Digest) -> Result<Job> {
        let action: re::Action = self.message(task).await?;
        let command = Digest::from_field(action.command_digest.as_ref()).context("read the job's command")?;
        let command: re::Command = self.message(&command).await?;
        job(command, &self.cwd)
    }

    async fn message<M: Message + Default>(&self, digest: &Digest) -> Result<M> {
        if digest.size > MAX_MESSAGE as u64 {
            return Err(CliError::new(format!("{digest} is too large for the description of a job")));
        }
        self.remote.download(&self.store, &[*digest]).await.map_err(|fault| lacking(&fault))?;
        let bytes = self.store.read(DigestFunction::Blake3, digest).context("read the job's description")?;
        M::decode(bytes.as_slice()).context("read the job's description")
    }
}

fn said(fault: Fault) -> CliError {
    CliError::new(fault.message)
}

fn lacking(fault: &Fault) -> CliError {
    CliError::new(format!("failed to bring what the job made: {}", fault.message))
}

/// Whether nobody was there to run it.
fn is_without_helpers(response: &re::ExecuteResponse) -> bool {
    response.status.as_ref().is_some_and(|status| status.code == tonic::Code::Unavailable as i32)
}

/// The answer, if it has a result.
fn ended(task: &Digest, response: re::ExecuteResponse) -> Result<re::ExecuteResponse> {
    let status = response.status.clone().unwrap_or_default();
    if status.code == 0 && response.result.is_some() {
        return Ok(response);
    }
    let why = if status.message.is_empty() { "the pool gave none" } else { &status.message };
    Err(CliError::new(format!("job {task} has no result: {why}")).hint("Submit it again to run it again."))
}

/// The job that a command was made from.
fn job(command: re::Command, cwd: &Path) -> Result<Job> {
    let strange = || CliError::new("this is no job of `dbuild submit`: its outputs have no place here");
    if !command.working_directory.is_empty() {
        return Err(strange());
    }
    let named: Vec<PathBuf> = command.output_paths.iter().map(PathBuf::from).collect();
    let outputs = outputs_below(cwd, &named)?;
    // Written by `submit` they are clean and relative; the result names them as they stand there.
    if outputs != named || command.output_paths.iter().any(String::is_empty) {
        return Err(strange());
    }
    Ok(Job { argv: command.arguments, outputs, ..Job::default() })
}

/// Bytes that no other job has.
fn salt() -> Vec<u8> {
    let random = || RandomState::new().build_hasher().finish().to_le_bytes();
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    [&random()[..], &random(), &time.as_nanos().to_le_bytes(), &std::process::id().to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_those_of_a_job_or_nobodys() {
        let cwd = Path::new("/home/ann/p");
        let of = |outputs: &[&str], working_directory: &str| {
            let command = re::Command {
                output_paths: outputs.iter().map(ToString::to_string).collect(),
                working_directory: working_directory.into(),
                ..Default::default()
            };
            job(command, cwd).map(|job| job.outputs)
        };
        assert_eq!(of(&["a/b", "c"], "").unwrap(), [Path::new("a/b"), Path::new("c")]);
        assert!(of(&[], "").unwrap().is_empty());
        for outputs in [
            &["../a"][..],
            &["/etc/passwd"],
            &["/home/ann/p/a"],
            &["a/../../b"],
            &["a/../b"],
            &["."],
            &[""],
            &["a", "a/b"],
        ] {
            assert!(of(outputs, "").is_err(), "{outputs:?}");
        }
        assert!(of(&["a"], "src").is_err());
    }

    #[test]
    fn no_two_salts_are_equal() {
        assert_ne!(salt(), salt());
    }
}
