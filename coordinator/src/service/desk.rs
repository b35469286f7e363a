//! The desk: one task that owns the pool's state and takes one message after the other. Services talk to
//! it by channel; whoever waits for an operation holds a [`Watcher`], whose end the desk hears.
//!
//! The desk never waits for anybody: a helper whose channel is full is treated as lost, and progress goes
//! through `watch` channels, which keep only the newest state.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::job::Job;
use super::refusal;
use crate::pool::{Effect, Event, HelperId, HelperView, LeaseId, Limits, Outcome, Pool, Properties};
use crate::pool::{Request, TaskId};

/// A finished answer, shared by all who watch.
pub type Answer = Arc<re::ExecuteResponse>;

/// Messages that wait for the desk; senders wait beyond that.
const INBOX: usize = 1024;
/// How many finished operations are kept, and for how long, for clients that lost their connection.
const KEPT: (usize, Duration) = (1024, Duration::from_secs(60));

/// What a helper's connection has to pass on.
pub enum Order {
    Lease(LeaseId, TaskId, Arc<Job>),
    Cancel(LeaseId),
    Close { reason: String, for_good: bool },
}

/// How far an operation is.
#[derive(Clone, Debug)]
pub struct Progress {
    pub stage: re::execution_stage::Value,
    /// Outputs that are there before the end.
    pub ready: Option<Arc<re::ActionResult>>,
    pub answer: Option<Answer>,
}

impl Progress {
    /// What nobody has begun with.
    pub fn queued() -> Progress {
        Progress { stage: re::execution_stage::Value::Queued, ready: None, answer: None }
    }
}

/// Someone who waits for a task. Dropping it tells the desk.
pub struct Watcher {
    pub task: TaskId,
    pub job: Arc<Job>,
    pub progress: watch::Receiver<Progress>,
    /// None: the desk does not count this one.
    leaves: Option<mpsc::UnboundedSender<TaskId>>,
}

impl Watcher {
    /// Someone who sees of the task what comes by `progress`, and for whom it is not kept going.
    pub fn onlooker(&self, progress: watch::Receiver<Progress>) -> Watcher {
        Watcher { task: self.task, job: self.job.clone(), progress, leaves: None }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(leaves) = &self.leaves {
            // Fails only when the desk is gone, and then nobody counts watchers.
            let _ = leaves.send(self.task);
        }
    }
}

enum Message {
    Submit {
        request: Request,
        job: Arc<Job>,
        reply: oneshot::Sender<Result<Watcher, Outcome<Answer>>>,
    },
    Join {
        task: TaskId,
        reply: oneshot::Sender<Option<Watcher>>,
    },
    Attach {
        hello: Hello,
        reply: oneshot::Sender<(HelperId, mpsc::Receiver<Order>)>,
    },
    Helpers {
        reply: oneshot::Sender<Vec<HelperView>>,
    },
    /// Whether a helper of this name is known is the reply.
    Drain {
        name: Arc<str>,
        drained: bool,
        reply: oneshot::Sender<bool>,
    },
    /// Some of a task's outputs are there.
    Ready {
        task: TaskId,
        result: Arc<re::ActionResult>,
    },
    /// What needs no answer: reports, results, lost connections.
    Tell(Event<Answer>),
}

/// A helper's first message, checked.
pub struct Hello {
    pub name: Arc<str>,
    pub slots: u32,
    pub properties: Properties,
}

/// The way to the desk.
#[derive(Clone)]
pub struct Desk {
    inbox: mpsc::Sender<Message>,
}

fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

