//! What becomes of leases: who gets one and for what, how it ends, and what that says of the task and the helper.

use std::time::Duration;

use dbuild_coordinator::pool::{HelperId, LeaseId, Limits, TaskId, Time, Verdict};

use super::fairness::charge;
use super::invariants::{Audit, Held, Task};

/// `PATIENCE` of the pool's `queue.rs`.
const PATIENCE: Duration = Duration::from_secs(20);

/// `RETURNS` of the pool's `mod.rs`.
const RETURNS: u32 = 8;

impl Audit {
    pub(super) fn judged<R>(&mut self, now: Time, id: HelperId, lease: LeaseId, verdict: &Verdict<R>) {
        let Some(helper) = self.helpers.get_mut(&id) else { return };
        let Some(held) = helper.held.remove(&lease) else { return };
        if let Some(task) = held.task {
            match verdict {
                Verdict::Answer(_) => self.trust.succeeded(&helper.name, held.begun),
                Verdict::Retry(_) => self.trust.failed(now, &helper.name, task, held.begun),
                Verdict::Return(_) => {
                    helper.offered = 0;
                    self.tasks.entry(task).and_modify(|task| task.returned = true);
                }
            }
        }
        self.settle(now, held);
    }

    /// Cancelled leases that waited long enough.
    pub(super) fn release(&mut self, now: Time) {
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

    pub(super) fn drop_helper(&mut self, now: Time, helper: HelperId) {
        let Some(gone) = self.helpers.remove(&helper) else { return };
        self.lost.push_back(now);
        // However much it held, it failed once.
        if let Some((task, held)) = gone.held.values().rev().find_map(|held| Some((held.task?, held))) {
            self.trust.failed(now, &gone.name, task, held.begun);
        }
        gone.held.into_values().for_each(|held| self.settle(now, held));
    }

    pub(super) fn leased(&mut self, now: Time, limits: &Limits, to: HelperId, lease: LeaseId, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return self.broken(format!("leased {id:?}, unknown")) };
        let (able, idle) = (self.able(now, task).contains(&to), task.running.is_none());
        let first = self.head(now, task);
        self.check(able, || format!("{id:?} went to {to:?}, which must not have it"));
        self.check(idle, || format!("{id:?} runs twice at a time"));
        self.check(first == Some(id), || format!("{id:?} was served before {first:?} of its line"));
        let open = self.helpers.get(&to).map_or(0, |helper| self.open(now, helper) as usize);
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
        let held = helper.held.len();
        self.check(new, || format!("{lease:?} was given out twice"));
        self.check(held <= open, || format!("slots oversold: {held} of {open} at {to:?}"));
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

    pub(super) fn cancelled(&mut self, now: Time, limits: &Limits, helper: HelperId, lease: LeaseId) {
        let helper = self.helpers.get_mut(&helper);
        let held = helper.and_then(|helper| Some((helper.held.get_mut(&lease)?, &helper.name)));
        let Some((held, name)) = held else {
            return self.broken(format!("cancelled {lease:?}, which is not held"));
        };
        held.until = Some(now + limits.cancel_wait);
        let task = held.task.take();
        if let Some(task) = task.filter(|_| held.expires <= now) {
            self.trust.failed(now, name, task, held.begun);
        }
        if let Some(task) = task.and_then(|task| self.tasks.get_mut(&task)) {
            task.running = None;
        }
        self.check(task.is_some(), || format!("cancelled {lease:?} twice"));
    }

    /// The task waits again; gives why, for the counts.
    pub(super) fn requeued(&mut self, now: Time, id: TaskId) -> &'static str {
        let Some(task) = self.tasks.get_mut(&id) else {
            self.broken(format!("requeued {id:?}, unknown"));
            return "mistakes";
        };
        task.since = now;
        let idle = task.running.is_none();
        let why = match (std::mem::take(&mut task.returned), task.returns) {
            (true, ..RETURNS) => {
                (task.returns, task.leases) = (task.returns + 1, task.leases.saturating_sub(1));
                "attempts after one was handed back"
            }
            (returned, _) => {
                task.tried.insert(task.last.clone());
                if returned { "tasks handed back too often" } else { "attempts after a failed one" }
            }
        };
        self.check(idle, || format!("requeued {id:?}, which runs"));
        why
    }
}
