//! The words of the pool: what happens to it (events), what it wants done (effects), and its bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::{Digest, DigestFunction};

use super::roster::Report;

/// Time since an epoch of the caller's choice; it must never go backwards.
pub type Time = Duration;

/// Name-value pairs, sorted: what an action asks for, or what a helper is.
pub type Properties = BTreeMap<String, String>;

/// One connection of one helper: a helper that comes back has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HelperId(pub u64);

/// One accepted action. Identifiers grow in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// One attempt to run a task in one slot of one helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// What makes two requests the same work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActionId {
    pub instance: String,
    pub function: DigestFunction,
    pub digest: Digest,
}

/// The bounds of a pool. All durations are wall time.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tasks accepted and not yet answered.
    pub tasks: usize,
    /// Helpers connected at a time.
    pub helpers: usize,
    /// Leases that one task may get.
    pub attempts: u32,
    /// A task waits this long for a first helper that could run it.
    pub helper_wait: Duration,
    /// A helper that was not heard for this long is lost.
    pub silence: Duration,
    /// A task without watchers is abandoned after this time.
    pub abandon: Duration,
    /// A lease expires this long after the action's own timeout: time to fetch inputs and store outputs.
    pub lease_slack: Duration,
    /// A cancelled lease frees its slot after this time even if the helper says nothing.
    pub cancel_wait: Duration,
}

/// Who wants an action run. The pool is divided fairly between users, and a user's part between their builds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    pub user: Arc<str>,
    pub build: Arc<str>,
}

/// An action to run.
#[derive(Clone, Debug)]
pub struct Request {
    pub action: ActionId,
    /// May share the execution of an equal action in flight; false for `do_not_cache`.
    pub merge: bool,
    pub owner: Owner,
    /// REAPI `ExecutionPolicy.priority`: within a build lower runs sooner; between builds and users it is a weight.
    pub priority: i32,
    /// How long it will run, as far as the client knows from before.
    pub expected: Option<Duration>,
    /// What a helper must have, exactly.
    pub properties: Properties,
    /// How long the action itself may run.
    pub timeout: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<R> {
    /// A helper connected. The id is the caller's and new.
    Attach { helper: HelperId, name: Arc<str>, slots: u32, properties: Properties },
    /// A helper said how it is.
    Report { helper: HelperId, report: Report },
    /// Somebody who stands for a helper said how it is, not on the helper's connection: its supervisor, or a database. `up`
    /// is false when its worker is gone.
    Said { name: Arc<str>, report: Report, up: bool },
    /// A helper gets no more work, or work again; by name, so that it holds when it comes back.
    Drain { name: Arc<str>, drained: bool },
    /// A helper's connection ended.
    Detach { helper: HelperId, reason: String },
    /// A helper answered a lease. An answer to a lease that is not the helper's is ignored.
    Finish { helper: HelperId, lease: LeaseId, verdict: Verdict<R> },
    /// A client wants an action run and watches it.
    Submit(Request),
    /// One more client watches the task.
    Join { task: TaskId },
    /// One client less watches the task.
    Leave { task: TaskId },
    /// Time passed.
    Tick,
}

/// What a helper said of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<R> {
    /// Final, good or bad: no other helper would say anything else.
    Answer(R),
    /// This helper could not; another might. Why, as a sentence's fragment.
    Retry(String),
    /// This helper stopped, because somebody else needs its machine. Nobody failed.
    Return(String),
}

/// What the caller has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<R> {
    /// The answer to `Submit`: the request is this task now (an older one if it was merged).
    Accepted { task: TaskId, merged: bool },
    /// The answer to `Submit`: the request was not taken.
    Declined(Outcome<R>),
    /// Send the lease to the helper.
    Lease { helper: HelperId, lease: LeaseId, task: TaskId, timeout: Duration },
    /// Tell the helper to stop working on a lease.
    Cancel { helper: HelperId, lease: LeaseId },
    /// The task waits again, for another attempt.
    Requeued { task: TaskId },
    /// Tell the task's watchers; the task is gone.
    Answer { task: TaskId, outcome: Outcome<R> },
    /// The task is gone and nobody watched it.
    Forgotten { task: TaskId },
    /// The helper failed too often and gets nothing for a while. Nothing has to be done; somebody may want to know.
    SetAside { helper: Arc<str>, wait: Duration, why: String },
    /// End the helper's connection, for this reason. `for_good`: it must not connect again by itself.
    Close { helper: HelperId, reason: String, for_good: bool },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<R> {
    /// A helper ran it to an end.
    Answered(R),
    /// Every attempt failed for reasons outside the action.
    Exhausted { attempts: u32, last: String },
    /// No helper was connected for the whole wait.
    NoHelper,
    /// Helpers are connected, but none could ever run it; a sentence says what it asks for.
    Unmatched(String),
    /// Helpers are connected that could run it, but none took work for the whole wait; a sentence says why.
    Closed(String),
    /// The pool holds as many tasks as it may.
    Full { limit: usize },
}