impl Desk {
    /// Starts the desk's task; it ends with `stop`, and all that wait for it hear so.
    pub fn start(limits: Limits, stop: CancellationToken) -> Desk {
        let (inbox, messages) = mpsc::channel(INBOX);
        // One message for each watcher that there is, so its bound is theirs (`Drop` cannot wait).
        let (leaves, left) = mpsc::unbounded_channel();
        let owner = Owner {
            pool: Pool::new(limits),
            started: Instant::now(),
            last_helper: 0,
            live: HashMap::new(),
            kept: VecDeque::new(),
            helpers: HashMap::new(),
            leaves,
        };
        tokio::spawn(owner.run(messages, left, stop));
        Desk { inbox }
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(message(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Queues an action, or joins an equal one in flight; or says at once what came of it.
    pub async fn submit(
        &self,
        request: Request,
        job: Arc<Job>,
    ) -> Result<Result<Watcher, Outcome<Answer>>, Status> {
        self.ask(|reply| Message::Submit { request, job, reply }).await
    }

    /// Watches a task that was submitted before; None: it is not known (any more).
    pub async fn join(&self, task: TaskId) -> Result<Option<Watcher>, Status> {
        self.ask(|reply| Message::Join { task, reply }).await
    }

    pub async fn attach(&self, hello: Hello) -> Result<(HelperId, mpsc::Receiver<Order>), Status> {
        self.ask(|reply| Message::Attach { hello, reply }).await
    }

    pub async fn helpers(&self) -> Result<Vec<HelperView>, Status> {
        self.ask(|reply| Message::Helpers { reply }).await
    }

    /// Gives a helper no more work, or work again; false if none of this name is known.
    pub async fn drain(&self, name: Arc<str>, drained: bool) -> Result<bool, Status> {
        self.ask(|reply| Message::Drain { name, drained, reply }).await
    }

    /// Passes on what is ready of a task; it must have been checked.
    pub async fn ready(&self, task: TaskId, result: Arc<re::ActionResult>) {
        let _ = self.inbox.send(Message::Ready { task, result }).await;
    }

    /// Tells the desk what happened; without effect when it is stopping.
    pub async fn tell(&self, event: Event<Answer>) {
        let _ = self.inbox.send(Message::Tell(event)).await;
    }
}

struct Live {
    job: Arc<Job>,
    progress: watch::Sender<Progress>,
    /// An attempt failed for a reason outside the action.
    retried: bool,
}

struct Owner {
    pool: Pool<Answer>,
    started: Instant,
    last_helper: u64,
    live: HashMap<TaskId, Live>,
    /// Finished, oldest first.
    kept: VecDeque<(Instant, TaskId, Live)>,
    helpers: HashMap<HelperId, mpsc::Sender<Order>>,
    leaves: mpsc::UnboundedSender<TaskId>,
}

impl Owner {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut left: mpsc::UnboundedReceiver<TaskId>,
        stop: CancellationToken,
    ) {
        loop {
            // Idle, it wakes up now and then to let go of what it keeps.
            let due = self.pool.next_deadline().and_then(|due| self.started.checked_add(due));
            let wake = due.unwrap_or_else(|| Instant::now() + KEPT.1);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(message) = messages.recv() => self.take(message),
                Some(task) = left.recv() => self.step(Event::Leave { task }),
                () = tokio::time::sleep_until(wake) => self.step(Event::Tick),
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Submit { request, job, reply } => {
                let watcher = self.submit(request, job);
                // If nobody waits for the reply any more, the watcher in it says so by its drop.
                drop(reply.send(watcher));
            }
            Message::Join { task, reply } => {
                self.step(Event::Join { task });
                drop(reply.send(self.watcher(task)));
            }
            Message::Attach { hello: Hello { name, slots, properties }, reply } => {
                self.last_helper += 1;
                let helper = HelperId(self.last_helper);
                // Room for each slot's lease, its cancellation and its successor: more is not in order.
                let (orders, receiver) = mpsc::channel(slots as usize * 4 + 16);
                self.helpers.insert(helper, orders);
                drop(reply.send((helper, receiver)));
                self.step(Event::Attach { helper, name, slots, properties });
            }
            Message::Helpers { reply } => drop(reply.send(self.pool.helpers(self.started.elapsed()))),
            Message::Drain { name, drained, reply } => {
                let known = self.pool.knows(&name);
                self.step(Event::Drain { name, drained });
                // Whoever asked may be gone.
                let _ = reply.send(known);
            }
            Message::Ready { task, result } => {
                if let Some(live) = self.live.get(&task) {
                    live.progress.send_modify(|progress| {
                        progress.ready.get_or_insert(result);
                    });
                }
            }
            Message::Tell(event) => {
                if let Event::Detach { helper, .. } = &event {
                    self.helpers.remove(helper);
                }
                self.step(event);
            }
        }
    }

    fn submit(&mut self, request: Request, job: Arc<Job>) -> Result<Watcher, Outcome<Answer>> {
        match self.step_with(Event::Submit(request), Some(job)) {
            Some(Ok(task)) => self.watcher(task).ok_or(Outcome::NoHelper),
            Some(Err(outcome)) => Err(outcome),
            // The pool answers each `Submit` with one of the two.
            None => Err(Outcome::NoHelper),
        }
    }

    fn step(&mut self, event: Event<Answer>) {
        self.step_with(event, None);
    }

    /// Steps the pool and does what it says. `job` belongs to a `Submit`, whose reply is returned.
    fn step_with(
        &mut self,
        event: Event<Answer>,
        mut job: Option<Arc<Job>>,
    ) -> Option<Result<TaskId, Outcome<Answer>>> {
        let mut reply = None;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.pool.step(self.started.elapsed(), event) {
                match effect {
                    Effect::Accepted { task, merged } => {
                        if !merged && let Some(job) = job.take() {
                            let progress = watch::Sender::new(Progress::queued());
                            self.live.insert(task, Live { job, progress, retried: false });
                        }
                        reply = Some(Ok(task));
                    }
                    Effect::Declined(outcome) => reply = Some(Err(outcome)),
                    Effect::Lease { helper, lease, task, .. } => {
                        self.stage(task, re::execution_stage::Value::Executing);
                        let Some(live) = self.live.get(&task) else { continue };
                        let order = Order::Lease(lease, task, live.job.clone());
                        events.extend(self.order(helper, order));
                    }
                    Effect::Cancel { helper, lease } => {
                        events.extend(self.order(helper, Order::Cancel(lease)));
                    }
                    Effect::Requeued { task } => {
                        self.stage(task, re::execution_stage::Value::Queued);
                        if let Some(live) = self.live.get_mut(&task) {
                            live.retried = true;
                        }
                    }
                    Effect::Answer { task, outcome } => self.finish(task, outcome),
                    Effect::Forgotten { task } => drop(self.live.remove(&task)),
                    Effect::Close { helper, reason, for_good } => {
                        tracing::info!(helper = helper.0, reason, "helper closed");
                        self.order(helper, Order::Close { reason, for_good });
                        self.helpers.remove(&helper);
                    }
                    Effect::SetAside { helper, wait, why } => {
                        let seconds = wait.as_secs();
                        tracing::warn!(%helper, seconds, why, "a helper failed too often and gets no work for a while");
                    }
                }
            }
        }
        reply
    }

    /// Passes an order on; gives the event that follows if the helper does not take it.
    fn order(&mut self, helper: HelperId, order: Order) -> Option<Event<Answer>> {
        let orders = self.helpers.get(&helper)?;
        if orders.try_send(order).is_ok() {
            return None;
        }
        self.helpers.remove(&helper);
        Some(Event::Detach { helper, reason: "it does not take orders".into() })
    }

    fn stage(&mut self, task: TaskId, stage: re::execution_stage::Value) {
        if let Some(live) = self.live.get(&task) {
            live.progress.send_modify(|progress| progress.stage = stage);
        }
    }

    fn finish(&mut self, task: TaskId, outcome: Outcome<Answer>) {
        let Some(live) = self.live.remove(&task) else { return };
        let stage = re::execution_stage::Value::Completed;
        let answer = match outcome {
            Outcome::Answered(answer) if live.retried => Arc::new(re::ExecuteResponse {
                message: "a helper failed and the action was tried again".into(),
                ..re::ExecuteResponse::clone(&answer)
            }),
            Outcome::Answered(answer) => answer,
            other => Arc::new(re::ExecuteResponse { status: Some(explain(&other)), ..Default::default() }),
        };
        live.progress.send_replace(Progress { stage, ready: None, answer: Some(answer) });
        let now = Instant::now();
        while self.kept.len() >= KEPT.0 || self.kept.front().is_some_and(|(at, ..)| *at + KEPT.1 <= now) {
            self.kept.pop_front();
        }
        self.kept.push_back((now, task, live));
    }

    fn watcher(&self, task: TaskId) -> Option<Watcher> {
        let kept = || self.kept.iter().find(|(_, kept, _)| *kept == task).map(|(.., live)| live);
        let live = self.live.get(&task).or_else(kept)?;
        let (job, progress) = (live.job.clone(), live.progress.subscribe());
        Some(Watcher { task, job, progress, leaves: Some(self.leaves.clone()) })
    }
}

/// What the pool could not do, as a client is told.
pub fn explain(outcome: &Outcome<Answer>) -> dbuild_proto::reapi::google::rpc::Status {
    let (code, message) = match outcome {
        Outcome::Answered(_) => (Code::Ok, String::new()),
        Outcome::Exhausted { attempts, last } => {
            (Code::Internal, format!("the action could not be run in {attempts} attempts; the last: {last}"))
        }
        Outcome::NoHelper => (Code::Unavailable, "no helper is connected".into()),
        Outcome::Closed(why) => (Code::Unavailable, why.clone()),
        Outcome::Unmatched(why) => (Code::FailedPrecondition, why.clone()),
        Outcome::Full { limit } => {
            (Code::ResourceExhausted, format!("the queue is full: {limit} actions are waiting or running"))
        }
    };
    refusal::rpc_status(code, message)
}
