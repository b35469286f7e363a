//! The pure half of [`super::Watch`]: what depends on which name of which directory (or on a file itself), and what falls
//! when something happens there. Knows numbers of watches, names and events; touches no file system.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// The kernel's number of a watched directory.
pub(super) type WatchId = i32;

/// Something that was looked up: true until an event says otherwise, never again after that.
#[derive(Debug)]
pub(super) struct Fresh(AtomicBool);

impl Fresh {
    pub(super) fn new() -> Arc<Fresh> {
        Arc::new(Fresh(AtomicBool::new(true)))
    }

    pub(super) fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn fall(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What happened in a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// A name came: created, or moved there.
    Came,
    /// A name went: deleted, or moved away.
    Went,
    /// What a name stands for was written, or its attributes changed.
    Changed,
}

#[derive(Debug, Default)]
struct Directory {
    real: PathBuf,
    /// Those who rely on a name's being, or not being, what it was.
    relying: HashMap<OsString, Vec<Weak<Fresh>>>,
    names: Names,
}

/// All names in a directory, once somebody asked; kept up to date by events.
#[derive(Debug, Default)]
pub(super) enum Names {
    #[default]
    Unread,
    /// More than anybody wants to keep.
    TooMany,
    These(Arc<HashSet<OsString>>),
}

impl Names {
    /// Whether `name` may be among them.
    pub(super) fn may_have(&self, name: &OsStr) -> bool {
        match self {
            Names::Unread | Names::TooMany => true,
            Names::These(names) => names.contains(name),
        }
    }
}

impl Directory {
    fn fall(&self) {
        self.relying.values().flatten().filter_map(Weak::upgrade).for_each(|fresh| fresh.fall());
    }
}

/// All watched directories.
#[derive(Debug, Default)]
pub(super) struct Ground {
    directories: HashMap<WatchId, Directory>,
    by_path: HashMap<PathBuf, WatchId>,
}

impl Ground {
    /// How much is watched.
    pub(super) fn len(&self) -> usize {
        self.directories.len()
    }

    pub(super) fn id(&self, real: &std::path::Path) -> Option<WatchId> {
        self.by_path.get(real).copied()
    }

    /// A directory or file is watched from now on. Another path may lead to the same one (a bind mount): the kernel then gives
    /// the same number, and both names are kept apart by whoever relies on them.
    pub(super) fn add(&mut self, real: PathBuf, id: WatchId) {
        self.by_path.insert(real.clone(), id);
        self.directories.entry(id).or_default().real = real;
    }

    /// `fresh` falls with the next event on `name` in this directory, and with the directory itself.
    pub(super) fn rely(&mut self, id: WatchId, name: &OsStr, fresh: &Arc<Fresh>) {
        let Some(directory) = self.directories.get_mut(&id) else {
            // The watch ended since it was looked up.
            fresh.fall();
            return;
        };
        let relying = match directory.relying.get_mut(name) {
            Some(relying) => relying,
            None => directory.relying.entry(name.to_os_string()).or_default(),
        };
        // Those who gave up are swept out before the list grows.
        if relying.len() == relying.capacity() {
            relying.retain(|fresh| fresh.strong_count() > 0);
        }
        relying.push(Arc::downgrade(fresh));
    }

    /// The names in a directory; `None` if it is not watched any more.
    pub(super) fn names(&self, id: WatchId) -> Option<&Names> {
        Some(&self.directories.get(&id)?.names)
    }

    /// The names as they were read *after* the watch began; events that are still to come are repeated on them, which
    /// ends in the truth whether or not the reading saw their effect.
    pub(super) fn set_names(&mut self, id: WatchId, names: Names) {
        if let Some(directory) = self.directories.get_mut(&id) {
            directory.names = names;
        }
    }

    pub(super) fn happened(&mut self, id: WatchId, name: &OsStr, what: Happened) {
        let Some(directory) = self.directories.get_mut(&id) else { return };
        if let Names::These(names) = &mut directory.names {
            match what {
                // Copied only if somebody still looks at what was there before.
                Happened::Came => drop(Arc::make_mut(names).insert(name.to_os_string())),
                Happened::Went => drop(Arc::make_mut(names).remove(name)),
                Happened::Changed => {}
            }
        }
        for fresh in directory.relying.remove(name).into_iter().flatten() {
            if let Some(fresh) = fresh.upgrade() {
                fresh.fall();
            }
        }
    }

