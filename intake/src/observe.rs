//! What a traced compile read, missed and wrote, in terms that can be checked again later.
//!
//! A trace is what processes did; an observation is what their result depends on. Temporary files, outputs, devices
//! and the toolchain's own files (which its identity covers) are left out. What the loader and the C library open for
//! themselves (shared libraries, locales) is in no trace: the toolchain covers that, too.
//! This module hashes nothing and knows neither cache nor helpers.

mod scope;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dbuild_shims::trace::{Kind, Outcome, Record, Trace};

use crate::error::Doubt;

pub use scope::Scope;
use scope::is_ignored;

const EACCES: u16 = 13;
const EEXIST: u16 = 17;
const EINVAL: u16 = 22;

/// Names that were looked for and not found in a directory that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// As the compiler spelled it (absolute; links and `..` still in it).
    pub directory: PathBuf,
    /// Sorted.
    pub names: Vec<OsString>,
}

/// What a compile's result depends on, and what it left behind. Paths are absolute, as the compiler spelled them;
/// lists are sorted and without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Regular files that were opened or looked at.
    pub files: Vec<PathBuf>,
    /// Look-ups that failed, each reduced to the first missing name under the deepest existing directory.
    pub absent: Vec<Absent>,
    /// Directories that were found.
    pub directories: Vec<PathBuf>,
    /// Files that were written and are still there, declared outputs included.
    pub written: Vec<PathBuf>,
    /// Those of `written` that nobody declared. If there are any, the result is more than its outputs.
    pub strays: Vec<PathBuf>,
    /// Variables that somebody asked for by name.
    pub variables: Vec<OsString>,
    /// Directories whose names were read, but for those in which crates are searched.
    pub listed: Vec<PathBuf>,
    /// Programs that were executed and are not the toolchain's (each is among `files`, too). What they load is not
    /// known, so such a compile must not leave this machine.
    pub programs: Vec<PathBuf>,
}

/// Reads the trace file at `path` and observes.
///
/// # Errors
/// [`Doubt`]: nothing must be remembered of this compile.
pub fn read(path: &Path, scope: &Scope) -> Result<Observed, Doubt> {
    let trace = Trace::read(path).map_err(|error| Doubt::Trace(error.to_string()))?;
    observe(&trace, scope)
}

/// Turns a trace into an observation. Looks at the file system as it is now, so it must follow the compile at once.
pub fn observe(trace: &Trace, scope: &Scope) -> Result<Observed, Doubt> {
    if trace.overflowed() {
        return Err(Doubt::Trace("it is not complete".into()));
    }
    if trace.blind() {
        return Err(Doubt::Trace("a program took part that cannot be observed".into()));
    }
    let mut looks = Looks::default();
    for record in trace.records() {
        looks.record(&record.map_err(|error| Doubt::Trace(error.to_string()))?, scope)?;
    }
    if !looks.paths.values().any(|look| look.found) {
        return Err(Doubt::Trace("nothing was recorded".into()));
    }
    looks.settle(scope)
}

/// The records, each path once. Keys are tidy bytes: comparing `Path`s by component costs more than the `stat`s.
#[derive(Default)]
struct Looks {
    paths: HashMap<OsString, Look>,
    variables: BTreeSet<OsString>,
}

/// What was done with one path.
#[derive(Clone, Copy, Default)]
struct Look {
    found: bool,
    absent: bool,
    written: bool,
    /// It could not be written, made or removed on the other machine.
    denied: bool,
    /// The last that was done there left something.
    left: bool,
    executed: bool,
    /// Opened for reading before anybody in this compile wrote it.
    read_first: bool,
    /// Removed though nobody in this compile had written it.
    removed: bool,
    /// Opened for reading.
    opened: bool,
    /// Its names were read.
    listed: bool,
    /// A directory that was made.
    made: bool,
}

