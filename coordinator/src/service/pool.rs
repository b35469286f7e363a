//! The pool protocol's server side: one connection per helper, pumped both ways. It checks and translates;
//! what follows from a message is the pool's decision.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::PROTOCOL;
use dbuild_proto::pool as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::from_helper::Message as Inbound;
use wire::to_helper::Message as Outbound;

use super::desk::{Hello, Order};
use super::job::Job;
use super::messages::Sent;
use super::{Site, verdict};
use crate::pool::{Event, HelperId, HelperView, LeaseId, Report, TaskId};

/// A connection that has not said `Hello` after this time is closed.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Slots of one helper, and bytes and number of what it says of itself.
const MAX_SLOTS: u32 = 4096;
const MAX_WORD: usize = 256;
const MAX_PROPERTIES: usize = 64;
/// Messages on their way to one helper.
const OUTBOX: usize = 64;

pub struct Service(pub Site);

#[tonic::async_trait]
impl wire::pool_server::Pool for Service {
    type AttachStream = ReceiverStream<Result<wire::ToHelper, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::FromHelper>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (outbox, stream) = mpsc::channel(OUTBOX);
        // The answer must not wait for the helper's first message: some wait for the answer before it.
        tokio::spawn(serve_helper(self.0.clone(), request.into_inner(), outbox));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_helpers(
        &self,
        _: Request<wire::ListHelpersRequest>,
    ) -> Result<Response<wire::ListHelpersResponse>, Status> {
        let helpers = self.0.desk.helpers().await?.into_iter().map(describe).collect();
        Ok(Response::new(wire::ListHelpersResponse { helpers }))
    }
}

fn describe(helper: HelperView) -> wire::HelperInfo {
    let state = helper.report.map(|report| wire::State {
        cpu_percent: report.cpu_percent,
        load1: report.load1,
        memory_total: report.memory_total,
        memory_available: report.memory_available,
        disk_available: report.disk_available,
        io_pressure: report.io_pressure,
        // What it holds now; its own figure is as old as its last report.
        running: helper.leases,
        tasks_done: report.tasks_done,
        tasks_failed: report.tasks_failed,
    });
    wire::HelperInfo {
        name: helper.name.to_string(),
        online: helper.online,
        slots: helper.slots,
        state,
        // How long ago, so that nobody's clock matters.
        last_seen_ms: helper.silent_for.as_millis() as u64,
    }
}

type Outbox = mpsc::Sender<Result<wire::ToHelper, Status>>;

/// False when the helper is gone.
async fn send(outbox: &Outbox, message: Outbound) -> bool {
    outbox.send(Ok(wire::ToHelper { message: Some(message) })).await.is_ok()
}

async fn serve_helper(site: Site, mut inbound: Streaming<wire::FromHelper>, outbox: Outbox) {
    let hello = match tokio::time::timeout(HELLO_WAIT, inbound.message()).await {
        Err(_) => {
            // A slow link; the helper tries again.
            let slow = Status::deadline_exceeded(format!("no Hello within {} s", HELLO_WAIT.as_secs()));
            let _ = outbox.send(Err(slow)).await;
            return;
        }
        Ok(Ok(Some(wire::FromHelper { message: Some(Inbound::Hello(hello)) }))) => check(hello),
        Ok(Ok(_)) => Err("the first message must be Hello".into()),
        Ok(Err(_)) => return,
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(reason) => {
            send(&outbox, Outbound::Refused(wire::Refused { reason })).await;
            return;
        }
    };
    let name = hello.name.clone();
    let Ok((helper, orders)) = site.desk.attach(hello).await else { return };
    let state_interval_ms = site.config.state_interval.as_millis().try_into().unwrap_or(u32::MAX);
    let (leases, sent) = (HashMap::new(), Sent::default());
    let mut connection = Connection { site, helper, name, outbox, leases, sent };
    let welcome = Outbound::Welcome(wire::Welcome { state_interval_ms });
    let reason = if send(&connection.outbox, welcome).await {
        connection.pump(&mut inbound, orders).await
    } else {
        "its connection was closed".into()
    };
    connection.site.desk.tell(Event::Detach { helper, reason }).await;
}

/// Checks what a helper says of itself.
fn check(hello: wire::Hello) -> Result<Hello, String> {
    if hello.protocol != PROTOCOL {
        let (theirs, whom) = (hello.protocol, version(&hello.version));
        let upgrade = if theirs < PROTOCOL { "the helper" } else { "the coordinator" };
        let ours = env!("CARGO_PKG_VERSION");
        return Err(format!(
            "the helper (dbuild {whom}) speaks pool protocol {theirs}, this coordinator (dbuild {ours}) \
             speaks {PROTOCOL}: upgrade {upgrade}"
        ));
    }
    if hello.name.is_empty() || hello.name.len() > MAX_WORD || hello.name.contains(char::is_control) {
        return Err(format!("a helper's name has 1 to {MAX_WORD} printable bytes"));
    }
    if hello.slots == 0 || hello.slots > MAX_SLOTS {
        return Err(format!("a helper has 1 to {MAX_SLOTS} slots, not {}", hello.slots));
    }
    let long = |(name, value): (&String, &String)| name.len() > MAX_WORD || value.len() > MAX_WORD;
    if hello.properties.len() > MAX_PROPERTIES || hello.properties.iter().any(long) {
        return Err(format!("a helper has up to {MAX_PROPERTIES} properties of up to {MAX_WORD} bytes"));
    }
    let properties = hello.properties.into_iter().collect();
    Ok(Hello { name: hello.name.into(), slots: hello.slots, properties })
}

