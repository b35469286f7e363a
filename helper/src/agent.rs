//! Keeps the stream to the coordinator: says hello, passes on what it is told of the machine, takes leases up to its slots
//! and tells their outcomes. When somebody else needs the machine, it hands them back. A lost stream ends what runs (the coordinator gives it to another) and is opened again, for ever.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dbuild_proto::pool::lease_result::Outcome;
use dbuild_proto::pool::{Announcement, Fault, Lease, fault, pool_client::PoolClient};
use dbuild_proto::pool::{
    FromHelper, Hello, LeaseResult, Mood, State, ToHelper, ToWorker, from_helper, to_helper,
};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{MAX_MESSAGE, PROTOCOL, isa};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::action::Worker;
use crate::remote::endpoint;
use crate::{HelperConfig, HelperError};

/// Waits between two tries to reach the coordinator, doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(10);

/// How often state is told, whatever the coordinator asks for.
const STATE_BOUNDS_MS: (u32, u32) = (100, 60_000);
/// How often, before the coordinator has said.
const STATE_MS: u32 = 5_000;

/// How often the machine is looked at.
pub const SAMPLE: Duration = Duration::from_secs(1);

/// Why a stream ended.
enum End {
    Shutdown,
    Lost(String),
    Refused(String),
}

/// What others may know of an agent's work while it is at it.
#[derive(Debug, Default)]
pub struct Vitals {
    pub running: AtomicU32,
    pub done: AtomicU64,
    pub failed: AtomicU64,
    /// How often the coordinator wants state; 0: it has not said.
    pub state_interval_ms: AtomicU32,
}

