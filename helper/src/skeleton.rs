//! Roots on disk, kept from action to action. What an action can only read stays where it is when the action ends,
//! and the next one, whose root mostly looks the same, gets it with the differences made: making and removing
//! directories is what costs most on a disk. Where an action may write, everything is made for it alone: the directory
//! itself is emptied and used again only if nothing can be left in it of what was done to it. One skeleton serves one
//! action at a time.
//!
//! On disk: `root` is what the action sees, `old-N` was writable and is about to be removed. After a fault of any kind
//! the whole skeleton is removed and not used again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dbuild_cache::Store;
use dbuild_proto::{Digest, DigestFunction};
use rustix::fs::{IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

use crate::layout::{Access, How, Step};
use crate::stage::{StageError, make, open_up, remove_tree};

/// A larger root is not kept: its names alone take megabytes.
const KEPT_NODES: usize = 50_000;

/// A directory that had so many names that its table of them has grown to this, in bytes, is not used again.
const LARGE: u64 = 64 * 1024;

/// What stands at a path that only the helper writes to.
#[derive(Debug, PartialEq, Eq)]
enum Node {
    Dir,
    Link(Box<str>),
    File(Digest, bool, How),
}

impl Node {
    fn is(&self, step: &Step) -> bool {
        match (self, step) {
            (Node::Dir, Step::Dir { .. }) => true,
            (Node::Link(here), Step::Link { target, .. }) => here == target,
            (Node::File(here, runs, by), Step::File { digest, executable, how, .. }) => {
                (here, runs, by) == (digest, executable, how)
            }
            _ => false,
        }
    }

    fn of(step: &Step) -> Node {
        match step {
            Step::Dir { .. } => Node::Dir,
            Step::Link { target, .. } => Node::Link(target.clone()),
            Step::File { digest, executable, how, .. } => Node::File(*digest, *executable, *how),
        }
    }
}

/// What becomes of a directory, and of what stands in it, when the action has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zone {
    /// It stays, with all that is in it.
    Kept,
    /// The action may write here: it is made anew. Directories in it that are closed to the action stay.
    Top,
    /// It goes, with all that is in it.
    Passing,
}

/// The zone of what `step` makes in a directory of the zone `parent`.
fn zone(parent: Zone, step: &Step) -> Zone {
    match (parent, step) {
        (Zone::Kept, Step::Dir { access: Access::Open | Access::Sticky, .. }) => Zone::Top,
        (Zone::Kept, _) | (Zone::Top, Step::Dir { access: Access::Closed, .. }) => Zone::Kept,
        _ => Zone::Passing,
    }
}

/// What must be done to a skeleton.
#[derive(Debug, Default)]
pub struct Change {
    /// Topmost of what is not wanted.
    doomed: Vec<PathBuf>,
    /// Which of the plan's steps are to be made, in order.
    make: Vec<usize>,
    /// Directories that are there already and are opened.
    open: Vec<usize>,
    tops: Vec<Top>,
}

/// A writable directory that stands in a closed one.
#[derive(Debug)]
struct Top {
    path: PathBuf,
    /// Closed directories in it, which must be the same in the end.
    children: Vec<Child>,
    flags: Option<IFlags>,
}

/// A closed directory in a writable one. It is held open from before the action until after it, so that its inode's
/// number cannot come to mean another file.
#[derive(Debug)]
struct Child {
    path: PathBuf,
    held: Option<(OwnedFd, u64)>,
}

impl Child {
    fn hold(&mut self, root: &Path) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::open(root.join(&self.path), flags, Mode::empty())?;
        let inode = rustix::fs::fstat(&held)?.st_ino;
        self.held = Some((held, inode));
        Ok(())
    }

    fn is(&self, name: &OsStr, inode: u64) -> bool {
        self.path.file_name() == Some(name) && self.held.as_ref().is_some_and(|(_, held)| *held == inode)
    }
}

