//! Who asks for an action and what they know of it: what a client says beside an `ExecuteRequest`, as far as it says it.
//! Nothing here is believed further than for the order in which things are done.

use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{EXPECTED_MS, REQUEST_METADATA, TOOL_NAME};
use prost::Message;
use tonic::Request;

use crate::pool::Owner;

/// Bytes of a name that are kept.
const MAX_NAME: usize = 128;
/// No action is expected to run longer.
const MAX_EXPECTED: Duration = Duration::from_secs(24 * 3600);

/// What is known of a request besides the request.
#[derive(Clone, Debug, Default)]
pub struct Requester {
    pub owner: Owner,
    /// How long the client expects the action to run.
    pub expected: Option<Duration>,
}

impl Requester {
    /// Reads REAPI's `RequestMetadata`. dbuild's own clients name their user in `correlated_invocations_id`; users of
    /// others are told apart by their machine. A build is a `tool_invocation_id`.
    pub fn of<T>(request: &Request<T>) -> Requester {
        let raw = request.metadata().get_bin(REQUEST_METADATA).and_then(|value| value.to_bytes().ok());
        let said = raw.and_then(|bytes| re::RequestMetadata::decode(bytes).ok()).unwrap_or_default();
        let ours = said.tool_details.as_ref().is_some_and(|tool| tool.tool_name == TOOL_NAME);
        let user = if ours && !said.correlated_invocations_id.is_empty() {
            said.correlated_invocations_id
        } else {
            request.remote_addr().map(|address| address.ip().to_string()).unwrap_or_default()
        };
        let expected =
            request.metadata().get(EXPECTED_MS).and_then(|value| value.to_str().ok()?.parse().ok());
        Requester {
            owner: Owner { user: name(&user), build: name(&said.tool_invocation_id) },
            expected: expected.map(Duration::from_millis).map(|expected| expected.min(MAX_EXPECTED)),
        }
    }
}

fn name(word: &str) -> Arc<str> {
    let mut end = word.len().min(MAX_NAME);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    word[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    fn request(said: &re::RequestMetadata, expected: &'static str) -> Request<()> {
        let mut request = Request::new(());
        let value = MetadataValue::from_bytes(&said.encode_to_vec());
        request.metadata_mut().insert_bin(REQUEST_METADATA, value);
        request.metadata_mut().insert(EXPECTED_MS, MetadataValue::from_static(expected));
        request
    }

    fn said(tool: &str, user: &str, build: &str) -> re::RequestMetadata {
        re::RequestMetadata {
            tool_details: Some(re::ToolDetails { tool_name: tool.into(), ..Default::default() }),
            correlated_invocations_id: user.into(),
            tool_invocation_id: build.into(),
            ..Default::default()
        }
    }

    #[test]
    fn our_clients_name_their_user() {
        let of = Requester::of(&request(&said(TOOL_NAME, "ann@mars", "7"), "1500"));
        assert_eq!((&*of.owner.user, &*of.owner.build), ("ann@mars", "7"));
        assert_eq!(of.expected, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn others_users_are_machines_and_nonsense_is_nothing() {
        let of = Requester::of(&request(&said("bazel", "every call another", "7"), "-1"));
        assert_eq!((&*of.owner.user, &*of.owner.build, of.expected), ("", "7", None));
        let mut garbage = Request::new(());
        garbage.metadata_mut().insert_bin(REQUEST_METADATA, MetadataValue::from_bytes(b"\xff\xff"));
        assert_eq!(Requester::of(&garbage).owner, Owner::default());
        let long = Requester::of(&request(&said(TOOL_NAME, &"ü".repeat(200), ""), "99999999999999"));
        assert_eq!(long.owner.user.len(), MAX_NAME);
        assert_eq!(long.expected, Some(MAX_EXPECTED));
    }
}