/// Serves until `shutdown`; see [`crate::run`]. `told` is the machine as whoever samples it sees it.
pub async fn serve(
    config: &HelperConfig,
    worker: Worker,
    told: watch::Receiver<ToWorker>,
    vitals: Arc<Vitals>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), HelperError> {
    let mut shutdown = pin!(shutdown);
    let mut agent = Agent {
        config,
        told,
        reported: None,
        worker,
        running: JoinSet::new(),
        leases: HashMap::new(),
        tasks: HashMap::new(),
        vitals,
    };
    let mut wait = FIRST_WAIT;
    loop {
        let end = agent.attach(shutdown.as_mut(), &mut wait).await;
        agent.abandon().await;
        match end {
            End::Shutdown => return Ok(()),
            End::Refused(reason) => return Err(HelperError::Refused(reason)),
            End::Lost(reason) => {
                tracing::warn!("no coordinator at {}: {reason}; trying again", config.coordinator)
            }
        }
        tokio::select! {
            () = shutdown.as_mut() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

struct Agent<'a> {
    config: &'a HelperConfig,
    told: watch::Receiver<ToWorker>,
    /// When state was told last on this stream, and what was offered.
    reported: Option<(Instant, Option<u32>)>,
    worker: Worker,
    /// One task per lease; each ends with the lease's outcome.
    running: JoinSet<(u64, Outcome)>,
    leases: HashMap<u64, CancellationToken>,
    /// Which lease a task works on, should it panic.
    tasks: HashMap<Id, u64>,
    vitals: Arc<Vitals>,
}

impl Agent<'_> {
    /// One stream, from hello to its end.
    async fn attach(&mut self, mut shutdown: impl Future<Output = ()> + Unpin, wait: &mut Duration) -> End {
        // Outgoing messages are at most one state per interval and one result per slot: bounded by what is taken.
        let (out, outgoing) = mpsc::unbounded_channel();
        let _ = out.send(message(from_helper::Message::Hello(hello(&self.config.name, self.config.slots))));
        let opened = tokio::select! {
            () = &mut shutdown => return End::Shutdown,
            opened = self.open(UnboundedReceiverStream::new(outgoing)) => opened,
        };
        let mut incoming = match opened {
            Ok(incoming) => incoming,
            Err(reason) => return End::Lost(reason),
        };
        let mut interval = Duration::from_millis(STATE_MS.into());
        self.reported = None;
        self.told.mark_changed();
        loop {
            tokio::select! {
                () = &mut shutdown => return End::Shutdown,
                received = incoming.message() => match received {
                    Ok(Some(ToHelper { message: Some(received) })) => match received {
                        to_helper::Message::Welcome(welcome) => {
                            *wait = FIRST_WAIT;
                            let ms = welcome.state_interval_ms;
                            self.vitals.state_interval_ms.store(ms, Relaxed);
                            interval = Duration::from_millis(bounded(ms).into());
                        }
                        to_helper::Message::Refused(refused) => return End::Refused(refused.reason),
                        to_helper::Message::Lease(lease) => {
                            if let Some(refusal) = self.take(lease, &out) {
                                let _ = out.send(refusal);
                            }
                        }
                        to_helper::Message::Cancel(cancel) => {
                            if let Some(token) = self.leases.get(&cancel.lease_id) {
                                token.cancel();
                            }
                        }
                    },
                    // A message of a newer protocol that this build does not know.
                    Ok(Some(ToHelper { message: None })) => {}
                    Ok(None) => return End::Lost("the stream was closed".to_owned()),
                    Err(status) => return End::Lost(format!("{:?} {}", status.code(), status.message())),
                },
                Some(ended) = self.running.join_next_with_id() => {
                    let result = self.ended(ended);
                    let _ = out.send(message(from_helper::Message::Result(result)));
                }
                Ok(()) = self.told.changed() => {
                    if let Some(state) = self.state(interval) {
                        let _ = out.send(message(from_helper::Message::State(state)));
                    }
                }
            }
        }
    }

    async fn open(
        &self,
        outgoing: UnboundedReceiverStream<FromHelper>,
    ) -> Result<Streaming<ToHelper>, String> {
        let endpoint = endpoint(&self.config.coordinator).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| sentence(&error))?;
        let mut client = PoolClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let answer = client.attach(outgoing).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| format!("{:?} {}", status.code(), status.message()))
    }

    /// Hears what it is told of the machine; gives the state if it is due for the coordinator.
    fn state(&mut self, interval: Duration) -> Option<State> {
        let told = self.told.borrow_and_update().clone();
        let state = told.state?;
        if state.mood() == Mood::Yielding {
            self.hand_back();
        }
        let due = self.reported.is_none_or(|(at, offered)| {
            // Samples do not come to the millisecond.
            at.elapsed() + SAMPLE / 2 >= interval || offered != state.offered
        });
        due.then(|| {
            self.reported = Some((Instant::now(), state.offered));
            State {
                running: self.leases.len() as u32,
                tasks_done: self.vitals.done.load(Relaxed),
                tasks_failed: self.vitals.failed.load(Relaxed),
                ..state
            }
        })
    }

    /// Ends what runs; the coordinator hears of each that it was cancelled, and gives it to another.
    fn hand_back(&self) {
        if !self.leases.is_empty() {
            tracing::info!("others need this machine: {} actions are handed back", self.leases.len());
        }
        self.leases.values().for_each(CancellationToken::cancel);
    }

    /// Starts a lease, or returns the answer that refuses it. A lease that is known already is passed over.
    fn take(&mut self, lease: Lease, out: &mpsc::UnboundedSender<FromHelper>) -> Option<FromHelper> {
        let lease_id = lease.lease_id;
        if self.leases.contains_key(&lease_id) {
            return None;
        }
        if self.leases.len() >= self.config.slots as usize {
            tracing::warn!("an action was given back: all slots are taken");
            let outcome = Outcome::Fault(Fault {
                kind: fault::Kind::Infrastructure.into(),
                message: format!("failed to take the lease: all {} slots are taken", self.config.slots),
                missing: Vec::new(),
            });
            let result = LeaseResult { lease_id, outcome: Some(outcome) };
            return Some(message(from_helper::Message::Result(result)));
        }
        let token = CancellationToken::new();
        self.leases.insert(lease_id, token.clone());
        self.vitals.running.store(self.leases.len() as u32, Relaxed);
        let worker = self.worker.clone();
        let out = out.clone();
        let tell = move |ready: re::ActionResult| {
            let announcement = Announcement { lease_id, action_result: ready.encode_to_vec() };
            // Without a stream nobody waits for it.
            let _ = out.send(message(from_helper::Message::Announcement(announcement)));
        };
        let task = self.running.spawn(async move { (lease_id, worker.run(&lease, token, tell).await) });
        self.tasks.insert(task.id(), lease_id);
        None
    }

    fn ended(&mut self, ended: Result<(Id, (u64, Outcome)), tokio::task::JoinError>) -> LeaseResult {
        let (task, lease_id, outcome) = match ended {
            Ok((task, (lease_id, outcome))) => (task, lease_id, outcome),
            Err(error) => {
                // A fault of ours; the action may do better elsewhere, and this helper goes on.
                let fault = Fault {
                    kind: fault::Kind::Infrastructure.into(),
                    message: format!("failed to run the lease: {error}"),
                    missing: Vec::new(),
                };
                let lease_id = self.tasks.get(&error.id()).copied().unwrap_or_default();
                (error.id(), lease_id, Outcome::Fault(fault))
            }
        };
        self.tasks.remove(&task);
        self.leases.remove(&lease_id);
        self.vitals.running.store(self.leases.len() as u32, Relaxed);
        let count = match outcome {
            Outcome::ActionResult(_) => &self.vitals.done,
            Outcome::Fault(_) => &self.vitals.failed,
        };
        count.fetch_add(1, Relaxed);
        LeaseResult { lease_id, outcome: Some(outcome) }
    }

    /// Ends everything that runs and waits until it has; nobody is told.
    async fn abandon(&mut self) {
        for token in self.leases.values() {
            token.cancel();
        }
        while let Some(ended) = self.running.join_next_with_id().await {
            self.ended(ended);
        }
        self.worker.settle().await;
    }
}

/// What a helper is.
pub fn hello(name: &str, slots: u32) -> Hello {
    let properties = [("OSFamily", "linux"), ("ISA", isa())];
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: name.to_owned(),
        slots,
        properties: properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

fn message(message: from_helper::Message) -> FromHelper {
    FromHelper { message: Some(message) }
}

/// The interval that a coordinator asked for, within bounds, in milliseconds.
fn bounded(ms: u32) -> u32 {
    if ms == 0 { STATE_MS } else { ms.clamp(STATE_BOUNDS_MS.0, STATE_BOUNDS_MS.1) }
}

/// tonic's transport errors keep the reason in their sources.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        sentence = format!("{sentence}: {error}");
        source = error.source();
    }
    sentence
}
