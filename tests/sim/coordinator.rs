//! The coordinator: the real pool, driven as `coordinator/src/service` drives it. Which file does what here:
//! [`Coordinator::step`] and the orders are `desk.rs`, [`Side`] and [`Coordinator::pump`] are `pool.rs`, calls are
//! `execution.rs`; these are in `calls.rs`. What needs a store is left out, but for the action cache, which is all that a restart leaves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dbuild_coordinator::pool::{
    Effect, Event, HelperId, LeaseId, Limits, Outcome as Fate, Pool, Properties, TaskId, Verdict,
};

use super::clock::{Time, ms};
use super::network::{ConnId, End};
use super::stage::{Happening, Stage};
use super::wire::{Action, Call, Content, Ended, Message, Outcome, Value};
use super::words::report;

/// `HELLO_WAIT` of `pool.rs`.
const HELLO_WAIT: Duration = ms(10_000);

#[derive(Debug)]
pub enum Timer {
    Tick,
    HelloWait(ConnId),
    /// A request was read and checked.
    Prepared {
        id: ConnId,
        call: Call,
        action: Action,
    },
    /// A result was checked.
    Judged {
        helper: HelperId,
        lease: LeaseId,
        verdict: Verdict<Value>,
    },
}

#[derive(Debug)]
enum Order {
    Lease(LeaseId, TaskId, Action, (u32, Time)),
    Cancel(LeaseId),
    Close { reason: String, for_good: bool },
}

/// What a connection turned out to be.
#[derive(Debug)]
pub(super) enum Side {
    /// A helper's, which has not said who it is.
    Hello,
    Helper(Helper),
    /// What each call watches; None: it is being prepared.
    Client(BTreeMap<Call, Option<TaskId>>),
}

#[derive(Debug)]
pub(super) struct Helper {
    id: HelperId,
    /// The desk's channel, and what was heard while it could not be passed on.
    orders: VecDeque<Order>,
    room: usize,
    unread: VecDeque<Message>,
    leases: BTreeMap<LeaseId, TaskId>,
}

pub(super) struct Live {
    pub(super) action: Action,
    pub(super) watchers: Vec<(ConnId, Call)>,
}

pub struct Coordinator {
    pub up: bool,
    pub run: u32,
    pub pool: Pool<Value>,
    limits: Limits,
    state_interval: Duration,
    /// Packets that outbox and windows hold before a connection's task waits.
    outbox: usize,
    started: Time,
    last_helper: u64,
    pub(super) live: BTreeMap<TaskId, Live>,
    pub(super) kept: VecDeque<(Time, TaskId, Ended)>,
    /// Helpers that the desk has a channel to.
    helpers: BTreeMap<HelperId, ConnId>,
    pub(super) sides: BTreeMap<ConnId, Side>,
    pub(super) known: BTreeMap<Content, Value>,
    next_tick: Option<Time>,
}

impl Coordinator {
    pub fn new(limits: Limits, state_interval: Duration, outbox: usize) -> Coordinator {
        Coordinator {
            up: true,
            run: 1,
            pool: Pool::new(limits.clone()),
            limits,
            state_interval,
            outbox,
            started: Time::ZERO,
            last_helper: 0,
            live: BTreeMap::new(),
            kept: VecDeque::new(),
            helpers: BTreeMap::new(),
            sides: BTreeMap::new(),
            known: BTreeMap::new(),
            next_tick: None,
        }
    }

    /// The process ends, and with it everything but the action cache.
    pub fn crash(&mut self, stage: &mut Stage, tell: bool) {
        stage.log(|| format!("coordinator dies{}", if tell { "" } else { " without a word" }));
        (self.up, stage.net.deaf) = (false, true);
        stage.close_all(None, tell);
        stage.audit.restarted(self.run + 1);
    }

    pub fn restart(&mut self, stage: &mut Stage) {
        stage.log(|| "coordinator starts".into());
        stage.count("coordinator restarts");
        let known = std::mem::take(&mut self.known);
        let fresh = Coordinator::new(self.limits.clone(), self.state_interval, self.outbox);
        *self = Coordinator { run: self.run + 1, started: stage.now, known, ..fresh };
        stage.net.deaf = false;
    }

    pub(super) fn put(&self, stage: &mut Stage, after: Duration, timer: Timer) {
        stage.agenda.put(stage.now + after, Happening::Coordinator { run: self.run, timer });
    }

    pub fn opened(&mut self, stage: &mut Stage, id: ConnId, helper: bool) {
        if helper {
            self.sides.insert(id, Side::Hello);
            self.put(stage, HELLO_WAIT, Timer::HelloWait(id));
        } else {
            self.sides.insert(id, Side::Client(BTreeMap::new()));
        }
    }