/// A version as the other side says it, made fit for a message.
fn version(word: &str) -> String {
    word.chars().filter(|letter| !letter.is_control()).take(40).collect()
}

struct Leased {
    task: TaskId,
    job: Arc<Job>,
    /// It was said once what is ready before the end.
    announced: bool,
}

struct Connection {
    site: Site,
    helper: HelperId,
    name: Arc<str>,
    outbox: Outbox,
    /// What the helper was given and has not answered: it can answer nothing else, and each once.
    leases: HashMap<u64, Leased>,
    sent: Sent,
}

impl Connection {
    /// Passes messages both ways until one side ends; gives the reason.
    async fn pump(
        &mut self,
        inbound: &mut Streaming<wire::FromHelper>,
        mut orders: mpsc::Receiver<Order>,
    ) -> String {
        loop {
            let passed = tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(wire::FromHelper { message: Some(message) })) => self.hear(message).await,
                    // A message of a newer helper's that is unknown here.
                    Ok(Some(wire::FromHelper { message: None })) => Ok(()),
                    Ok(None) => Err("it closed the connection".into()),
                    Err(status) => Err(format!("its connection broke: {}", status.message())),
                },
                order = orders.recv() => match order {
                    Some(order) => self.pass(order).await,
                    None => Err("the coordinator is stopping".into()),
                },
            };
            if let Err(reason) = passed {
                return reason;
            }
        }
    }

    async fn hear(&mut self, message: Inbound) -> Result<(), String> {
        match message {
            Inbound::Hello(_) => Err("it said Hello twice".into()),
            Inbound::State(state) => {
                let report = Report {
                    cpu_percent: state.cpu_percent,
                    load1: state.load1,
                    memory_total: state.memory_total,
                    memory_available: state.memory_available,
                    disk_available: state.disk_available,
                    io_pressure: state.io_pressure,
                    running: state.running,
                    tasks_done: state.tasks_done,
                    tasks_failed: state.tasks_failed,
                };
                self.site.desk.tell(Event::Report { helper: self.helper, report }).await;
                Ok(())
            }
            Inbound::Announcement(announcement) => {
                let Some(leased) = self.leases.get_mut(&announcement.lease_id) else { return Ok(()) };
                if std::mem::replace(&mut leased.announced, true) {
                    return Ok(());
                }
                let (site, task, job) = (self.site.clone(), leased.task, leased.job.clone());
                tokio::spawn(async move {
                    let checked = verdict::ready(&site, &job, announcement.action_result).await;
                    match checked {
                        Ok(result) => site.desk.ready(task, Arc::new(result)).await,
                        Err(reason) => tracing::warn!(reason, "a helper announced a bad result"),
                    }
                });
                Ok(())
            }
            Inbound::Result(result) => {
                // Unknown: answered before, or never given.
                let Some(Leased { job, .. }) = self.leases.remove(&result.lease_id) else { return Ok(()) };
                let (site, helper, name) = (self.site.clone(), self.helper, self.name.clone());
                // At most as many of these run as the helper has slots.
                tokio::spawn(async move {
                    let lease = LeaseId(result.lease_id);
                    let verdict = verdict::judge(&site, &job, &name, result).await;
                    site.desk.tell(Event::Finish { helper, lease, verdict }).await;
                });
                Ok(())
            }
        }
    }

    async fn pass(&mut self, order: Order) -> Result<(), String> {
        let message = match order {
            Order::Lease(lease, task, job) => {
                let message = Outbound::Lease(wire::Lease {
                    lease_id: lease.0,
                    instance_name: job.action.instance.clone(),
                    digest_function: job.action.function.to_wire(),
                    action_hash: job.action.digest.hex(),
                    action_size: job.action.digest.size as i64,
                    timeout_ms: job.timeout.as_millis().try_into().unwrap_or(u64::MAX),
                    messages: self.sent.next(
                        &self.site.inputs.messages,
                        job.action.function,
                        job.action.digest,
                    ),
                });
                self.leases.insert(lease.0, Leased { task, job, announced: false });
                message
            }
            Order::Cancel(lease) => Outbound::Cancel(wire::Cancel { lease_id: lease.0 }),
            Order::Close { reason, for_good } => {
                // A helper that is refused ends; one whose stream breaks comes back.
                let last = if for_good {
                    let refused = wire::Refused { reason: reason.clone() };
                    Ok(wire::ToHelper { message: Some(Outbound::Refused(refused)) })
                } else {
                    Err(Status::unavailable(reason.clone()))
                };
                // Who does not take it is gone anyway.
                let _ = self.outbox.send(last).await;
                return Err(reason);
            }
        };
        if send(&self.outbox, message).await { Ok(()) } else { Err("its connection was closed".into()) }
    }
}
