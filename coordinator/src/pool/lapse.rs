//! What time does to the pool: silent helpers, expired leases, tasks that nobody watches, tasks that no
//! helper can take.

use super::{Effect, HelperId, LeaseId, Outcome, Pool, TaskId, Time};

/// What may be overdue. An entry may be out of date: whoever takes it looks at the state again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    Silent(HelperId),
    Expired(LeaseId),
    Orphan(TaskId),
    Stranded(TaskId),
}

impl<R> Pool<R> {
    /// Does all that is overdue, the oldest first.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some(&(due, deadline)) = self.deadlines.first() {
            if due > now {
                break;
            }
            self.deadlines.pop_first();
            match deadline {
                Deadline::Silent(helper) => self.expire_silent(now, helper),
                Deadline::Expired(lease) => self.expire_lease(now, lease),
                Deadline::Orphan(task) => self.expire_orphan(now, task),
                Deadline::Stranded(task) => self.expire_stranded(now, task),
            }
        }
    }

    fn expire_silent(&mut self, now: Time, helper: HelperId) {
        let Some(heard) = self.roster.heard(helper) else { return };
        let due = heard + self.limits.silence;
        if due > now {
            self.deadlines.insert((due, Deadline::Silent(helper)));
            return;
        }
        let reason = format!("not heard for {} ms", self.limits.silence.as_millis());
        // It may be a link that was cut for a while.
        self.effects.push(Effect::Close { helper, reason: reason.clone(), for_good: false });
        self.lose(now, helper, &reason);
    }

    fn expire_lease(&mut self, now: Time, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else { return };
        if lease.expires > now {
            return;
        }
        let Some(task) = lease.task else {
            self.release(now, id);
            return;
        };
        let name = self.roster.name(lease.helper);
        self.cancel(now, id);
        self.retry(now, task, &name, format!("helper {name} did not answer in time"));
    }

    fn expire_orphan(&mut self, now: Time, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.orphan_due = false;
        let Some(since) = task.orphaned_at else { return };
        let due = since + self.limits.abandon;
        if due > now {
            task.orphan_due = true;
            self.deadlines.insert((due, Deadline::Orphan(id)));
        } else if self.remove(now, id).is_some() {
            self.effects.push(Effect::Forgotten { task: id });
        }
    }

    fn expire_stranded(&mut self, now: Time, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.stranded_due = false;
        if task.lease.is_some() {
            return;
        }
        let class = task.class.clone();
        let Some(since) = self.queue.lane(&class).and_then(|lane| lane.stranded_since) else { return };
        let due = since.max(task.queued_at) + self.limits.helper_wait;
        if due > now {
            task.stranded_due = true;
            self.deadlines.insert((due, Deadline::Stranded(id)));
        } else if self.roster.is_empty() {
            self.answer(id, Outcome::NoHelper);
        } else {
            let why = self.roster.mismatch(&class.properties);
            self.answer(id, Outcome::Unmatched(why));
        }
    }
}
