//! The pool: which action runs on which helper, and what becomes of it when a helper fails.
//!
//! A pure state machine: [`Pool::step`] takes the time and one [`Event`] and says, as [`Effect`]s, what
//! the caller has to do. It does no I/O, has no clock, and knows neither the wire nor what an action's
//! answer (`R`) contains. Deadlines are state too: [`Pool::next_deadline`] says when the next
//! [`Event::Tick`] is due.
//!
//! What always holds (proven by the random histories in `histories.rs`):
//! * a helper never holds more leases than it has slots; a cancelled lease holds its slot until the helper
//!   confirms it or [`Limits::cancel_wait`] has passed;
//! * an accepted task is answered exactly once, or forgotten exactly once because nobody waits for it;
//! * a task is leased at most [`Limits::attempts`] times, not counting the times that it was handed back, which are bounded;
//! * no more than [`Limits::tasks`] tasks are accepted and not yet answered.
//!
//! What is served next is decided by `shares.rs` (whose turn it is) and `queue.rs` (which of theirs), where it is served by
//! `roster.rs`; `fairness.rs` holds them to it. Who gets work at all is for `trust.rs` to say.

mod event;
mod lapse;
mod queue;
mod roster;
mod shares;
mod trust;

#[cfg(test)]
mod fairness;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod scenes;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use event::{
    ActionId, Effect, Event, HelperId, LeaseId, Limits, Outcome, Owner, Properties, Request, TaskId, Time,
    Verdict,
};
use lapse::Deadline;
use queue::{Class, Queue, Standing};
use roster::Roster;
pub use roster::{HelperView, Report};
use shares::{Charge, Shares};
pub use trust::Standing as HelperStanding;
use trust::Trust;

/// A task may be handed back so often before that counts as an attempt.
const RETURNS: u32 = 8;

struct Task {
    request: Request,
    queued_at: Time,
    watchers: u32,
    /// Since when nobody watches.
    orphaned_at: Option<Time>,
    /// There is a [`Deadline::Orphan`], a [`Deadline::Stranded`] for it; never a second one.
    orphan_due: bool,
    stranded_due: bool,
    attempts: u32,
    /// How often it was handed back, which is no attempt.
    returns: u32,
    /// Which helpers may take it; knows those that failed it.
    class: Arc<Class>,
    /// None: it waits in the queue.
    lease: Option<LeaseId>,
}

impl Task {
    fn standing(&self) -> Standing {
        let Request { owner, priority, expected, .. } = &self.request;
        let length = expected.unwrap_or_default();
        Standing { owner: owner.clone(), priority: *priority, length, since: self.queued_at }
    }
}

struct Lease {
    helper: HelperId,
    /// None: cancelled or expired, and the slot is held until the helper confirms.
    task: Option<TaskId>,
    expires: Time,
    begun: Time,
    /// What its slot was charged with, and to whom.
    charge: Charge,
    owner: Owner,
}

/// How much a pool keeps, for whoever checks that it is bounded; counting takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub tasks: usize,
    /// Tasks in the queue, and the lanes that they wait in.
    pub waiting: usize,
    pub lanes: usize,
    pub leases: usize,
    /// Actions in flight that others may join.
    pub shared: usize,
    pub deadlines: usize,
}

/// The state: see the module's text.
pub struct Pool<R> {
    limits: Limits,
    roster: Roster,
    tasks: HashMap<TaskId, Task>,
    leases: HashMap<LeaseId, Lease>,
    /// The task in flight for each action that may be shared.
    shared: HashMap<ActionId, TaskId>,
    queue: Queue,
    shares: Shares,
    trust: Trust,
    /// Earliest first; see `lapse.rs`.
    deadlines: BTreeSet<(Time, Deadline)>,
    last_task: u64,
    last_lease: u64,
    effects: Vec<Effect<R>>,
}

impl<R> Pool<R> {
    pub fn new(limits: Limits) -> Self {
        Pool {
            limits,
            roster: Roster::default(),
            tasks: HashMap::new(),
            leases: HashMap::new(),
            shared: HashMap::new(),
            queue: Queue::default(),
            shares: Shares::default(),
            trust: Trust::default(),
            deadlines: BTreeSet::new(),
            last_task: 0,
            last_lease: 0,
            effects: Vec::new(),
        }
    }

