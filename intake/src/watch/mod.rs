//! What is known of files and directories, kept true by inotify(7) instead of by looking again: a hit on a unit with
//! hundreds of headers asks the kernel once whether anything happened.
//!
//! A fact is kept for a path as the compiler spelled it. Every directory on the way there is watched, links followed,
//! so that a directory which is moved, or a link which is turned, fells the fact as a write does. The file itself is
//! watched, too: it may be written by another of its names. The kernel queues an
//! event before the system call that caused it returns; so after [`Watch::settle`] everything that ended before is
//! taken into account. What cannot be watched is not known, and whoever asks has to look:
//!
//! - file systems on which others write without this kernel's knowledge (NFS, FUSE, …);
//! - everything, after events were lost (`IN_Q_OVERFLOW`) or mounts changed, until it is looked at again.
//!
//! One gap is inotify's own: writes through a shared mapping are heard of only when the mapping ends.
//! This module does not know what the facts are used for.

mod ground;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::files::lock;
use crate::resolve::{Disk, Kind, Visitor, walk};
use ground::{Fresh, Ground, Happened, Itself, Names, Subject, WatchId};

/// More files and directories than this are not watched: the kernel's memory is about 1 KiB for each, and its own limit
/// (`fs.inotify.max_user_watches`) is for all programs of the user.
const MAX_WATCHES: usize = 100_000;

/// File systems (their magic numbers, statfs(2)) whose every change passes through this kernel.
const OWN_FILE_SYSTEMS: [i64; 8] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0xF2F5_2010, // f2fs
    0xCA45_1A4E, // bcachefs
    0x2FC1_2FC1, // zfs
    0x794C_7630, // overlayfs: what it forbids (writing below it) nobody does
];

const IN_DIRECTORIES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

const ON_FILES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DONT_FOLLOW);

/// The name under which what is watched is itself relied on.
const ITSELF: &str = "";

/// Facts of type `F` about files, and listings of directories, by path. Shared by all threads; bounded.
pub struct Watch<F> {
    /// `None` where the kernel gives no inotify: then nothing is ever known.
    inner: Option<Mutex<Inner<F>>>,
}

/// Leave to keep a fact: nothing has happened to its path since the ticket was given out.
pub struct Ticket {
    path: OsString,
    spelled: Option<Arc<Place>>,
    fresh: Arc<Fresh>,
}

/// How much a [`Watch`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Directories and files.
    pub watches: u64,
    pub facts: u64,
    /// How often everything was forgotten: events lost, mounts changed, bounds reached.
    pub cleared: u64,
}

struct Inner<F> {
    inotify: OwnedFd,
    /// `/proc/self/mountinfo`, which poll(2) calls changed when a mount comes or goes.
    mounts: Option<File>,
    ground: Ground,
    /// Directories as somebody spelled them.
    places: Map<Arc<Place>>,
    facts: Map<Fact<F>>,
    capacity: usize,
    cleared: u64,
}

/// By absolute path.
type Map<T> = HashMap<OsString, T, foldhash::fast::RandomState>;

/// Where a spelled directory really is.
struct Place {
    fresh: Arc<Fresh>,
    real: PathBuf,
    id: WatchId,
}

struct Fact<F> {
    /// The directory that it was found in; `None` if its own freshness says everything.
    spelled: Option<Arc<Place>>,
    fresh: Arc<Fresh>,
    fact: F,
}

