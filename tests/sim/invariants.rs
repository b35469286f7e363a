//! What must hold after every step of the pool, checked against a model that sees only events and effects.
//!
//! What each event and effect must be stands here, what the state must be after a step in `bounds.rs`, who is served in
//! `fairness.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dbuild_coordinator::pool::{
    Effect, Event, HelperId, LeaseId, Limits, Outcome, Owner, Pool, Properties, Request, TaskId, Time,
};

use super::fairness::{Fairness, charge};
use super::wire::{Counts, Value};

/// `PATIENCE` of the pool's `queue.rs`.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Task {
    pub(super) request: Request,
    pub(super) watchers: u32,
    /// Since when nobody watches.
    pub(super) unwatched: Option<Time>,
    pub(super) leases: u32,
    /// None: it waits, since then.
    pub(super) running: Option<LeaseId>,
    pub(super) since: Time,
    /// Names of helpers that failed it, and who has it or had it last.
    pub(super) tried: BTreeSet<String>,
    pub(super) last: String,
}

pub(super) struct Helper {
    pub(super) name: String,
    pub(super) slots: u32,
    pub(super) properties: Properties,
    pub(super) heard: Time,
    pub(super) held: BTreeMap<LeaseId, Held>,
}

pub(super) struct Held {
    /// None: cancelled.
    pub(super) task: Option<TaskId>,
    /// When the pool must have cancelled it, and when, cancelled, it frees its slot at the latest.
    pub(super) expires: Time,
    pub(super) until: Option<Time>,
    pub(super) owner: Owner,
    pub(super) priority: i32,
    pub(super) charged: u64,
    pub(super) begun: Time,
}

/// See the module's text.
#[derive(Default)]
pub struct Audit {
    pub(super) failure: Option<String>,
    pub(super) run: u32,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) helpers: BTreeMap<HelperId, Helper>,
    pub(super) ended: BTreeSet<TaskId>,
    /// Whose results were passed on, of all runs.
    pub(super) counted: BTreeSet<Value>,
    /// Cancelled leases whose slot was freed before the helper confirmed, and when; of all runs.
    pub(super) released: BTreeMap<(u32, LeaseId), Time>,
    /// When helpers were lost and tasks ended, lately: their deadlines may still be there.
    pub(super) lost: VecDeque<Time>,
    pub(super) finished: VecDeque<Time>,
    pub(super) fairness: Fairness,
    /// What helpers must have that none has, and since when.
    pub(super) wanted: BTreeMap<Properties, Time>,
}

/// What an event says beyond its effects.
pub struct Before {
    submitted: Option<Request>,
}

impl Audit {
    /// An audit of a coordinator's first run.
    pub fn starts(run: u32) -> Audit {
        Audit { run, ..Audit::default() }
    }