impl Top {
    /// Empties the directory, but for the closed ones in it, and takes it back from the action; false if it cannot be
    /// as it was before.
    fn empty(&self, at: &Path) -> Result<bool> {
        let marked = flags(at).is_none_or(|flags| Some(flags) != self.flags);
        if marked || std::fs::symlink_metadata(at)?.size() > LARGE {
            return Ok(false);
        }
        let mut kept = 0;
        for entry in std::fs::read_dir(at)? {
            let entry = entry?;
            let name = entry.file_name();
            if self.children.iter().any(|child| child.is(&name, entry.ino())) {
                kept += 1;
            } else if entry.file_type()?.is_dir() {
                remove_tree(&entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        let own = std::fs::symlink_metadata(at.parent().unwrap_or(at))?;
        std::os::unix::fs::lchown(at, Some(own.uid()), Some(own.gid()))?;
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755))?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        rustix::fs::utimensat(rustix::fs::CWD, at, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(kept == self.children.len())
    }
}

/// The flags of a directory's inode (`ioctl_iflags(2)`), unless it has extended attributes (ACLs are such): those
/// would be inherited by what comes after.
fn flags(at: &Path) -> Option<IFlags> {
    match rustix::fs::listxattr(at, &mut [0u8; 0]) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => {}
        _ => return None,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::ioctl_getflags(rustix::fs::open(at, flags, Mode::empty()).ok()?).ok()
}

/// The directory of one action.
#[derive(Debug)]
pub struct Skeleton {
    home: PathBuf,
    root: PathBuf,
    known: HashMap<PathBuf, Node>,
    tops: Vec<Top>,
    /// Working directory of the last action: actions of one project look alike.
    cwd: PathBuf,
    /// How many directories were put aside so far.
    aside: u64,
    /// How many damaged files the store had found when this was last changed: its links may be to one that was found since.
    damaged: u64,
}

impl Skeleton {
    fn new(home: PathBuf) -> Skeleton {
        let root = home.join("root");
        Skeleton {
            home,
            root,
            known: HashMap::new(),
            tops: Vec::new(),
            cwd: PathBuf::new(),
            aside: 0,
            damaged: 0,
        }
    }

    /// What the action sees.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Compares what is there with what is wanted. From here until [`Skeleton::apply`] the skeleton is in between;
    /// if it does not come to that, it is to be dropped.
    pub fn change(&mut self, steps: &[Step], cwd: &Path) -> Change {
        self.cwd = cwd.to_owned();
        let mut change = Change::default();
        let mut old = std::mem::take(&mut self.known);
        let mut known = HashMap::with_capacity(steps.len());
        // Of the directories that lead to the current step, outermost first: a plan is in depth-first order.
        let mut zones: Vec<Zone> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let path = step.path();
            let depth = path.components().count();
            let parent = depth.checked_sub(1).map_or(Zone::Kept, |above| zones[above]);
            let zone = zone(parent, step);
            if matches!(step, Step::Dir { .. }) {
                zones.truncate(depth);
                zones.push(zone);
                if zone == Zone::Top {
                    change.tops.push(Top { path: path.to_owned(), children: Vec::new(), flags: None });
                } else if parent == Zone::Top && zone == Zone::Kept {
                    let top = change.tops.iter_mut().rfind(|top| Some(&*top.path) == path.parent());
                    top.into_iter()
                        .for_each(|top| top.children.push(Child { path: path.to_owned(), held: None }));
                }
            }
            if zone == Zone::Passing {
                change.make.push(at);
                continue;
            }
            match old.remove_entry(path) {
                Some((path, node)) if node.is(step) => {
                    if zone == Zone::Top {
                        change.open.push(at);
                    }
                    known.insert(path, node);
                    continue;
                }
                Some((path, _)) => change.doomed.push(path),
                None => {}
            }
            change.make.push(at);
            known.insert(path.to_owned(), Node::of(step));
        }
        change.doomed.extend(old.into_keys());
        change.doomed.sort_unstable();
        // Whatever stands below something that goes, goes with it.
        change.doomed.dedup_by(|below, above| below.starts_with(above));
        self.known = known;
        change
    }

    /// Makes the change on disk. Blocks. After an error the skeleton is to be dropped.
    pub fn apply(
        &mut self,
        store: &Store,
        function: DigestFunction,
        steps: &[Step],
        mut change: Change,
        owner: Option<u32>,
    ) -> std::result::Result<(), StageError> {
        if !self.root.exists() {
            new_dir(&self.home)?;
            new_dir(&self.root)?;
        }
        for path in &change.doomed {
            let path = self.root.join(path);
            // A directory is the rarer case: what differs are files.
            if std::fs::remove_file(&path).is_err() {
                remove_tree(&path)?;
            }
        }
        for step in change.open.iter().map(|at| &steps[*at]) {
            if let Step::Dir { path, access } = step {
                open_up(&self.root.join(path), *access, owner)?;
            }
        }
        for at in &change.make {
            make(store, function, &self.root, &steps[*at], owner)?;
        }
        for top in &mut change.tops {
            top.flags = flags(&self.root.join(&top.path));
        }
        for child in change.tops.iter_mut().flat_map(|top| &mut top.children) {
            child.hold(&self.root)?;
        }
        self.damaged = store.counters().damaged;
        self.tops = change.tops;
        Ok(())
    }

    /// After an action: puts aside where it could write. What is returned is to be removed. Blocks. After an error
    /// the skeleton is to be dropped.
    fn close(&mut self) -> Result<Vec<PathBuf>> {
        let mut aside = Vec::new();
        for top in std::mem::take(&mut self.tops) {
            // A name is never used again: what is put aside is removed while the next action may run.
            self.aside += 1;
            let (now, old) = (self.root.join(&top.path), self.home.join(format!("old-{}", self.aside)));
            if top.empty(&now).unwrap_or(false) {
                continue;
            }
            std::fs::rename(&now, &old)?;
            new_dir(&now)?;
            for child in &top.children {
                let name =
                    child.path.file_name().ok_or_else(|| Error::other("a directory without a name"))?;
                // Each was a mount point, which nobody in there could move; to be sure, it must be the same one.
                if !child.is(name, std::fs::symlink_metadata(old.join(name))?.ino()) {
                    return Err(Error::other(format!("{} was replaced", child.path.display())));
                }
                std::fs::rename(old.join(name), now.join(name))?;
            }
            aside.push(old);
        }
        Ok(aside)
    }
}

impl Drop for Skeleton {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.home) {
            tracing::warn!("failed to remove {}: {error}", self.home.display());
        }
    }
}

