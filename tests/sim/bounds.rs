//! What must hold of the state after every step: nobody waits in vain or for too long, and everything that is kept is
//! bounded.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use dbuild_coordinator::pool::{HelperId, Limits, Pool, Time};

use super::invariants::Audit;
use super::wire::Value;

impl Audit {
    /// No task waits while somebody who may run it has a free slot that is open.
    pub fn check_capacity(&mut self, now: Time) {
        let mut looked = BTreeSet::new();
        let mut idle = None;
        for (id, task) in self.tasks.iter().filter(|(_, task)| task.running.is_none()) {
            if !looked.insert((&task.request.properties, &task.tried)) {
                continue;
            }
            let free = |helper: &&HelperId| {
                self.helpers
                    .get(helper)
                    .is_some_and(|helper| helper.held.len() < self.open(now, helper) as usize)
            };
            if let Some(helper) = self.able(now, task).iter().find(free) {
                idle = Some(format!("{id:?} waits while {helper:?} has a free slot"));
            }
        }
        if let Some(idle) = idle {
            self.broken(idle);
        }
    }

    /// Nothing goes on for longer than it may: a task that nobody watches, one that no helper could run, a lease.
    pub fn check_waits(&mut self, now: Time, limits: &Limits) {
        let waiting = || self.tasks.iter().filter(|(_, task)| task.running.is_none());
        let alone = waiting().filter(|(_, task)| self.able(now, task).is_empty());
        let alone: Vec<_> = alone.map(|(_, task)| task.request.properties.clone()).collect();
        self.wanted.retain(|properties, _| alone.contains(properties));
        for properties in alone {
            self.wanted.entry(properties).or_insert(now);
        }
        let mut late = None;
        for (id, task) in &self.tasks {
            if task.unwatched.is_some_and(|since| since + limits.abandon <= now) {
                late = Some(format!("{id:?} is not watched and goes on"));
            }
            let since = self.wanted.get(&task.request.properties).filter(|_| task.running.is_none());
            if since.is_some_and(|since| *since.max(&task.since) + limits.helper_wait <= now) {
                late = Some(format!("{id:?} waits for a helper that does not come"));
            }
        }
        let held = self.helpers.values().flat_map(|helper| &helper.held);
        for (lease, _) in held.filter(|(_, held)| held.task.is_some() && held.expires <= now) {
            late = Some(format!("{lease:?} should have ended"));
        }
        if let Some((helper, _)) =
            self.helpers.iter().find(|(_, helper)| helper.heard + limits.silence <= now)
        {
            late = Some(format!("{helper:?} is silent and still counts"));
        }
        if let Some(late) = late {
            self.broken(late);
        }
    }

    pub fn check_bounds(&mut self, now: Time, pool: &Pool<Value>, limits: &Limits) {
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
            self.check_standing(now, &view.name, view.standing, view.drained);
        }
        let overdue = pool.next_deadline().is_some_and(|due| due <= now);
        self.check(!overdue, || "a deadline is overdue after a step".into());
        // One for each helper and lease, one more for who is set aside, two for each task; those of what ended lapse in their time.
        forget(&mut self.lost, now, limits.silence);
        forget(&mut self.finished, now, limits.helper_wait.max(limits.abandon));
        let helpers = self.helpers.len() + self.aside(now) + self.lost.len();
        let most = helpers + held + 2 * (self.tasks.len() + self.finished.len());
        self.check(sizes.deadlines <= most, || format!("{} deadlines, not {most}", sizes.deadlines));
    }

    /// At the end: nothing is left.
    pub fn check_empty(&mut self, pool: &Pool<Value>) {
        let sizes = pool.sizes();
        let left = sizes.tasks + sizes.leases + sizes.waiting + sizes.shared + sizes.lanes;
        self.check(left == 0, || format!("the pool keeps {sizes:?} when all is done"));
        let (most, helpers) = (self.lost.len() + 2 * self.helpers.len(), self.helpers.len());
        self.check(sizes.deadlines <= most, || format!("{} deadlines of {helpers} helpers", sizes.deadlines));
    }
}

/// Drops times that are longer ago than `within`.
fn forget(times: &mut VecDeque<Time>, now: Time, within: Duration) {
    while times.front().is_some_and(|time| *time + within <= now) {
        times.pop_front();
    }
}
