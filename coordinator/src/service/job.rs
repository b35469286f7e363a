//! From an `ExecuteRequest` to a job: what must be read, checked and known before an action is queued.
//! Everything here blocks and nothing here is scheduled.

use std::time::{Duration, SystemTime};

use dbuild_cache::Store;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::{protobuf, rpc};
use dbuild_proto::{Digest, DigestFunction, MAX_MESSAGE};
use prost::Message;
use tonic::Status;

use super::outputs::Declared;
use super::requester::Requester;
use super::tree::TreeError;
use super::{Site, action_cache, refusal};
use crate::pool::{ActionId, Properties, Request};

/// What the service has to remember of an action while the pool runs it.
#[derive(Clone, Debug)]
pub struct Job {
    pub action: ActionId,
    pub declared: Declared,
    /// A good result goes into the action cache.
    pub cacheable: bool,
    pub timeout: Duration,
    pub queued: SystemTime,
}

/// What an `ExecuteRequest` comes to before any helper hears of it.
pub enum Prepared {
    /// The action cache has the answer.
    Known(Box<re::ActionResult>),
    /// The client has to do something first.
    Refused(rpc::Status),
    Run(Box<Job>, Request),
}

/// Looks in the action cache, reads the action and its command, and checks that its inputs are complete.
pub fn prepare(
    site: &Site,
    action: ActionId,
    requester: Requester,
    request: &re::ExecuteRequest,
) -> Result<Prepared, Status> {
    let store = &site.store;
    if !request.skip_cache_lookup
        && let Some(result) = action_cache::recall(store, &action)?
    {
        return Ok(Prepared::Known(Box::new(result)));
    }
    let function = action.function;
    let Some((message, action_bytes)) = read::<re::Action>(store, function, &action.digest, "action")? else {
        return Ok(Prepared::Refused(refusal::missing(function, &[action.digest])));
    };
    let command_digest = field("command_digest", message.command_digest.as_ref())?;
    let root = field("input_root_digest", message.input_root_digest.as_ref())?;
    let command = read::<re::Command>(store, function, &command_digest, "command")?;
    let mut missing = site.inputs.missing(store, function, &root).map_err(TreeError::status)?;
    let Some((command, command_bytes)) = command else {
        missing.insert(0, command_digest);
        return Ok(Prepared::Refused(refusal::missing(function, &missing)));
    };
    if !missing.is_empty() {
        return Ok(Prepared::Refused(refusal::missing(function, &missing)));
    }
    let messages = &site.inputs.messages;
    messages.keep(function, action.digest, action_bytes, vec![command_digest, root]);
    messages.keep(function, command_digest, command_bytes, Vec::new());
    if command.arguments.first().is_none_or(String::is_empty) {
        return Err(Status::invalid_argument("the command has no program to run"));
    }
    let declared = Declared::read(&command).map_err(Status::invalid_argument)?;
    let timeout = timeout(site, message.timeout.as_ref())?;
    let priority = request.execution_policy.as_ref().map_or(0, |policy| policy.priority);
    let properties = properties(&message, &command);
    let merge = !message.do_not_cache;
    let Requester { owner, expected } = requester;
    let job = Job {
        action: action.clone(),
        declared,
        cacheable: !message.do_not_cache,
        timeout,
        queued: SystemTime::now(),
    };
    Ok(Prepared::Run(
        Box::new(job),
        Request { action, merge, owner, priority, expected, properties, timeout },
    ))
}

fn read<M: Message + Default>(
    store: &Store,
    function: DigestFunction,
    digest: &Digest,
    what: &str,
) -> Result<Option<(M, Vec<u8>)>, Status> {
    if digest.size > MAX_MESSAGE as u64 {
        return Err(Status::invalid_argument(format!("the {what} is larger than {MAX_MESSAGE} bytes")));
    }
    match store.read(function, digest) {
        Ok(bytes) => match M::decode(bytes.as_slice()) {
            Ok(message) => Ok(Some((message, bytes))),
            Err(error) => {
                Err(Status::invalid_argument(format!("blob {digest} is not a REAPI {what}: {error}")))
            }
        },
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(refusal::cache(error)),
    }
}

fn field(name: &str, digest: Option<&re::Digest>) -> Result<Digest, Status> {
    Digest::from_field(digest)
        .map_err(|error| Status::invalid_argument(format!("the action's {name}: {error}")))
}

fn timeout(site: &Site, asked: Option<&protobuf::Duration>) -> Result<Duration, Status> {
    let Some(asked) = asked.filter(|asked| asked.seconds != 0 || asked.nanos != 0) else {
        return Ok(site.config.default_timeout);
    };
    let (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) =
        (u64::try_from(asked.seconds), u32::try_from(asked.nanos))
    else {
        return Err(Status::invalid_argument("the action's timeout is not a positive duration"));
    };
    let asked = Duration::new(seconds, nanos);
    if asked > site.config.max_timeout {
        let limit = site.config.max_timeout.as_secs();
        return Err(Status::invalid_argument(format!(
            "the action's timeout of {seconds} s is above this coordinator's limit of {limit} s"
        )));
    }
    Ok(asked)
}

/// Action before Command, as API 2.2 has it. Values of one name that occurs several times are joined with
/// commas: only a helper that declares just that can run it.
#[expect(deprecated, reason = "clients before API 2.2 say it in the command only")]
fn properties(action: &re::Action, command: &re::Command) -> Properties {
    let platform = action.platform.as_ref().or(command.platform.as_ref());
    let mut properties = Properties::new();
    for property in platform.into_iter().flat_map(|platform| &platform.properties) {
        let value = properties.entry(property.name.clone()).or_default();
        if !value.is_empty() {
            value.push(',');
        }
        value.push_str(&property.value);
    }
    properties
}
