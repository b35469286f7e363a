//! Raw gRPC messages to a coordinator on a port of this machine: whatever they hold, it answers with a status, and no
//! task of it dies.
//!
//! An input: the method by number, then up to three messages behind lengths of two bytes. For `Execute` the second is the
//! action and the third its command: they are uploaded, and the digests that lead to them put in their places.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use dbuild_coordinator::CoordinatorConfig;
use dbuild_proto::pool::{FromHelper, Hello, LeaseResult, State, from_helper, lease_result};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use dbuild_proto::reapi::google::protobuf;
use dbuild_proto::{DigestFunction, PROTOCOL};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::raw::{Raw, long};
use crate::workshop;

const METHODS: [&str; 15] = [
    "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
    "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
    "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
    "/build.bazel.remote.execution.v2.Execution/Execute",
    "/build.bazel.remote.execution.v2.Execution/WaitExecution",
    "/google.bytestream.ByteStream/Read",
    "/google.bytestream.ByteStream/Write",
    "/google.bytestream.ByteStream/QueryWriteStatus",
    "/dbuild.pool.v1.Pool/Attach",
    "/dbuild.pool.v1.Pool/ListHelpers",
    "/dbuild.pool.v1.Pool/NoSuchMethod",
];

/// An answer that takes longer is waited for in vain: an action without helpers, a stream that stays open.
const PATIENCE: Duration = Duration::from_secs(1);

const EXECUTE: &str = METHODS[7];
const UPDATE: &str = METHODS[2];

struct Site {
    runtime: Runtime,
    channel: Channel,
    _place: tempfile::TempDir,
}

pub fn request(bytes: &[u8]) -> bool {
    thread_local!(static SITE: Site = open());
    let mut raw = Raw(bytes);
    let method = METHODS[raw.below(METHODS.len())];
    let mut messages = Vec::new();
    while messages.is_empty() || messages.len() < 3 && !raw.0.is_empty() {
        messages.push(Bytes::copy_from_slice(raw.long()));
    }
    let uploads = if method == EXECUTE { linked(&mut messages) } else { None };
    let answer = SITE.with(|site| {
        let call = async {
            if let Some(uploads) = uploads {
                call(site.channel.clone(), UPDATE, vec![uploads]).await?;
            }
            call(site.channel.clone(), method, messages).await
        };
        site.runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await })
    });
    match answer {
        Ok(Ok(())) => true,
        Ok(Err(status)) => {
            // A status that the coordinator sent has no source; one that stands for a lost connection has.
            let lost = std::error::Error::source(&status).is_some();
            let died = status.message().starts_with("a task of the coordinator died");
            assert!(!lost && !died && status.code() != Code::Unknown, "{method}: {status:?}");
            false
        }
        Err(_) => false,
    }
}

/// Makes one request of a request, an action and a command, and gives the upload that must go before it.
fn linked(messages: &mut Vec<Bytes>) -> Option<Bytes> {
    let [request, action, command] = &messages[..] else { return None };
    let mut request = re::ExecuteRequest::decode(&request[..]).ok()?;
    let mut action = re::Action::decode(&action[..]).ok()?;
    action.command_digest = Some(DigestFunction::Sha256.digest(command).to_wire());
    let action = Bytes::from(action.encode_to_vec());
    request.action_digest = Some(DigestFunction::Sha256.digest(&action).to_wire());
    let blob = |data: &Bytes| re::batch_update_blobs_request::Request {
        digest: Some(DigestFunction::Sha256.digest(data).to_wire()),
        data: data.to_vec(),
        ..Default::default()
    };
    let requests = vec![blob(&action), blob(command)];
    let upload = re::BatchUpdateBlobsRequest { requests, ..Default::default() };
    *messages = vec![request.encode_to_vec().into()];
    Some(upload.encode_to_vec().into())
}

