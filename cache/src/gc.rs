//! Counting what the store holds and evicting what was used least recently. The policy stands in the crate's
//! documentation; here is how it is carried out: a walk over all names, a sort by age, removals. No index is
//! kept, so there is none to repair, and any process may sweep at any time; two at once remove the same
//! files.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::error::CacheError;
use crate::layout::Entry;
use crate::store::{Inner, Store, modified};
use crate::usage::{Found, Usage, on_disk};

/// Entries whose mtime is younger are not evicted: a build is using them.
const PROTECTED: Duration = Duration::from_secs(600);
/// An mtime further in the future than this was set by a wrong clock.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// After a sweep that could not reach its goal (all is young or pinned), the next one waits this long.
const PAUSE: Duration = Duration::from_secs(60);

impl Store {
    /// Evicts down to `keep_bytes` of disk, now. Young and pinned entries stay, whatever the goal. Returns
    /// what is left.
    ///
    /// # Errors
    /// `Io` if nothing could be removed although something should; `is_read_only()` tells why.
    pub fn gc(&self, keep_bytes: u64) -> Result<Usage, CacheError> {
        let usage = self.inner.sweep(keep_bytes, keep_bytes, SystemTime::now())?;
        Ok(self.inner.with_counters(usage))
    }

    /// Waits for the background sweep, if one runs: for a process that is about to end, and for tests.
    pub fn settle(&self) {
        let thread = self.inner.sweeper.lock().thread.take();
        if let Some(thread) = thread {
            // A panic in it has been reported by the panic hook, and costs nothing but the sweep.
            let _ = thread.join();
        }
    }
}

/// How full the store is, as far as this handle knows, and whether somebody is looking.
#[derive(Default)]
pub(crate) struct Sweeper {
    /// Bytes of disk; other processes' writes are seen only when somebody counts. May be below 0 for a
    /// moment.
    estimate: AtomicI64,
    /// Bytes that this handle wrote since the last count.
    since_count: AtomicU64,
    last: Mutex<LastSweep>,
}

#[derive(Default)]
struct LastSweep {
    not_before: Option<Instant>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Counts a new file of `size` bytes. True when it is time to sweep: past the limit, or an eighth of it
    /// written since the last count (other processes may have written as much).
    pub(crate) fn add(&self, size: u64, max_bytes: u64) -> bool {
        let cost = on_disk(size);
        self.estimate.fetch_add(cost as i64, Ordering::Relaxed);
        let written = self.since_count.fetch_add(cost, Ordering::Relaxed) + cost;
        self.estimate() > max_bytes || written > max_bytes / 8
    }

    pub(crate) fn subtract(&self, size: u64) {
        self.estimate.fetch_sub(on_disk(size) as i64, Ordering::Relaxed);
    }

    /// Bytes of disk, as far as this handle knows.
    pub(crate) fn estimate(&self) -> u64 {
        self.estimate.load(Ordering::Relaxed).max(0) as u64
    }

    fn lock(&self) -> MutexGuard<'_, LastSweep> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_nearly_full(&self, max_bytes: u64) -> bool {
        self.estimate() > max_bytes / 5 * 4
    }
}

impl Inner {
    /// Starts a sweep unless one runs, or one that could not help has just ended.
    pub(crate) fn sweep_in_background(this: &Arc<Inner>) {
        let mut last = this.sweeper.lock();
        let runs = last.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        if runs || last.not_before.is_some_and(|time| Instant::now() < time) {
            return;
        }
        let inner = Arc::clone(this);
        // The thread ends by itself; if the process ends first, nothing is half done. If it cannot be
        // started, some later put tries again.
        last.thread = std::thread::Builder::new()
            .name("cache-sweep".to_owned())
            .spawn(move || inner.sweep_to_limit())
            .inspect_err(|error| tracing::debug!(%error, "no thread for the cache sweep"))
            .ok();
    }

    fn sweep_to_limit(&self) {
        let started = Instant::now();
        let result = self.sweep(self.max_bytes, self.max_bytes / 10 * 9, SystemTime::now());
        // Walking may take a tenth of one core at most.
        let mut pause = started.elapsed() * 9;
        if !result.is_ok_and(|usage| usage.disk_bytes <= self.max_bytes) {
            pause = pause.max(PAUSE);
        }
        self.sweeper.lock().not_before = Instant::now().checked_add(pause);
    }

