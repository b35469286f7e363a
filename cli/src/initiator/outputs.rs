//! Outputs in the build's tree: where they go, whether we may put them there, and putting them there.
//!
//! We replace regular files by rename. Everything else (a device, a pipe, a directory without write permission) is
//! left to the compiler itself, whose behaviour, error messages included, is what the build expects.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dbuild_cache::{CacheError, Store};
use dbuild_proto::{Digest, DigestFunction};

/// A file to be put in place.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Absolute, as the compiler names it.
    pub path: PathBuf,
    pub digest: Digest,
    pub executable: bool,
}

/// Why an output is left to the compiler, as a reason for statistics; `None` if we may write it.
pub fn objection(path: &Path) -> Option<&'static str> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => match std::fs::metadata(path) {
            Ok(target) if target.is_file() => {}
            _ => return Some("output is a symbolic link to no regular file"),
        },
        Ok(meta) if !meta.is_file() => return Some("output is not a regular file"),
        Ok(meta) if meta.nlink() > 1 => return Some("output has several hard links"),
        Ok(_) if rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err() => {
            return Some("output is not writable");
        }
        Ok(_) => {}
        Err(_) => {}
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    match rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => None,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Some("output directory is missing"),
        Err(_) => Some("output directory is not writable"),
    }
}

/// Puts every file in place, each atomically, with a fresh mtime and the mode that the compiler would have given.
pub fn place(store: &Store, files: &[Ready], umask: u32) -> Result<(), CacheError> {
    for file in files {
        let mode = if file.executable { 0o777 } else { 0o666 } & !umask;
        // A compiler that opens a link writes to its target.
        let target = match std::fs::symlink_metadata(&file.path) {
            Ok(meta) if meta.is_symlink() => {
                std::fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone())
            }
            _ => file.path.clone(),
        };
        // Opening a file that exists keeps its mode.
        let mode = std::fs::metadata(&target).map_or(mode, |meta| meta.mode() & 0o7777);
        store.copy_to(DigestFunction::Blake3, &file.digest, &target, mode)?;
    }
    Ok(())
}

/// Takes what the compiler has just written into the store. `None` for one that is not there.
pub fn ingest(store: &Store, path: &Path) -> Result<Option<Ready>, IngestError> {
    match fs_err::symlink_metadata(path) {
        Ok(meta) if meta.is_file() || meta.is_symlink() => {
            let executable = fs_err::metadata(path).map_err(IngestError::Read)?.mode() & 0o111 != 0;
            let digest = store.put_file(DigestFunction::Blake3, path).map_err(IngestError::Store)?;
            Ok(Some(Ready { path: path.to_owned(), digest, executable }))
        }
        Ok(_) => Err(IngestError::Read(io::Error::other("not a regular file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(IngestError::Read(error)),
    }
}

/// Why an output was not kept.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("failed to read an output: {0}")]
    Read(io::Error),
    #[error("failed to keep an output: {0}")]
    Store(CacheError),
}
