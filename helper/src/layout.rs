//! Decides what an action's root will look like: which directories are made, which files are linked and which
//! copied, which subtrees are shared with other actions, and where the action may write. Pure: no I/O.
//!
//! Only the working directory, the parents of outputs and `/tmp` are writable; their subdirectories are not,
//! unless they are such themselves. A linked file shares its inode with the store, so it is never laid where an
//! action that runs under the helper's own uid could change it. And no two files of one action share an inode:
//! `#pragma once` of clang takes one inode for one file.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

use dbuild_proto::Digest;

use crate::tree::{Dir, Entry, Input, is_component};

/// As the kernel counts (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// Longer than any path that the kernel takes (PATH_MAX, limits.h): links must not make one.
const MAX_PATH: usize = 4095;
/// Smaller subtrees are laid out in less time than a mount takes.
const SHARE_FROM: u64 = 16;

/// What the caller knows of the action and of the sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Working directory and outputs as [`crate::command::Job`] has them.
    pub cwd: &'a str,
    pub outputs: &'a [crate::command::Output],
    /// The tree becomes `/` (with proc, dev and tmp); otherwise it is an execution root, writable everywhere.
    pub root_is_root: bool,
    /// Parts may be mounted over others.
    pub mounts: bool,
    /// The action runs under another uid than the helper: it cannot change a linked file.
    pub other_uid: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A hard link to the store's read-only file.
    Link,
    /// A file of its own, read-only.
    Copy,
    /// A file of its own that the action may change, because it is an output too.
    Give,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Closed,
    /// The action owns it.
    Open,
    /// Like `/tmp`: mode 1777.
    Sticky,
}

/// One thing to make; paths are relative to the root and parents come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Dir { path: PathBuf, access: Access },
    Link { path: PathBuf, target: Box<str> },
    File { path: PathBuf, digest: Digest, executable: bool, how: How },
}

impl Step {
    pub fn path(&self) -> &Path {
        match self {
            Step::Dir { path, .. } | Step::Link { path, .. } | Step::File { path, .. } => path,
        }
    }
}

/// One mount over the laid-out tree, outer ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    Writable(PathBuf),
    ReadOnly(PathBuf),
    Shared(PathBuf, Digest),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Depth first.
    pub steps: Vec<Step>,
    pub covers: Vec<Cover>,
    /// Where the working directory really is, relative to the root.
    pub cwd: PathBuf,
    /// `/tmp` is part of the tree and must not be covered.
    pub own_tmp: bool,
}

/// Why an action cannot be laid out; fits "failed to …".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    #[error("use {0:?} as a directory: the input root has a file there")]
    NotADirectory(String),
    #[error("resolve {0:?}: more than 40 symbolic links")]
    Loop(String),
    #[error("accept the path {0:?}")]
    Component(String),
}

/// Directories that must exist whatever the tree holds, and whether the action may write there.
#[derive(Debug, Default)]
struct Needs {
    below: BTreeMap<String, Needs>,
    access: Option<Access>,
}

impl Needs {
    fn at(&mut self, path: &[String]) -> &mut Needs {
        path.iter().fold(self, |needs, name| needs.below.entry(name.clone()).or_default())
    }
}

/// Where a path leads inside the root, and which directory of the input is there already.
struct Place {
    path: Vec<String>,
    dir: Option<Digest>,
}