    /// Counts, corrects the estimate, and if there is more than `limit` evicts down to `keep` (bytes of
    /// disk).
    fn sweep(&self, limit: u64, keep: u64, now: SystemTime) -> Result<Usage, CacheError> {
        let before = self.sweeper.estimate.load(Ordering::Relaxed);
        self.sweeper.since_count.store(0, Ordering::Relaxed);
        let mut usage = Usage::default();
        let mut damaged = Vec::new();
        let mut candidates = Vec::new();
        self.walk(|Found { entry, metadata }| {
            usage.count(&entry, metadata.len());
            let mtime = modified(&metadata);
            if entry.exact_size().is_some_and(|size| size != metadata.len()) {
                damaged.push((entry, metadata));
            } else if let Some(used) = evictable_as_of(mtime, now) {
                candidates.push(Candidate { used, mtime, size: metadata.len(), entry });
            }
        });
        // What others added to the estimate during the walk stays in it: counted twice rather than not at
        // all.
        self.sweeper.estimate.fetch_add(usage.disk_bytes as i64 - before, Ordering::Relaxed);
        for (entry, metadata) in damaged {
            usage.uncount(&entry, metadata.len());
            self.discard(&entry, &metadata);
        }
        if usage.disk_bytes <= limit {
            return Ok(usage);
        }
        candidates.sort_unstable_by_key(|candidate| (candidate.used, candidate.entry));
        let mut refused = None;
        let mut removed = 0u64;
        for candidate in &candidates {
            if usage.disk_bytes <= keep {
                break;
            }
            if self.is_pinned(&candidate.entry) || self.was_used_since(candidate) {
                continue;
            }
            match self.remove(&candidate.entry) {
                Ok(ours) => {
                    usage.uncount(&candidate.entry, candidate.size);
                    removed += 1;
                    self.evicted.fetch_add(u64::from(ours), Ordering::Relaxed);
                }
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if removed == 0 => Err(error),
            _ => Ok(usage),
        }
    }

    fn is_pinned(&self, entry: &Entry) -> bool {
        entry.kind.function().is_some_and(|f| self.pins().contains_key(&(f, entry.digest)))
    }

    /// Whether somebody refreshed the entry after it was listed. (In the instant between this look and the
    /// removal it may still be used: then that user has it open, or misses.)
    fn was_used_since(&self, candidate: &Candidate) -> bool {
        std::fs::symlink_metadata(candidate.entry.path(&self.root))
            .is_ok_and(|metadata| modified(&metadata) != candidate.mtime)
    }
}

/// An entry that may be evicted.
struct Candidate {
    used: SystemTime,
    mtime: SystemTime,
    size: u64,
    entry: Entry,
}

/// When the entry counts as last used; `None` if it is too young to be evicted.
fn evictable_as_of(mtime: SystemTime, now: SystemTime) -> Option<SystemTime> {
    match now.duration_since(mtime) {
        Ok(age) => (age >= PROTECTED).then_some(mtime),
        Err(ahead) => (ahead.duration() > CLOCK_SLACK).then_some(SystemTime::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_young_stay_and_wrong_clocks_go_first() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let before = |seconds| now - Duration::from_secs(seconds);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(evictable_as_of(before(0), now), None);
        assert_eq!(evictable_as_of(before(599), now), None);
        assert_eq!(evictable_as_of(before(600), now), Some(before(600)));
        assert_eq!(evictable_as_of(after(3600), now), None);
        assert_eq!(evictable_as_of(after(3601), now), Some(SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn it_is_time_to_sweep_past_the_limit_or_an_eighth_later() {
        let sweeper = Sweeper::default();
        let limit = 80 * 4096;
        for _ in 0..10 {
            assert!(!sweeper.add(1, limit));
        }
        assert!(sweeper.add(1, limit), "an eighth of the limit was written");
        assert_eq!(sweeper.estimate(), 11 * 4096);
        sweeper.subtract(4096);
        assert_eq!(sweeper.estimate(), 10 * 4096);
        sweeper.since_count.store(0, Ordering::Relaxed);
        assert!(!sweeper.is_nearly_full(limit));
        assert!(sweeper.add(71 * 4096, limit), "past the limit");
        assert!(sweeper.is_nearly_full(limit));
    }
}
