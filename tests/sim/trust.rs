//! Who may be given how much now: a second account of what the pool's `trust.rs` and `roster.rs` decide, kept from events
//! and effects alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dbuild_coordinator::pool::{HelperId, HelperStanding, Outcome, Properties, TaskId, Time};

use super::invariants::{Audit, Helper, Task};
use super::wire::{Counts, Value};

/// `FAULTS` and `WAITS` of the pool's `trust.rs`.
const FAULTS: usize = 3;
const WAITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

#[derive(Default)]
struct Record {
    /// Tasks that it failed since it did one.
    failed: BTreeSet<TaskId>,
    /// It is set aside until then, and on trial from then on.
    aside: Option<Time>,
    rounds: u32,
}

/// What helpers of each name proved.
#[derive(Default)]
pub struct Trust {
    records: BTreeMap<String, Record>,
    /// Who must be said to be set aside now, and for how long.
    due: VecDeque<(String, Duration)>,
    /// Somebody's trial has just ended well.
    proven: bool,
}

impl Trust {
    /// The helper failed a task that it was given at `begun`.
    pub fn failed(&mut self, now: Time, name: &str, task: TaskId, begun: Time) {
        let record = self.records.entry(name.to_owned()).or_default();
        let enough = match record.aside {
            None => {
                record.failed.insert(task);
                record.failed.len() >= FAULTS
            }
            Some(until) => until <= now && begun >= until,
        };
        if enough {
            let wait = (WAITS.0 * (1 << record.rounds.min(10))).min(WAITS.1);
            (record.aside, record.rounds) = (Some(now + wait), record.rounds + 1);
            self.due.push_back((name.to_owned(), wait));
        }
    }

    /// The helper did what it was given at `begun`.
    pub fn succeeded(&mut self, name: &str, begun: Time) {
        // Nothing is given to it while it is set aside, so this is from its trial.
        if self.records.get(name).is_some_and(|record| record.aside.is_none_or(|until| begun >= until)) {
            self.proven = self.records.remove(name).is_some_and(|record| record.aside.is_some());
        }
    }

    fn standing(&self, now: Time, name: &str) -> HelperStanding {
        match self.records.get(name).and_then(|record| record.aside) {
            None => HelperStanding::Trusted,
            Some(until) if until > now => HelperStanding::SetAside(until - now),
            Some(_) => HelperStanding::OnTrial,
        }
    }
}

impl Audit {
    /// In how many slots the helper would begin something.
    pub(super) fn open(&self, now: Time, helper: &Helper) -> u32 {
        let allowed = match self.trust.standing(now, &helper.name) {
            HelperStanding::Trusted => u32::MAX,
            HelperStanding::SetAside(_) => 0,
            HelperStanding::OnTrial => 1,
        };
        if self.drained.contains(&helper.name) { 0 } else { helper.slots.min(helper.offered).min(allowed) }
    }

    /// Helpers that have what is asked for, and of these those that would begin something.
    fn fitting(&self, wants: &Properties) -> impl Iterator<Item = (&HelperId, &Helper)> {
        let fits =
            |helper: &Helper| wants.iter().all(|(name, value)| helper.properties.get(name) == Some(value));
        self.helpers.iter().filter(move |(_, helper)| fits(helper))
    }

    /// Who may run the task now, by the rule that those come last who failed it before.
    pub(super) fn able(&self, now: Time, task: &Task) -> Vec<HelperId> {
        let wants = &task.request.properties;
        let able: Vec<_> = self.fitting(wants).filter(|(_, helper)| self.open(now, helper) > 0).collect();
        let fresh = |(_, helper): &&(&HelperId, &Helper)| !task.tried.contains(&helper.name);
        let only_fresh = able.iter().any(|helper| fresh(&helper));
        able.iter().filter(|helper| !only_fresh || fresh(helper)).map(|(id, _)| **id).collect()
    }

    /// What is asked for ended as this: it must be the right word for nobody's taking it.
    pub(super) fn nobody(&mut self, now: Time, wants: &Properties, outcome: &Outcome<Value>) {
        let open = self.fitting(wants).any(|(_, helper)| self.open(now, helper) > 0);
        let (any, fits) = (!self.helpers.is_empty(), self.fitting(wants).next().is_some());
        let right = match outcome {
            Outcome::NoHelper => !any,
            Outcome::Unmatched(_) => any && !fits,
            _ => fits,
        };
        self.check(right && !open, || format!("{outcome:?}, but open: {open}, any: {any}, able: {fits}"));
    }

    /// A helper is said to be set aside, as it must be.
    pub(super) fn set_aside(&mut self, name: &str, wait: Duration, counts: &mut Counts) {
        *counts.entry("helpers set aside").or_default() += 1;
        let due = self.trust.due.pop_front();
        let right = due.as_ref().is_some_and(|due| (&*due.0, due.1) == (name, wait));
        self.check(right, || format!("{name} is set aside for {wait:?}, and should be: {due:?}"));
    }

    /// All that should be set aside are.
    pub(super) fn check_trust(&mut self, counts: &mut Counts) {
        let due = self.trust.due.pop_front();
        self.check(due.is_none(), || format!("{due:?} should be set aside"));
        if std::mem::take(&mut self.trust.proven) {
            *counts.entry("helpers trusted again").or_default() += 1;
        }
    }

    /// A helper stands as the pool says.
    pub(super) fn check_standing(&mut self, now: Time, name: &str, standing: HelperStanding, drained: bool) {
        let should = (self.trust.standing(now, name), self.drained.contains(name));
        self.check(should == (standing, drained), || format!("{name} stands {standing:?}, not {should:?}"));
    }

    /// Helpers that are set aside now, each of which will be looked at again.
    pub(super) fn aside(&self, now: Time) -> usize {
        let names = self.helpers.values().map(|helper| self.trust.standing(now, &helper.name));
        names.filter(|standing| matches!(standing, HelperStanding::SetAside(_))).count()
    }
}
