//! Jobs beyond compilers: any command, whose owner names the files that it reads and writes.
//!
//! A job runs in a directory that holds its inputs and nothing else, at the paths that they have below the current
//! directory; programs and libraries are the helper's own. It sees the variables that it is given, and `PATH`. So the result
//! depends on what is named, and is kept: the same job is answered from the pool's cache. Where there is no pool, or it
//! fails, the job runs here, in a directory of its own likewise.

mod action;
mod detached;
mod outputs;
mod runner;
mod staging;
mod tally;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

pub use detached::Detached;
pub use runner::{Done, Runner};
pub use tally::Tally;

use crate::error::{CliError, Result};

/// The programs of a job are looked up here, wherever it runs, unless it brings a `PATH` of its own.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Names of directories in the current one in which outputs wait for their places begin like this.
const STAGING: &str = ".dbuild-job-";

/// A command and what it needs.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// The program and its arguments.
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Files and directories that it reads, relative to the current directory and below it.
    pub inputs: Vec<PathBuf>,
    /// Files and directories that it writes, likewise.
    pub outputs: Vec<PathBuf>,
    /// Its result is not kept, and no kept one answers it.
    pub uncached: bool,
    /// What tells it from jobs that are equal otherwise.
    pub salt: Vec<u8>,
}

/// A path as its owner wrote it, relative to `cwd`, without `.` and `..`.
///
/// # Errors
/// For a path that is not below `cwd`: a job has no other place to put it.
pub fn below(cwd: &Path, path: &Path) -> Result<PathBuf> {
    let relative = if path.is_absolute() { path.strip_prefix(cwd).ok() } else { Some(path) };
    let outside = || {
        CliError::new(format!("{} is not below the current directory, {}", path.display(), cwd.display()))
            .hint("Go to a directory above it, and name paths from there.")
    };
    let mut clean = PathBuf::new();
    for component in relative.ok_or_else(outside)?.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir if clean.pop() => {}
            _ => return Err(outside()),
        }
    }
    match clean.to_str() {
        Some(_) => Ok(clean),
        None => {
            Err(CliError::new(format!("{} is not UTF-8, and jobs have only such names", clean.display())))
        }
    }
}

/// Where a job may write: paths as in [`below`], none of which is or lies in another.
///
/// # Errors
/// As for `below`, and for the current directory itself.
pub fn outputs_below(cwd: &Path, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let outputs = paths.iter().map(|path| below(cwd, path)).collect::<Result<Vec<_>>>()?;
    if outputs.iter().any(|output| output.as_os_str().is_empty()) {
        return Err(CliError::new("the current directory itself cannot be an output")
            .hint("Name files and directories in it."));
    }
    for (index, output) in outputs.iter().enumerate() {
        if let Some(other) = outputs[..index].iter().find(|other| overlap(output, other)) {
            return Err(CliError::new(format!(
                "the outputs {} and {} overlap",
                other.display(),
                output.display()
            )));
        }
    }
    Ok(outputs)
}

/// One is the other, or lies in it.
pub fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_current_directory() {
        let cwd = Path::new("/home/ann/p");
        let cases = [
            ("a", "a"),
            ("./a//b/", "a/b"),
            ("a/../b", "b"),
            ("/home/ann/p/a", "a"),
            (".", ""),
            ("a/..", ""),
        ];
        for (path, want) in cases {
            assert_eq!(below(cwd, Path::new(path)).unwrap(), Path::new(want), "{path}");
        }
        for path in ["..", "a/../..", "/home/ann", "/etc/passwd", "../p/a"] {
            assert!(below(cwd, Path::new(path)).is_err(), "{path}");
        }
    }
}
