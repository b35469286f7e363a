//! A stand-in coordinator: its store, and one pool stream at a time that the test drives by hand.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dbuild_proto::pool::pool_server::{Pool, PoolServer};
use dbuild_proto::pool::{
    FromHelper, Hello, HelperReport, Lease, LeaseResult, ListHelpersRequest, ListHelpersResponse, ReportEnd,
    SetDrainedRequest, SetDrainedResponse, ToHelper, Welcome, from_helper, lease_result, to_helper,
};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::byte_stream_server::ByteStreamServer;
use dbuild_proto::{Digest, MAX_MESSAGE};
use re::content_addressable_storage_server::ContentAddressableStorageServer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::store::{Blobs, FUNCTION};

struct Door(mpsc::UnboundedSender<Attached>);

#[tonic::async_trait]
impl Pool for Door {
    type AttachStream = UnboundedReceiverStream<Result<ToHelper, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromHelper>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (to, stream) = mpsc::unbounded_channel();
        let mut from = request.into_inner();
        let Some(FromHelper { message: Some(from_helper::Message::Hello(hello)) }) = from.message().await?
        else {
            return Err(Status::invalid_argument("hello comes first"));
        };
        let welcome = to_helper::Message::Welcome(Welcome { state_interval_ms: 200 });
        to.send(Ok(ToHelper { message: Some(welcome) })).unwrap();
        let _ = self.0.send(Attached { hello, to, from });
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn list_helpers(
        &self,
        _: Request<ListHelpersRequest>,
    ) -> Result<Response<ListHelpersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn report(&self, _: Request<Streaming<HelperReport>>) -> Result<Response<ReportEnd>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn set_drained(
        &self,
        _: Request<SetDrainedRequest>,
    ) -> Result<Response<SetDrainedResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// One helper's stream. Dropping it closes the stream.
pub struct Attached {
    pub hello: Hello,
    to: mpsc::UnboundedSender<Result<ToHelper, Status>>,
    from: Streaming<FromHelper>,
}

impl Attached {
    pub fn send(&self, message: to_helper::Message) {
        self.to.send(Ok(ToHelper { message: Some(message) })).unwrap();
    }

    /// Breaks the stream, as a coordinator does that goes away.
    pub fn close(&mut self) {
        let _ = self.to.send(Err(Status::unavailable("going away")));
    }

    /// Gives a lease on an action; returns its id.
    pub fn lease(&self, action: Digest, timeout_ms: u64) -> u64 {
        self.lease_with(action, timeout_ms, Vec::new())
    }

    /// The same, and some messages that go with it.
    pub fn lease_with(&self, action: Digest, timeout_ms: u64, messages: Vec<Bytes>) -> u64 {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let lease_id = IDS.fetch_add(1, Ordering::Relaxed);
        self.send(to_helper::Message::Lease(Lease {
            lease_id,
            instance_name: String::new(),
            digest_function: FUNCTION.to_wire(),
            action_hash: action.hex(),
            action_size: action.size as i64,
            timeout_ms,
            messages,
        }));
        lease_id
    }

    /// The next message that `pick` takes; states and other messages are passed over.
    pub async fn next<T>(&mut self, pick: impl Fn(from_helper::Message) -> Option<T>) -> T {
        loop {
            let received = self.from.message().await.unwrap().expect("the helper stays");
            if let Some(picked) = received.message.and_then(&pick) {
                return picked;
            }
        }
    }

    pub async fn result(&mut self) -> LeaseResult {
        self.next(|message| match message {
            from_helper::Message::Result(result) => Some(result),
            _ => None,
        })
        .await
    }

    /// Runs one action and returns its outcome.
    pub async fn run(&mut self, action: Digest, timeout_ms: u64) -> lease_result::Outcome {
        self.run_with(action, timeout_ms, Vec::new()).await
    }

    pub async fn run_with(
        &mut self,
        action: Digest,
        timeout_ms: u64,
        messages: Vec<Bytes>,
    ) -> lease_result::Outcome {
        let lease_id = self.lease_with(action, timeout_ms, messages);
        let result = self.result().await;
        assert_eq!(result.lease_id, lease_id);
        result.outcome.unwrap()
    }
}

/// Starts the stand-in on a port of its own. It serves as long as the runtime of the test.
pub async fn start(blobs: &Blobs) -> (SocketAddr, mpsc::UnboundedReceiver<Attached>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (attached, arrivals) = mpsc::unbounded_channel();
    let cas = ContentAddressableStorageServer::new(blobs.clone()).max_decoding_message_size(MAX_MESSAGE);
    let streams = ByteStreamServer::new(blobs.clone()).max_decoding_message_size(MAX_MESSAGE);
    let server = tonic::transport::Server::builder()
        .add_service(PoolServer::new(Door(attached)))
        .add_service(cas)
        .add_service(streams)
        // Without it every small answer waits 40 ms for the acknowledgement of the one before.
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tokio::spawn(server);
    (address, arrivals)
}
