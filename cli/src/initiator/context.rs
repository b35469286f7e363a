//! One compiler call as all who serve it see it: what the shim sent, and where this build lets its tasks go.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dbuild_shims::frame::{Command, Invoke};

use super::Initiator;
use super::slots::Slot;
use crate::config::{ANY_PATH, SHARE, processors};
use crate::record::{Placement, TaskEnd};

/// One call, and what its environment says about where its tasks may go.
pub struct Context {
    pub initiator: Arc<Initiator>,
    pub invoke: Invoke,
    pub session: String,
    /// URL of the pool, if this build has one.
    pub coordinator: Option<String>,
    pub local_slots: u32,
    /// The project wants results that serve at any place: outputs name no directory of this machine.
    pub any_path: bool,
    pub began: SystemTime,
}

impl Context {
    pub fn new(initiator: Arc<Initiator>, invoke: Invoke) -> Self {
        let variable = |name: &str| variable(&invoke, name).and_then(OsStr::to_str);
        let session = invoke.session.to_string_lossy().into_owned();
        let coordinator = variable("DBUILD_COORDINATOR").map(str::to_owned);
        let local_slots = variable("DBUILD_LOCAL_SLOTS").and_then(|text| text.parse().ok());
        let local_slots = local_slots.unwrap_or(initiator.config.local_slots);
        let any_path = variable(SHARE) == Some(ANY_PATH);
        Context { initiator, invoke, session, coordinator, local_slots, any_path, began: SystemTime::now() }
    }

    /// A variable of the build's environment that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        variable(&self.invoke, name)
    }

    /// The absolute form of a path as the call spelled it; links and `..` stay in it.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.invoke.cwd.join(path)
    }

    /// How many may run here at a time of what cannot run elsewhere.
    pub fn slots_for_local_work(&self) -> u32 {
        if self.local_slots == 0 { processors() } else { self.local_slots }
    }

    /// How many compiles may run here at a time; with a pool, 0 means "only what must".
    pub fn slots_for_compiles(&self) -> u32 {
        match (&self.coordinator, self.local_slots) {
            (None, 0) => processors(),
            (_, slots) => slots.max(1),
        }
    }

    /// A free slot here for what helpers could run, too.
    pub fn spare_slot(&self) -> Option<Slot> {
        if self.local_slots == 0 {
            return None;
        }
        self.initiator.slots.try_take(self.local_slots)
    }

    /// `program argv…` as a child of the shim.
    pub fn command(&self, args: Vec<OsString>, trace: Option<PathBuf>) -> Command {
        Command {
            program: self.invoke.compiler_path.clone(),
            argv: self.invoke.argv.first().cloned().into_iter().chain(args).collect(),
            env: self.invoke.env.clone(),
            cwd: self.invoke.cwd.clone(),
            trace,
            pass_on: false,
        }
    }

    /// The event for something that ran here and of which nothing is kept.
    pub fn ran_here(&self, reason: String, uncacheable: Option<String>) -> TaskEnd {
        TaskEnd {
            session: self.session.clone(),
            began: self.began,
            placement: Placement::Local,
            reason,
            helper: None,
            uncacheable,
            fault: None,
            exit_code: 0,
            sent: 0,
            received: 0,
            run_ms: 0,
            phases: None,
            notice: None,
            outputs: Vec::new(),
            key: Vec::new(),
            miss: None,
        }
    }
}

fn variable<'i>(invoke: &'i Invoke, name: &str) -> Option<&'i OsStr> {
    let found = invoke.env.iter().rev().find(|(variable, _)| variable == OsStr::new(name));
    found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
}

/// Runs blocking work on a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
