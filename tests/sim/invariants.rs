//! What must hold after every step of the pool, checked against a model that sees only events and effects.
//!
//! What each event and effect must be stands here, what the state must be after a step in `bounds.rs`, who is served in
//! `fairness.rs`, who may be given how much in `trust.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dbuild_coordinator::pool::{
    Effect, Event, HelperId, LeaseId, Limits, Outcome, Owner, Pool, Properties, Request, TaskId, Time,
};

use super::fairness::Fairness;
use super::trust::Trust;
use super::wire::{Counts, Value};

pub(super) struct Task {
    pub(super) request: Request,
    pub(super) watchers: u32,
    /// Since when nobody watches.
    pub(super) unwatched: Option<Time>,
    /// Not counting those that were handed back; how many these were, and whether the last was one.
    pub(super) leases: u32,
    pub(super) returns: u32,
    pub(super) returned: bool,
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
    pub(super) offered: u32,
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
    /// What no helper that takes work has, and since when.
    pub(super) wanted: BTreeMap<Properties, Time>,
    /// Names of helpers that were there, and of those that get no more work.
    pub(super) known: BTreeSet<String>,
    pub(super) drained: BTreeSet<String>,
    pub(super) trust: Trust,
}

/// What an event says beyond its effects.
pub struct Before {
    submitted: Option<Request>,
    /// A helper whose supervisor says that it is gone.
    gone: Option<HelperId>,
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
        let (mut submitted, mut gone) = (None, None);
        match event {
            Event::Attach { helper, name, slots, properties } => {
                let (held, name) = (BTreeMap::new(), name.to_string());
                let (slots, offered, properties) = (*slots, u32::MAX, properties.clone());
                self.helpers.insert(*helper, Helper { name, slots, offered, properties, heard: now, held });
            }
            Event::Detach { helper, .. } => self.drop_helper(now, *helper),
            Event::Finish { helper, lease, verdict } => self.judged(now, *helper, *lease, verdict),
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
            Event::Report { helper, report } => self.heard(now, *helper, report.0.offered),
            Event::Said { name, report, up } => {
                let of = self.helpers.iter().find(|(_, helper)| *helper.name == **name).map(|(id, _)| *id);
                of.into_iter().for_each(|id| self.heard(now, id, report.0.offered));
                gone = of.filter(|_| !up);
            }
            Event::Drain { name, drained: true } => self.drained.extend(self.known.get(&**name).cloned()),
            Event::Drain { name, drained: false } => drop(self.drained.remove(&**name)),
            Event::Tick => {}
        }
        Before { submitted, gone }
    }

    fn heard(&mut self, now: Time, helper: HelperId, offered: Option<u32>) {
        let Some(helper) = self.helpers.get_mut(&helper) else { return };
        (helper.heard, helper.offered) = (now, offered.unwrap_or(u32::MAX));
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
                Effect::Declined(outcome) => {
                    replies += 1;
                    if let Some(request) = &before.submitted {
                        self.declined(now, limits, request, outcome);
                    }
                }
                Effect::Lease { helper, lease, task, .. } => self.leased(now, limits, *helper, *lease, *task),
                Effect::Cancel { helper, lease } => self.cancelled(now, limits, *helper, *lease),
                Effect::Requeued { task } => {
                    *counts.entry(self.requeued(now, *task)).or_default() += 1;
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
                Effect::SetAside { helper, wait, .. } => self.set_aside(helper, *wait, counts),
                Effect::Close { helper, .. } => self.drop_helper(now, *helper),
            }
        }
        self.check(replies == usize::from(submitted), || format!("{replies} replies to one event"));
        self.known.extend(self.helpers.values().map(|helper| helper.name.clone()));
        let gone = before.gone.is_none_or(|gone| !self.helpers.contains_key(&gone));
        self.check(gone, || "a helper counts whose supervisor said that it is gone".into());
        self.check_trust(counts);
        self.check_capacity(now);
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
        let (watchers, leases, returns, returned) = (1, 0, 0, false);
        let (unwatched, running, since) = (None, None, now);
        let task =
            Task { request, watchers, unwatched, leases, returns, returned, running, since, tried, last };
        self.tasks.insert(id, task);
    }

    fn declined(&mut self, now: Time, limits: &Limits, request: &Request, outcome: &Outcome<Value>) {
        match outcome {
            Outcome::Full { .. } => {
                let tasks = self.tasks.len();
                self.check(tasks >= limits.tasks, || format!("declined with {tasks} tasks as full"));
            }
            Outcome::Unmatched(_) | Outcome::Closed(_) => self.nobody(now, &request.properties, outcome),
            _ => self.broken(format!("declined as {outcome:?}")),
        }
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
            Outcome::NoHelper | Outcome::Unmatched(_) | Outcome::Closed(_) => {
                self.nobody(now, &task.request.properties, outcome);
            }
            Outcome::Full { .. } => self.broken(format!("{id:?} was accepted and then declined")),
        }
    }
}