impl Looks {
    fn record(&mut self, record: &Record, scope: &Scope) -> Result<(), Doubt> {
        if record.kind == Kind::Variable {
            if !self.variables.contains(record.path.as_os_str()) {
                self.variables.insert(record.path.as_os_str().to_os_string());
            }
            return Ok(());
        }
        let look = self.at(record.path);
        match (record.kind, record.outcome) {
            // It is there already.
            (Kind::MakeDirectory, Outcome::Failed(EEXIST)) => look.found = true,
            // Here it may succeed: an action's inputs cannot be changed.
            (Kind::OpenWrite | Kind::Rename | Kind::Unlink | Kind::MakeDirectory, Outcome::Failed(_))
            | (Kind::OpenWrite | Kind::Rename | Kind::MakeDirectory, Outcome::Absent)
                if scope.elsewhere =>
            {
                look.denied = true;
                if record.kind == Kind::Rename {
                    self.at(record.second).denied = true;
                }
            }
            // A write that failed leaves nothing; if it mattered, the compile failed.
            (Kind::OpenWrite | Kind::Rename | Kind::Unlink, Outcome::Failed(_))
            | (Kind::OpenWrite | Kind::Rename, Outcome::Absent) => {}
            // Had it been there, it would be gone now (gcc removes the `.gcda` of an older build).
            (Kind::Unlink, Outcome::Absent) if look.written => {}
            (Kind::Unlink, Outcome::Found) => {
                look.removed |= !look.written;
                look.written = true;
                look.left = false;
            }
            (Kind::OpenWrite, Outcome::Found) => {
                look.written = true;
                look.left = true;
            }
            (Kind::Rename, Outcome::Found) => {
                look.written = true;
                look.left = false;
                let second = self.at(record.second);
                second.written = true;
                second.left = true;
            }
            (Kind::MakeDirectory, Outcome::Found) => {
                look.written = true;
                look.left = true;
                look.made = true;
            }
            (Kind::Exec, _) => look.executed = true,
            (Kind::Opendir, Outcome::Found) if !(scope.unit.is_some() && scope.is_odd(record.path)) => {
                look.found = true;
                look.listed = true;
            }
            (Kind::OpenRead, Outcome::Found) => {
                look.read_first |= !look.written;
                look.found = true;
                look.opened = true;
                if scope.is_odd(record.path) {
                    return Err(Doubt::Special(record.path.to_path_buf()));
                }
            }
            // rustc looks at nothing there but what it opens; a macro may.
            (_, Outcome::Found | Outcome::Absent) if scope.unit.is_some() && scope.is_odd(record.path) => {
                return Err(Doubt::Special(record.path.to_path_buf()));
            }
            (_, Outcome::Found) => look.found = true,
            (_, Outcome::Absent) => look.absent = true,
            // No link; not executable: it is there.
            (Kind::Readlink, Outcome::Failed(EINVAL)) | (Kind::Access, Outcome::Failed(EACCES)) => {
                look.found = true;
            }
            (_, Outcome::Failed(_)) if is_ignored(record.path.as_os_str()) => {}
            (_, Outcome::Failed(errno)) => {
                let error = io::Error::from_raw_os_error(errno.into());
                return Err(Doubt::Trace(format!("{}: {error}", record.path.display())));
            }
        }
        Ok(())
    }

    fn at(&mut self, path: &Path) -> &mut Look {
        let path = tidy(path);
        if !self.paths.contains_key(&*path) {
            self.paths.insert(path.clone().into_owned(), Look::default());
        }
        self.paths.get_mut(&*path).expect("it was inserted above")
    }

    fn settle(self, scope: &Scope) -> Result<Observed, Doubt> {
        let outputs: HashSet<OsString> = scope.outputs.iter().map(|path| tidy(path).into_owned()).collect();
        let mut looks: Vec<(OsString, Look)> = self.paths.into_iter().collect();
        looks.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut ground = Ground::default();
        let mut all = Observed { variables: self.variables.into_iter().collect(), ..Observed::default() };
        // Directories that were there for a while: what was looked for in them says nothing.
        let mut passing: HashSet<PathBuf> = HashSet::new();
        let mut absent = Absences::default();
        for (name, look) in looks {
            if is_ignored(&name) {
                continue;
            }
            let path = PathBuf::from(name);
            if scope.is_own(&path) || scope.idle.contains(&path) {
                continue;
            }
            let there = ground.stat(&path);
            if look.denied && !outputs.contains(path.as_os_str()) && !scope.is_crates(&path) {
                return Err(Doubt::Trace(format!("{} could not be written there", path.display())));
            }
            if look.written {
                let is_directory = there.is_some_and(|there| there.kind == On::Directory);
                if look.read_first && (scope.elsewhere || !is_directory) {
                    return Err(Doubt::Trace(format!("{} was read and then written", path.display())));
                }
                let declared = outputs.contains(path.as_os_str()) || scope.is_crates(&path);
                let left = if scope.elsewhere { look.left } else { there.is_some() };
                if !left && look.removed && !declared {
                    return Err(Doubt::Gone(path));
                }
                if scope.elsewhere {
                    match (left, declared) {
                        (true, true) => all.written.push(path),
                        (true, false) => all.strays.push(path),
                        (false, _) => passed(path, &mut passing),
                    }
                    continue;
                }
                match there {
                    // A link that leads nowhere stays, too.
                    None if std::fs::symlink_metadata(&path).is_ok() => all.strays.push(path),
                    None => passed(path, &mut passing),
                    Some(There { kind: On::File, .. }) => {
                        if !declared {
                            all.strays.push(path.clone());
                        }
                        all.written.push(path);
                    }
                    Some(_) if look.made || scope.unit.is_some() => all.strays.push(path),
                    Some(_) => {}
                }
                continue;
            }
            if outputs.contains(path.as_os_str()) {
                continue;
            }
            let in_passing = |path: &Path| path.ancestors().skip(1).any(|above| passing.contains(above));
            if there.is_none() && !passing.is_empty() && in_passing(&path) {
                continue;
            }
            if scope.is_passed_over(&path, look.opened) {
                continue;
            }
            match there {
                Some(_) if look.absent => return Err(Doubt::Appeared(path)),
                None if look.absent && !look.found => absent.add(&path, &mut ground, &mut all.files)?,
                // A link that leads nowhere was looked at.
                None if std::fs::symlink_metadata(&path).is_ok() => {
                    absent.add(&path, &mut ground, &mut all.files)?;
                }
                None => return Err(Doubt::Gone(path)),
                Some(There { kind: On::Directory, .. }) => {
                    // Whoever opens a directory may read its names.
                    if (look.listed || look.opened) && !scope.is_searched(&path) {
                        all.listed.push(path.clone());
                    }
                    all.directories.push(path);
                }
                Some(There { kind: On::Special, .. }) => return Err(Doubt::Special(path)),
                Some(There { kind: On::File, device, inode }) => {
                    if !scope.is_toolchains(&path, (device, inode)) {
                        if look.executed {
                            all.programs.push(path.clone());
                        }
                        all.files.push(path);
                    }
                }
            }
        }
        all.absent = absent.finish();
        all.files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        all.files.dedup();
        Ok(all)
    }
}

