//! Execution: Execute and WaitExecution as streams of operations. What is wrong with a request is the
//! call's own error; what becomes of its action, missing inputs included, is in the operation's
//! `ExecuteResponse.status` (REAPI, Execution.Execute).

use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dbuild_proto::ACTION_RESULT;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::longrunning::{Operation, operation};
use dbuild_proto::reapi::google::protobuf::Any;
use dbuild_proto::reapi::google::rpc;
use futures_util::{Stream, stream};
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Request, Response, Status};

use super::desk::{self, Answer, Progress, Watcher};
use super::detached::Known;
use super::job::{self, Prepared};
use super::outputs::Inline;
use super::requester::Requester;
use super::{Site, action_cache, blocking, detached, refusal};
use crate::pool::{ActionId, TaskId};

const METADATA: &str = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata";
const RESPONSE: &str = "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse";

/// Tells operations of this process from those of one that ran before it.
static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());

pub struct Service(pub Site);

type Operations = Pin<Box<dyn Stream<Item = Result<Operation, Status>> + Send>>;

#[tonic::async_trait]
impl re::execution_server::Execution for Service {
    type ExecuteStream = Operations;

    async fn execute(
        &self,
        request: Request<re::ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        self.0.council.admit()?;
        let (requester, detached) = (Requester::of(&request), detached::is_wanted(&request));
        let request = request.into_inner();
        let digest = request.action_digest.as_ref();
        let action =
            action_cache::identify(&self.0, &request.instance_name, request.digest_function, digest)?;
        self.start(action, requester, request, detached).await
    }

    type WaitExecutionStream = Operations;

    async fn wait_execution(
        &self,
        request: Request<re::WaitExecutionRequest>,
    ) -> Result<Response<Self::WaitExecutionStream>, Status> {
        let requester = Requester::of(&request);
        let name = request.into_inner().name;
        if let Some(action) = detached::read_name(&name) {
            return self.wait_detached(action, requester).await;
        }
        let unknown = || Status::not_found(format!("operation {name:?} is not known here; execute again"));
        let task = read_name(&name).ok_or_else(unknown)?;
        let watcher = self.0.desk.join(task).await?.ok_or_else(unknown)?;
        Ok(Response::new(self.follow(name, watcher, Inline::default())))
    }
}

impl Service {
    /// Answers from the action cache, or queues the action and follows it.
    async fn start(
        &self,
        action: ActionId,
        requester: Requester,
        request: re::ExecuteRequest,
        detached: bool,
    ) -> Result<Response<Operations>, Status> {
        let inline = Inline {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files.clone(),
        };
        // Task 0 is never given out, so nobody can wait for an operation that is done at once, and nobody has to.
        let name = |task| if detached { detached::name(&action) } else { name_of(task) };
        let (site, id) = (self.0.clone(), action.clone());
        let prepared = blocking(move || job::prepare(&site, id, requester, &request)).await?;
        let (job, submit) = match prepared {
            Prepared::Known(result) => {
                if detached {
                    detached::accept(&self.0, &action).await?;
                }
                let ok = Some(refusal::rpc_status(Code::Ok, ""));
                let cached = re::ExecuteResponse {
                    result: Some(*result),
                    cached_result: true,
                    status: ok,
                    ..Default::default()
                };
                let answer = inline.apply(&self.0, &action, Arc::new(cached)).await?;
                return Ok(at_once(name(TaskId(0)), &action, answer));
            }
            Prepared::Refused(status) => return Ok(at_once(name(TaskId(0)), &action, failed(status))),
            Prepared::Run(job, submit) => (job, submit),
        };
        let mut watcher = match self.0.desk.submit(submit, Arc::new(*job)).await? {
            Ok(watcher) => watcher,
            Err(outcome) => {
                return Ok(at_once(name(TaskId(0)), &action, failed(desk::explain(&outcome))));
            }
        };
        if detached {
            watcher = detached::watch(&self.0, watcher).await?;
        }
        Ok(Response::new(self.follow(name(watcher.task), watcher, inline)))
    }

    /// Follows a detached action in flight, or says what came of it. It is started again if that is not known.
    async fn wait_detached(
        &self,
        action: ActionId,
        requester: Requester,
    ) -> Result<Response<Operations>, Status> {
        let name = detached::name(&action);
        if let Some(watcher) = self.0.detached.watcher(&action) {
            return Ok(Response::new(self.follow(name, watcher, Inline::default())));
        }
        let (store, id) = (self.0.store.clone(), action.clone());
        match blocking(move || detached::recall(&store, &id)).await? {
            Known::Ended(answer) => Ok(at_once(name, &action, answer)),
            Known::Nothing => {
                Err(Status::not_found(format!("nobody asked for action {} here", action.digest)))
            }
            Known::Accepted => self.start(action, requester, re::ExecuteRequest::default(), true).await,
        }
    }

