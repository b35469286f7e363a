//! What became of every task: events in, counters, session summaries and `why` records out.
//!
//! One thread of control owns all of it (`Recorder::run`); everybody else holds a `Sender`. Nothing here decides
//! where a task runs.

mod counters;
mod explain;
mod recorder;
mod trace;

pub use counters::{Counters, Tally};
pub use explain::{Explanation, find};
pub use recorder::{Event, Recorder, Sender};
pub use trace::{Phases, micros};

use std::path::PathBuf;
use std::time::SystemTime;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// This user's own cache.
    HitLocal,
    /// The pool's action cache.
    HitShared,
    /// A helper ran it.
    Remote,
    /// It ran here.
    Local,
}

/// The end of one task.
#[derive(Clone, Debug)]
pub struct TaskEnd {
    pub session: String,
    /// When its compiler was called.
    pub began: SystemTime,
    pub placement: Placement,
    /// A stable text: `hit`, `remote`, `link`, `reads stdin`…; becomes a key of `reasons`.
    pub reason: String,
    /// The helper's name, when a helper ran it.
    pub helper: Option<String>,
    /// Its answer cannot be reused.
    pub uncacheable: Option<String>,
    /// A fault of dbuild's own made it run here: the sentence for the summary.
    pub fault: Option<String>,
    /// It took longer than it should have, wherever it ran: the sentence for the summary.
    pub notice: Option<String>,
    pub exit_code: i32,
    pub sent: u64,
    pub received: u64,
    pub run_ms: u64,
    /// What the helper did for it, and when.
    pub phases: Option<Phases>,
    /// Absolute paths.
    pub outputs: Vec<PathBuf>,
    /// The named fields of the key, for `dbuild why`.
    pub key: Vec<(String, String)>,
    /// Why the cache had no answer.
    pub miss: Option<String>,
}