/// Resolves `path` from `start` as the kernel would inside the root: symlinks of the tree are followed, `..` stops
/// at the root, names that are not there are taken as directories to be made.
fn resolve(input: &Input, start: &[String], path: &str) -> Result<Place, LayoutError> {
    let mut todo: VecDeque<String> = path.split('/').map(str::to_owned).collect();
    let mut chain = vec![Some(input.root)];
    let mut done: Vec<String> = Vec::new();
    for name in start.iter().rev() {
        todo.push_front(name.clone());
    }
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                if done.pop().is_some() {
                    chain.pop();
                }
                continue;
            }
            name if !is_component(name) => return Err(LayoutError::Component(path.to_owned())),
            _ => {}
        }
        let here = chain.last().copied().flatten().map(|digest| input.dir(&digest));
        match here.as_deref().and_then(|dir| dir.find(&name)) {
            Some(Entry::Dir(digest)) => {
                chain.push(Some(*digest));
                done.push(name);
            }
            None => {
                chain.push(None);
                done.push(name);
            }
            Some(Entry::File) => return Err(LayoutError::NotADirectory(path.to_owned())),
            Some(Entry::Link(link)) => {
                links += 1;
                let length = |parts: &mut dyn Iterator<Item = &String>| {
                    parts.map(|part| part.len() + 1).sum::<usize>()
                };
                let total = link.target.len() + length(&mut done.iter()) + length(&mut todo.iter());
                if links > MAX_LINKS || total > MAX_PATH {
                    return Err(LayoutError::Loop(path.to_owned()));
                }
                if link.target.starts_with('/') {
                    done.clear();
                    chain.truncate(1);
                }
                for part in link.target.rsplit('/') {
                    todo.push_front(part.to_owned());
                }
            }
        }
    }
    Ok(Place { path: done, dir: chain.last().copied().flatten() })
}

/// Makes the plan. `worth` says whether a subtree of [`SHARE_FROM`] nodes or more is worth sharing; it is asked
/// once per place.
pub fn plan(
    input: &Input,
    wish: Wish<'_>,
    worth: &mut dyn FnMut(&Digest) -> bool,
) -> Result<Plan, LayoutError> {
    let mut needs = Needs::default();
    let mut given = HashSet::new();
    let cwd = resolve(input, &[], wish.cwd)?;
    let at = needs.at(&cwd.path);
    // A working directory at the root would open the whole root for nothing: outputs open what they need.
    if !(wish.root_is_root && cwd.path.is_empty()) {
        at.access = Some(Access::Open);
    }
    for output in wish.outputs {
        let (parent, name) = output.path.rsplit_once('/').unwrap_or(("", &output.path));
        let place = resolve(input, &cwd.path, parent)?;
        needs.at(&place.path).access = Some(Access::Open);
        match name {
            "" | "." => open_below(input, place.dir, &mut needs, &place.path),
            ".." => open_below(input, None, &mut needs, &place.path),
            _ => {
                let here = place.dir.map(|digest| input.dir(&digest));
                let inside = [place.path, vec![name.to_owned()]].concat();
                if let Some(Entry::Dir(digest)) = here.as_deref().and_then(|dir| dir.find(name)) {
                    open_below(input, Some(*digest), &mut needs, &inside);
                }
                given.insert(inside.iter().collect::<PathBuf>());
            }
        }
    }
    let own_tmp = wish.root_is_root && mount_points(input, &mut needs, wish.mounts)?;
    let mut planner = Planner {
        input,
        wish,
        worth,
        given,
        linked: HashSet::new(),
        shared: HashSet::new(),
        plan: Plan { cwd: cwd.path.iter().collect(), own_tmp, ..Plan::default() },
    };
    let mut path = PathBuf::new();
    planner.lay(&mut path, Some(input.root), Some(&needs), false);
    Ok(planner.plan)
}

/// An output that is a directory of the input already is writable all through.
fn open_below(input: &Input, dir: Option<Digest>, needs: &mut Needs, path: &[String]) {
    let mut queue = vec![(path.to_vec(), dir)];
    while let Some((path, dir)) = queue.pop() {
        needs.at(&path).access = Some(Access::Open);
        for (name, child) in dir.iter().flat_map(|digest| input.dir(digest).dirs.clone()) {
            queue.push(([path.clone(), vec![name.into()]].concat(), Some(child)));
        }
    }
}

