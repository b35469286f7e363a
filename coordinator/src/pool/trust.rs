//! Which helpers get work: one that fails again and again is set aside, and comes back after proving itself.
//!
//! A record goes by a helper's name, so that it outlives connections: a helper that dies of every action and is started
//! again is set aside like one that answers with faults. What counts are faults of *different* tasks without a success
//! between them: one task that nobody can run says nothing of helpers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Effect, HelperId, Pool, TaskId, Time};

/// So many different tasks that a helper fails, and none that it does between them, set it aside.
const FAULTS: usize = 3;

/// How long it is set aside: doubled from the first to the longest while it proves nothing.
const WAITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Names with a record, at most; beyond them nobody else is found out.
const RECORDS: usize = 4096;

/// A record that nothing was added to for so long is dropped.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How a helper stands, as others may see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Trusted,
    /// It gets no work for so long.
    SetAside(Duration),
    /// It gets one action at a time until it has done one.
    OnTrial,
}

#[derive(Clone, Debug)]
enum State {
    /// Tasks that it failed since its last success, fewer than [`FAULTS`].
    Doubted {
        failed: BTreeSet<TaskId>,
    },
    Aside {
        until: Time,
    },
    Trial {
        since: Time,
    },
}

#[derive(Clone, Debug)]
struct Record {
    state: State,
    /// How often it was set aside without a success since.
    rounds: u32,
    noted: Time,
}

#[derive(Debug, Default)]
pub(super) struct Trust {
    records: BTreeMap<Arc<str>, Record>,
}

impl Trust {
    /// The helper failed a lease that was given at `begun`; says for how long it is set aside, if it is now.
    pub fn failed(&mut self, now: Time, name: &Arc<str>, task: TaskId, begun: Time) -> Option<Duration> {
        if self.records.len() >= RECORDS {
            self.records.retain(|_, record| now.saturating_sub(record.noted) < REMEMBERED);
        }
        if self.records.len() >= RECORDS && !self.records.contains_key(name) {
            return None;
        }
        let new = Record { state: State::Doubted { failed: BTreeSet::new() }, rounds: 0, noted: now };
        let record = self.records.entry(name.clone()).or_insert(new);
        record.noted = now;
        let enough = match &mut record.state {
            State::Doubted { failed } => {
                failed.insert(task);
                failed.len() >= FAULTS
            }
            State::Aside { .. } => false,
            // What it was given before it was set aside is no part of its trial.
            State::Trial { since } => begun >= *since,
        };
        enough.then(|| {
            let wait = WAITS.0.saturating_mul(1 << record.rounds.min(16)).min(WAITS.1);
            record.rounds += 1;
            record.state = State::Aside { until: now.saturating_add(wait) };
            wait
        })
    }

    /// The helper did what it was given at `begun`; true if it is trusted again because of that.
    pub fn succeeded(&mut self, name: &Arc<str>, begun: Time) -> bool {
        match self.records.get(name).map(|record| &record.state) {
            Some(State::Trial { since }) if begun >= *since => self.records.remove(name).is_some(),
            Some(State::Doubted { .. }) => {
                self.records.remove(name);
                false
            }
            _ => false,
        }
    }

    /// Until when the helper is set aside; lets the trial begin of one whose time is over.
    pub fn aside_until(&mut self, now: Time, name: &Arc<str>) -> Option<Time> {
        let until = self.until(name)?;
        if until > now {
            return Some(until);
        }
        self.records.get_mut(name)?.state = State::Trial { since: now };
        None
    }

    /// Until when the helper is set aside, as long as its trial has not begun.
    fn until(&self, name: &Arc<str>) -> Option<Time> {
        match self.records.get(name)?.state {
            State::Aside { until } => Some(until),
            _ => None,
        }
    }

    pub fn standing(&self, now: Time, name: &Arc<str>) -> Standing {
        match self.records.get(name).map(|record| &record.state) {
            None | Some(State::Doubted { .. }) => Standing::Trusted,
            Some(State::Aside { until }) => Standing::SetAside(until.saturating_sub(now)),
            Some(State::Trial { .. }) => Standing::OnTrial,
        }
    }
}

impl<R> Pool<R> {
    /// Gives the helper as much at a time as it may have now, and sees to it that this is looked at again.
    pub(super) fn admit(&mut self, now: Time, helper: HelperId) {
        let name = self.roster.name(helper);
        let until = self.trust.aside_until(now, &name);
        self.deadlines.extend(until.map(|until| (until, super::lapse::Deadline::Trial(helper))));
        let allowed = match self.trust.standing(now, &name) {
            Standing::Trusted => u32::MAX,
            Standing::SetAside(_) => 0,
            Standing::OnTrial => 1,
        };
        self.roster.allow(helper, allowed);
        self.strand(now);
    }

    /// The helper is gone: that it may be looked at again is nothing to wait for.
    pub(super) fn dismiss(&mut self, helper: HelperId, name: &Arc<str>) {
        if let Some(until) = self.trust.until(name) {
            self.deadlines.remove(&(until, super::lapse::Deadline::Trial(helper)));
        }
    }

    /// The helper of this name failed the task of a lease that was given at `begun`: it may be set aside for it.
    pub(super) fn note_fault(&mut self, now: Time, name: &Arc<str>, task: TaskId, begun: Time, why: &str) {
        if let Some(wait) = self.trust.failed(now, name, task, begun) {
            self.effects.push(Effect::SetAside { helper: name.clone(), wait, why: why.to_owned() });
            if let Some(helper) = self.roster.by_name(name) {
                self.admit(now, helper);
            }
        }
    }

    /// A helper did what it was given at `begun`.
    pub(super) fn note_success(&mut self, now: Time, helper: HelperId, begun: Time) {
        if self.trust.succeeded(&self.roster.name(helper), begun) {
            self.admit(now, helper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let (mut trust, name) = (Trust::default(), Arc::from("mars"));
        for task in 1..=2 {
            assert_eq!(trust.failed(at(0), &name, TaskId(task), at(0)), None);
        }
        let mut now = at(0);
        for wait in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(trust.failed(now, &name, TaskId(3), now), Some(at(wait)));
            assert_eq!(trust.failed(now, &name, TaskId(9), now), None, "once is enough");
            assert_eq!(trust.standing(now, &name), Standing::SetAside(at(wait)));
            now += at(wait);
            assert_eq!(trust.aside_until(now, &name), None);
            assert_eq!(trust.standing(now, &name), Standing::OnTrial);
        }
        assert!(!trust.succeeded(&name, at(1)), "what it was given long ago proves nothing");
        assert!(trust.succeeded(&name, now));
        for task in 1..=2 {
            assert_eq!(trust.failed(now, &name, TaskId(task), now), None);
        }
        assert_eq!(trust.failed(now, &name, TaskId(3), now), Some(at(10)));
    }

    #[test]
    fn two_tasks_that_always_fail_set_nobody_aside() {
        let (mut trust, name) = (Trust::default(), Arc::from("mars"));
        for turn in 0..100 {
            assert_eq!(trust.failed(at(0), &name, TaskId(7 + turn % 2), at(0)), None);
        }
    }

    #[test]
    fn records_are_bounded() {
        let mut trust = Trust::default();
        for number in 0..RECORDS + 10 {
            trust.failed(at(0), &format!("h{number}").into(), TaskId(1), at(0));
        }
        assert_eq!(trust.records.len(), RECORDS);
        trust.failed(at(4000), &"new".into(), TaskId(1), at(4000));
        assert_eq!(trust.records.len(), 1);
    }
}
