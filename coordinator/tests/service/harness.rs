//! What the tests share: a coordinator that runs while the value lives, shorthands for its clients, and a
//! helper that does what a test says.

use std::collections::HashMap;
use std::time::Duration;

use dbuild_coordinator::{CoordinatorConfig, CoordinatorError, serve};
use dbuild_proto::pool as wire;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::byte_stream_client::ByteStreamClient;
use dbuild_proto::reapi::google::longrunning::{Operation, operation};
use dbuild_proto::{Digest, DigestFunction, MAX_MESSAGE};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub const F: DigestFunction = DigestFunction::Blake3;

/// Far beyond what any step takes: a test that would hang fails instead.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("nothing happened for a minute")
}

pub struct Site {
    pub channel: Channel,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), CoordinatorError>>,
    dir: tempfile::TempDir,
}

impl Site {
    pub async fn start() -> Site {
        Site::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut CoordinatorConfig)) -> Site {
        Site::over(tempfile::tempdir().unwrap(), adjust).await
    }

    /// Ends, and starts again over what is on the disk.
    pub async fn restart(self) -> Site {
        self.stop.send(()).unwrap();
        soon(self.server).await.unwrap().unwrap();
        Site::over(self.dir, |_| {}).await
    }

    async fn over(dir: tempfile::TempDir, adjust: impl FnOnce(&mut CoordinatorConfig)) -> Site {
        let mut config = CoordinatorConfig::new(dir.path(), 1 << 30);
        // No test's helper is silent by accident.
        config.state_interval = Duration::from_secs(600);
        adjust(&mut config);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, config, async {
            let _ = stopped.await;
        }));
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = soon(endpoint.connect()).await.unwrap();
        Site { channel, stop, server, dir }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        soon(self.server).await.unwrap().unwrap();
    }

    pub fn cas(&self) -> re::content_addressable_storage_client::ContentAddressableStorageClient<Channel> {
        re::content_addressable_storage_client::ContentAddressableStorageClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn bytes(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone())
    }

    pub fn actions(&self) -> re::action_cache_client::ActionCacheClient<Channel> {
        re::action_cache_client::ActionCacheClient::new(self.channel.clone())
    }

    pub fn execution(&self) -> re::execution_client::ExecutionClient<Channel> {
        re::execution_client::ExecutionClient::new(self.channel.clone())
    }

    pub fn pool(&self) -> wire::pool_client::PoolClient<Channel> {
        wire::pool_client::PoolClient::new(self.channel.clone())
    }

    /// Puts one blob into the store.
    pub async fn put(&self, data: &[u8]) -> Digest {
        let digest = F.digest(data);
        let entry = re::batch_update_blobs_request::Request {
            digest: Some(digest.to_wire()),
            data: data.to_vec(),
            compressor: 0,
        };
        let request = re::BatchUpdateBlobsRequest {
            requests: vec![entry],
            digest_function: F.to_wire(),
            ..Default::default()
        };
        let answer = self.cas().batch_update_blobs(request).await.unwrap().into_inner();
        assert_eq!(answer.responses[0].status.as_ref().unwrap().code, 0, "{answer:?}");
        digest
    }

    /// Takes a blob away behind the coordinator's back, as a damaged disk would.
    pub fn lose(&self, digest: Digest) {
        // The layout is the cache crate's own; all that matters is that the hash is in the name.
        let mut directories = vec![self.dir.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else if entry.file_name().to_string_lossy().starts_with(&digest.hex()) {
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
        }
    }

    pub async fn put_message(&self, message: &impl Message) -> Digest {
        self.put(&message.encode_to_vec()).await
    }

    /// Puts an action with an empty input tree into the store.
    pub async fn action(&self, adjust: impl FnOnce(&mut re::Action, &mut re::Command)) -> Digest {
        let (action, command) = draft(adjust);
        self.put_message(&command).await;
        self.put_message(&re::Directory::default()).await;
        self.put_message(&action).await
    }

    pub async fn execute(&self, action: Digest) -> Streaming<Operation> {
        let request = execute_request(action);
        soon(self.execution().execute(request)).await.unwrap().into_inner()
    }

    /// Executes and waits for the end.
    pub async fn run(&self, action: Digest) -> re::ExecuteResponse {
        last(&mut self.execute(action).await).await
    }
}

/// An action and its command that go together: `cc a.c` makes `a.o`.
pub fn draft(adjust: impl FnOnce(&mut re::Action, &mut re::Command)) -> (re::Action, re::Command) {
    let mut command = re::Command {
        arguments: vec!["cc".into(), "a.c".into()],
        output_paths: vec!["a.o".into()],
        ..Default::default()
    };
    let mut action = re::Action {
        input_root_digest: Some(F.digest(&re::Directory::default().encode_to_vec()).to_wire()),
        ..Default::default()
    };
    adjust(&mut action, &mut command);
    action.command_digest = Some(F.digest(&command.encode_to_vec()).to_wire());
    (action, command)
}

