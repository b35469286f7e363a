//! What hosts and the coordinator say to each other: the pool protocol (`proto/proto/pool.proto`) and, of the Remote
//! Execution API, what an execution needs. Blobs are left out: fetching is part of how long a lease takes.

use std::collections::BTreeMap;
use std::time::Duration;

use dbuild_coordinator::pool::{LeaseId, TaskId};

use super::clock::Time;

/// What an action does; equal numbers are equal actions.
pub type Content = u64;

/// What a helper answers: what it ran, and for which lease of which run of the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    pub content: Content,
    pub run: u32,
    pub lease: LeaseId,
}

/// An action as a client asks for it.
#[derive(Clone, Debug)]
pub struct Action {
    pub content: Content,
    /// How long it takes on a helper of usual speed.
    pub length: Duration,
    pub timeout: Duration,
    pub merge: bool,
    pub user: u64,
    pub build: u64,
    pub priority: i32,
    pub expected: Option<Duration>,
    /// The `OSFamily` that it needs, if any.
    pub system: Option<&'static str>,
}

/// An operation's name: which run of the coordinator, and which task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub run: u32,
    pub task: TaskId,
}

/// How an execution ended, as far as clients can tell.
#[derive(Clone, Debug)]
pub enum Ended {
    Answered(Value),
    /// UNAVAILABLE or RESOURCE_EXHAUSTED: worth another try.
    NotNow,
    /// FAILED_PRECONDITION or INTERNAL: the client runs it itself.
    Never,
}

/// A call's number on its connection.
pub type Call = u64;

#[derive(Clone, Debug)]
pub enum Message {
    // From helpers.
    Hello {
        name: u64,
        slots: u32,
        system: &'static str,
    },
    /// How many of its slots it offers; None: all.
    State {
        offered: Option<u32>,
    },
    Result {
        lease: LeaseId,
        outcome: Outcome,
    },
    // To helpers.
    Welcome {
        state_interval: Duration,
    },
    Refused {
        reason: String,
    },
    /// `issued` says by which run of the coordinator, and when on its clock.
    Lease {
        lease: LeaseId,
        action: Action,
        issued: (u32, Time),
    },
    Cancel {
        lease: LeaseId,
    },
    // From clients.
    Execute {
        call: Call,
        action: Action,
    },
    WaitExecution {
        call: Call,
        operation: Operation,
    },
    Reset {
        call: Call,
    },
    // To clients.
    Update {
        call: Call,
        operation: Operation,
    },
    Done {
        call: Call,
        ended: Ended,
    },
    /// NOT_FOUND.
    Unknown {
        call: Call,
    },
}

/// What a helper says of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ran(Content),
    TimedOut,
    Cancelled,
    Broken,
    /// All slots are taken.
    Full,
}

/// What a supervisor says of a helper; not `up`: that its worker is gone.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    pub name: u64,
    pub offered: Option<u32>,
    pub up: bool,
}

/// Numbers of something by its name.
pub type Counts = BTreeMap<&'static str, u64>;