    /// The operation as it is now, then each change, and a repetition when nothing changed for a while.
    fn follow(&self, name: String, watcher: Watcher, inline: Inline) -> Operations {
        let following = Following {
            site: self.0.clone(),
            name,
            inline,
            updates: updates(self.0.config.update_interval),
            fresh: true,
            watcher: Some(watcher),
        };
        Box::pin(stream::try_unfold(following, Following::next))
    }
}

/// A stream of one operation that is done.
fn at_once(name: String, action: &ActionId, answer: Answer) -> Response<Operations> {
    let stage = re::execution_stage::Value::Completed;
    let progress = Progress { stage, ready: None, answer: Some(answer) };
    let done = operation(name, action, &progress);
    Response::new(Box::pin(stream::iter([Ok(done)])))
}

fn updates(every: Duration) -> tokio::time::Interval {
    // Zero would be a panic of tokio's.
    let every = every.max(Duration::from_millis(1));
    let mut updates = tokio::time::interval_at(Instant::now() + every, every);
    updates.set_missed_tick_behavior(MissedTickBehavior::Delay);
    updates
}

struct Following {
    site: Site,
    /// The operation's.
    name: String,
    inline: Inline,
    updates: tokio::time::Interval,
    fresh: bool,
    /// None when all is said.
    watcher: Option<Watcher>,
}

impl Following {
    async fn next(mut self) -> Result<Option<(Operation, Self)>, Status> {
        let Some(watcher) = &mut self.watcher else { return Ok(None) };
        if !std::mem::take(&mut self.fresh) {
            tokio::select! {
                changed = watcher.progress.changed() => {
                    changed.map_err(|_| Status::unavailable("the coordinator is stopping"))?;
                }
                _ = self.updates.tick() => {}
            }
        }
        let mut progress = watcher.progress.borrow_and_update().clone();
        let action = &watcher.job.action;
        if let Some(answer) = progress.answer.take() {
            progress.answer = Some(self.inline.apply(&self.site, action, answer).await?);
        }
        let operation = operation(self.name.clone(), action, &progress);
        if operation.done {
            self.watcher = None;
        }
        Ok(Some((operation, self)))
    }
}

impl Inline {
    async fn apply(&self, site: &Site, action: &ActionId, answer: Answer) -> Result<Answer, Status> {
        if self.is_nothing() || answer.result.is_none() {
            return Ok(answer);
        }
        let (inline, store, function) = (self.clone(), site.store.clone(), action.function);
        blocking(move || {
            let mut answer = re::ExecuteResponse::clone(&answer);
            if let Some(result) = &mut answer.result {
                inline.fill(&store, function, result);
            }
            Ok(Arc::new(answer))
        })
        .await
    }
}

/// An answer without a result.
pub fn failed(status: rpc::Status) -> Answer {
    Arc::new(re::ExecuteResponse { status: Some(status), ..Default::default() })
}

fn operation(name: String, action: &ActionId, progress: &Progress) -> Operation {
    let ready = progress.ready.as_ref().map(|ready| re::ExecutedActionMetadata {
        auxiliary_metadata: vec![Any { type_url: ACTION_RESULT.into(), value: ready.encode_to_vec() }],
        ..Default::default()
    });
    let metadata = re::ExecuteOperationMetadata {
        partial_execution_metadata: ready,
        stage: progress.stage as i32,
        action_digest: Some(action.digest.to_wire()),
        digest_function: action.function.to_wire(),
        ..Default::default()
    };
    let response = progress.answer.as_ref().map(|answer| {
        operation::Result::Response(Any { type_url: RESPONSE.into(), value: answer.encode_to_vec() })
    });
    Operation {
        name,
        metadata: Some(Any { type_url: METADATA.into(), value: metadata.encode_to_vec() }),
        done: response.is_some(),
        result: response,
    }
}

fn name_of(task: TaskId) -> String {
    format!("operations/{:016x}-{}", *RUN, task.0)
}

fn read_name(name: &str) -> Option<TaskId> {
    let (run, task) = name.strip_prefix("operations/")?.split_once('-')?;
    let this_run = u64::from_str_radix(run, 16).ok()? == *RUN;
    let task = task.parse().ok().filter(|task| *task != 0);
    task.map(TaskId).filter(|_| this_run)
}
