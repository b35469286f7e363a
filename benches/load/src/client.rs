//! A simulated client: it offers actions at a steady rate, whatever becomes of those before, and times each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dbuild_proto::Digest;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::longrunning::operation;
use dbuild_proto::reapi::google::protobuf::Timestamp;
use prost::Message;
use re::execution_client::ExecutionClient;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;

use crate::Result;
use crate::action::{action, execute, upload};
use crate::figures::Times;

/// How often a client looks what is due; what is due together is uploaded together, as an initiator does.
const TICK: Duration = Duration::from_millis(2);
/// Actions of one client that are not answered; beyond them it offers none, and the rate is missed.
const OPEN: usize = 1000;

/// What is offered, by how many clients together.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub run: u64,
    /// Actions per second of this client.
    pub rate: f64,
    pub lasts: Duration,
}

/// What came of one client's actions.
#[derive(Debug, Default)]
pub struct Seen {
    /// From `Execute` to the answer.
    pub whole: Times,
    /// From when the coordinator took it in to when a helper had the lease.
    pub dispatch: Times,
    pub failed: u64,
    pub first_failure: Option<String>,
    /// Actions that were not offered in time because too many were open.
    pub held_back: u64,
}

/// Offers actions numbered from `first` in steps of `step`; counts answers in `done`.
pub async fn run(
    channel: Channel,
    offer: Offer,
    first: u64,
    step: u64,
    done: Arc<AtomicU64>,
) -> Result<Seen> {
    let (mut seen, mut open) = (Seen::default(), JoinSet::new());
    let room = Arc::new(Semaphore::new(OPEN));
    let begun = Instant::now();
    let (mut offered, mut number) = (0u64, first);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while begun.elapsed() < offer.lasts {
        ticks.tick().await;
        let due = (begun.elapsed().as_secs_f64() * offer.rate) as u64;
        let wanted = (due - offered) as usize;
        let may = wanted.min(room.available_permits());
        seen.held_back += (wanted - may) as u64;
        offered = due;
        if may == 0 {
            continue;
        }
        let batch: Vec<_> = (0..may as u64).map(|n| action(offer.run, number + n * step)).collect();
        number += may as u64 * step;
        let permits = room.clone().acquire_many_owned(may as u32).await?;
        let (channel, done) = (channel.clone(), done.clone());
        open.spawn(async move {
            let _permits = permits;
            send(channel, batch, done).await
        });
        while let Some(ended) = open.try_join_next() {
            seen.add(ended?);
        }
    }
    while let Some(ended) = open.join_next().await {
        seen.add(ended?);
    }
    Ok(seen)
}

impl Seen {
    pub fn add(&mut self, other: Seen) {
        self.whole.merge(other.whole);
        self.dispatch.merge(other.dispatch);
        self.failed += other.failed;
        self.held_back += other.held_back;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    fn note(&mut self, outcome: Result<(Duration, Option<Duration>)>) {
        match outcome {
            Ok((whole, dispatch)) => {
                self.whole.add(whole);
                dispatch.into_iter().for_each(|dispatch| self.dispatch.add(dispatch));
            }
            Err(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

async fn send(channel: Channel, batch: Vec<crate::action::Blob>, done: Arc<AtomicU64>) -> Seen {
    let mut seen = Seen::default();
    let digests: Vec<_> = batch.iter().map(|blob| blob.digest).collect();
    if let Err(error) = upload(&channel, batch).await {
        digests.iter().for_each(|_| seen.note(Err(error.to_string().into())));
        return seen;
    }
    let mut open: JoinSet<_> = digests.into_iter().map(|digest| one(channel.clone(), digest)).collect();
    while let Some(ended) = open.join_next().await {
        let outcome = ended.unwrap_or_else(|error| Err(error.into()));
        if outcome.is_ok() {
            done.fetch_add(1, Ordering::Relaxed);
        }
        seen.note(outcome);
    }
    seen
}

/// Executes one action; gives the time to its answer and, of it, the time to its lease.
async fn one(channel: Channel, digest: Digest) -> Result<(Duration, Option<Duration>)> {
    let begun = Instant::now();
    let mut operations = ExecutionClient::new(channel).execute(execute(&digest)).await?.into_inner();
    while let Some(operation) = operations.message().await? {
        let Some(operation::Result::Response(any)) = operation.result else { continue };
        let whole = begun.elapsed();
        // To the end: whoever lets go of a stream before resets it, and a connection bears a thousand of these.
        operations.message().await?;
        let response = re::ExecuteResponse::decode(any.value.as_slice())?;
        let Some(result) = response.result else {
            let why = response.status.map_or_else(String::new, |status| status.message);
            return Err(format!("an action was not run: {why}").into());
        };
        if response.cached_result {
            return Err("an action that is new was answered from the cache".into());
        }
        let metadata = result.execution_metadata.unwrap_or_default();
        let dispatch = since(metadata.queued_timestamp, metadata.worker_start_timestamp);
        return Ok((whole, dispatch));
    }
    Err("the coordinator ended an operation without an answer".into())
}

fn since(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<Duration> {
    let nanos = |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let between = nanos(to?) - nanos(from?);
    Some(Duration::from_nanos(between.max(0).try_into().ok()?))
}