/// Notes a path that was there for a while, also as the kernel names it: what was written through a link may be read
/// without it.
fn passed(path: PathBuf, passing: &mut HashSet<PathBuf>) {
    let parent = path.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
    passing.extend(parent.and_then(|parent| Some(parent.join(path.file_name()?))));
    passing.insert(path);
}

/// Without `.` and doubled slashes, as which the kernel reads it, too. `..` stays: it may leave a link's target.
pub(crate) fn tidy(path: &Path) -> Cow<'_, OsStr> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let untidy = |pair: &[u8]| pair == b"//" || pair == b"/.";
    let odd = bytes
        .windows(2)
        .enumerate()
        .any(|(at, pair)| untidy(pair) && (pair == b"//" || matches!(bytes.get(at + 2), None | Some(b'/'))));
    if odd || (bytes.len() > 1 && bytes.ends_with(b"/")) {
        return Cow::Owned(path.components().collect::<PathBuf>().into_os_string());
    }
    Cow::Borrowed(path.as_os_str())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    File,
    Directory,
    Special,
}

/// What `stat` says, as far as it matters here.
#[derive(Clone, Copy)]
struct There {
    kind: On,
    device: u64,
    inode: u64,
}

/// Each path's `stat`, asked once.
#[derive(Default)]
struct Ground(HashMap<OsString, Option<There>>);

impl Ground {
    /// `None`: leads nowhere.
    fn stat(&mut self, path: &Path) -> Option<There> {
        if let Some(known) = self.0.get(path.as_os_str()) {
            return *known;
        }
        let there = std::fs::metadata(path).ok().map(|meta| There {
            kind: if meta.is_dir() {
                On::Directory
            } else if meta.is_file() {
                On::File
            } else {
                On::Special
            },
            device: meta.dev(),
            inode: meta.ino(),
        });
        self.0.insert(path.as_os_str().to_os_string(), there);
        there
    }
}

#[derive(Default)]
struct Absences(BTreeMap<OsString, BTreeSet<OsString>>);

impl Absences {
    /// Reduces a failed look-up. Where it failed because a *file* stands in the place of a directory, that file is
    /// what the failure depends on.
    fn add(&mut self, path: &Path, ground: &mut Ground, files: &mut Vec<PathBuf>) -> Result<(), Doubt> {
        let mut below = path;
        while let Some(directory) = below.parent() {
            match ground.stat(directory) {
                Some(There { kind: On::Directory, .. }) => {
                    // `dir/..` exists with `dir`; a path that ends so was deleted under our eyes.
                    let name = below.file_name().ok_or_else(|| Doubt::Gone(path.to_path_buf()))?;
                    let names = self.0.entry(directory.as_os_str().to_os_string()).or_default();
                    names.insert(name.to_os_string());
                    return Ok(());
                }
                Some(_) => {
                    files.push(directory.to_path_buf());
                    return Ok(());
                }
                None => below = directory,
            }
        }
        Err(Doubt::Gone(path.to_path_buf()))
    }

    fn finish(self) -> Vec<Absent> {
        let absent = |(directory, names): (OsString, BTreeSet<_>)| Absent {
            directory: directory.into(),
            names: names.into_iter().collect(),
        };
        self.0.into_iter().map(absent).collect()
    }
}
