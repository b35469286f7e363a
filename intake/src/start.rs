//! The moment from which nothing that a compile reads may change, and how a changed file is told by its times.
//!
//! Linux stamps files with the clock of its last tick (`CLOCK_REALTIME_COARSE`, 1 to 10 ms behind), and since 6.13 with
//! a time between that tick and the precise clock ("multigrain timestamps", Documentation/filesystems/multigrain-ts.rst).
//! A start read from the coarse clock needs no margin: what is written after it bears its time or a later one. What was
//! written before the precise clock was read bears that time at most.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use crate::files::{Signature, epoch_nanos};

/// What is taken off times of the precise clock, which runs ahead of file stamps: one tick at 100 Hz, and as much
/// again.
const TICK: Duration = Duration::from_millis(20);

/// File systems that keep whole seconds (ext3) or every second one (FAT) round down.
const WHOLE_SECONDS: Duration = Duration::from_secs(2);

const SECOND: i128 = 1_000_000_000;

/// When a compile began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// Since the epoch, on the clock of file stamps.
    nanos: i128,
}

impl Start {
    /// Now.
    pub fn now() -> Start {
        Start { nanos: nanos_of(ClockId::RealtimeCoarse) }
    }

    /// The first tick after this moment, or as soon after it as `source` is older. What was generated just before
    /// (every `conftest.c`, and headers that a build makes first) would otherwise look as if it changed during the
    /// compile.
    pub fn after(source: &Path) -> Start {
        let asked = Start { nanos: nanos_of(ClockId::Realtime) };
        // Bounded: a clock that stands still must not hold a build up.
        for _ in 0..40 {
            if Start::now() > asked {
                break;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        // One wait is enough for a file on the same clock; others are not worth more.
        for _ in 0..20 {
            let start = Start::now();
            match std::fs::metadata(source) {
                Ok(meta) if start.may_have_changed(&Signature::of(&meta)) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return start,
            }
        }
        Start::now()
    }

    /// Whether a file with this signature may have been written, or come to its name, since.
    pub fn may_have_changed(self, signature: &Signature) -> bool {
        let newest = signature.mtime.max(signature.ctime);
        if signature.ctime % SECOND == 0 {
            return newest >= self.nanos - WHOLE_SECONDS.as_nanos() as i128;
        }
        newest >= self.nanos
    }
}

fn nanos_of(clock: ClockId) -> i128 {
    let now = clock_gettime(clock);
    i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec)
}

impl From<SystemTime> for Start {
    /// A time of the precise clock, made safe by a margin.
    fn from(time: SystemTime) -> Start {
        Start { nanos: epoch_nanos(time) - TICK.as_nanos() as i128 }
    }
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    fn signature(path: &Path) -> Signature {
        Signature::of(&fs::metadata(path).unwrap())
    }

    #[test]
    fn what_is_written_after_the_start_always_shows() {
        let place = tempfile::tempdir().unwrap();
        for i in 0..200 {
            let path = place.path().join(format!("{i}"));
            let start = Start::now();
            fs::write(&path, "x").unwrap();
            assert!(start.may_have_changed(&signature(&path)), "{i}");
        }
    }

    #[test]
    fn a_fresh_source_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.c");
        for _ in 0..20 {
            fs::write(&path, "x").unwrap();
            let start = Start::after(&path);
            assert!(!start.may_have_changed(&signature(&path)));
        }
        // What is not there, or comes from the future, is not waited for long.
        Start::after(&place.path().join("none"));
    }

    #[test]
    fn what_was_there_before_is_older() {
        let place = tempfile::tempdir().unwrap();
        for i in 0..20 {
            let header = place.path().join(format!("{i}.h"));
            fs::write(&header, "x").unwrap();
            let start = Start::after(&place.path().join("none"));
            assert!(!start.may_have_changed(&signature(&header)), "{i}");
        }
    }

    #[test]
    fn whole_seconds_are_not_trusted_soon() {
        let start = Start { nanos: 1_000 * SECOND };
        let stamped = |time: i128| Signature { device: 1, inode: 1, size: 1, mtime: time, ctime: time };
        assert!(start.may_have_changed(&stamped(999 * SECOND)));
        assert!(!start.may_have_changed(&stamped(999 * SECOND + 1)));
        assert!(!start.may_have_changed(&stamped(997 * SECOND)));
        assert!(start.may_have_changed(&stamped(1_000 * SECOND)));
        assert!(start.may_have_changed(&Signature { mtime: 1, ..stamped(1_000 * SECOND + 1) }));
    }
}