    pub fn on_timer(&mut self, stage: &mut Stage, timer: Timer) {
        match timer {
            Timer::Tick => {
                self.next_tick = None;
                self.step(stage, Event::Tick);
            }
            Timer::HelloWait(id) => {
                if matches!(self.sides.get(&id), Some(Side::Hello)) {
                    stage.count("streams without Hello");
                    self.hang_up(stage, id, "no Hello");
                }
            }
            Timer::Prepared { id, call, action } => self.prepared(stage, id, call, action),
            Timer::Judged { helper, lease, verdict } => {
                if let Verdict::Answer(value) = verdict {
                    self.known.insert(value.content, value);
                }
                self.step(stage, Event::Finish { helper, lease, verdict });
            }
        }
    }

    pub fn hear(&mut self, stage: &mut Stage, id: ConnId, message: Message) {
        match (self.sides.get_mut(&id), message) {
            (Some(Side::Hello), Message::Hello { name, slots, system }) => {
                self.attach(stage, id, name, slots, system);
            }
            (Some(Side::Helper(helper)), message) => {
                helper.unread.push_back(message);
                self.pump(stage, id);
            }
            (Some(Side::Client(calls)), Message::Reset { call }) => {
                let watched = calls.remove(&call).flatten();
                self.leave(stage, id, call, watched);
            }
            (Some(Side::Client(_)), message) => self.call(stage, id, message),
            _ => {}
        }
    }

    /// The connection is gone.
    pub fn lost(&mut self, stage: &mut Stage, id: ConnId) {
        match self.sides.remove(&id) {
            Some(Side::Helper(helper)) => self.detach(stage, helper.id, "its connection broke"),
            Some(Side::Client(calls)) => {
                calls.into_iter().for_each(|(call, task)| self.leave(stage, id, call, task));
            }
            Some(Side::Hello) | None => {}
        }
    }

    fn detach(&mut self, stage: &mut Stage, helper: HelperId, reason: &str) {
        self.helpers.remove(&helper);
        self.step(stage, Event::Detach { helper, reason: reason.into() });
    }

    fn attach(&mut self, stage: &mut Stage, id: ConnId, name: u64, slots: u32, system: &'static str) {
        self.last_helper += 1;
        let helper = HelperId(self.last_helper);
        let room = slots as usize * 4 + 16;
        let (orders, unread, leases) = (VecDeque::new(), VecDeque::new(), BTreeMap::new());
        self.sides.insert(id, Side::Helper(Helper { id: helper, orders, room, unread, leases }));
        self.helpers.insert(helper, id);
        let properties = Properties::from([("OSFamily".to_owned(), system.to_owned())]);
        stage.send(id, End::Coordinator, Message::Welcome { state_interval: self.state_interval });
        self.step(stage, Event::Attach { helper, name: format!("h{name}").into(), slots, properties });
    }

    /// Passes messages both ways, until the way to the helper is full.
    pub fn pump(&mut self, stage: &mut Stage, id: ConnId) {
        while stage.net.under_way(id) < self.outbox {
            let Some(Side::Helper(helper)) = self.sides.get_mut(&id) else { return };
            if let Some(order) = helper.orders.pop_front() {
                let message = match order {
                    Order::Lease(lease, task, action, issued) => {
                        helper.leases.insert(lease, task);
                        Message::Lease { lease, action, issued }
                    }
                    Order::Cancel(lease) => Message::Cancel { lease },
                    Order::Close { reason, for_good } => {
                        if for_good {
                            stage.send(id, End::Coordinator, Message::Refused { reason: reason.clone() });
                        }
                        return self.hang_up(stage, id, &reason);
                    }
                };
                stage.send(id, End::Coordinator, message);
            } else if !self.helpers.contains_key(&helper.id) {
                return self.hang_up(stage, id, "the desk has no channel to it");
            } else if let Some(message) = helper.unread.pop_front() {
                let (helper, content) = (
                    helper.id,
                    match &message {
                        Message::Result { lease, .. } => match helper.leases.remove(lease) {
                            Some(task) => Some(task),
                            None => continue,
                        },
                        _ => None,
                    },
                );
                self.heard(stage, helper, content, message);
            } else {
                return;
            }
        }
    }

    fn hang_up(&mut self, stage: &mut Stage, id: ConnId, reason: &str) {
        stage.close(id, End::Coordinator, true);
        if let Some(Side::Helper(helper)) = self.sides.remove(&id) {
            self.detach(stage, helper.id, reason);
        }
    }

    fn heard(&mut self, stage: &mut Stage, helper: HelperId, task: Option<TaskId>, message: Message) {
        match message {
            Message::State { offered } => self.step(stage, Event::Report { helper, report: report(offered) }),
            Message::Result { lease, outcome } => {
                let run = self.run;
                let verdict = match outcome {
                    Outcome::Ran(content) => Verdict::Answer(Value { content, run, lease }),
                    // A timeout is final too; what it says is the same everywhere.
                    Outcome::TimedOut => {
                        let content =
                            task.and_then(|task| self.live.get(&task)).map(|live| live.action.content);
                        Verdict::Answer(Value { content: content.unwrap_or_default(), run, lease })
                    }
                    Outcome::Cancelled => Verdict::Return("cancelled".into()),
                    other => Verdict::Retry(format!("{other:?}")),
                };
                let takes = stage.rng.wait(0, 200);
                self.put(stage, takes, Timer::Judged { helper, lease, verdict });
            }
            other => stage.audit.broken(format!("the coordinator heard {other:?}")),
        }
    }