/// Adds `/proc`, `/dev` and `/tmp`; true when `/tmp` belongs to the tree, as it must where nothing can be mounted.
fn mount_points(input: &Input, needs: &mut Needs, mounts: bool) -> Result<bool, LayoutError> {
    let root = input.dir(&input.root);
    for name in ["proc", "dev"] {
        if matches!(root.find(name), Some(Entry::File | Entry::Link(_))) {
            return Err(LayoutError::NotADirectory(name.to_owned()));
        }
        needs.at(&[name.to_owned()]);
    }
    let held = match root.find("tmp") {
        Some(Entry::Dir(digest)) => input.nodes(digest) > 0,
        Some(Entry::Link(_)) => return Ok(true),
        Some(Entry::File) => return Err(LayoutError::NotADirectory("tmp".to_owned())),
        None => false,
    };
    let tmp = needs.at(&["tmp".to_owned()]);
    let own = !mounts || held || tmp.access.is_some() || !tmp.below.is_empty();
    if own {
        tmp.access = Some(Access::Sticky);
    }
    Ok(own)
}

struct Planner<'a> {
    input: &'a Input,
    wish: Wish<'a>,
    worth: &'a mut dyn FnMut(&Digest) -> bool,
    /// Outputs, by path: an input file of that name is the action's own.
    given: HashSet<PathBuf>,
    linked: HashSet<(Digest, bool)>,
    shared: HashSet<Digest>,
    plan: Plan,
}

impl Planner<'_> {
    /// Lays out the directory at `path`; `outside` says whether what it stands in is mounted writable. The depth of
    /// the recursion is the tree's, which [`Input::new`] bounded, or a path's (4095 bytes).
    fn lay(&mut self, path: &mut PathBuf, digest: Option<Digest>, needs: Option<&Needs>, outside: bool) {
        let exec_root = !self.wish.root_is_root;
        let asked = needs.and_then(|needs| needs.access);
        let access = asked.unwrap_or(if exec_root { Access::Open } else { Access::Closed });
        self.plan.steps.push(Step::Dir { path: path.clone(), access });
        if let (Some(digest), None, false) = (digest, needs, exec_root)
            && self.share(path, digest)
        {
            return;
        }
        let open = access != Access::Closed;
        if self.wish.mounts && self.wish.root_is_root && open != outside {
            let cover = if open { Cover::Writable } else { Cover::ReadOnly };
            self.plan.covers.push(cover(path.clone()));
        }
        let dir = digest.map(|digest| self.input.dir(&digest)).unwrap_or_default();
        self.lay_files(path, &dir, open);
        for (name, child) in &dir.dirs {
            path.push(&**name);
            self.lay(path, Some(*child), needs.and_then(|needs| needs.below.get(&**name)), open);
            path.pop();
        }
        for (name, below) in needs.iter().flat_map(|needs| &needs.below) {
            if dir.find(name).is_none() {
                path.push(name);
                self.lay(path, None, Some(below), open);
                path.pop();
            }
        }
    }

    /// A subtree that is used twice in one action is shared only once: see the head of this file.
    fn share(&mut self, path: &Path, digest: Digest) -> bool {
        let shared = self.wish.mounts
            && self.input.nodes(&digest) >= SHARE_FROM
            && !self.shared.contains(&digest)
            && (self.worth)(&digest);
        if shared {
            self.shared.insert(digest);
            self.plan.covers.push(Cover::Shared(path.to_owned(), digest));
        }
        shared
    }

    fn lay_files(&mut self, path: &Path, dir: &Dir, open: bool) {
        for link in &dir.links {
            self.plan.steps.push(Step::Link { path: path.join(&*link.name), target: link.target.clone() });
        }
        for file in &dir.files {
            let path = path.join(&*file.name);
            let exposed = open && !self.wish.other_uid;
            let how = if self.given.contains(&path) {
                How::Give
            } else if exposed || !self.linked.insert((file.digest, file.executable)) {
                How::Copy
            } else {
                How::Link
            };
            self.plan.steps.push(Step::File { path, digest: file.digest, executable: file.executable, how });
        }
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
