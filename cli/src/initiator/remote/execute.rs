//! One action at the pool: look in its cache, upload, execute, bring the result.

use std::time::{Duration, SystemTime};

use dbuild_cache::Store;
use dbuild_intake::{Blob, BuiltAction, InputRoot};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::longrunning::{Operation, operation};
use dbuild_proto::reapi::google::protobuf::Timestamp;
use dbuild_proto::{ACTION_RESULT, Digest};
use prost::Message;

use super::download::keep;
use super::{FUNCTION, Fault, LOST, Purpose, Remote, is_lost};
use crate::record::{Phases, micros};

/// A coordinator that is alive says something at least every 10 s; this is the bound on its silence.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// How often an action is sent again because the store lost an input.
pub(super) const ATTEMPTS: usize = 3;

/// Takes outputs of an action that goes on.
pub type Early = tokio::sync::mpsc::UnboundedSender<Answer>;

/// What the pool answered. The outputs are in the near cache.
#[derive(Debug)]
pub struct Answer {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Output paths as the Command named them.
    pub outputs: Vec<(String, Digest, bool)>,
    /// From the pool's cache, not run now.
    pub cached: bool,
    pub helper: Option<String>,
    /// What the pool says about how it went, if there is something to say.
    pub notice: Option<String>,
    pub run_ms: u64,
    pub phases: Option<Phases>,
    pub sent: u64,
    pub received: u64,
}

impl Remote {
    /// Takes the pool's cached result of `built`, if it has one, and brings the outputs into `store`. Where little is to be
    /// uploaded nobody asks, unless it must be known (`certainly`): `execute` finds the same, and saves a round trip.
    pub async fn recall(
        &self,
        toolchain: &InputRoot,
        built: &BuiltAction,
        store: &Store,
        certainly: bool,
    ) -> Result<Option<Answer>, Fault> {
        if !certainly && self.knows_toolchain(toolchain) {
            let blobs = built.blobs(toolchain, &|digest| self.knows(digest));
            if self.is_little(&blobs) {
                return Ok(None);
            }
        }
        match self.cached(built).await? {
            Some(result) => self.bring(result, true, 0, store).await.map(Some),
            None => Ok(None),
        }
    }

    /// Runs `built` at the pool and brings the outputs into `store`. What is ready before the end is sent to `early`.
    pub async fn execute(
        &self,
        toolchain: &InputRoot,
        built: &BuiltAction,
        store: &Store,
        purpose: Purpose<'_>,
        early: Early,
    ) -> Result<Answer, Fault> {
        let _running = self.running();
        let mut sent = 0;
        for attempt in 1.. {
            // Below a directory that the server has, it has everything; should it have lost something, it says so.
            let blobs = built.blobs(toolchain, &|digest| self.knows(digest));
            sent += self.upload_toolchain(toolchain).await?;
            sent += self.upload(&blobs).await?;
            match self.run(built, store, purpose, &early).await? {
                Ran::Response(response) => {
                    let cached = response.cached_result;
                    let result = response.result.ok_or_else(|| Fault::new("the pool gave no result"))?;
                    let came = SystemTime::now();
                    let phases = result.execution_metadata.clone().unwrap_or_default();
                    let answer = self.bring(result, cached, sent, store).await?;
                    log_phases(built, &phases, came);
                    let notice = Some(response.message).filter(|message| !message.is_empty());
                    return Ok(Answer { notice, ..answer });
                }
                // The store has lost what it said it had: ask for everything anew.
                Ran::MissingInputs(message) if attempt < ATTEMPTS => {
                    tracing::info!(message, "inputs were evicted; sending them again");
                    self.forget();
                }
                Ran::MissingInputs(_) => break,
            }
        }
        Err(Fault::new(LOST))
    }

    /// Runs an action that is no compile, whose blobs are `blobs`. What it wrote is still at the pool.
    pub async fn run_action(
        &self,
        action: Digest,
        blobs: &[Blob],
        store: &Store,
        purpose: Purpose<'_>,
    ) -> Result<re::ExecuteResponse, Fault> {
        let _running = self.running();
        // Nobody asks for what is ready of it before the end.
        let (early, _) = tokio::sync::mpsc::unbounded_channel();
        for attempt in 1.. {
            self.upload(blobs).await?;
            let request = re::ExecuteRequest {
                action_digest: Some(action.to_wire()),
                inline_stdout: true,
                inline_stderr: true,
                digest_function: FUNCTION.to_wire(),
                ..Default::default()
            };
            match self.follow(request, store, purpose, &early).await? {
                Ran::Response(response) => return Ok(*response),
                Ran::MissingInputs(_) if attempt < ATTEMPTS => self.forget(),
                Ran::MissingInputs(_) => break,
            }
        }
        Err(Fault::new(LOST))
    }

