//! What must hold after every step of the pool, checked against a model that sees only events and effects.
//!
//! Where a rule has a number, it is said at its check.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dbuild_coordinator::pool::{
    Effect, Event, HelperId, LeaseId, Limits, Outcome, Owner, Pool, Properties, Request, TaskId, Time,
};

use super::fairness::{Fairness, charge};
use super::wire::{Counts, Value};

/// `PATIENCE` of the pool's `queue.rs`.
const PATIENCE: Duration = Duration::from_secs(20);

struct Task {
    request: Request,
    watchers: u32,
    leases: u32,
    /// None: it waits, since then.
    running: Option<LeaseId>,
    since: Time,
    /// Names of helpers that failed it, and who has it or had it last.
    tried: BTreeSet<String>,
    last: String,
}

struct Helper {
    name: String,
    slots: u32,
    properties: Properties,
    held: BTreeMap<LeaseId, Held>,
}

struct Held {
    /// None: cancelled.
    task: Option<TaskId>,
    /// When a cancelled lease frees its slot at the latest.
    until: Option<Time>,
    owner: Owner,
    priority: i32,
    charged: u64,
    begun: Time,
}

/// See the module's text.
#[derive(Default)]
pub struct Audit {
    failure: Option<String>,
    run: u32,
    tasks: BTreeMap<TaskId, Task>,
    helpers: BTreeMap<HelperId, Helper>,
    ended: BTreeSet<TaskId>,
    /// Whose results were passed on, of all runs.
    counted: BTreeSet<Value>,
    /// Cancelled leases whose slot was freed before the helper confirmed, and when; of all runs.
    released: BTreeMap<(u32, LeaseId), Time>,
    /// When helpers were lost and tasks ended, lately: their deadlines may still be there.
    lost: VecDeque<Time>,
    finished: VecDeque<Time>,
    fairness: Fairness,
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

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
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
                let helper_is = Helper { name, slots: *slots, properties: properties.clone(), held };
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
                self.tasks.entry(*task).and_modify(|task| task.watchers += 1);
            }
            Event::Leave { task } => {
                self.tasks.entry(*task).and_modify(|task| task.watchers = task.watchers.saturating_sub(1));
            }
            Event::Report { .. } | Event::Tick => {}
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
                Effect::Close { helper, .. } => self.drop_helper(now, *helper),
            }
        }
        self.check(replies == usize::from(submitted), || format!("{replies} replies to one event"));
        self.check_capacity();
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
            task.watchers += 1;
            task.request.priority = task.request.priority.min(request.priority);
            let same = task.request.action == request.action && task.request.merge && request.merge;
            return self.check(same, || format!("{id:?} is another action than what was merged into it"));
        }
        let (tried, last) = (BTreeSet::new(), String::new());
        let task = Task { request, watchers: 1, leases: 0, running: None, since: now, tried, last };
        self.tasks.insert(id, task);
    }

    /// Who may run the task now, by the rule that those come last who failed it before.
    fn able(&self, task: &Task) -> Vec<HelperId> {
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
        let Some(helper) = self.helpers.get_mut(&to) else { return };
        task.last.clone_from(&helper.name);
        self.fairness.served(&owner, charged);
        let held = Held { task: Some(id), until: None, owner, priority, charged, begun: now };
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
            Outcome::Full { .. } => self.broken(format!("{id:?} was accepted and then declined")),
        }
    }

    /// No task waits while somebody who may run it has a free slot.
    fn check_capacity(&mut self) {
        let mut looked = BTreeSet::new();
        let mut idle = None;
        for (id, task) in self.tasks.iter().filter(|(_, task)| task.running.is_none()) {
            if !looked.insert((&task.request.properties, &task.tried)) {
                continue;
            }
            let free = |helper: &&HelperId| {
                self.helpers.get(helper).is_some_and(|helper| helper.held.len() < helper.slots as usize)
            };
            if let Some(helper) = self.able(task).iter().find(free) {
                idle = Some(format!("{id:?} waits while {helper:?} has a free slot"));
            }
        }
        if let Some(idle) = idle {
            self.broken(idle);
        }
    }

    fn check_bounds(&mut self, now: Time, pool: &Pool<Value>, limits: &Limits) {
        let sizes = pool.sizes();
        let held: usize = self.helpers.values().map(|helper| helper.held.len()).sum();
        let waiting = self.tasks.values().filter(|task| task.running.is_none()).count();
        let here = (self.tasks.len(), held, waiting);
        let there = (sizes.tasks, sizes.leases, sizes.waiting);
        self.check(here == there, || format!("tasks, leases, waiting: {here:?}, the pool says {there:?}"));
        self.check(sizes.tasks <= limits.tasks, || format!("{} tasks are too many", sizes.tasks));
        self.check(sizes.shared <= sizes.tasks, || format!("{} actions are shared", sizes.shared));
        self.check(self.helpers.len() <= limits.helpers, || "too many helpers".into());
        for view in pool.helpers(now).iter().filter(|view| view.online) {
            let held =
                self.helpers.values().find(|helper| helper.name == *view.name).map(|known| known.held.len());
            let seen = view.leases as usize;
            self.check(held == Some(seen), || format!("{} holds {seen}, not {held:?}", view.name));
        }
        let overdue = pool.next_deadline().is_some_and(|due| due <= now);
        self.check(!overdue, || "a deadline is overdue after a step".into());
        // One for each helper and lease, two for each task; those of what ended lapse in their time.
        forget(&mut self.lost, now, limits.silence);
        forget(&mut self.finished, now, limits.helper_wait.max(limits.abandon));
        let most = self.helpers.len() + self.lost.len() + held + 2 * (self.tasks.len() + self.finished.len());
        self.check(sizes.deadlines <= most, || format!("{} deadlines, not {most}", sizes.deadlines));
    }

    /// At the end: nothing is left.
    pub fn check_empty(&mut self, pool: &Pool<Value>) {
        let sizes = pool.sizes();
        let left = sizes.tasks + sizes.leases + sizes.waiting + sizes.shared + sizes.lanes;
        self.check(left == 0, || format!("the pool keeps {sizes:?} when all is done"));
        let (most, helpers) = (self.lost.len() + self.helpers.len(), self.helpers.len());
        self.check(sizes.deadlines <= most, || format!("{} deadlines of {helpers} helpers", sizes.deadlines));
    }
}

/// Drops times that are longer ago than `within`.
fn forget(times: &mut VecDeque<Time>, now: Time, within: Duration) {
    while times.front().is_some_and(|time| *time + within <= now) {
        times.pop_front();
    }
}