    /// The directory itself is not what it was, or its watch ended; nor are those below it what their paths say. Gives
    /// the watches that so are of no use.
    pub(super) fn lost(&mut self, id: WatchId) -> Vec<WatchId> {
        let Some(directory) = self.directories.get(&id) else { return Vec::new() };
        let real = directory.real.clone();
        let below: Vec<WatchId> =
            self.by_path.iter().filter(|(path, _)| path.starts_with(&real)).map(|(_, id)| *id).collect();
        self.by_path.retain(|path, known| *known != id && !path.starts_with(&real));
        let mut ended = Vec::new();
        for id in below.into_iter().chain([id]) {
            if let Some(directory) = self.directories.remove(&id) {
                directory.fall();
                ended.push(id);
            }
        }
        ended
    }

    /// Nothing is known any more (events were lost, or mounts changed). Gives the watches that are to end.
    pub(super) fn clear(&mut self) -> Vec<WatchId> {
        self.by_path.clear();
        let all = std::mem::take(&mut self.directories);
        all.values().for_each(Directory::fall);
        all.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn ground() -> Ground {
        let mut ground = Ground::default();
        ground.add("/".into(), 1);
        ground.add("/a".into(), 2);
        ground
    }

    fn relying(ground: &mut Ground, id: WatchId, name: &str) -> Arc<Fresh> {
        let fresh = Fresh::new();
        ground.rely(id, OsStr::new(name), &fresh);
        fresh
    }

    #[test]
    fn an_event_fells_who_relies_on_that_name_and_nobody_else() {
        for what in [Happened::Came, Happened::Went, Happened::Changed] {
            let mut ground = ground();
            let hit = relying(&mut ground, 2, "x.h");
            let other = relying(&mut ground, 2, "y.h");
            let elsewhere = relying(&mut ground, 1, "x.h");
            ground.happened(2, OsStr::new("x.h"), what);
            assert_eq!([hit.holds(), other.holds(), elsewhere.holds()], [false, true, true]);
            // What is looked up again is true again.
            assert!(relying(&mut ground, 2, "x.h").holds());
        }
    }

    #[test]
    fn names_follow_events() {
        let mut ground = ground();
        assert!(matches!(ground.names(2), Some(Names::Unread)));
        assert!(ground.names(9).is_none());
        ground.set_names(2, Names::These(Arc::new(["old".into(), "both".into()].into())));
        ground.happened(2, OsStr::new("new"), Happened::Came);
        ground.happened(2, OsStr::new("old"), Happened::Went);
        ground.happened(2, OsStr::new("both"), Happened::Changed);
        let names = ground.names(2).unwrap();
        assert!(names.may_have(OsStr::new("new")) && names.may_have(OsStr::new("both")));
        assert!(!names.may_have(OsStr::new("old")));
    }

    #[test]
    fn with_a_directory_falls_all_that_lies_in_it() {
        let mut ground = ground();
        let inside = relying(&mut ground, 2, "x.h");
        let outside = relying(&mut ground, 1, "b");
        assert_eq!(ground.lost(2), [2]);
        assert!(ground.lost(2).is_empty());
        assert!(!inside.holds() && outside.holds());
        assert_eq!(ground.id(Path::new("/a")), None);
        // A watch that ended between two steps: nothing relies on it.
        assert!(!relying(&mut ground, 2, "x.h").holds());
    }

    #[test]
    fn a_directory_takes_those_below_with_it() {
        let mut ground = ground();
        ground.add("/a/b".into(), 3);
        ground.add("/ab".into(), 4);
        let deep = relying(&mut ground, 3, "x.h");
        let mut ended = ground.lost(2);
        ended.sort_unstable();
        assert_eq!(ended, [2, 3]);
        assert!(!deep.holds());
        assert_eq!(ground.id(Path::new("/a/b")), None);
        assert_eq!(ground.id(Path::new("/ab")), Some(4));
    }

    #[test]
    fn after_clearing_nothing_is_known() {
        let mut ground = ground();
        let fresh = relying(&mut ground, 1, "a");
        let mut ended = ground.clear();
        ended.sort_unstable();
        assert_eq!(ended, [1, 2]);
        assert!(!fresh.holds());
        assert_eq!((ground.len(), ground.id(Path::new("/"))), (0, None));
    }

    #[test]
    fn lists_of_those_who_gave_up_do_not_grow() {
        let mut ground = ground();
        for _ in 0..10_000 {
            relying(&mut ground, 2, "x.h");
        }
        assert!(ground.directories[&2].relying[OsStr::new("x.h")].len() < 64);
    }
}