fn new_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().mode(0o755).create(path)
}

/// The skeletons that no action uses now. Lock order: only `free`, never across I/O.
#[derive(Debug)]
pub struct Skeletons {
    dir: PathBuf,
    /// The least recently used first.
    free: Mutex<Vec<Skeleton>>,
    most: usize,
    serial: AtomicU64,
}

impl Skeletons {
    /// For `slots` actions at a time; `dir` exists and is empty.
    pub fn new(dir: PathBuf, slots: u32) -> Skeletons {
        // Two projects in turn find theirs again; one is closed while the next action begins.
        let most = 2 * slots as usize + 1;
        Skeletons { dir, free: Mutex::default(), most, serial: AtomicU64::new(0) }
    }

    /// One for an action in `cwd`: what served such a one before, or an empty one. `damaged`: how many damaged files the store
    /// has found by now.
    pub fn take(&self, cwd: &Path, damaged: u64) -> Skeleton {
        let mut free = self.lock();
        let doubtful: Vec<_> = free.extract_if(.., |skeleton| skeleton.damaged != damaged).collect();
        let fits = free.iter().rposition(|skeleton| skeleton.cwd == cwd).map(|at| free.remove(at));
        drop(free);
        drop(doubtful);
        fits.unwrap_or_else(|| self.empty())
    }

    /// One that nothing is in.
    pub fn empty(&self) -> Skeleton {
        Skeleton::new(self.dir.join(self.serial.fetch_add(1, Ordering::Relaxed).to_string()))
    }

    /// Takes back what an action has used. No process of it may be left. Blocks.
    pub fn give_back(&self, mut skeleton: Skeleton) {
        if skeleton.known.len() > KEPT_NODES {
            return;
        }
        match skeleton.close() {
            Ok(aside) => {
                let surplus = {
                    let mut free = self.lock();
                    free.push(skeleton);
                    if free.len() > self.most { Some(free.remove(0)) } else { None }
                };
                drop(surplus);
                for old in aside {
                    if let Err(error) = remove_tree(&old) {
                        tracing::warn!("failed to remove {}: {error}", old.display());
                    }
                }
            }
            Err(error) => tracing::debug!("an action's root is not kept: {error}"),
        }
    }

    /// Removes them all. Blocks.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Skeleton>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files among the steps that a change makes.
pub fn files<'a>(steps: &'a [Step], change: &'a Change) -> impl Iterator<Item = Digest> + 'a {
    change.make.iter().filter_map(|at| match &steps[*at] {
        Step::File { digest, .. } => Some(*digest),
        _ => None,
    })
}

#[cfg(test)]
#[path = "skeleton_tests.rs"]
mod tests;
