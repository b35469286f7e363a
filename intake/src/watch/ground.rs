//! The pure half of [`super::Watch`]: what depends on which name of which directory (or on a file itself), and what falls
//! when something happens there. Knows numbers of watches, names and events; touches no file system.
//!
//! The kernel watches inodes, everybody else thinks in paths. Which path leads to which watch is true because every
//! directory on the way is watched, too: when a name in it comes or goes, that path and all below it are forgotten, and
//! the next look finds out anew. Several paths may lead to one watch (bind mounts, hard links).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// The kernel's number of a watch.
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
    /// The attributes of what a name stands for changed.
    Changed,
}

/// What happened to something watched itself, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Itself {
    /// Written, or its attributes changed; its paths lead to it as before.
    Changed,
    /// Moved, deleted, unmounted, or not watched any more.
    Gone,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Directory,
    File,
}

#[derive(Debug)]
struct Watched {
    subject: Subject,
    /// Every path that leads here; never empty.
    paths: Vec<PathBuf>,
    /// Those who rely on a name's being, or not being, what it was.
    relying: HashMap<OsString, Vec<Weak<Fresh>>>,
    names: Names,
}

impl Watched {
    fn fall(&mut self) {
        for fresh in self.relying.drain().flat_map(|(_, relying)| relying) {
            if let Some(fresh) = fresh.upgrade() {
                fresh.fall();
            }
        }
        self.names = Names::Unread;
    }
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

/// Everything that is watched.
#[derive(Debug, Default)]
pub(super) struct Ground {
    watched: HashMap<WatchId, Watched>,
    /// Sorted, so that what lies below a directory stands together.
    by_path: BTreeMap<OsString, WatchId>,
}

impl Ground {
    /// How much is watched.
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    /// How many paths lead there: grows with each new one.
    pub(super) fn paths(&self) -> usize {
        self.by_path.len()
    }

    /// The watch at a path, if there is one of this kind.
    pub(super) fn id(&self, real: &Path, subject: Subject) -> Option<WatchId> {
        let id = *self.by_path.get(real.as_os_str())?;
        (self.watched.get(&id)?.subject == subject).then_some(id)
    }

    /// A path by which a watch was made.
    pub(super) fn path(&self, id: WatchId) -> Option<&Path> {
        self.watched.get(&id)?.paths.first().map(PathBuf::as_path)
    }

    /// `real` is watched from now on. Gives watches that are of no use any more.
    pub(super) fn add(&mut self, real: PathBuf, id: WatchId, subject: Subject) -> Vec<WatchId> {
        // What another event would have told: something else is there now.
        let mut ended = match self.by_path.get(real.as_os_str()) {
            Some(known) if *known == id => Vec::new(),
            Some(_) => self.forget(&real),
            None => Vec::new(),
        };
        // The number is the inode's: what it was taken for before is over.
        if self.watched.get(&id).is_some_and(|watched| watched.subject != subject) {
            ended.extend(self.itself(id, Itself::Gone).into_iter().filter(|ended| *ended != id));
        }
        self.by_path.insert(real.clone().into_os_string(), id);
        let watched = self.watched.entry(id).or_insert_with(|| Watched {
            subject,
            paths: Vec::new(),
            relying: HashMap::new(),
            names: Names::Unread,
        });
        if !watched.paths.contains(&real) {
            watched.paths.push(real);
        }
        ended
    }

    /// `fresh` falls with the next event on `name` in this directory, and with the directory itself.
    pub(super) fn rely(&mut self, id: WatchId, name: &OsStr, fresh: &Arc<Fresh>) {
        let Some(watched) = self.watched.get_mut(&id) else {
            // The watch ended since it was looked up.
            fresh.fall();
            return;
        };
        let relying = match watched.relying.get_mut(name) {
            Some(relying) => relying,
            None => watched.relying.entry(name.to_os_string()).or_default(),
        };
        // Those who gave up are swept out before the list grows.
        if relying.len() == relying.capacity() {
            relying.retain(|fresh| fresh.strong_count() > 0);
        }
        relying.push(Arc::downgrade(fresh));
    }

