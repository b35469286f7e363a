//! The inputs of one compile with their content: what was observed, hashed, and guarded against files that change
//! under the compiler's hands.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use dbuild_compilers::Mentions;
use dbuild_proto::Digest;
use dbuild_scanner::Fingerprint;

use crate::error::Doubt;
use crate::files::{FileFacts, FileTable, Signature};
use crate::listings::{DirTable, gone};
use crate::observe::{Absent, Observed};
use crate::start::Start;

/// The jobserver's variables, which rustc itself reads: they say how to run, and not what comes of it.
pub const JOBSERVER: [&str; 3] = ["CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS"];

/// One regular file that a compile reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Absolute, as the compiler spelled it.
    pub path: PathBuf,
    pub digest: Digest,
    pub executable: bool,
    pub role: Role,
}

/// What a file is to a compile, as far as its finder knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A scan found that its text becomes part of the unit: a depfile lists it. With what the scan went by.
    Included(Fingerprint),
    /// Any other, or not known.
    Other,
}

/// Everything outside the toolchain that a compile depends on. Order as in [`Observed`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    pub files: Vec<Input>,
    pub absent: Vec<Absent>,
    pub directories: Vec<PathBuf>,
    /// What any of the files mentions.
    pub mentions: Mentions,
    /// Variables that decide, with their values; `None`: not set.
    pub variables: Vec<(OsString, Option<OsString>)>,
    /// Directories whose names decide, with the digest of these.
    pub listings: Vec<(PathBuf, [u8; 32])>,
    /// As [`Observed::programs`]: if there are any, the compile must not leave this machine.
    pub programs: Vec<PathBuf>,
}

impl Inputs {
    /// Whether they were found by a scan of directives, not named by the compiler itself.
    pub fn are_scanned(&self) -> bool {
        self.files.iter().any(|input| matches!(input.role, Role::Included(_)))
    }

    /// Hashes what was observed. `start` is when the compile (or the run that found its inputs) began; best is
    /// [`Start::after`] its source.
    ///
    /// # Errors
    /// [`Doubt::TooNew`] when a file may have changed after the compiler read it: ccache's rule, by which a result is
    /// not remembered when an input is as new as the compile.
    pub fn gather(observed: &Observed, files: &FileTable, start: impl Into<Start>) -> Result<Inputs, Doubt> {
        let start = start.into();
        files.settle();
        let mut inputs = Inputs::places(observed);
        for path in &observed.files {
            inputs.push(path, files, start, FileTable::facts)?;
        }
        Ok(inputs)
    }

    /// As [`Inputs::gather`] for what no preprocessor reads: files are not searched for words that C gives a meaning.
    pub fn gather_unscanned(observed: &Observed, files: &FileTable, start: Start) -> Result<Inputs, Doubt> {
        files.settle();
        let mut inputs = Inputs::places(observed);
        for path in &observed.files {
            inputs.push(path, files, start, FileTable::unscanned)?;
        }
        Ok(inputs)
    }

    fn places(observed: &Observed) -> Inputs {
        Inputs {
            files: Vec::with_capacity(observed.files.len()),
            absent: observed.absent.clone(),
            directories: observed.directories.clone(),
            programs: observed.programs.clone(),
            ..Inputs::default()
        }
    }

    /// Takes the values of the variables that were asked for, as far as they matter.
    pub fn note_variables<'v>(
        &mut self,
        asked: &[OsString],
        variables: &dyn Fn(&OsStr) -> Option<&'v OsStr>,
    ) {
        let matters = |name: &&OsString| !JOBSERVER.iter().any(|idle| *name == idle);
        let value = |name: &OsString| (name.clone(), variables(name).map(OsStr::to_os_string));
        self.variables.extend(asked.iter().filter(matters).map(value));
    }

    /// Takes the names in directories that were listed.
    ///
    /// # Errors
    /// [`Doubt::TooNew`] where a name may have come or gone since the start.
    pub fn note_listings(
        &mut self,
        listed: &[PathBuf],
        directories: &DirTable,
        start: Start,
    ) -> Result<(), Doubt> {
        for path in listed {
            let signature = Signature::of(&fs_err::metadata(path).map_err(Doubt::Io)?);
            if start.may_have_changed(&signature) {
                return Err(Doubt::TooNew(path.clone()));
            }
            let names = directories.digest_of_names(path).map_err(Doubt::Io)?;
            self.listings.push((path.clone(), names));
        }
        Ok(())
    }

    /// Adds a name that must go on being absent.
    pub fn add_absent(&mut self, directory: &Path, name: &OsStr) {
        self.missed(directory, name);
    }

    /// Adds one more file, such as one that a flag names (`Task::extra_inputs`). Twice the same is once.
    pub fn add(&mut self, path: &Path, files: &FileTable, start: impl Into<Start>) -> Result<(), Doubt> {
        if self.files.iter().any(|input| input.path == path) {
            return Ok(());
        }
        self.push(path, files, start.into(), FileTable::facts)
    }

    /// As [`Inputs::add`], for a file that no preprocessor reads.
    pub fn add_unscanned(&mut self, path: &Path, files: &FileTable, start: Start) -> Result<(), Doubt> {
        if self.files.iter().any(|input| input.path == path) {
            return Ok(());
        }
        self.push(path, files, start, FileTable::unscanned)
    }

    fn push(
        &mut self,
        path: &Path,
        files: &FileTable,
        start: Start,
        facts: fn(&FileTable, &Path) -> io::Result<FileFacts>,
    ) -> Result<(), Doubt> {
        let facts = facts(files, path).map_err(|error| match error {
            error if gone(&error) => Doubt::Gone(path.to_path_buf()),
            error if error.kind() == std::io::ErrorKind::InvalidInput => Doubt::Special(path.to_path_buf()),
            error => Doubt::Io(error),
        })?;
        if start.may_have_changed(&facts.signature) {
            return Err(Doubt::TooNew(path.to_path_buf()));
        }
        self.mentions = self.mentions.union(facts.mentions);
        self.files.push(Input {
            path: path.to_path_buf(),
            digest: facts.digest,
            executable: facts.executable,
            role: Role::Other,
        });
        Ok(())
    }

    /// Adds a file that was hashed already. Twice the same is once.
    pub(crate) fn put(&mut self, path: &Path, facts: FileFacts) {
        self.mentions = self.mentions.union(facts.mentions);
        if !self.files.iter().any(|input| input.path == path) {
            self.files.push(Input {
                path: path.to_path_buf(),
                digest: facts.digest,
                executable: facts.executable,
                role: Role::Other,
            });
        }
    }

    /// Adds a name that was looked for in vain.
    pub(crate) fn missed(&mut self, directory: &Path, name: &OsStr) {
        let place =
            self.absent.binary_search_by(|absent| absent.directory.as_os_str().cmp(directory.as_os_str()));
        match place {
            Ok(at) => {
                let names = &mut self.absent[at].names;
                if let Err(before) = names.binary_search_by(|known| known.as_os_str().cmp(name)) {
                    names.insert(before, name.to_os_string());
                }
            }
            Err(at) => {
                let absent = Absent { directory: directory.to_path_buf(), names: vec![name.to_os_string()] };
                self.absent.insert(at, absent);
            }
        }
    }
}
