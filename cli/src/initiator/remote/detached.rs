//! Detached actions: given to the pool and left there, waited for later, or elsewhere.

use dbuild_intake::Blob;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::longrunning::{Operation, operation};
use dbuild_proto::{DETACHED, DETACHED_OPERATIONS, Digest};
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};

use super::execute::{ATTEMPTS, SILENCE};
use super::{FUNCTION, Fault, Purpose, Remote};

/// What waiting for an action comes to.
#[derive(Debug)]
pub enum Waited {
    /// It is at its end, good or bad.
    Ended(Box<re::ExecuteResponse>),
    /// The pool knows nothing of it.
    Unknown,
    /// The coordinator was lost; why, as a sentence's fragment.
    Lost(String),
}

impl Remote {
    /// Gives an action to the pool, with its blobs; returns when it is accepted.
    pub async fn detach(&self, action: Digest, blobs: &[Blob], purpose: Purpose<'_>) -> Result<(), Fault> {
        for _ in 0..ATTEMPTS {
            self.upload(blobs).await?;
            let request = re::ExecuteRequest {
                action_digest: Some(action.to_wire()),
                digest_function: FUNCTION.to_wire(),
                ..Default::default()
            };
            let mut request = purpose.introduce(request);
            request.metadata_mut().insert(DETACHED, MetadataValue::from_static("1"));
            let operation = first(self.execution().execute(request)).await;
            let operation = operation.map_err(|status| self.fault("take the job", &status))?;
            if operation.name != name(&action) {
                return Err(Fault::new("the coordinator knows no detached jobs: it is older, or no dbuild"));
            }
            if !operation.done {
                return Ok(());
            }
            let status = response(operation)?.status.unwrap_or_default();
            match Code::from(status.code) {
                Code::Ok => return Ok(()),
                // The store has lost what it said it had: ask for everything anew.
                Code::FailedPrecondition if status.message.contains("missing") => self.forget(),
                _ => return Err(Fault::new(status.message)),
            }
        }
        Err(Fault::new("the pool keeps losing inputs"))
    }

    /// Waits for the end of an action that was detached.
    ///
    /// # Errors
    /// An answer that makes no sense, or a refusal; a coordinator that is lost is no error.
    pub async fn wait_for(&self, action: &Digest, purpose: Purpose<'_>) -> Result<Waited, Fault> {
        let request = purpose.introduce(re::WaitExecutionRequest { name: name(action) });
        let lost = |status: &Status| Ok(Waited::Lost(status.message().to_owned()));
        let mut stream = match bounded(self.execution().wait_execution(request)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                return match status.code() {
                    Code::NotFound => Ok(Waited::Unknown),
                    Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied => {
                        Err(self.fault("wait for the job", &status))
                    }
                    _ => lost(&status),
                };
            }
        };
        loop {
            match message(&mut stream).await {
                Ok(operation) if operation.done => {
                    return response(operation).map(|response| Waited::Ended(Box::new(response)));
                }
                Ok(_) => {}
                Err(status) => return lost(&status),
            }
        }
    }
}

/// The operation of an action that is detached.
fn name(action: &Digest) -> String {
    format!("{DETACHED_OPERATIONS}{}/{action}", FUNCTION.name())
}

/// A coordinator that says nothing for too long is as good as gone.
async fn bounded<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(SILENCE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::unavailable("the coordinator fell silent")),
    }
}

async fn message(stream: &mut Streaming<Operation>) -> Result<Operation, Status> {
    let ended = || Status::unavailable("the coordinator ended the stream without a result");
    bounded(stream.message()).await?.ok_or_else(ended)
}

async fn first(
    call: impl Future<Output = Result<tonic::Response<Streaming<Operation>>, Status>>,
) -> Result<Operation, Status> {
    message(&mut bounded(call).await?.into_inner()).await
}

fn response(operation: Operation) -> Result<re::ExecuteResponse, Fault> {
    match operation.result {
        Some(operation::Result::Response(any)) => re::ExecuteResponse::decode(any.value.as_slice())
            .map_err(|error| Fault::new(format!("the pool's answer does not parse: {error}"))),
        Some(operation::Result::Error(status)) => Err(Fault::new(status.message)),
        None => Err(Fault::new("the pool's answer holds no result")),
    }
}