    /// The names in a directory; `None` if it is not watched any more.
    pub(super) fn names(&self, id: WatchId) -> Option<&Names> {
        Some(&self.watched.get(&id)?.names)
    }

    /// The names as they were read *after* the watch began; events that are still to come are repeated on them, which
    /// ends in the truth whether or not the reading saw their effect.
    pub(super) fn set_names(&mut self, id: WatchId, names: Names) {
        if let Some(watched) = self.watched.get_mut(&id) {
            watched.names = names;
        }
    }

    /// Something happened to a name in a directory. Gives watches that are of no use any more.
    pub(super) fn happened(&mut self, id: WatchId, name: &OsStr, what: Happened) -> Vec<WatchId> {
        let Some(watched) = self.watched.get_mut(&id) else { return Vec::new() };
        if let Names::These(names) = &mut watched.names {
            match what {
                // Copied only if somebody still looks at what was there before.
                Happened::Came => drop(Arc::make_mut(names).insert(name.to_os_string())),
                Happened::Went => drop(Arc::make_mut(names).remove(name)),
                Happened::Changed => {}
            }
        }
        for fresh in watched.relying.remove(name).into_iter().flatten() {
            if let Some(fresh) = fresh.upgrade() {
                fresh.fall();
            }
        }
        if what == Happened::Changed {
            return Vec::new();
        }
        // The path leads to something else now, whatever the old thing goes on to do elsewhere.
        let paths: Vec<PathBuf> = watched.paths.iter().map(|path| path.join(name)).collect();
        paths.iter().flat_map(|path| self.forget(path)).collect()
    }

    /// Something happened to what is watched itself. Gives watches that are of no use any more.
    pub(super) fn itself(&mut self, id: WatchId, what: Itself) -> Vec<WatchId> {
        let Some(watched) = self.watched.get_mut(&id) else { return Vec::new() };
        watched.fall();
        match what {
            Itself::Changed => Vec::new(),
            Itself::Gone => {
                let paths = watched.paths.clone();
                paths.iter().flat_map(|path| self.forget(path)).collect()
            }
        }
    }

    /// A path, and all below it, leads nowhere that we know. Gives watches that no path leads to any more.
    fn forget(&mut self, path: &Path) -> Vec<WatchId> {
        let own = path.as_os_str();
        if !self.by_path.contains_key(own) {
            // Nothing below it is watched either: everything on the way is.
            return Vec::new();
        }
        let mut first = own.to_os_string();
        first.push("/");
        let below = self
            .by_path
            .range::<OsStr, _>((std::ops::Bound::Included(first.as_os_str()), std::ops::Bound::Unbounded));
        let prefix = first.as_encoded_bytes();
        let mut paths: Vec<OsString> = below
            .map(|(path, _)| path)
            .take_while(|path| path.as_encoded_bytes().starts_with(prefix))
            .cloned()
            .collect();
        paths.push(own.to_os_string());
        let mut ended = Vec::new();
        for path in paths {
            let Some(id) = self.by_path.remove(&path) else { continue };
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            watched.paths.retain(|known| known.as_os_str() != path);
            // Whoever came by this path may come by none now.
            watched.fall();
            if watched.paths.is_empty() {
                self.watched.remove(&id);
                ended.push(id);
            }
        }
        ended
    }

