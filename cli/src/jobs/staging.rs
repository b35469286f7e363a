//! A directory in the current one, on the same file system, in which a job's outputs are made or brought, and from which
//! they are moved to their places: whole files, each by one rename.

use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::symlink;
use walkdir::WalkDir;

use super::action::{Item, items};
use super::{Job, STAGING};
use crate::error::{CliError, Context, Result};

pub struct Staging {
    dir: tempfile::TempDir,
}

impl Staging {
    /// For a job that writes nothing it is among the temporary files: `cwd` may be read-only.
    pub fn new(job: &Job, cwd: &Path) -> Result<Staging> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(STAGING);
        let dir = if job.outputs.is_empty() { builder.tempdir() } else { builder.tempdir_in(cwd) };
        Ok(Staging { dir: dir.context("make a directory for outputs")? })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Copies what the job reads, and makes the directories of what it writes, as it would find them on a helper (REAPI,
    /// `Command.output_paths`).
    pub fn furnish(&self, job: &Job, cwd: &Path) -> Result<()> {
        for (path, item) in items(&job.inputs, cwd)? {
            let place = self.path().join(&path);
            if let Some(parent) = place.parent() {
                fs_err::create_dir_all(parent).context("copy an input")?;
            }
            match item {
                Item::Directory => fs_err::create_dir_all(&place).context("copy an input")?,
                Item::Symlink(target) => symlink(target, &place).context("copy an input")?,
                Item::File => drop(fs_err::copy(cwd.join(&path), &place).context("copy an input")?),
            }
        }
        for parent in job.outputs.iter().filter_map(|output| output.parent()) {
            fs_err::create_dir_all(self.path().join(parent)).context("make an output's directory")?;
        }
        Ok(())
    }

    /// Moves the job's outputs to their places below `cwd`; what else is there stays. Names those that are missing.
    ///
    /// # Errors
    /// A place that cannot be written. Each file is either the old or the new one, whole.
    pub fn deliver(self, job: &Job, cwd: &Path) -> Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for output in &job.outputs {
            let made = self.path().join(output);
            if std::fs::symlink_metadata(&made).is_err() {
                missing.push(output.clone());
                continue;
            }
            if let Some(parent) = output.parent() {
                fs_err::create_dir_all(cwd.join(parent)).context("write an output")?;
            }
            for entry in WalkDir::new(&made) {
                let entry = entry.context("write an output")?;
                let path = entry.path().strip_prefix(self.path()).unwrap_or(entry.path());
                deliver_one(&entry, &cwd.join(path))?;
            }
        }
        Ok(missing)
    }
}

fn deliver_one(entry: &walkdir::DirEntry, place: &Path) -> Result<()> {
    let there = std::fs::symlink_metadata(place);
    if entry.file_type().is_dir() {
        return match there {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(CliError::new(format!("{} is in the way of an output directory", place.display()))),
            Err(_) => fs_err::create_dir(place).context("write an output"),
        };
    }
    match there {
        Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
            Err(CliError::new(format!("{} is in the way of an output: it is no file", place.display())))
        }
        _ => fs_err::rename(entry.path(), place).context("write an output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_take_their_places_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cwd = dir.path();
        std::fs::create_dir(cwd.join("out")).unwrap();
        std::fs::write(cwd.join("out/old"), "stays").unwrap();
        std::fs::write(cwd.join("out/a"), "goes").unwrap();
        std::fs::write(cwd.join("in"), "in").unwrap();
        let job =
            Job { inputs: vec!["in".into()], outputs: vec!["out".into(), "none".into()], ..Job::default() };
        let staging = Staging::new(&job, cwd).unwrap();
        staging.furnish(&job, cwd).unwrap();
        assert_eq!(std::fs::read_to_string(staging.path().join("in")).unwrap(), "in");
        std::fs::create_dir_all(staging.path().join("out/d")).unwrap();
        std::fs::write(staging.path().join("out/a"), "new").unwrap();
        std::fs::write(staging.path().join("in"), "changed").unwrap();
        assert_eq!(staging.deliver(&job, cwd).unwrap(), [PathBuf::from("none")]);
        let read = |name: &str| std::fs::read_to_string(cwd.join(name)).unwrap();
        assert_eq!((read("out/old"), read("out/a"), read("in")), ("stays".into(), "new".into(), "in".into()));
        assert!(cwd.join("out/d").is_dir());
        assert_eq!(std::fs::read_dir(cwd).unwrap().count(), 2, "nothing is left");
    }

    #[test]
    fn a_directory_is_not_replaced_by_a_file_nor_written_to_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (cwd, job) = (dir.path(), Job { outputs: vec!["out".into()], ..Job::default() });
        std::fs::create_dir_all(cwd.join("out")).unwrap();
        let staging = Staging::new(&job, cwd).unwrap();
        std::fs::write(staging.path().join("out"), "file").unwrap();
        assert!(staging.deliver(&job, cwd).unwrap_err().to_string().contains("in the way"));
        std::fs::remove_dir(cwd.join("out")).unwrap();
        std::os::unix::fs::symlink("/", cwd.join("out")).unwrap();
        let staging = Staging::new(&job, cwd).unwrap();
        std::fs::create_dir(staging.path().join("out")).unwrap();
        assert!(staging.deliver(&job, cwd).unwrap_err().to_string().contains("in the way"));
    }
}
