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
use crate::pool::{Event, HelperId, HelperStanding, HelperView, LeaseId, Properties, Report, TaskId};

/// A connection that has not said `Hello` after this time is closed.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Slots of one helper, and bytes and number of what it says of itself.
const MAX_SLOTS: u32 = 4096;
const MAX_WORD: usize = 256;
const MAX_PROPERTIES: usize = 64;
/// The property under which a helper's own version is kept.
const VERSION: &str = "dbuild-version";
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
        self.0.council.admit()?;
        let (outbox, stream) = mpsc::channel(OUTBOX);
        // The answer must not wait for the helper's first message: some wait for the answer before it.
        tokio::spawn(serve_helper(self.0.clone(), request.into_inner(), outbox));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn report(
        &self,
        request: Request<Streaming<wire::HelperReport>>,
    ) -> Result<Response<wire::ReportEnd>, Status> {
        let mut reports = request.into_inner();
        let mut of: Option<Arc<str>> = None;
        while let Some(said) = reports.message().await? {
            check_protocol(said.protocol, "").map_err(Status::failed_precondition)?;
            let name: Arc<str> = check_name(said.name).map_err(Status::invalid_argument)?.into();
            if *of.get_or_insert_with(|| name.clone()) != name {
                return Err(Status::invalid_argument("one connection reports of one helper"));
            }
            let state = said.state.unwrap_or_default();
            let up = state.mood() != wire::Mood::Down;
            self.0.desk.tell(Event::Said { name, report: fit(state), up }).await;
        }
        Ok(Response::new(wire::ReportEnd {}))
    }

    async fn set_drained(
        &self,
        request: Request<wire::SetDrainedRequest>,
    ) -> Result<Response<wire::SetDrainedResponse>, Status> {
        let wire::SetDrainedRequest { name, drained } = request.into_inner();
        let known = self.0.desk.drain(name.into(), drained).await?;
        Ok(Response::new(wire::SetDrainedResponse { known }))
    }

    async fn list_helpers(
        &self,
        _: Request<wire::ListHelpersRequest>,
    ) -> Result<Response<wire::ListHelpersResponse>, Status> {
        let mut helpers: Vec<_> = self.0.desk.helpers().await?.into_iter().map(describe).collect();
        for (name, record) in self.0.council.helpers().iter() {
            match helpers.binary_search_by(|helper| helper.name.as_str().cmp(name)) {
                Ok(at) if helpers[at].online => {}
                // Connected to another coordinator, or to none at the moment.
                Ok(at) => helpers[at] = recorded(name, record),
                Err(at) => helpers.insert(at, recorded(name, record)),
            }
        }
        Ok(Response::new(wire::ListHelpersResponse { helpers }))
    }
}

fn describe(helper: HelperView) -> wire::HelperInfo {
    // What it holds now; its own figure is as old as its last report.
    let state = helper.report.map(|report| wire::State { running: helper.leases, ..(*report.0).clone() });
    let platform = helper.properties.iter().filter(|(name, _)| *name != VERSION);
    wire::HelperInfo {
        name: helper.name.to_string(),
        online: helper.online,
        slots: helper.slots,
        state,
        // How long ago, so that nobody's clock matters.
        last_seen_ms: helper.silent_for.as_millis() as u64,
        drained: helper.drained,
        version: helper.properties.get(VERSION).cloned().unwrap_or_default(),
        platform: platform.map(|(name, value)| (name.clone(), value.clone())).collect(),
        set_aside_ms: match helper.standing {
            // Never 0 while it is set aside.
            HelperStanding::SetAside(left) => (left.as_millis() as u64).max(1),
            _ => 0,
        },
        on_trial: helper.standing == HelperStanding::OnTrial,
    }
}

/// A helper as its record in the state's database says.
fn recorded(name: &str, record: &wire::HelperRecord) -> wire::HelperInfo {
    let hello = record.hello.clone().unwrap_or_default();
    let fitted = |state: wire::State| (*fit(state).0).clone();
    wire::HelperInfo {
        name: name.to_owned(),
        online: true,
        slots: hello.slots.min(MAX_SLOTS),
        state: record.state.clone().map(fitted),
        version: version(&hello.version),
        platform: hello.properties.into_iter().collect(),
        ..Default::default()
    }
}

/// State as a helper says it, made fit to be kept and shown.
pub fn fit(mut state: wire::State) -> Report {
    let shares = [
        &mut state.cpu_percent,
        &mut state.own_cpu_percent,
        &mut state.load1,
        &mut state.io_pressure,
        &mut state.cpu_pressure,
        &mut state.memory_pressure,
    ];
    for share in shares {
        *share = if share.is_finite() { share.clamp(0.0, 1e6) } else { 0.0 };
    }
    state.why = state.why.chars().filter(|letter| !letter.is_control()).take(MAX_WORD).collect();
    state.trees.truncate(MAX_PROPERTIES);
    state.trees.retain(|tree| tree.len() <= MAX_WORD && tree.bytes().all(|byte| byte.is_ascii_hexdigit()));
    Report(Arc::new(state))
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
    check_protocol(hello.protocol, &hello.version)?;
    let name = check_name(hello.name)?;
    if hello.slots == 0 || hello.slots > MAX_SLOTS {
        return Err(format!("a helper has 1 to {MAX_SLOTS} slots, not {}", hello.slots));
    }
    let long = |(name, value): (&String, &String)| name.len() > MAX_WORD || value.len() > MAX_WORD;
    if hello.properties.len() > MAX_PROPERTIES || hello.properties.iter().any(long) {
        return Err(format!("a helper has up to {MAX_PROPERTIES} properties of up to {MAX_WORD} bytes"));
    }
    let mut properties: Properties = hello.properties.into_iter().collect();
    // No action asks for what begins like this, so it is for people only.
    properties.insert(VERSION.into(), version(&hello.version));
    Ok(Hello { name: name.into(), slots: hello.slots, properties })
}

/// `whom` is the helper's own version, if it says so.
fn check_protocol(theirs: u32, whom: &str) -> Result<(), String> {
    if theirs == PROTOCOL {
        return Ok(());
    }
    let upgrade = if theirs < PROTOCOL { "the helper" } else { "the coordinator" };
    let (whom, ours) = (version(whom), env!("CARGO_PKG_VERSION"));
    Err(format!(
        "the helper (dbuild {whom}) speaks pool protocol {theirs}, this coordinator (dbuild {ours}) speaks {PROTOCOL}: \
         upgrade {upgrade}"
    ))
}

pub fn check_name(name: String) -> Result<String, String> {
    if name.is_empty() || name.len() > MAX_WORD || name.contains(char::is_control) {
        return Err(format!("a helper's name has 1 to {MAX_WORD} printable bytes"));
    }
    Ok(name)
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
                let report = fit(state);
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
                // Its channel may be full, and nobody empties it: then the end of the stream says it.
                let _ = self.outbox.try_send(last);
                return Err(reason);
            }
        };
        if send(&self.outbox, message).await { Ok(()) } else { Err("its connection was closed".into()) }
    }
}
