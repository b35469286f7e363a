//! A simulated helper: the pool protocol as a real one speaks it, with a sleep for the work.

use std::time::{Duration, SystemTime};

use dbuild_proto::PROTOCOL;
use dbuild_proto::pool::pool_client::PoolClient;
use dbuild_proto::pool::{
    FromHelper, Hello, Lease, LeaseResult, State, from_helper, lease_result, to_helper,
};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::protobuf::Timestamp;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Result;

/// Attaches; what comes back is to be spawned and ends with the connection. `work` is how long each action takes.
pub async fn attach(
    channel: Channel,
    name: String,
    slots: u32,
    work: Option<Duration>,
) -> Result<impl Future<Output = ()>> {
    let (outbox, messages) = mpsc::channel(slots as usize + 4);
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        name,
        slots,
        ..Default::default()
    };
    outbox.send(say(from_helper::Message::Hello(hello))).await?;
    let mut inbox = PoolClient::new(channel).attach(ReceiverStream::new(messages)).await?.into_inner();
    match inbox.message().await?.and_then(|first| first.message) {
        Some(to_helper::Message::Welcome(welcome)) => {
            let every = Duration::from_millis(u64::from(welcome.state_interval_ms).max(100));
            Ok(serve(outbox, inbox, every, work))
        }
        other => Err(format!("the coordinator did not welcome a helper: {other:?}").into()),
    }
}

fn say(message: from_helper::Message) -> FromHelper {
    FromHelper { message: Some(message) }
}

async fn serve(
    outbox: mpsc::Sender<FromHelper>,
    mut inbox: Streaming<dbuild_proto::pool::ToHelper>,
    every: Duration,
    work: Option<Duration>,
) {
    let mut reports = tokio::time::interval(every);
    loop {
        tokio::select! {
            message = inbox.message() => match message {
                Ok(Some(message)) => if let Some(to_helper::Message::Lease(lease)) = message.message {
                    take(&outbox, lease, work).await;
                },
                Ok(None) | Err(_) => return,
            },
            _ = reports.tick() => {
                let state = State { memory_total: 1 << 34, memory_available: 1 << 33, ..Default::default() };
                if outbox.send(say(from_helper::Message::State(state))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// `None` as work: it is never done.
async fn take(outbox: &mpsc::Sender<FromHelper>, lease: Lease, work: Option<Duration>) {
    let begun = now();
    let answer = move || {
        let metadata =
            re::ExecutedActionMetadata { worker_start_timestamp: Some(begun), ..Default::default() };
        let result = re::ActionResult { execution_metadata: Some(metadata), ..Default::default() };
        let outcome = Some(lease_result::Outcome::ActionResult(result.encode_to_vec()));
        say(from_helper::Message::Result(LeaseResult { lease_id: lease.lease_id, outcome }))
    };
    match work {
        None => {}
        Some(Duration::ZERO) => {
            let _ = outbox.send(answer()).await;
        }
        Some(work) => {
            let outbox = outbox.clone();
            tokio::spawn(async move {
                tokio::time::sleep(work).await;
                let _ = outbox.send(answer()).await;
            });
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}
