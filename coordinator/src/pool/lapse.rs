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
    /// The helper was set aside until now.
    Trial(HelperId),
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
                Deadline::Trial(helper) => self.expire_aside(now, helper),
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
        let (name, begun) = (self.roster.name(lease.helper), lease.begun);
        self.cancel(now, id);
        self.note_fault(now, &name, task, begun, "it did not answer in time");
        self.retry(now, task, &name, format!("helper {name} did not answer in time"));
    }

    fn expire_aside(&mut self, now: Time, helper: HelperId) {
        // It may be gone; its record waits for it.
        if self.roster.heard(helper).is_some() {
            self.admit(now, helper);
        }
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
            let outcome = self.not_taken(&class.properties);
            self.answer(id, outcome);
        }
    }

    /// Notes which tasks no helper takes, now that helpers came, went, or changed what they take.
    pub(super) fn strand(&mut self, now: Time) {
        let (queue, roster) = (&mut self.queue, &self.roster);
        let (deadlines, tasks) = (&mut self.deadlines, &mut self.tasks);
        for (class, lane) in queue.lanes_mut() {
            if roster.any_open(&class.properties) {
                lane.stranded_since = None;
            } else if lane.stranded_since.is_none() {
                lane.stranded_since = Some(now);
                let due = now + self.limits.helper_wait;
                for id in lane.tasks() {
                    if let Some(task) = tasks.get_mut(&id)
                        && !std::mem::replace(&mut task.stranded_due, true)
                    {
                        deadlines.insert((due, Deadline::Stranded(id)));
                    }
                }
            }
        }
    }
}