    /// Notes a broken promise; the first one counts.
    pub fn broken(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    pub fn failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    pub(super) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(what());
        }
    }

    /// The coordinator lost all that it knew.
    pub fn restarted(&mut self, run: u32) {
        *self = Audit {
            run,
            failure: self.failure.take(),
            counted: std::mem::take(&mut self.counted),
            released: std::mem::take(&mut self.released),
            ..Audit::default()
        };
    }

    /// A helper was sent away for good: only when its place is taken, never because it could not be heard.
    pub fn refused(&mut self, reason: &str) {
        let justly = reason.contains("took its place") || reason.contains("its limit");
        self.check(justly, || format!("a helper was sent away for good: {reason}"));
    }

    /// A helper gave a lease back because its slots are taken by `running`. It may, only if one of these is a lease that
    /// the pool took for ended when `Limits::cancel_wait` had passed, before it gave out the new one.
    pub fn given_back(&mut self, (run, issued): (u32, Time), running: &[LeaseId]) {
        let excused = running
            .iter()
            .any(|lease| self.released.get(&(run, *lease)).is_some_and(|released| *released <= issued));
        self.check(excused, || format!("slots oversold: a lease issued at {issued:?} met {running:?}"));
    }

    /// So many orders wait for a helper.
    pub fn queued(&mut self, orders: usize, room: usize) {
        self.check(orders <= room, || format!("{orders} orders wait for a helper, {room} may"));
    }

    /// Takes in an event before the pool does.
    pub fn before<R>(&mut self, now: Time, event: &Event<R>) -> Before {
        self.release(now);
        let mut submitted = None;
        match event {
            Event::Attach { helper, name, slots, properties } => {
                let (held, name) = (BTreeMap::new(), name.to_string());
                let helper_is =
                    Helper { name, slots: *slots, properties: properties.clone(), heard: now, held };
                self.helpers.insert(*helper, helper_is);
            }
            Event::Detach { helper, .. } => self.drop_helper(now, *helper),
            Event::Finish { helper, lease, .. } => {
                if let Some(held) = self.helpers.get_mut(helper).and_then(|helper| helper.held.remove(lease))
                {
                    self.settle(now, held);
                }
            }
            Event::Submit(request) => submitted = Some(request.clone()),
            Event::Join { task } => {
                self.tasks
                    .entry(*task)
                    .and_modify(|task| (task.watchers, task.unwatched) = (task.watchers + 1, None));
            }
            Event::Leave { task } => {
                self.tasks.entry(*task).and_modify(|task| {
                    task.watchers = task.watchers.saturating_sub(1);
                    task.unwatched = (task.watchers == 0).then_some(now);
                });
            }
            Event::Report { helper, .. } => {
                self.helpers.entry(*helper).and_modify(|helper| helper.heard = now);
            }
            Event::Said { .. } | Event::Drain { .. } | Event::Tick => {}
        }
        Before { submitted }
    }

    /// Cancelled leases that waited long enough.
    fn release(&mut self, now: Time) {
        let mut freed = Vec::new();
        for helper in self.helpers.values_mut() {
            let due: Vec<_> = helper
                .held
                .iter()
                .filter(|(_, held)| held.until.is_some_and(|until| until <= now))
                .map(|(lease, _)| *lease)
                .collect();
            freed.extend(due.into_iter().filter_map(|lease| Some((lease, helper.held.remove(&lease)?))));
        }
        for (lease, held) in freed {
            self.released.insert((self.run, lease), now);
            self.settle(now, held);
        }
    }

    fn settle(&mut self, now: Time, held: Held) {
        self.fairness.ended(&held.owner, held.priority, held.charged, now - held.begun);
        if let Some(task) = held.task.and_then(|task| self.tasks.get_mut(&task)) {
            task.running = None;
        }
    }

    fn drop_helper(&mut self, now: Time, helper: HelperId) {
        let Some(gone) = self.helpers.remove(&helper) else { return };
        self.lost.push_back(now);
        gone.held.into_values().for_each(|held| self.settle(now, held));
    }

    /// Takes in what the pool says to that event, and looks at everything.
    pub fn after(
        &mut self,
        now: Time,
        before: Before,
        effects: &[Effect<Value>],
        pool: &Pool<Value>,
        limits: &Limits,
        counts: &mut Counts,
    ) {
        let mut replies = 0;
        let submitted = before.submitted.is_some();
        for effect in effects {
            match effect {
                Effect::Accepted { task, merged } => {
                    replies += 1;
                    *counts.entry(if *merged { "merges" } else { "tasks" }).or_default() += 1;
                    if let Some(request) = &before.submitted {
                        self.accepted(now, *task, *merged, request.clone());
                    }
                }
                Effect::Declined(_) => replies += 1,
                Effect::Lease { helper, lease, task, .. } => self.leased(now, limits, *helper, *lease, *task),
                Effect::Cancel { helper, lease } => self.cancelled(now + limits.cancel_wait, *helper, *lease),
                Effect::Requeued { task } => {
                    *counts.entry("attempts after a failed one").or_default() += 1;
                    self.requeued(now, *task);
                }
                Effect::Answer { task, outcome } => self.answered(now, limits, *task, outcome),
                Effect::Forgotten { task } => {
                    *counts.entry("tasks that nobody waited for").or_default() += 1;
                    let gone = self.tasks.remove(task);
                    self.finished.push_back(now);
                    let unwatched = gone.is_some_and(|gone| gone.watchers == 0 && gone.running.is_none());
                    let once = self.ended.insert(*task);
                    self.check(unwatched && once, || format!("forgot {task:?}, which is watched or over"));
                }
                Effect::SetAside { .. } => {}
                Effect::Close { helper, .. } => self.drop_helper(now, *helper),
            }
        }
        self.check(replies == usize::from(submitted), || format!("{replies} replies to one event"));
        self.check_capacity();
        self.check_waits(now, limits);
        self.check_bounds(now, pool, limits);
        let waiting = self.tasks.values().filter(|task| task.running.is_none());
        // What any helper could take that comes, and no helper has failed.
        let anywhere = waiting.filter(|task| task.request.properties.is_empty() && task.tried.is_empty());
        let users = anywhere.map(|task| task.request.owner.user.clone()).collect();
        let slots = self.helpers.values().map(|helper| u64::from(helper.slots)).sum();
        if let Some(unfair) = self.fairness.check(users, slots, counts) {
            self.broken(unfair);
        }
    }

    fn accepted(&mut self, now: Time, id: TaskId, merged: bool, request: Request) {
        let known = self.tasks.contains_key(&id);
        self.check(known == merged, || format!("{id:?} is known: {known}, merged: {merged}"));
        if let Some(task) = self.tasks.get_mut(&id) {
            (task.watchers, task.unwatched) = (task.watchers + 1, None);
            task.request.priority = task.request.priority.min(request.priority);
            let same = task.request.action == request.action && task.request.merge && request.merge;
            return self.check(same, || format!("{id:?} is another action than what was merged into it"));
        }
        let (tried, last) = (BTreeSet::new(), String::new());
        let task =
            Task { request, watchers: 1, unwatched: None, leases: 0, running: None, since: now, tried, last };
        self.tasks.insert(id, task);
    }

    /// Who may run the task now, by the rule that those come last who failed it before.
    pub(super) fn able(&self, task: &Task) -> Vec<HelperId> {
        let fits = |helper: &&Helper| {
            let mut wants = task.request.properties.iter();
            wants.all(|(name, value)| helper.properties.get(name) == Some(value))
        };
        let able: Vec<_> = self.helpers.iter().filter(|(_, helper)| fits(helper)).collect();
        let fresh: Vec<_> = able
            .iter()
            .filter(|(_, helper)| !task.tried.contains(&helper.name))
            .map(|(id, _)| **id)
            .collect();
        if fresh.is_empty() { able.into_iter().map(|(id, _)| *id).collect() } else { fresh }
    }

    fn leased(&mut self, now: Time, limits: &Limits, to: HelperId, lease: LeaseId, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return self.broken(format!("leased {id:?}, unknown")) };
        let (able, idle) = (self.able(task).contains(&to), task.running.is_none());
        let first = self.head(now, task);
        self.check(able, || format!("{id:?} went to {to:?}, which must not have it"));
        self.check(idle, || format!("{id:?} runs twice at a time"));
        self.check(first == Some(id), || format!("{id:?} was served before {first:?} of its line"));
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.leases += 1;
        task.running = Some(lease);
        let (attempts, owner, priority) = (task.leases, task.request.owner.clone(), task.request.priority);
        let charged = charge(task.request.expected, priority);
        let expires = now + task.request.timeout + limits.lease_slack;
        let Some(helper) = self.helpers.get_mut(&to) else { return };
        task.last.clone_from(&helper.name);
        self.fairness.served(&owner, charged);
        let held = Held { task: Some(id), until: None, expires, owner, priority, charged, begun: now };
        let new = helper.held.insert(lease, held).is_none();
        let (held, slots) = (helper.held.len(), helper.slots as usize);
        self.check(new, || format!("{lease:?} was given out twice"));
        self.check(held <= slots, || format!("slots oversold: {held} of {slots} at {to:?}"));
        self.check(attempts <= limits.attempts, || format!("{id:?} had {attempts} attempts"));
    }

    /// Whose turn it is among the waiting tasks of the same build that the same helpers may run: by priority; the oldest
    /// if it waited for [`PATIENCE`], else the longest.
    fn head(&self, now: Time, like: &Task) -> Option<TaskId> {
        let line = self.tasks.iter().filter(|(_, task)| {
            task.running.is_none()
                && task.request.owner == like.request.owner
                && task.request.properties == like.request.properties
                && task.tried == like.tried
        });
        let line: Vec<_> = line.collect();
        let best = line.iter().map(|(_, task)| task.request.priority).min()?;
        let mut line = line.into_iter().filter(|(_, task)| task.request.priority == best);
        let (oldest, task) = line.next()?;
        if now - task.since >= PATIENCE {
            return Some(*oldest);
        }
        let length = |task: &Task| task.request.expected.unwrap_or_default();
        let longest =
            line.fold(
                (oldest, task),
                |longest, next| {
                    if length(next.1) > length(longest.1) { next } else { longest }
                },
            );
        Some(*longest.0)
    }

    fn cancelled(&mut self, until: Time, helper: HelperId, lease: LeaseId) {
        let held = self.helpers.get_mut(&helper).and_then(|helper| helper.held.get_mut(&lease));
        let Some(held) = held else { return self.broken(format!("cancelled {lease:?}, which is not held")) };
        held.until = Some(until);
        let task = held.task.take();
        if let Some(task) = task.and_then(|task| self.tasks.get_mut(&task)) {
            task.running = None;
        }
        self.check(task.is_some(), || format!("cancelled {lease:?} twice"));
    }

    fn requeued(&mut self, now: Time, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return self.broken(format!("requeued {id:?}, unknown"));
        };
        task.tried.insert(task.last.clone());
        task.since = now;
        let idle = task.running.is_none();
        self.check(idle, || format!("requeued {id:?}, which runs"));
    }

    fn answered(&mut self, now: Time, limits: &Limits, id: TaskId, outcome: &Outcome<Value>) {
        let Some(task) = self.tasks.remove(&id) else {
            return self.broken(format!("answered {id:?}, unknown"));
        };
        self.finished.push_back(now);
        let (idle, once) = (task.running.is_none(), self.ended.insert(id));
        self.check(idle, || format!("answered {id:?}, which runs"));
        self.check(once, || format!("answered {id:?} twice"));
        match outcome {
            Outcome::Answered(value) => {
                let counted = self.counted.insert(*value);
                self.check(counted, || format!("{value:?} was counted twice"));
            }
            Outcome::Exhausted { attempts, .. } => {
                let all = *attempts == limits.attempts && task.leases == limits.attempts;
                self.check(all, || format!("{id:?} is exhausted after {} attempts", task.leases));
            }
            Outcome::NoHelper | Outcome::Unmatched(_) => {
                let alone = self.able(&task).is_empty();
                self.check(alone, || format!("{id:?} ended as {outcome:?}, but a helper could run it"));
            }
            Outcome::Closed(_) => {}
            Outcome::Full { .. } => self.broken(format!("{id:?} was accepted and then declined")),
        }
    }
}