    async fn cached(&self, built: &BuiltAction) -> Result<Option<re::ActionResult>, Fault> {
        let request = re::GetActionResultRequest {
            action_digest: Some(built.digest.to_wire()),
            digest_function: FUNCTION.to_wire(),
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: built.outputs.keys().cloned().collect(),
            ..Default::default()
        };
        match self.actions().get_action_result(request).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(self.fault("look into its cache", &status)),
        }
    }

    async fn run(
        &self,
        built: &BuiltAction,
        store: &Store,
        purpose: Purpose<'_>,
        early: &Early,
    ) -> Result<Ran, Fault> {
        let request = re::ExecuteRequest {
            action_digest: Some(built.digest.to_wire()),
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: built.outputs.keys().cloned().collect(),
            digest_function: FUNCTION.to_wire(),
            ..Default::default()
        };
        self.follow(request, store, purpose, early).await
    }

    /// Executes and waits for the end.
    async fn follow(
        &self,
        request: re::ExecuteRequest,
        store: &Store,
        purpose: Purpose<'_>,
        early: &Early,
    ) -> Result<Ran, Fault> {
        let mut stream = match self.execution().execute(purpose.introduce(request)).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return self.not_run(status.code(), status.message(), Some(&status)),
        };
        let mut told = false;
        loop {
            let message = tokio::time::timeout(SILENCE, stream.message()).await;
            let update = match message.map_err(|_| Fault::new("the coordinator fell silent"))? {
                Ok(Some(update)) => update,
                Ok(None) => return Err(Fault::new("the coordinator ended the stream without a result")),
                Err(status) => return self.not_run(status.code(), status.message(), Some(&status)),
            };
            if !update.done {
                if let Some(begun) = purpose.begun.filter(|_| is_executing(&update)) {
                    begun.notify_one();
                }
                if !told && let Some(ready) = ready(&update) {
                    told = true;
                    match self.bring(ready, false, 0, store).await {
                        // Where nobody takes it, it comes with the result.
                        Ok(answer) => drop(early.send(answer)),
                        Err(fault) => tracing::info!(fault.message, "what is ready could not be brought"),
                    }
                }
                continue;
            }
            // Whoever lets go of a stream before its end resets it, and a connection bears a thousand of these.
            let _ = tokio::time::timeout(SILENCE, stream.message()).await;
            return match update.result {
                Some(operation::Result::Response(any)) => {
                    let response = re::ExecuteResponse::decode(any.value.as_slice())
                        .map_err(|error| Fault::new(format!("the pool's answer does not parse: {error}")))?;
                    match response.status.as_ref().filter(|status| status.code != 0) {
                        Some(status) => self.not_run(tonic::Code::from(status.code), &status.message, None),
                        None => Ok(Ran::Response(Box::new(response))),
                    }
                }
                Some(operation::Result::Error(status)) => {
                    self.not_run(tonic::Code::from(status.code), &status.message, None)
                }
                None => Err(Fault::new("the pool's answer holds no result")),
            };
        }
    }

    /// Sorts out why an action did not run.
    fn not_run(&self, code: tonic::Code, message: &str, call: Option<&tonic::Status>) -> Result<Ran, Fault> {
        tracing::info!(?code, message, "the pool did not run an action");
        match (code, call) {
            (_, Some(status)) if is_lost(status) => Err(self.fault("run the action", status)),
            (tonic::Code::FailedPrecondition, _) if message.contains("missing") => {
                Ok(Ran::MissingInputs(message.to_owned()))
            }
            // Nobody to take it: every task would wait for one in vain.
            (tonic::Code::Unavailable, None) => Err(self.rest(message)),
            // Every attempt failed. The message names paths of one action; faults are counted by their text.
            (tonic::Code::Internal, _) if message.contains("No space left") => {
                Err(Fault::new("the helpers have no space left"))
            }
            (tonic::Code::Internal, _) => Err(Fault::new("the helpers failed to run it")),
            _ => Err(Fault::new(message)),
        }
    }

    /// Checks a result and brings its blobs.
    async fn bring(
        &self,
        result: re::ActionResult,
        cached: bool,
        sent: u64,
        store: &Store,
    ) -> Result<Answer, Fault> {
        let came = SystemTime::now();
        let bad =
            |error: dbuild_proto::DigestError| Fault::new(format!("the pool gave a bad digest: {error}"));
        let mut outputs = Vec::new();
        let mut inlined = 0;
        for file in result.output_files {
            let digest = Digest::from_field(file.digest.as_ref()).map_err(bad)?;
            if !file.contents.is_empty() {
                inlined += file.contents.len() as u64;
                store.put_verified(FUNCTION, &digest, &file.contents).map_err(|error| keep(&error))?;
            }
            outputs.push((file.path, digest, file.is_executable));
        }
        let stream = |raw: &[u8], digest: &Option<re::Digest>| match digest {
            Some(digest) if raw.is_empty() => Digest::from_wire(digest).map(Some),
            _ => Ok(None),
        };
        let stdout = stream(&result.stdout_raw, &result.stdout_digest).map_err(bad)?;
        let stderr = stream(&result.stderr_raw, &result.stderr_digest).map_err(bad)?;
        let wanted: Vec<Digest> =
            outputs.iter().map(|(_, digest, _)| *digest).chain(stdout).chain(stderr).collect();
        let received = inlined + self.download(store, &wanted).await?;
        let text = |raw: Vec<u8>, digest: Option<Digest>| match digest {
            Some(digest) => store
                .read(FUNCTION, &digest)
                .map_err(|error| Fault::new(format!("failed to read what the compiler printed: {error}"))),
            None => Ok(raw),
        };
        let metadata = result.execution_metadata.unwrap_or_default();
        Ok(Answer {
            exit_code: result.exit_code,
            stdout: text(result.stdout_raw, stdout)?,
            stderr: text(result.stderr_raw, stderr)?,
            outputs,
            cached,
            notice: None,
            helper: Some(metadata.worker.clone()).filter(|name| !name.is_empty()),
            run_ms: run_ms(&metadata).unwrap_or(0),
            phases: phases(&metadata, came),
            sent,
            received,
        })
    }
}