    /// Takes in one event. What is overdue at `now` happens first, then the event, then placement.
    pub fn step(&mut self, now: Time, event: Event<R>) -> Vec<Effect<R>> {
        self.expire(now);
        match event {
            Event::Attach { helper, name, slots, properties } => {
                self.attach(now, helper, name, slots, properties);
            }
            Event::Report { helper, report } => self.report(now, helper, report),
            Event::Said { name, report, up } => self.said(now, &name, report, up),
            Event::Drain { name, drained } => {
                self.roster.drain(&name, drained);
                self.strand(now);
            }
            Event::Detach { helper, reason } => self.lose(now, helper, &reason),
            Event::Finish { helper, lease, verdict } => self.finish(now, helper, lease, verdict),
            Event::Submit(request) => self.submit(now, request),
            Event::Join { task } => {
                if let Some(task) = self.tasks.get_mut(&task) {
                    task.watchers += 1;
                    task.orphaned_at = None;
                }
            }
            Event::Leave { task } => self.leave(now, task),
            Event::Tick => {}
        }
        self.place(now);
        std::mem::take(&mut self.effects)
    }

    /// When something becomes overdue; never later than it really does.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(time, _)| *time)
    }

    /// The helpers, connected ones and those that left lately, by name.
    pub fn helpers(&self, now: Time) -> Vec<HelperView> {
        let mut views = self.roster.views(now);
        views.iter_mut().for_each(|view| view.standing = self.trust.standing(now, &view.name));
        views
    }

    /// Whether a helper of this name is connected, or was lately.
    pub fn knows(&self, name: &str) -> bool {
        self.roster.knows(name)
    }

    /// Tasks accepted and not yet answered.
    pub fn live_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// How much it keeps.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            tasks: self.tasks.len(),
            waiting: self.queue.lanes().map(|(_, lane)| lane.tasks().count()).sum(),
            lanes: self.queue.lanes().count(),
            leases: self.leases.len(),
            shared: self.shared.len(),
            deadlines: self.deadlines.len(),
        }
    }

    fn attach(&mut self, now: Time, helper: HelperId, name: Arc<str>, slots: u32, properties: Properties) {
        if let Some(older) = self.roster.by_name(&name) {
            let reason = format!("another helper named {name} took its place");
            self.effects.push(Effect::Close { helper: older, reason: reason.clone(), for_good: true });
            self.lose(now, older, &reason);
        }
        if self.roster.len() >= self.limits.helpers {
            let reason = format!("the pool has {} helpers already, its limit", self.limits.helpers);
            self.effects.push(Effect::Close { helper, reason, for_good: true });
            return;
        }
        self.roster.add(now, helper, name, slots, properties);
        self.deadlines.insert((now + self.limits.silence, Deadline::Silent(helper)));
        self.admit(now, helper);
    }

    fn lose(&mut self, now: Time, helper: HelperId, reason: &str) {
        let Some(gone) = self.roster.remove(now, helper) else { return };
        self.dismiss(helper, &gone.name);
        // Before its own tasks come back: they must not make a lane stranded whose other tasks are not told.
        self.strand(now);
        // However many leases it held, it was lost once.
        let mut newest = None;
        for id in gone.leases {
            let Some(lease) = self.leases.remove(&id) else { continue };
            self.deadlines.remove(&(lease.expires, Deadline::Expired(id)));
            self.settle(now, &lease);
            if let Some(task) = lease.task {
                newest = Some((task, lease.begun));
                self.retry(now, task, &gone.name, format!("helper {} was lost: {reason}", gone.name));
            }
        }
        if let Some((task, begun)) = newest {
            self.note_fault(now, &gone.name, task, begun, reason);
        }
    }

    fn report(&mut self, now: Time, helper: HelperId, report: Report) {
        if self.roster.report(now, helper, report) {
            self.strand(now);
        }
    }

    fn said(&mut self, now: Time, name: &str, report: Report, up: bool) {
        let Some(helper) = self.roster.by_name(name) else { return };
        // Said of a worker that was there before this one.
        if self.roster.restarts(helper) > report.0.restarts {
            return;
        }
        let why = report.0.why.clone();
        self.report(now, helper, report);
        if !up {
            let reason = format!("its supervisor says: {why}");
            self.effects.push(Effect::Close { helper, reason: reason.clone(), for_good: false });
            self.lose(now, helper, &reason);
        }
    }

    /// The helper hands the task back: another attempt, which does not count, unless that has been so too often.
    fn give_back(&mut self, now: Time, helper: HelperId, id: TaskId, why: String) {
        // It would only do so again until it says that it takes work.
        self.roster.close(helper);
        self.strand(now);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.returns >= RETURNS {
            let name = self.roster.name(helper);
            return self.retry(now, id, &name, format!("helper {name} handed it back: {why}"));
        }
        task.returns += 1;
        task.attempts -= 1;
        self.effects.push(Effect::Requeued { task: id });
        self.enqueue(now, id);
    }

    fn finish(&mut self, now: Time, helper: HelperId, lease: LeaseId, verdict: Verdict<R>) {
        // A lease id comes from outside: it counts only from the helper that holds it.
        if self.leases.get(&lease).is_none_or(|held| held.helper != helper) {
            return;
        }
        let Some(lease) = self.release(now, lease) else { return };
        let (begun, Some(task)) = (lease.begun, lease.task) else { return };
        match verdict {
            Verdict::Answer(answer) => {
                self.note_success(now, helper, begun);
                if let Some(expected) = self.tasks.get(&task).and_then(|task| task.request.expected) {
                    self.roster.note_pace(helper, expected, now.saturating_sub(begun));
                }
                self.answer(task, Outcome::Answered(answer));
            }
            Verdict::Return(why) => self.give_back(now, helper, task, why),
            Verdict::Retry(why) => {
                let name = self.roster.name(helper);
                self.note_fault(now, &name, task, begun, &why);
                self.retry(now, task, &name, format!("helper {name}: {why}"));
            }
        }
    }

    fn submit(&mut self, now: Time, request: Request) {
        if request.merge
            && let Some(&task) = self.shared.get(&request.action)
            && let Some(running) = self.tasks.get_mut(&task)
        {
            running.watchers += 1;
            running.orphaned_at = None;
            if request.priority < running.request.priority {
                let before = running.standing();
                running.request.priority = request.priority;
                if running.lease.is_none() {
                    // In this order: the lane must not go, because it knows since when nobody can run the task.
                    self.queue.push(running.class.clone(), &running.standing(), task);
                    self.queue.remove(&running.class, &before, task);
                }
            }
            self.effects.push(Effect::Accepted { task, merged: true });
            return;
        }
        if self.tasks.len() >= self.limits.tasks {
            self.effects.push(Effect::Declined(Outcome::Full { limit: self.limits.tasks }));
            return;
        }
        if !self.roster.is_empty() && !self.roster.any_open(&request.properties) {
            let why = self.not_taken(&request.properties);
            self.effects.push(Effect::Declined(why));
            return;
        }
        self.last_task += 1;
        let id = TaskId(self.last_task);
        if request.merge {
            self.shared.insert(request.action.clone(), id);
        }
        let class = Arc::new(Class { properties: request.properties.clone(), tried: BTreeSet::new() });
        let task = Task {
            request,
            queued_at: now,
            watchers: 1,
            orphaned_at: None,
            orphan_due: false,
            stranded_due: false,
            attempts: 0,
            returns: 0,
            class,
            lease: None,
        };
        self.tasks.insert(id, task);
        self.effects.push(Effect::Accepted { task: id, merged: false });
        self.enqueue(now, id);
    }

    fn leave(&mut self, now: Time, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.watchers = task.watchers.saturating_sub(1);
        if task.watchers == 0 {
            task.orphaned_at = Some(now);
            if !std::mem::replace(&mut task.orphan_due, true) {
                self.deadlines.insert((now + self.limits.abandon, Deadline::Orphan(id)));
            }
        }
    }

    /// Puts a task that has no lease into its lane, or back into it: its place is its arrival's.
    fn enqueue(&mut self, now: Time, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.queued_at = now;
        task.lease = None;
        let stranded = !self.roster.any_open(&task.class.properties);
        let (lane, first) = self.queue.push(task.class.clone(), &task.standing(), id);
        self.shares.enter(&task.request.owner, first);
        if stranded {
            lane.stranded_since.get_or_insert(now);
            if !std::mem::replace(&mut task.stranded_due, true) {
                self.deadlines.insert((now + self.limits.helper_wait, Deadline::Stranded(id)));
            }
        }
    }

    /// Another attempt after `helper` failed the task, unless it had its last one.
    fn retry(&mut self, now: Time, id: TaskId, helper: &Arc<str>, why: String) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        Arc::make_mut(&mut task.class).tried.insert(helper.clone());
        if task.attempts >= self.limits.attempts {
            let attempts = task.attempts;
            self.answer(id, Outcome::Exhausted { attempts, last: why });
        } else {
            self.effects.push(Effect::Requeued { task: id });
            self.enqueue(now, id);
        }
    }

    /// Whose slot it was is charged for as long as it was held.
    fn settle(&mut self, now: Time, lease: &Lease) {
        self.shares.correct(&lease.owner, lease.charge, now.saturating_sub(lease.begun));
    }

    /// Why none of the connected helpers takes what asks for these properties.
    fn not_taken(&self, properties: &Properties) -> Outcome<R> {
        if self.roster.any_matches(properties) {
            Outcome::Closed(self.roster.closed(properties))
        } else {
            Outcome::Unmatched(self.roster.mismatch(properties))
        }
    }

    /// Frees the lease's slot; gives what it was.
    fn release(&mut self, now: Time, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.expires, Deadline::Expired(id)));
        self.roster.free(lease.helper, id);
        self.settle(now, &lease);
        Some(lease)
    }

    /// Takes the task off everything that knows it.
    fn remove(&mut self, now: Time, id: TaskId) -> Option<Task> {
        let task = self.tasks.remove(&id)?;
        if self.shared.get(&task.request.action) == Some(&id) {
            self.shared.remove(&task.request.action);
        }
        match task.lease {
            None => {
                if self.queue.remove(&task.class, &task.standing(), id) {
                    self.shares.exit(&task.request.owner);
                }
            }
            Some(lease) => self.cancel(now, lease),
        }
        Some(task)
    }

    fn answer(&mut self, id: TaskId, outcome: Outcome<R>) {
        // Whoever answers has released the lease before, so nothing is cancelled and no time is needed.
        if let Some(task) = self.tasks.get_mut(&id) {
            task.lease = None;
        }
        if self.remove(Time::ZERO, id).is_some() {
            self.effects.push(Effect::Answer { task: id, outcome });
        }
    }

    /// Asks the helper to stop; the slot stays taken until it confirms, or for `cancel_wait`.
    fn cancel(&mut self, now: Time, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        self.deadlines.remove(&(lease.expires, Deadline::Expired(id)));
        lease.task = None;
        lease.expires = now + self.limits.cancel_wait;
        self.deadlines.insert((lease.expires, Deadline::Expired(id)));
        self.effects.push(Effect::Cancel { helper: lease.helper, lease: id });
    }

    /// Gives free slots to waiting tasks: whose turn it is (see `shares.rs`), and of theirs the head of the line (see
    /// `queue.rs`) that some free slot may run.
    fn place(&mut self, now: Time) {
        while self.roster.has_free_slot() {
            let Some((id, helper)) = self.next(now) else { return };
            let Some(task) = self.tasks.get_mut(&id) else { return };
            let Request { owner, priority, expected, timeout, .. } = task.request.clone();
            self.queue.remove(&task.class, &task.standing(), id);
            let charge = self.shares.charge(&owner, priority, expected);
            self.shares.exit(&owner);
            self.last_lease += 1;
            let lease = LeaseId(self.last_lease);
            task.attempts += 1;
            task.lease = Some(lease);
            let expires = now.saturating_add(timeout).saturating_add(self.limits.lease_slack);
            self.leases.insert(lease, Lease { helper, task: Some(id), expires, begun: now, charge, owner });
            self.roster.take(helper, lease);
            self.deadlines.insert((expires, Deadline::Expired(lease)));
            self.effects.push(Effect::Lease { helper, lease, task: id, timeout });
        }
    }

    /// The task that is served next, and by whom.
    fn next(&self, now: Time) -> Option<(TaskId, HelperId)> {
        let mut best = None;
        for (class, lane) in self.queue.lanes() {
            let Some(helper) = self.roster.choose(class) else { continue };
            for (owner, priority, task) in lane.heads(now) {
                let turn = (self.shares.turn(owner), owner, priority, task);
                if best.as_ref().is_none_or(|(first, _)| turn < *first) {
                    best = Some((turn, helper));
                }
            }
        }
        best.map(|((.., task), helper)| (task, helper))
    }
}