    pub(super) fn step(&mut self, stage: &mut Stage, event: Event<Value>) {
        self.step_with(stage, event, None);
    }

    /// Steps the pool, has every step checked, and does what it says.
    pub(super) fn step_with(
        &mut self,
        stage: &mut Stage,
        event: Event<Value>,
        mut action: Option<Action>,
    ) -> Option<Result<TaskId, Fate<Value>>> {
        let now = stage.now - self.started;
        let mut reply = None;
        let mut events = VecDeque::new();
        // What is overdue comes in a step of its own, so that the audit can tell whose effect is what.
        if !matches!(event, Event::Tick) && self.pool.next_deadline().is_some_and(|due| due <= now) {
            events.push_back(Event::Tick);
        }
        events.push_back(event);
        while let Some(event) = events.pop_front() {
            let before = stage.audit.before(now, &event);
            stage.log(|| format!("pool takes {event:?}"));
            let effects = self.pool.step(now, event);
            stage.log(|| format!("pool says {effects:?}"));
            stage.audit.after(now, before, &effects, &self.pool, &self.limits, &mut stage.counts);
            for effect in effects {
                match effect {
                    Effect::Accepted { task, merged } => {
                        if let Some(action) = action.take().filter(|_| !merged) {
                            self.live.insert(task, Live { action, watchers: Vec::new() });
                        }
                        reply = Some(Ok(task));
                    }
                    Effect::Declined(fate) => reply = Some(Err(fate)),
                    Effect::Lease { helper, lease, task, .. } => {
                        let Some(live) = self.live.get(&task) else { continue };
                        let order = Order::Lease(lease, task, live.action.clone(), (self.run, now));
                        events.extend(self.order(stage, helper, order));
                    }
                    Effect::Cancel { helper, lease } => {
                        events.extend(self.order(stage, helper, Order::Cancel(lease)));
                    }
                    Effect::Requeued { .. } | Effect::SetAside { .. } => {}
                    Effect::Answer { task, outcome } => self.finish(stage, task, &outcome),
                    Effect::Forgotten { task } => drop(self.live.remove(&task)),
                    Effect::Close { helper, reason, for_good } => {
                        self.order(stage, helper, Order::Close { reason, for_good });
                        self.helpers.remove(&helper);
                    }
                }
            }
        }
        for id in self.sides.keys().copied().collect::<Vec<_>>() {
            self.pump_orders(stage, id);
        }
        self.set_tick(stage);
        reply
    }

    /// Orders go out; what was heard waits for its own turn.
    fn pump_orders(&mut self, stage: &mut Stage, id: ConnId) {
        if let Some(Side::Helper(helper)) = self.sides.get(&id)
            && (!helper.orders.is_empty() || !self.helpers.contains_key(&helper.id))
        {
            self.pump(stage, id);
        }
    }

    fn set_tick(&mut self, stage: &mut Stage) {
        let Some(due) = self.pool.next_deadline() else { return };
        let due = (self.started + due).max(stage.now);
        if self.next_tick.is_none_or(|set| due < set) {
            self.next_tick = Some(due);
            self.put(stage, due - stage.now, Timer::Tick);
        }
    }

    fn order(&mut self, stage: &mut Stage, helper: HelperId, order: Order) -> Option<Event<Value>> {
        let Some(Side::Helper(side)) = self.helpers.get(&helper).and_then(|id| self.sides.get_mut(id)) else {
            return None;
        };
        if side.orders.len() < side.room {
            side.orders.push_back(order);
            stage.audit.queued(side.orders.len(), side.room);
            return None;
        }
        stage.count("helpers that took no orders");
        self.helpers.remove(&helper);
        Some(Event::Detach { helper, reason: "it does not take orders".into() })
    }

    /// Nothing is kept for anybody: no task, no call, no lease.
    pub fn is_idle(&self) -> Result<(), String> {
        let leases = self.sides.values().map(|side| match side {
            Side::Helper(helper) => helper.leases.len() + helper.orders.len() + helper.unread.len(),
            Side::Client(calls) => calls.len(),
            Side::Hello => 0,
        });
        let (left, live) = (leases.sum::<usize>(), self.live.len());
        let leaked: BTreeSet<_> = self.live.keys().collect();
        if left + live == 0 {
            Ok(())
        } else {
            Err(format!("{left} entries of connections, tasks {leaked:?}"))
        }
    }
}
