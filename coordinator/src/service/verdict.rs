//! What a helper's answer to a lease is worth. Helpers are not believed: a result counts only when it
//! parses, brings what the command declared and nothing else, and all that it names is in the store.

use std::sync::Arc;

use dbuild_proto::pool::{Fault, LeaseResult, fault, lease_result};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::protobuf::Timestamp;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;
use tonic::{Code, Status};

use super::desk::Answer;
use super::execution::failed;
use super::job::Job;
use super::outputs::{self, ResultError};
use super::{Site, action_cache, blocking, refusal};
use crate::pool::Verdict;

/// Words of a helper's that are passed on, at most.
const MAX_WORDS: usize = 500;

/// Judges an answer; a good result is in the action cache before this returns, so that whoever hears of it
/// can find it there.
pub async fn judge(site: &Site, job: &Arc<Job>, helper: &str, answer: LeaseResult) -> Verdict<Answer> {
    let judged = match answer.outcome {
        None => return Verdict::Retry("it sent an answer without outcome".into()),
        Some(lease_result::Outcome::Fault(fault)) => judge_fault(site, job, fault).await,
        Some(lease_result::Outcome::ActionResult(bytes)) => {
            let (site, job, helper) = (site.clone(), job.clone(), helper.to_owned());
            blocking(move || Ok(judge_result(&site, &job, &helper, &bytes))).await
        }
    };
    judged.unwrap_or_else(|status| Verdict::Answer(failed(refusal::embed(&status))))
}

fn judge_result(site: &Site, job: &Job, helper: &str, bytes: &[u8]) -> Verdict<Answer> {
    let mut result = match re::ActionResult::decode(bytes) {
        Ok(result) => result,
        Err(error) => return Verdict::Retry(format!("its result does not parse: {error}")),
    };
    let function = job.action.function;
    let checked =
        job.declared.check(&result).and_then(|()| outputs::settle(&site.store, function, &mut result));
    match checked {
        Ok(()) => {}
        // The coordinator's own store: another helper would not change it.
        Err(ResultError::Cache(error)) if !is_helpers_fault(&error) => {
            return Verdict::Answer(failed(refusal::embed(&refusal::cache(error))));
        }
        Err(error) => {
            tracing::warn!(helper, %error, "a helper sent a bad result");
            return Verdict::Retry(format!("its result is bad: {error}"));
        }
    }
    let metadata = result.execution_metadata.get_or_insert_default();
    metadata.worker = helper.to_owned();
    metadata.queued_timestamp = Some(timestamp(job.queued));
    // A failure may be due to the machine, so it is never remembered.
    if job.cacheable
        && result.exit_code == 0
        && let Err(status) = action_cache::keep(&site.store, &job.action, &result)
    {
        tracing::warn!(%status, "a result could not be kept");
    }
    let status = Some(refusal::rpc_status(Code::Ok, ""));
    Verdict::Answer(Arc::new(re::ExecuteResponse { result: Some(result), status, ..Default::default() }))
}

/// Checks what a helper says is ready before the end, as strictly as a result.
pub async fn ready(site: &Site, job: &Arc<Job>, bytes: Vec<u8>) -> Result<re::ActionResult, String> {
    let (site, job) = (site.clone(), job.clone());
    let checked = blocking(move || {
        let mut result = match re::ActionResult::decode(bytes.as_slice()) {
            Ok(result) => result,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let function = job.action.function;
        let checked =
            job.declared.check(&result).and_then(|()| outputs::settle(&site.store, function, &mut result));
        Ok(checked.map(|()| result).map_err(|error| error.to_string()))
    });
    checked.await.map_err(|status| status.message().to_owned())?
}

fn is_helpers_fault(error: &dbuild_cache::CacheError) -> bool {
    use dbuild_cache::CacheError::{BadCompression, DigestMismatch, NotFound, TooLong};
    matches!(error, NotFound(_) | DigestMismatch { .. } | TooLong { .. } | BadCompression(_))
}

async fn judge_fault(site: &Site, job: &Arc<Job>, fault: Fault) -> Result<Verdict<Answer>, Status> {
    let words: String = fault.message.chars().take(MAX_WORDS).collect();
    let answer = |code, message: String| Verdict::Answer(failed(refusal::rpc_status(code, message)));
    Ok(match fault.kind() {
        fault::Kind::MissingInputs => {
            // Something that was believed to be here is not.
            site.inputs.doubt();
            let absent = absent(site, job.action.function, fault.missing).await?;
            if absent.is_empty() {
                Verdict::Retry(format!("it misses inputs that are here: {words}"))
            } else {
                Verdict::Answer(failed(refusal::missing(job.action.function, &absent)))
            }
        }
        fault::Kind::BadAction => answer(Code::InvalidArgument, format!("the action is malformed: {words}")),
        fault::Kind::Timeout => {
            let limit = job.timeout.as_secs_f64();
            answer(Code::DeadlineExceeded, format!("the action ran longer than its timeout of {limit} s"))
        }
        fault::Kind::Infrastructure | fault::Kind::Unknown => Verdict::Retry(words),
        fault::Kind::Cancelled => Verdict::Return(words),
    })
}

/// Those of the blobs that a helper misses which the store really lacks.
async fn absent(site: &Site, function: DigestFunction, named: Vec<String>) -> Result<Vec<Digest>, Status> {
    let store = site.store.clone();
    blocking(move || {
        let digests = named.iter().take(refusal::MAX_VIOLATIONS).filter_map(|name| name.parse().ok());
        Ok(digests.filter(|digest| !store.contains(function, digest)).collect())
    })
    .await
}

fn timestamp(time: std::time::SystemTime) -> Timestamp {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}
