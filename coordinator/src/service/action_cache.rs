//! ActionCache: results by action, separately for each instance. An answer is given only while everything
//! that it names is in the store (REAPI, GetActionResult).

use dbuild_cache::{ActionKey, Store};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, Hasher};
use prost::Message;
use tonic::{Request, Response, Status};

use super::outputs::{self, Inline, ResultError};
use super::{Site, blocking, refusal};
use crate::pool::ActionId;

pub struct Service(pub Site);

const RESULT: &[u8] = b"dbuild action result 1\0";

/// Where something is kept of an action: `kind` says what, and ends with a zero byte. The instance's length stands before
/// it, so that no two fields can run into each other.
pub fn key(kind: &[u8], action: &ActionId) -> ActionKey {
    let mut hasher = Hasher::new(DigestFunction::Blake3);
    hasher.update(kind);
    hasher.update(&(action.instance.len() as u64).to_le_bytes());
    hasher.update(action.instance.as_bytes());
    hasher.update(&action.function.to_wire().to_le_bytes());
    hasher.update(&action.digest.hash);
    hasher.update(&action.digest.size.to_le_bytes());
    ActionKey(hasher.finish().hash)
}

/// The action's result, if there is one and it is complete. Blocks.
pub fn recall(store: &Store, action: &ActionId) -> Result<Option<re::ActionResult>, Status> {
    let key = key(RESULT, action);
    let Some(value) = store.action(&key).map_err(refusal::cache)? else { return Ok(None) };
    let Ok(result) = re::ActionResult::decode(value.as_slice()) else {
        store.remove_action(&key).map_err(refusal::cache)?;
        return Ok(None);
    };
    match outputs::complete(store, action.function, &result) {
        Ok(()) => Ok(Some(result)),
        Err(ResultError::Cache(error)) => Err(refusal::cache(error)),
        Err(_) => Ok(None),
    }
}

/// Keeps a result that was checked. Blocks.
pub fn keep(store: &Store, action: &ActionId, result: &re::ActionResult) -> Result<(), Status> {
    store.put_action(&key(RESULT, action), &result.encode_to_vec()).map_err(refusal::cache)
}

/// Which action a request means.
pub fn identify(
    site: &Site,
    instance: &str,
    function: i32,
    digest: Option<&re::Digest>,
) -> Result<ActionId, Status> {
    refusal::check_instance(instance)?;
    let function = site.function(function).map_err(refusal::digest)?;
    let digest = Digest::from_field(digest).map_err(refusal::digest)?;
    Ok(ActionId { instance: instance.to_owned(), function, digest })
}

#[tonic::async_trait]
impl re::action_cache_server::ActionCache for Service {
    async fn get_action_result(
        &self,
        request: Request<re::GetActionResultRequest>,
    ) -> Result<Response<re::ActionResult>, Status> {
        let request = request.into_inner();
        let digest = request.action_digest.as_ref();
        let action = identify(&self.0, &request.instance_name, request.digest_function, digest)?;
        let inline = Inline {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files,
        };
        let store = self.0.store.clone();
        let result = blocking(move || {
            let mut result = recall(&store, &action)?.ok_or_else(|| {
                Status::not_found(format!("action {} has no complete result here", action.digest))
            })?;
            inline.fill(&store, action.function, &mut result);
            Ok(result)
        });
        Ok(Response::new(result.await?))
    }

    async fn update_action_result(
        &self,
        request: Request<re::UpdateActionResultRequest>,
    ) -> Result<Response<re::ActionResult>, Status> {
        if !self.0.config.client_updates {
            return Err(Status::permission_denied(
                "only helpers write the action cache of this coordinator (see its client_updates setting)",
            ));
        }
        let request = request.into_inner();
        let digest = request.action_digest.as_ref();
        let action = identify(&self.0, &request.instance_name, request.digest_function, digest)?;
        let mut result =
            request.action_result.ok_or_else(|| Status::invalid_argument("action_result is missing"))?;
        let store = self.0.store.clone();
        let kept = blocking(move || {
            outputs::settle(&store, action.function, &mut result).map_err(|error| match error {
                ResultError::Cache(error) => refusal::cache(error),
                ResultError::Missing(_) => Status::failed_precondition(error.to_string()),
                ResultError::Malformed(why) => Status::invalid_argument(why),
            })?;
            keep(&store, &action, &result)?;
            Ok(result)
        });
        Ok(Response::new(kept.await?))
    }
}
