//! What an initiator keeps warm, and what that costs: for `dbuild stats`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Initiator;

/// Figures of a running initiator. Nothing here outlives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmth {
    pub pid: u32,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Files whose digests are known.
    pub files: u64,
    /// Facts that are kept true by notifications.
    pub watched_facts: u64,
    /// Files and directories that the kernel watches for that.
    pub watches: u64,
    /// How often everything watched was forgotten (events lost, mounts changed, bounds reached).
    pub forgotten: u64,
    /// How often a file, and a directory, was looked at.
    pub stats: u64,
    /// Units whose inputs were those of an earlier scan.
    pub recalled: u64,
    /// Units whose inputs were found by scanning directives.
    pub scanned: u64,
    /// Units whose inputs the compiler's own preprocessor had to find, by reason.
    pub unsure: BTreeMap<String, u64>,
    /// What the scanner keeps of parsed files.
    pub scanner_bytes: u64,
}

impl Warmth {
    pub fn of(initiator: &Initiator) -> Warmth {
        let (files, directories) = (initiator.files.counts(), initiator.directories.counts());
        let watch = initiator.watch.counts();
        let scans = initiator.finder.counts();
        Warmth {
            pid: std::process::id(),
            memory_bytes: resident().unwrap_or(0),
            files: files.entries,
            watched_facts: watch.facts,
            watches: watch.watches,
            forgotten: watch.cleared,
            stats: files.stats + directories.stats,
            recalled: scans.recalled,
            scanned: scans.scanned,
            unsure: scans.unsure.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
            scanner_bytes: scans.bytes,
        }
    }
}

/// Second field of `/proc/self/statm` (proc(5)): resident pages.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