async fn call(channel: Channel, method: &'static str, messages: Vec<Bytes>) -> Result<(), Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unknown(format!("the coordinator is gone: {error}")))?;
    let request = Request::new(tokio_stream::iter(messages));
    let answer = client.streaming(request, PathAndQuery::from_static(method), Plain).await?;
    let mut stream = answer.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

fn open() -> Site {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a fuzzer needs a runtime");
    let place = workshop::place();
    let config = CoordinatorConfig {
        client_updates: true,
        helper_wait: Duration::ZERO,
        abandon_after: Duration::ZERO,
        ..CoordinatorConfig::new(place.path(), 64 << 20)
    };
    let channel = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        tokio::spawn(dbuild_coordinator::serve(listener, config, std::future::pending()));
        Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL").connect_lazy()
    });
    Site { runtime, channel, _place: place }
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;
    fn encoder(&mut self) -> Plain {
        Plain
    }
    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let content = b"content".to_vec();
    let sha = DigestFunction::Sha256.digest(&content);
    let digest = Some(sha.to_wire());
    let empty = DigestFunction::Sha256.digest(b"").to_wire();
    let update = re::batch_update_blobs_request::Request {
        digest: digest.clone(),
        data: content.clone(),
        ..Default::default()
    };
    let tree = re::GetTreeRequest { root_digest: Some(empty.clone()), page_size: 2, ..Default::default() };
    let write = WriteRequest {
        resource_name: format!("uploads/u/blobs/{sha}"),
        write_offset: 0,
        finish_write: true,
        data: content,
    };
    let result = re::UpdateActionResultRequest {
        action_digest: digest.clone(),
        action_result: Some(re::ActionResult { stdout_raw: b"w".to_vec(), ..Default::default() }),
        ..Default::default()
    };
    let execute = [
        re::ExecuteRequest::default().encode_to_vec(),
        re::Action {
            input_root_digest: Some(empty.clone()),
            timeout: Some(protobuf::Duration { seconds: 5, nanos: 1 }),
            ..Default::default()
        }
        .encode_to_vec(),
        re::Command {
            arguments: vec!["cc".into()],
            output_paths: vec!["../a.o".into()],
            working_directory: "w".into(),
            ..Default::default()
        }
        .encode_to_vec(),
    ];
    let from = |message: from_helper::Message| FromHelper { message: Some(message) }.encode_to_vec();
    let hello =
        Hello { protocol: PROTOCOL, version: "1".into(), name: "h".into(), slots: 1, ..Default::default() };
    let answer =
        LeaseResult { lease_id: 1, outcome: Some(lease_result::Outcome::ActionResult(vec![0x20, 0x01])) };
    let rows: Vec<(u8, Vec<Vec<u8>>)> = vec![
        (0, vec![re::GetCapabilitiesRequest::default().encode_to_vec()]),
        (
            1,
            vec![
                re::FindMissingBlobsRequest { blob_digests: vec![empty], ..Default::default() }
                    .encode_to_vec(),
            ],
        ),
        (
            2,
            vec![
                re::BatchUpdateBlobsRequest { requests: vec![update], ..Default::default() }.encode_to_vec(),
            ],
        ),
        (
            3,
            vec![
                re::BatchReadBlobsRequest { digests: digest.into_iter().collect(), ..Default::default() }
                    .encode_to_vec(),
            ],
        ),
        (4, vec![tree.encode_to_vec()]),
        (6, vec![result.encode_to_vec()]),
        (7, execute.into()),
        (
            9,
            vec![
                ReadRequest {
                    resource_name: format!("blobs/{}", DigestFunction::Sha256.digest(b"")),
                    ..Default::default()
                }
                .encode_to_vec(),
            ],
        ),
        (10, vec![write.encode_to_vec()]),
        (11, vec![QueryWriteStatusRequest { resource_name: write.resource_name }.encode_to_vec()]),
        (
            12,
            vec![
                from(from_helper::Message::Hello(hello)),
                from(from_helper::Message::State(State::default())),
                from(from_helper::Message::Result(answer)),
            ],
        ),
        (13, vec![Vec::new()]),
    ];
    let encode = |(method, messages): (u8, Vec<Vec<u8>>)| {
        [vec![method], messages.iter().flat_map(|message| long(message)).collect()].concat()
    };
    rows.into_iter().map(encode).collect()
}
