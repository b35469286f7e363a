//! What one process remembers about files of the store: which it has hashed already, and which variants it is
//! making right now. Nothing here touches the disk but to look at times.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::layout::Entry;

/// More files than a toolchain and a large build have; past it the memory starts anew.
const REMEMBERED: usize = 1 << 17;

/// Files whose bytes this process has hashed, so that handing out their path again costs a `stat`.
///
/// A file counts as unchanged while device, inode, size and mtime are: that finds every write, but not one
/// whose author sets the time back. ctime would find that too, but every hard link made from the file changes
/// it.
#[derive(Default)]
pub(crate) struct Verified {
    seen: Mutex<HashMap<Entry, Stamp>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    mtime: (i64, i64),
}

fn stamp(metadata: &Metadata) -> Stamp {
    Stamp {
        file: (metadata.dev(), metadata.ino()),
        size: metadata.len(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
    }
}

impl Verified {
    pub(crate) fn knows(&self, entry: &Entry, metadata: &Metadata) -> bool {
        self.lock().get(entry) == Some(&stamp(metadata))
    }

    pub(crate) fn remember(&self, entry: &Entry, metadata: &Metadata) {
        let mut seen = self.lock();
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        seen.insert(*entry, stamp(metadata));
    }

    /// After our own refresh of a file's mtime: what was known of `before` holds for the file at `path`.
    pub(crate) fn follow(&self, entry: &Entry, before: &Metadata, path: &Path) {
        if !self.knows(entry, before) {
            return;
        }
        if let Ok(after) = std::fs::symlink_metadata(path)
            && stamp(&after).file == stamp(before).file
            && after.len() == before.len()
        {
            self.remember(entry, &after);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Entry, Stamp>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Merges concurrent makers of one file in this process: one makes, the others wait and then look again. (Two
/// processes may both make it; the second rename replaces equal content.)
#[derive(Default)]
pub(crate) struct Making {
    busy: Mutex<HashSet<Entry>>,
    done: Condvar,
}

impl Making {
    /// Blocks while another thread has the entry; the guard gives it up, also on panic.
    pub(crate) fn enter(&self, entry: Entry) -> MakingGuard<'_> {
        let mut busy = self.lock();
        while !busy.insert(entry) {
            busy = self.done.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        MakingGuard { making: self, entry }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Entry>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct MakingGuard<'a> {
    making: &'a Making,
    entry: Entry,
}

impl Drop for MakingGuard<'_> {
    fn drop(&mut self) {
        self.making.lock().remove(&self.entry);
        self.making.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    use dbuild_proto::DigestFunction;

    use super::*;

    #[test]
    fn one_maker_at_a_time_and_others_are_not_held_up() {
        let making = Making::default();
        let entry = |bytes| Entry::blob(DigestFunction::Blake3, &DigestFunction::Blake3.digest(bytes));
        let (inside, start) = (AtomicU32::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..100 {
                        let _making = making.enter(entry(b"same"));
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let _one = making.enter(entry(b"one"));
        let _other = making.enter(entry(b"other"));
    }

    #[test]
    fn a_panicking_maker_gives_way() {
        let making = Making::default();
        let entry = Entry::blob(DigestFunction::Blake3, &DigestFunction::Blake3.digest(b"x"));
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _making = making.enter(entry);
                    std::panic::resume_unwind(Box::new("a maker's fault"));
                })
                .join()
        });
        assert!(panicked.is_err());
        drop(making.enter(entry));
    }
}
