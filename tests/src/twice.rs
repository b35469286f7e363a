//! The same command plain and with dbuild, in the same directory one after the other.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Counters, Ran, Sandbox, Snapshot, Stdio, is_stand_in, run_bounded};

/// A build that a test does twice.
pub struct Twice<'a> {
    user: &'a Sandbox,
    dir: PathBuf,
    prepare: Box<dyn Fn(&Path) + 'a>,
    exclude: Vec<&'a str>,
    plain: Option<(Ran, Snapshot)>,
}

impl<'a> Twice<'a> {
    /// A directory `name` that holds the files of `cases/files/` and whatever `prepare` adds.
    pub fn new(user: &'a Sandbox, name: &str, prepare: impl Fn(&Path) + 'a) -> Twice<'a> {
        let dir = user.root().join(name);
        Twice { user, dir, prepare: Box::new(prepare), exclude: Vec::new(), plain: None }
    }

    /// Leaves files of these patterns out of the comparison.
    pub fn without(mut self, exclude: &[&'a str]) -> Twice<'a> {
        self.exclude.extend(exclude);
        self
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory as it is before a build.
    pub fn fresh(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        crate::case::standard_files(&self.dir);
        (self.prepare)(&self.dir);
    }

    /// Runs the command without dbuild, which the next runs are compared with. It must succeed.
    #[track_caller]
    pub fn plain(&mut self, words: &[impl AsRef<OsStr>]) {
        self.fresh();
        let ran = self.user.plain(&self.dir, words).ok();
        self.plain = Some((ran, Snapshot::take(&self.dir, &self.exclude)));
    }

    /// Runs the command with dbuild as `user` in a fresh directory and compares.
    #[track_caller]
    pub fn wrapped(&self, user: &Sandbox, words: &[impl AsRef<OsStr>]) -> Ran {
        self.run(&mut user.dbuild_command(&self.dir, words), Stdio::Files)
    }

    /// As [`Twice::wrapped`], for a command that the caller made (for [`Twice::dir`]).
    #[track_caller]
    pub fn run(&self, command: &mut Command, stdio: Stdio) -> Ran {
        self.fresh();
        let ran = run_bounded(command, stdio);
        self.compare(&ran);
        ran
    }

    /// Compares what is in the directory now, and `ran`, with the plain run.
    #[track_caller]
    pub fn compare(&self, ran: &Ran) {
        let (plain, files) = self.plain.as_ref().expect("a plain run first");
        let now = Snapshot::take(&self.dir, &self.exclude);
        if let Some(text) = plain.difference(ran).or_else(|| files.difference(&now, &[])) {
            panic!("not as without dbuild: {text}\n{ran}");
        }
    }

    /// Runs the command plain and wrapped, as the user it was made with, and gives what was counted.
    #[track_caller]
    pub fn both(&mut self, words: &[impl AsRef<OsStr>]) -> (Ran, Counters) {
        self.plain(words);
        let before = self.user.counters();
        let ran = self.wrapped(self.user, words);
        (ran, self.user.counters().since(&before))
    }
}

/// An assertion about dbuild's own words and numbers: not made of the stand-in, which has none.
#[track_caller]
pub fn counted(holds: bool, what: impl std::fmt::Display) {
    assert!(holds || is_stand_in(), "{what}");
}