    /// Nothing is known any more (events were lost, or mounts changed). Gives the watches that are to end.
    pub(super) fn clear(&mut self) -> Vec<WatchId> {
        self.by_path.clear();
        let mut all = std::mem::take(&mut self.watched);
        all.values_mut().for_each(Watched::fall);
        all.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: Subject = Subject::Directory;

    fn ground() -> Ground {
        let mut ground = Ground::default();
        assert!(ground.add("/".into(), 1, DIRECTORY).is_empty());
        assert!(ground.add("/a".into(), 2, DIRECTORY).is_empty());
        ground
    }

    fn relying(ground: &mut Ground, id: WatchId, name: &str) -> Arc<Fresh> {
        let fresh = Fresh::new();
        ground.rely(id, OsStr::new(name), &fresh);
        fresh
    }

    fn sorted(mut ids: Vec<WatchId>) -> Vec<WatchId> {
        ids.sort_unstable();
        ids
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
    fn a_name_that_goes_takes_its_watch_and_those_below_with_it() {
        for gone in [true, false] {
            let mut ground = ground();
            ground.add("/a/b".into(), 3, DIRECTORY);
            ground.add("/a/b/x.h".into(), 5, Subject::File);
            ground.add("/ab".into(), 4, DIRECTORY);
            ground.add("/a.h".into(), 6, Subject::File);
            let deep = relying(&mut ground, 3, "x.h");
            let ended = match gone {
                true => ground.itself(2, Itself::Gone),
                false => ground.happened(1, OsStr::new("a"), Happened::Went),
            };
            assert_eq!(sorted(ended), [2, 3, 5]);
            assert!(!deep.holds());
            assert_eq!(ground.id(Path::new("/a/b"), DIRECTORY), None);
            assert_eq!(ground.id(Path::new("/ab"), DIRECTORY), Some(4));
            assert_eq!(ground.id(Path::new("/a.h"), Subject::File), Some(6));
            // A watch that ended between two steps: nothing relies on it.
            assert!(!relying(&mut ground, 3, "x.h").holds());
        }
    }

    #[test]
    fn a_change_of_the_thing_itself_keeps_its_watch() {
        let mut ground = ground();
        ground.add("/a/x.h".into(), 3, Subject::File);
        let fresh = relying(&mut ground, 3, "");
        assert!(ground.itself(3, Itself::Changed).is_empty());
        assert!(!fresh.holds());
        assert_eq!(ground.id(Path::new("/a/x.h"), Subject::File), Some(3));
        assert!(relying(&mut ground, 3, "").holds());
    }

    #[test]
    fn a_watch_lives_as_long_as_one_path_leads_to_it() {
        let mut ground = ground();
        ground.add("/a/x.h".into(), 3, Subject::File);
        ground.add("/x-too.h".into(), 3, Subject::File);
        let fresh = relying(&mut ground, 3, "");
        assert!(ground.happened(1, OsStr::new("x-too.h"), Happened::Went).is_empty());
        // Not knowing who came by which path, all have to look again.
        assert!(!fresh.holds());
        assert_eq!(ground.id(Path::new("/a/x.h"), Subject::File), Some(3));
        assert_eq!(ground.happened(2, OsStr::new("x.h"), Happened::Went), [3]);
    }

    #[test]
    fn a_path_is_a_file_or_a_directory() {
        let mut ground = ground();
        ground.add("/a/x".into(), 3, Subject::File);
        assert_eq!(ground.id(Path::new("/a/x"), DIRECTORY), None);
        let fresh = relying(&mut ground, 3, "");
        assert_eq!(ground.add("/a/x".into(), 4, DIRECTORY), [3]);
        assert!(!fresh.holds());
        assert_eq!(ground.id(Path::new("/a/x"), DIRECTORY), Some(4));
        // The number itself may come back as something else.
        let fresh = relying(&mut ground, 4, "y.h");
        ground.add("/a/z".into(), 4, Subject::File);
        assert!(!fresh.holds());
        assert_eq!(ground.id(Path::new("/a/x"), DIRECTORY), None);
        assert_eq!(ground.id(Path::new("/a/z"), Subject::File), Some(4));
    }

    #[test]
    fn after_clearing_nothing_is_known() {
        let mut ground = ground();
        let fresh = relying(&mut ground, 1, "a");
        assert_eq!(sorted(ground.clear()), [1, 2]);
        assert!(!fresh.holds());
        assert_eq!((ground.len(), ground.id(Path::new("/"), DIRECTORY)), (0, None));
    }

    #[test]
    fn lists_of_those_who_gave_up_do_not_grow() {
        let mut ground = ground();
        for _ in 0..10_000 {
            relying(&mut ground, 2, "x.h");
        }
        assert!(ground.watched[&2].relying[OsStr::new("x.h")].len() < 64);
    }
}
