//! The waiting tasks: one lane for each class of tasks that the same helpers may run, and in it one line for each build.
//!
//! Lanes and lines keep placement cheap: a free slot looks at the head of each line, never at 100,000 tasks. This file
//! knows no helpers; whose turn it is among the builds is for `shares.rs` to say.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::event::Owner;
use super::{Properties, TaskId, Time};

/// A task that waited for this long goes before longer ones of its build.
const PATIENCE: Duration = Duration::from_secs(20);

/// What decides which helpers may take a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub properties: Properties,
    /// Names of helpers that come last, because they failed the task before.
    pub tried: BTreeSet<Arc<str>>,
}

/// What decides when a waiting task is served.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub owner: Owner,
    pub priority: i32,
    /// How long it is expected to run.
    pub length: Duration,
    pub since: Time,
}

/// The tasks of one build in one lane: by priority, then the longest first, unless one has waited too long.
#[derive(Debug, Default)]
struct Line {
    arrivals: BTreeMap<(i32, TaskId), Time>,
    longest: BTreeSet<(i32, Reverse<Duration>, TaskId)>,
}

impl Line {
    /// The task that is served first, and its priority.
    fn head(&self, now: Time) -> Option<(i32, TaskId)> {
        let (&(priority, oldest), since) = self.arrivals.first_key_value()?;
        if now.saturating_sub(*since) >= PATIENCE {
            return Some((priority, oldest));
        }
        self.longest.first().map(|&(priority, _, task)| (priority, task))
    }
}

/// Tasks of one class; no line in it is empty.
#[derive(Debug, Default)]
pub(super) struct Lane {
    lines: BTreeMap<Owner, Line>,
    /// Since when no connected helper could run any of them.
    pub stranded_since: Option<Time>,
}

impl Lane {
    /// Every task that waits in it.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> {
        self.lines.values().flat_map(|line| line.arrivals.keys().map(|(_, task)| *task))
    }

    /// The head of each build's line: priority and task.
    pub fn heads(&self, now: Time) -> impl Iterator<Item = (&Owner, i32, TaskId)> {
        self.lines.iter().filter_map(move |(owner, line)| {
            let (priority, task) = line.head(now)?;
            Some((owner, priority, task))
        })
    }
}

/// All lanes; none of them is empty.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: BTreeMap<Arc<Class>, Lane>,
}

impl Queue {
    /// Adds a task; gives its lane, and whether it is the first of its build there.
    pub fn push(&mut self, class: Arc<Class>, standing: &Standing, task: TaskId) -> (&mut Lane, bool) {
        let lane = self.lanes.entry(class).or_default();
        let line = lane.lines.entry(standing.owner.clone()).or_default();
        let first = line.arrivals.is_empty();
        line.arrivals.insert((standing.priority, task), standing.since);
        line.longest.insert((standing.priority, Reverse(standing.length), task));
        (lane, first)
    }

    /// Takes a task out, and its line and lane with it if it was the last one there. False if it did not wait.
    pub fn remove(&mut self, class: &Class, standing: &Standing, task: TaskId) -> bool {
        let Some(lane) = self.lanes.get_mut(class) else { return false };
        let Some(line) = lane.lines.get_mut(&standing.owner) else { return false };
        let waited = line.arrivals.remove(&(standing.priority, task)).is_some();
        line.longest.remove(&(standing.priority, Reverse(standing.length), task));
        if line.arrivals.is_empty() {
            lane.lines.remove(&standing.owner);
        }
        if lane.lines.is_empty() {
            self.lanes.remove(class);
        }
        waited
    }

    pub fn lane(&self, class: &Class) -> Option<&Lane> {
        self.lanes.get(class)
    }

    pub fn lanes(&self) -> impl Iterator<Item = (&Class, &Lane)> {
        self.lanes.iter().map(|(class, lane)| (class.as_ref(), lane))
    }

    pub fn lanes_mut(&mut self) -> impl Iterator<Item = (&Class, &mut Lane)> {
        self.lanes.iter_mut().map(|(class, lane)| (class.as_ref(), lane))
    }
}