impl<F: Clone> Watch<F> {
    /// Keeps at most `capacity` facts.
    pub fn start(capacity: usize) -> Watch<F> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            tracing::info!(%error, "nothing can be watched");
        }
        let inner = inotify.ok().map(|inotify| {
            Mutex::new(Inner {
                inotify,
                mounts: File::open("/proc/self/mountinfo").ok(),
                ground: Ground::default(),
                places: Map::default(),
                facts: Map::default(),
                capacity,
                cleared: 0,
            })
        });
        Watch { inner }
    }

    /// Knows nothing, ever: everybody has to look.
    pub fn none() -> Watch<F> {
        Watch { inner: None }
    }

    /// Takes into account everything that happened up to now. To be called once before a run of questions, after the
    /// moment whose truth is asked for.
    pub fn settle(&self) {
        if let Some(inner) = &self.inner {
            lock(inner).settle();
        }
    }

    /// Blocks until there is something to [`Watch::settle`]. Without that being done now and then, a busy machine fills
    /// the kernel's queue, and everything known is lost. `false`: there never will be anything.
    pub fn wait(&self) -> bool {
        let Some(inner) = &self.inner else { return false };
        let Ok(inotify) = lock(inner).inotify.try_clone() else { return false };
        loop {
            match poll(&mut [PollFd::new(&inotify, PollFlags::IN)], None) {
                Err(Errno::INTR) => {}
                polled => return polled.is_ok(),
            }
        }
    }

    /// What is known of the file at `path` (absolute).
    pub fn fact(&self, path: &Path) -> Option<F> {
        let inner = lock(self.inner.as_ref()?);
        let fact = inner.facts.get(path.as_os_str())?;
        fact.holds().then(|| fact.fact.clone())
    }

    /// Whether `path` is known to be the regular file itself, and no link to it.
    pub fn is_plain(&self, path: &Path) -> bool {
        let known = |inner: &Inner<F>| {
            let fact = inner.facts.get(path.as_os_str())?;
            Some(fact.holds() && fact.spelled.is_some())
        };
        self.inner.as_ref().is_some_and(|inner| known(&lock(inner)).unwrap_or(false))
    }

    /// Before a look at the regular file at `path`: watches the way there. `None` if that is not possible.
    pub fn ticket(&self, path: &Path) -> Option<Ticket> {
        let mut inner = lock(self.inner.as_ref()?);
        // What happened before is not to fell what is found now.
        inner.settle();
        inner.ticket(path)
    }

    /// After the look: keeps what was found, unless something happened meanwhile.
    pub fn keep(&self, ticket: Ticket, fact: F) {
        let Some(inner) = &self.inner else { return };
        let mut inner = lock(inner);
        inner.settle();
        if inner.facts.len() >= inner.capacity {
            inner.clear();
        }
        let Ticket { path, spelled, fresh } = ticket;
        let fact = Fact { spelled, fresh, fact };
        if fact.holds() {
            inner.facts.insert(path, fact);
        }
    }

    /// Whether `path` is known to lead to a directory. Watches it from now on if it does.
    pub fn is_directory(&self, path: &Path) -> bool {
        self.inner.as_ref().is_some_and(|inner| lock(inner).place(path).is_some())
    }

    /// Where a directory really is, if that is known. Watches it from now on.
    pub fn real(&self, directory: &Path) -> Option<PathBuf> {
        Some(lock(self.inner.as_ref()?).place(directory)?.real.clone())
    }

    /// Whether the directory may have an entry `name`: certainly not if `false`. `None` if the directory cannot be
    /// watched. The first question reads it, up to `limit` entries.
    pub fn may_list(&self, directory: &Path, name: &OsStr, limit: usize) -> Option<bool> {
        let mut inner = lock(self.inner.as_ref()?);
        inner.names(directory, limit).map(|names| names.may_have(name))
    }

    /// All names in the directory as they are now; `Some(None)` if there are more than `limit`. `None` if it cannot be
    /// watched.
    pub fn names(&self, directory: &Path, limit: usize) -> Option<Option<Arc<HashSet<OsString>>>> {
        let mut inner = lock(self.inner.as_ref()?);
        match inner.names(directory, limit)? {
            Names::These(names) => Some(Some(names.clone())),
            Names::TooMany | Names::Unread => Some(None),
        }
    }

    pub fn counts(&self) -> WatchCounts {
        let Some(inner) = &self.inner else { return WatchCounts::default() };
        let inner = lock(inner);
        WatchCounts {
            watches: inner.ground.len() as u64,
            facts: inner.facts.len() as u64,
            cleared: inner.cleared,
        }
    }
}

