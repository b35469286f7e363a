//! What a coordinator hears beside a request: whose build it is for, and how long the action took before. With it the pool is
//! divided fairly, and the longest actions start first.

use std::sync::LazyLock;
use std::time::Duration;

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{EXPECTED_MS, REQUEST_METADATA, TOOL_NAME};
use prost::Message;
use tokio::sync::Notify;
use tonic::Request;
use tonic::metadata::MetadataValue;

/// `NUMBER@HOST`: user numbers mean something on one machine only.
static USER: LazyLock<String> = LazyLock::new(|| {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{}@{host}", rustix::process::getuid().as_raw())
});

/// For which build an action is run, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    pub session: &'a str,
    /// How long it ran before.
    pub expected: Option<Duration>,
    /// Is told when a helper has it.
    pub begun: Option<&'a Notify>,
}

impl Purpose<'_> {
    /// The request with what is to be known of it.
    pub(super) fn introduce<T>(&self, message: T) -> Request<T> {
        let said = re::RequestMetadata {
            tool_details: Some(re::ToolDetails {
                tool_name: TOOL_NAME.into(),
                tool_version: env!("CARGO_PKG_VERSION").into(),
            }),
            tool_invocation_id: self.session.to_owned(),
            correlated_invocations_id: USER.clone(),
            ..Default::default()
        };
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        headers.insert_bin(REQUEST_METADATA, MetadataValue::from_bytes(&said.encode_to_vec()));
        if let Some(expected) = self.expected.and_then(|expected| u64::try_from(expected.as_millis()).ok()) {
            headers.insert(EXPECTED_MS, expected.into());
        }
        request
    }
}
