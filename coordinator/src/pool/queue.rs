//! The waiting tasks, in one lane for each class of tasks that the same helpers may run.
//!
//! Lanes keep placement cheap: a helper's free slot looks at the head of each lane, never at 100,000
//! tasks. This file knows no helpers and no time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Properties, TaskId, Time};

/// What decides which helpers may take a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub properties: Properties,
    /// Names of helpers that come last, because they failed the task before.
    pub tried: BTreeSet<Arc<str>>,
}

/// Tasks of one class.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// By (priority, arrival): the order of service.
    pub waiting: BTreeSet<(i32, TaskId)>,
    /// Since when no connected helper could run any of them.
    pub stranded_since: Option<Time>,
}

impl Lane {
    /// The task that is served first.
    pub fn head(&self) -> Option<(i32, TaskId)> {
        self.waiting.first().copied()
    }
}

/// All lanes; none of them is empty.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: BTreeMap<Arc<Class>, Lane>,
}

impl Queue {
    /// Adds a task and gives its lane.
    pub fn push(&mut self, class: Arc<Class>, priority: i32, task: TaskId) -> &mut Lane {
        let lane = self.lanes.entry(class).or_default();
        lane.waiting.insert((priority, task));
        lane
    }

    /// Takes a task out, and its lane with it if it was the last one there.
    pub fn remove(&mut self, class: &Class, priority: i32, task: TaskId) {
        let Some(lane) = self.lanes.get_mut(class) else { return };
        lane.waiting.remove(&(priority, task));
        if lane.waiting.is_empty() {
            self.lanes.remove(class);
        }
    }

    /// Moves a waiting task from one priority to another.
    pub fn hasten(&mut self, class: &Class, task: TaskId, from: i32, to: i32) {
        let Some(lane) = self.lanes.get_mut(class) else { return };
        if lane.waiting.remove(&(from, task)) {
            lane.waiting.insert((to, task));
        }
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