impl<F> Fact<F> {
    fn holds(&self) -> bool {
        self.fresh.holds() && self.spelled.as_ref().is_none_or(|place| place.fresh.holds())
    }
}

impl<F> Inner<F> {
    fn settle(&mut self) {
        let mut waiting =
            [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::empty())];
        let mut count = 1;
        if let Some(mounts) = &self.mounts {
            waiting[1] = PollFd::new(mounts, PollFlags::PRI);
            count = 2;
        }
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut waiting[..count], Some(&now)) {
            Ok(0) => return,
            Ok(_) => {}
            // Not known is not unchanged.
            Err(_) => return self.clear(),
        }
        let mounts = count == 2 && !waiting[1].revents().is_empty();
        let events = !waiting[0].revents().is_empty();
        if mounts {
            self.clear();
        } else if events {
            self.drain();
        }
    }

    /// Reads all events that wait.
    fn drain(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let Ok(inotify) = self.inotify.try_clone() else { return self.clear() };
        let mut reader = Reader::new(inotify.as_fd(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => return,
                Err(Errno::INTR) => continue,
                Err(_) => return self.clear(),
            };
            let (id, flags) = (event.wd(), event.events());
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                tracing::info!("file events were lost; everything is looked at again");
                self.clear();
                continue;
            }
            let ended = match event.file_name() {
                Some(name) => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    let what = self.what_happened(id, name, flags);
                    self.ground.happened(id, name, what)
                }
                None if flags.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB | ReadFlags::CLOSE_WRITE) => {
                    self.ground.itself(id, Itself::Changed)
                }
                None => self.ground.itself(id, Itself::Gone),
            };
            self.end(ended);
        }
    }

    fn what_happened(&self, id: WatchId, name: &OsStr, flags: ReadFlags) -> Happened {
        if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            return Happened::Came;
        }
        // Of two names that are exchanged, both came first and went then.
        let is_there = || {
            let directory = self.ground.path(id);
            directory.is_some_and(|directory| std::fs::symlink_metadata(directory.join(name)).is_ok())
        };
        match () {
            () if flags.contains(ReadFlags::MOVED_FROM) && is_there() => Happened::Came,
            () if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) => Happened::Went,
            () => Happened::Changed,
        }
    }

    fn end(&self, watches: Vec<WatchId>) {
        for id in watches {
            // The kernel may have ended it already.
            let _ = inotify::remove_watch(&self.inotify, id);
        }
    }

    fn clear(&mut self) {
        self.cleared += 1;
        let ended = self.ground.clear();
        self.end(ended);
        self.places.clear();
        self.facts.clear();
        // Numbers of watches are not used twice; what is still queued for the old ones finds nothing.
    }

    fn ticket(&mut self, path: &Path) -> Option<Ticket> {
        let (directory, name) = (path.parent()?, path.file_name()?);
        let place = self.place(directory)?;
        let fresh = Fresh::new();
        let real = place.real.join(name);
        let kind = std::fs::symlink_metadata(&real).ok()?.file_type();
        let (spelled, real) = if kind.is_symlink() {
            let (steps, real, _) = self.watched_way(path)?;
            self.rely(&steps, &fresh)?;
            (None, real)
        } else {
            self.ground.rely(place.id, name, &fresh);
            (Some(place), real)
        };
        // A pipe or a device is nobody's fact.
        if !kind.is_symlink() && !kind.is_file() {
            return None;
        }
        let id = self.watch(&real, Subject::File)?;
        self.ground.rely(id, OsStr::new(ITSELF), &fresh);
        Some(Ticket { path: path.into(), spelled, fresh })
    }

    fn names(&mut self, directory: &Path, limit: usize) -> Option<&Names> {
        let place = self.place(directory)?;
        if let Names::Unread = self.ground.names(place.id)? {
            let names = read_names(&place.real, limit).ok()?;
            self.ground.set_names(place.id, names);
            // What happened during the reading is repeated on it.
            self.settle();
        }
        // Should the path have come to mean another directory meanwhile, nothing is known.
        self.ground.names(place.id).filter(|_| place.fresh.holds())
    }

    fn rely(&mut self, steps: &[Step], fresh: &Arc<Fresh>) -> Option<()> {
        for (directory, name) in steps {
            self.ground.rely(self.ground.id(directory, Subject::Directory)?, name, fresh);
        }
        Some(())
    }

    /// The directory that `spelled` leads to, watched with all on the way.
    fn place(&mut self, spelled: &Path) -> Option<Arc<Place>> {
        if let Some(place) = self.places.get(spelled.as_os_str()).filter(|place| place.fresh.holds()) {
            return Some(place.clone());
        }
        let (steps, real, Kind::Directory) = self.watched_way(spelled)? else { return None };
        let id = self.watch(&real, Subject::Directory)?;
        let fresh = Fresh::new();
        self.rely(&steps, &fresh)?;
        self.ground.rely(id, OsStr::new(ITSELF), &fresh);
        let place = Arc::new(Place { fresh, real, id });
        if self.places.len() >= MAX_WATCHES {
            self.places.clear();
        }
        self.places.insert(spelled.into(), place.clone());
        place.fresh.holds().then_some(place)
    }

    /// Every (directory, name) that decides where `path` leads, where that is, and what. All those directories are
    /// watched, and were so before the way was walked for the last time.
    fn watched_way(&mut self, path: &Path) -> Option<(Vec<Step>, PathBuf, Kind)> {
        if !path.is_absolute() {
            return None;
        }
        for _ in 0..4 {
            let mut way = Way::default();
            let (real, kind) = walk::<std::io::Error>(path, &Disk, &mut way).ok()?;
            if let (Some(directory), Some(name)) = (real.parent(), real.file_name()) {
                way.0.push((directory.to_path_buf(), name.to_os_string()));
            }
            let before = self.ground.paths();
            for (directory, _) in &way.0 {
                self.watch(directory, Subject::Directory)?;
            }
            if self.ground.paths() == before {
                return Some((way.0, real, kind));
            }
        }
        None
    }

    fn watch(&mut self, real: &Path, subject: Subject) -> Option<WatchId> {
        if let Some(id) = self.ground.id(real, subject) {
            return Some(id);
        }
        if self.ground.len() >= MAX_WATCHES {
            self.clear();
        }
        let kind = rustix::fs::statfs(real).ok()?;
        if !OWN_FILE_SYSTEMS.contains(&kind.f_type) {
            return None;
        }
        let flags = match subject {
            Subject::Directory => IN_DIRECTORIES,
            Subject::File => ON_FILES,
        };
        let id = inotify::add_watch(&self.inotify, real, flags).ok()?;
        let ended = self.ground.add(real.to_path_buf(), id, subject);
        self.end(ended);
        Some(id)
    }
}

/// A directory, and a name in it that was looked up.
type Step = (PathBuf, OsString);

/// The names that decide where a path leads.
#[derive(Default)]
struct Way(Vec<Step>);

impl Way {
    fn step(&mut self, real: &Path) {
        if let (Some(directory), Some(name)) = (real.parent(), real.file_name()) {
            self.0.push((directory.to_path_buf(), name.to_os_string()));
        }
    }
}

impl Visitor<std::io::Error> for Way {
    fn directory(&mut self, real: &Path) -> std::io::Result<()> {
        self.step(real);
        Ok(())
    }

    fn symlink(&mut self, real: &Path, _target: &Path) -> std::io::Result<()> {
        self.step(real);
        Ok(())
    }
}

fn read_names(directory: &Path, limit: usize) -> std::io::Result<Names> {
    let mut names = HashSet::new();
    for entry in std::fs::read_dir(directory)? {
        names.insert(entry?.file_name());
        if names.len() > limit {
            return Ok(Names::TooMany);
        }
    }
    Ok(Names::These(Arc::new(names)))
}
