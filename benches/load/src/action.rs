//! Actions that do nothing: one command and one empty input root for all, and a salt that makes each one's digest its
//! own.

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;
use re::content_addressable_storage_client::ContentAddressableStorageClient;
use tonic::transport::Channel;

use crate::Result;

pub const FUNCTION: DigestFunction = DigestFunction::Blake3;

/// A blob and its digest.
pub struct Blob {
    pub digest: Digest,
    pub data: Vec<u8>,
}

fn blob(message: &impl Message) -> Blob {
    let data = message.encode_to_vec();
    Blob { digest: FUNCTION.digest(&data), data }
}

/// What all actions share.
pub fn command() -> Blob {
    blob(&re::Command { arguments: vec!["/bin/true".into()], ..Default::default() })
}

/// The `number`th action of a run.
pub fn action(run: u64, number: u64) -> Blob {
    let root = FUNCTION.digest(&re::Directory::default().encode_to_vec());
    blob(&re::Action {
        command_digest: Some(command().digest.to_wire()),
        input_root_digest: Some(root.to_wire()),
        salt: [run.to_le_bytes(), number.to_le_bytes()].concat(),
        ..Default::default()
    })
}

/// Puts blobs into the store, in one request.
pub async fn upload(channel: &Channel, blobs: Vec<Blob>) -> Result<()> {
    let requests = blobs.into_iter().map(|blob| re::batch_update_blobs_request::Request {
        digest: Some(blob.digest.to_wire()),
        data: blob.data,
        compressor: 0,
    });
    let request = re::BatchUpdateBlobsRequest {
        requests: requests.collect(),
        digest_function: FUNCTION.to_wire(),
        ..Default::default()
    };
    let mut store = ContentAddressableStorageClient::new(channel.clone());
    let answer = store.batch_update_blobs(request).await?.into_inner();
    for status in answer.responses.into_iter().filter_map(|response| response.status) {
        if status.code != 0 {
            return Err(format!("a blob was not taken: {}", status.message).into());
        }
    }
    Ok(())
}

pub fn execute(action: &Digest) -> re::ExecuteRequest {
    re::ExecuteRequest {
        action_digest: Some(action.to_wire()),
        digest_function: FUNCTION.to_wire(),
        ..Default::default()
    }
}
