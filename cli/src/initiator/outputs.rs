//! Outputs in the build's tree: where they go, whether we may put them there, and putting them there.
//!
//! We replace regular files by rename. Everything else (a device, a pipe, a directory without write permission) is
//! left to the compiler itself, whose behaviour, error messages included, is what the build expects.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dbuild_cache::{CacheError, Store};
use dbuild_compilers::{Family, OutputKind};
use dbuild_proto::{Digest, DigestFunction};

/// A file to be put in place.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Absolute, as the compiler names it.
    pub path: PathBuf,
    pub digest: Digest,
    pub executable: bool,
    pub manner: Manner,
}

/// What a compiler does with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// A new file takes its place, and that of a symbolic link.
    Replace,
    /// It is opened and written anew: a link is followed, and the mode stays.
    Overwrite,
}

/// Assemblers and `objcopy` remove what is there, clang renames a new file over it, and rustc does so but for depfiles;
/// gcc's compiler proper opens files.
pub fn manner(family: Family, kind: OutputKind) -> Manner {
    match (family, kind) {
        (_, OutputKind::Object | OutputKind::SplitDwarf | OutputKind::Crate) => Manner::Replace,
        (Family::Clang, OutputKind::Assembly) => Manner::Replace,
        _ => Manner::Overwrite,
    }
}

/// Why an output is left to the compiler, as a reason for statistics; `None` if we may write it. `links_matter`: what is
/// there must have no other name.
pub fn objection(path: &Path, links_matter: bool) -> Option<&'static str> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => match std::fs::metadata(path) {
            Ok(target) if target.is_file() => {}
            _ => return Some("output is a symbolic link to no regular file"),
        },
        Ok(meta) if !meta.is_file() => return Some("output is not a regular file"),
        Ok(meta) if links_matter && meta.nlink() > 1 => return Some("output has several hard links"),
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

/// Puts every file in place, each atomically, with a fresh mtime and the mode that the compiler would have given. If
/// one cannot be, those that were not there before are gone again.
pub fn place(store: &Store, files: &[Ready], umask: u32) -> Result<(), CacheError> {
    let mut new = Vec::new();
    for file in files {
        if std::fs::symlink_metadata(&file.path).is_err() {
            new.push(&file.path);
        }
        let placed = place_one(store, file, umask);
        if placed.is_err() {
            for path in new {
                // What was not written is not there to be removed.
                let _ = std::fs::remove_file(path);
            }
            return placed;
        }
    }
    Ok(())
}

fn place_one(store: &Store, file: &Ready, umask: u32) -> Result<(), CacheError> {
    let fresh = if file.executable { 0o777 } else { 0o666 } & !umask;
    let (target, mode) = match (file.manner, std::fs::symlink_metadata(&file.path)) {
        (Manner::Replace, Ok(meta)) if meta.is_symlink() => {
            fs_err::remove_file(&file.path).map_err(CacheError::Destination)?;
            (file.path.clone(), fresh)
        }
        (Manner::Replace, _) | (Manner::Overwrite, Err(_)) => (file.path.clone(), fresh),
        (Manner::Overwrite, Ok(_)) => {
            let target = std::fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone());
            let mode = std::fs::metadata(&target).map_or(fresh, |meta| meta.mode() & 0o7777);
            (target, mode)
        }
    };
    store.copy_to(DigestFunction::Blake3, &file.digest, &target, mode)
}

/// What is wrong with the cache, in words that are the same for every task.
pub fn cache_fault(error: &CacheError) -> String {
    match error {
        error if error.is_full() => "no space is left for the cache".to_owned(),
        error if error.is_read_only() => "the cache is read-only".to_owned(),
        error => match error.io_kind() {
            Some(kind) => format!("the cache failed: {kind}"),
            None => "the cache failed".to_owned(),
        },
    }
}

/// Takes what the compiler has just written into the store: its digest, and whether it is executable. `None` for one
/// that is not there.
pub fn ingest(store: &Store, path: &Path) -> Result<Option<(Digest, bool)>, IngestError> {
    match fs_err::symlink_metadata(path) {
        Ok(meta) if meta.is_file() || meta.is_symlink() => {
            let executable = fs_err::metadata(path).map_err(IngestError::Read)?.mode() & 0o111 != 0;
            let digest = store.put_file(DigestFunction::Blake3, path).map_err(IngestError::Store)?;
            Ok(Some((digest, executable)))
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