pub fn execute_request(action: Digest) -> re::ExecuteRequest {
    re::ExecuteRequest {
        action_digest: Some(action.to_wire()),
        digest_function: F.to_wire(),
        ..Default::default()
    }
}

pub async fn next(operations: &mut Streaming<Operation>) -> Operation {
    soon(operations.message()).await.unwrap().expect("one more operation")
}

/// The answer at a stream's end, behind which there is nothing.
pub async fn last(operations: &mut Streaming<Operation>) -> re::ExecuteResponse {
    loop {
        let operation = next(operations).await;
        if operation.done {
            assert_eq!(stage(&operation), re::execution_stage::Value::Completed);
            assert!(soon(operations.message()).await.unwrap().is_none());
            let Some(operation::Result::Response(any)) = operation.result else { panic!("no response") };
            assert!(any.type_url.ends_with("/build.bazel.remote.execution.v2.ExecuteResponse"));
            return re::ExecuteResponse::decode(any.value.as_slice()).unwrap();
        }
    }
}

pub fn stage(operation: &Operation) -> re::execution_stage::Value {
    let any = operation.metadata.as_ref().unwrap();
    re::ExecuteOperationMetadata::decode(any.value.as_slice()).unwrap().stage()
}

pub fn code(response: &re::ExecuteResponse) -> tonic::Code {
    tonic::Code::from(response.status.as_ref().unwrap().code)
}

pub fn message(response: &re::ExecuteResponse) -> &str {
    &response.status.as_ref().unwrap().message
}

pub struct Helper {
    pub to: mpsc::Sender<wire::FromHelper>,
    pub from: Streaming<wire::ToHelper>,
}

pub fn hello(name: &str, slots: u32) -> wire::Hello {
    wire::Hello {
        protocol: dbuild_proto::PROTOCOL,
        version: "0.0.test".into(),
        name: name.into(),
        slots,
        properties: HashMap::from([("OSFamily".into(), "linux".into())]),
    }
}

impl Helper {
    /// Opens the stream with `first` as the first message.
    pub async fn open(site: &Site, first: wire::from_helper::Message) -> Helper {
        let (to, messages) = mpsc::channel(16);
        to.send(wire::FromHelper { message: Some(first) }).await.unwrap();
        let from = soon(site.pool().attach(ReceiverStream::new(messages))).await.unwrap().into_inner();
        Helper { to, from }
    }

    /// A helper that was welcomed.
    pub async fn attach(site: &Site, name: &str, slots: u32) -> Helper {
        let mut helper = Helper::open(site, wire::from_helper::Message::Hello(hello(name, slots))).await;
        let Some(wire::to_helper::Message::Welcome(_)) = helper.hear().await else { panic!("not welcome") };
        helper
    }

    /// The coordinator's next message; None: it closed the stream.
    pub async fn hear(&mut self) -> Option<wire::to_helper::Message> {
        soon(self.from.message()).await.unwrap().map(|message| message.message.unwrap())
    }

    pub async fn lease(&mut self) -> wire::Lease {
        match self.hear().await {
            Some(wire::to_helper::Message::Lease(lease)) => lease,
            other => panic!("not a lease: {other:?}"),
        }
    }

    pub async fn say(&self, message: wire::from_helper::Message) {
        self.to.send(wire::FromHelper { message: Some(message) }).await.unwrap();
    }

    pub async fn finish(&self, lease: &wire::Lease, result: &re::ActionResult) {
        self.outcome(lease, wire::lease_result::Outcome::ActionResult(result.encode_to_vec())).await;
    }

    pub async fn fault(&self, lease: &wire::Lease, kind: wire::fault::Kind, missing: Vec<String>) {
        let fault = wire::Fault { kind: kind as i32, message: "says the test".into(), missing };
        self.outcome(lease, wire::lease_result::Outcome::Fault(fault)).await;
    }

    pub async fn outcome(&self, lease: &wire::Lease, outcome: wire::lease_result::Outcome) {
        let result = wire::LeaseResult { lease_id: lease.lease_id, outcome: Some(outcome) };
        self.say(wire::from_helper::Message::Result(result)).await;
    }
}

/// A result that brings `a.o`.
pub fn result(object: Digest) -> re::ActionResult {
    let file = re::OutputFile { path: "a.o".into(), digest: Some(object.to_wire()), ..Default::default() };
    re::ActionResult { output_files: vec![file], ..Default::default() }
}
