//! Counters: of this user's initiators for ever (until `--zero`), and of one build.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Placement, TaskEnd};

/// Their file among the records.
const FILE: &str = "stats.json";

/// The longest list of reasons that is kept; a build cannot fill memory with unknown flags.
const MAX_REASONS: usize = 500;

/// What `dbuild stats --json` prints. Each task is counted in exactly one of `hits_local`, `hits_shared`, `remote`
/// and `local`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    pub tasks: u64,
    pub hits_local: u64,
    pub hits_shared: u64,
    pub remote: u64,
    pub local: u64,
    /// Tasks whose answer could not be kept.
    pub uncacheable: u64,
    /// Tasks that ran here because of a fault of dbuild's.
    pub fallbacks: u64,
    /// Tasks that ended with another exit code than 0.
    pub errors: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Reason → tasks.
    pub reasons: BTreeMap<String, u64>,
}

/// One build's share, with what only a summary says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub counters: Counters,
    /// Helper → tasks.
    pub helpers: BTreeMap<String, u64>,
    /// Sentence → tasks.
    pub faults: BTreeMap<String, u64>,
    /// Sentence → tasks.
    pub notices: BTreeMap<String, u64>,
}

impl Counters {
    pub fn add(&mut self, end: &TaskEnd) {
        self.tasks += 1;
        *match end.placement {
            Placement::HitLocal => &mut self.hits_local,
            Placement::HitShared => &mut self.hits_shared,
            Placement::Remote => &mut self.remote,
            Placement::Local => &mut self.local,
        } += 1;
        self.uncacheable += u64::from(end.uncacheable.is_some());
        self.fallbacks += u64::from(end.fault.is_some());
        self.errors += u64::from(end.exit_code != 0);
        self.bytes_sent += end.sent;
        self.bytes_received += end.received;
        count(&mut self.reasons, &end.reason);
    }

    /// Reads counters that an earlier initiator left under `records`; a damaged file starts them anew.
    pub fn load(records: &Path) -> Counters {
        std::fs::read(records.join(FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Replaces the file in one step.
    pub fn save(&self, records: &Path) -> std::io::Result<()> {
        let path = records.join(FILE);
        let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
        fs_err::write(&temporary, serde_json::to_vec(self)?)?;
        fs_err::rename(&temporary, path)
    }
}

impl Tally {
    pub fn add(&mut self, end: &TaskEnd) {
        self.counters.add(end);
        if let Some(helper) = &end.helper {
            count(&mut self.helpers, helper);
        }
        if let Some(fault) = &end.fault {
            count(&mut self.faults, fault);
        }
        if let Some(notice) = &end.notice {
            count(&mut self.notices, notice);
        }
    }
}

fn count(map: &mut BTreeMap<String, u64>, key: &str) {
    let full = map.len() >= MAX_REASONS && !map.contains_key(key);
    *map.entry(if full { "other" } else { key }.to_owned()).or_default() += 1;
}