/// Whether a helper has the action.
fn is_executing(update: &Operation) -> bool {
    let metadata = update.metadata.as_ref().map(|metadata| metadata.value.as_slice()).unwrap_or_default();
    let stage = re::ExecuteOperationMetadata::decode(metadata).map(|metadata| metadata.stage());
    stage.is_ok_and(|stage| stage == re::execution_stage::Value::Executing)
}

/// What is ready of an action before its end, if the pool says so.
fn ready(update: &Operation) -> Option<re::ActionResult> {
    let metadata = update.metadata.as_ref()?;
    let metadata = re::ExecuteOperationMetadata::decode(metadata.value.as_slice()).ok()?;
    let about = metadata.partial_execution_metadata?.auxiliary_metadata;
    let result = about.iter().find(|any| any.type_url == ACTION_RESULT)?;
    re::ActionResult::decode(result.value.as_slice()).ok()
}

enum Ran {
    Response(Box<re::ExecuteResponse>),
    MissingInputs(String),
}

/// How long the command itself ran.
fn run_ms(metadata: &re::ExecutedActionMetadata) -> Option<u64> {
    let [start, end] = [&metadata.execution_start_timestamp, &metadata.execution_completed_timestamp];
    u64::try_from(ms(end.as_ref()?) - ms(start.as_ref()?)).ok()
}

/// What a helper did, for the build's trace.
fn phases(metadata: &re::ExecutedActionMetadata, came: SystemTime) -> Option<Phases> {
    let at = |time: &Option<Timestamp>| {
        let time = time.as_ref()?;
        time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos) / 1000)
    };
    Some(Phases {
        taken: at(&metadata.worker_start_timestamp)?,
        ran: (at(&metadata.execution_start_timestamp)?, at(&metadata.execution_completed_timestamp)?),
        stored: at(&metadata.worker_completed_timestamp)?,
        came: micros(came),
    })
}

/// For whoever wants to know where the time of a build goes: the phases of an action in milliseconds, by the clocks of
/// coordinator, helper and this machine.
fn log_phases(built: &BuiltAction, phases: &re::ExecutedActionMetadata, came: SystemTime) {
    let between =
        |from: &Option<Timestamp>, to: &Option<Timestamp>| Some(ms(to.as_ref()?) - ms(from.as_ref()?));
    tracing::debug!(
        output = built.outputs.keys().next(),
        helper = phases.worker,
        queued = between(&phases.queued_timestamp, &phases.worker_start_timestamp),
        fetched = between(&phases.input_fetch_start_timestamp, &phases.input_fetch_completed_timestamp),
        laid_out = between(&phases.input_fetch_completed_timestamp, &phases.execution_start_timestamp),
        ran = between(&phases.execution_start_timestamp, &phases.execution_completed_timestamp),
        sent = between(&phases.output_upload_start_timestamp, &phases.output_upload_completed_timestamp),
        brought = came.elapsed().map_or(0, |elapsed| elapsed.as_millis()),
        "an action ran"
    );
}

fn ms(time: &Timestamp) -> i128 {
    i128::from(time.seconds) * 1000 + i128::from(time.nanos) / 1_000_000
}
