//! Puts a plan on disk, and takes it off again. Every path here was checked by `tree` and `layout` and lies in a
//! directory that only the helper writes to, so no symlink can stand in its way.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use dbuild_cache::{CacheError, Store};
use dbuild_proto::{Digest, DigestFunction};

use crate::layout::{Access, How, Step};

/// Tries to remove a directory in which killed processes may still be ending.
const REMOVE_TRIES: u32 = 20;

/// Why a tree could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The store lost it between fetch and now (evicted, found damaged); fetching again mends that.
    #[error("find blob {0} in the store")]
    Gone(Digest),
    #[error("use the store: {0}")]
    Store(CacheError),
    #[error("lay out the input root: {0}")]
    Io(#[from] std::io::Error),
}

/// Makes what one step says under `root`; its parent is there and the place is free, but for the root itself. `owner`
/// is the uid (and gid) that writes to open places, where it is not the helper's own.
pub fn make(
    store: &Store,
    function: DigestFunction,
    root: &Path,
    step: &Step,
    owner: Option<u32>,
) -> Result<(), StageError> {
    let to = root.join(step.path());
    match step {
        Step::Dir { path, access } => {
            if !path.as_os_str().is_empty() {
                std::fs::DirBuilder::new().mode(0o755).create(&to)?;
            }
            open_up(&to, *access, owner)?;
        }
        Step::Link { target, .. } => std::os::unix::fs::symlink(&**target, to)?,
        Step::File { digest, executable, how, .. } => {
            let file = Source { store, function, digest, executable: *executable };
            match how {
                How::Link => file.link(&to)?,
                How::Copy => file.copy(&to, false)?,
                How::Give => {
                    file.copy(&to, true)?;
                    give(&to, owner)?;
                }
            }
        }
    }
    Ok(())
}

/// Lets the action write to a directory of ours, as far as `access` says.
pub fn open_up(at: &Path, access: Access, owner: Option<u32>) -> std::io::Result<()> {
    match access {
        Access::Closed => Ok(()),
        Access::Open => give(at, owner),
        // The umask does not let mkdir do this.
        Access::Sticky => fs_err::set_permissions(at, std::fs::Permissions::from_mode(0o1777)),
    }
}

fn give(at: &Path, owner: Option<u32>) -> std::io::Result<()> {
    match owner {
        Some(id) => std::os::unix::fs::chown(at, Some(id), Some(id)),
        None => Ok(()),
    }
}

/// One file of the store on its way into a tree.
pub struct Source<'a> {
    pub store: &'a Store,
    pub function: DigestFunction,
    pub digest: &'a Digest,
    pub executable: bool,
}

impl Source<'_> {
    /// The store's own file under another name.
    pub fn link(&self, to: &Path) -> Result<(), StageError> {
        let from = self.store.linkable(self.function, self.digest, self.executable);
        let from = from.map_err(|error| self.error(error))?;
        match std::fs::hard_link(&from, to) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(StageError::Gone(*self.digest)),
            // Another file system, or as many links as an inode can have.
            Err(error) if matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::TooManyLinks) => {
                self.copy(to, false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A file of its own.
    pub fn copy(&self, to: &Path, writable: bool) -> Result<(), StageError> {
        let mode = if self.executable { 0o555 } else { 0o444 } | if writable { 0o200 } else { 0 };
        self.store.copy_to(self.function, self.digest, to, mode).map_err(|error| self.error(error))
    }

    fn error(&self, error: CacheError) -> StageError {
        if error.is_not_found() { StageError::Gone(*self.digest) } else { StageError::Store(error) }
    }
}

/// Removes a tree, also one in which an action took away its own rights, and in which the last of its processes
/// may still be making files.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    let mut tries = 0;
    loop {
        match std::fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if tries == REMOVE_TRIES => return Err(error),
            Err(error) => {
                match error.kind() {
                    ErrorKind::PermissionDenied => unlock(path),
                    ErrorKind::DirectoryNotEmpty => std::thread::sleep(Duration::from_millis(5)),
                    _ => return Err(error),
                }
                tries += 1;
            }
        }
    }
}

/// Gives the owner all rights on every directory of a tree. Symlinks are not followed.
fn unlock(path: &Path) {
    for entry in walkdir::WalkDir::new(path).into_iter().flatten() {
        if entry.file_type().is_dir() {
            let _ = std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o700));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_tree_is_removed_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let kept = home.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let scratch = home.path().join("scratch");
        let inner = scratch.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::os::unix::fs::symlink(&kept, inner.join("link")).unwrap();
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o0)).unwrap();
        remove_tree(&scratch).unwrap();
        assert!(!scratch.exists());
        assert!(kept.join("file").exists());
    }

    #[test]
    fn links_share_the_stores_inode_and_copies_do_not() {
        use std::os::unix::fs::MetadataExt;
        let home = tempfile::tempdir().unwrap();
        let config = dbuild_cache::StoreConfig { dir: home.path().join("store"), max_bytes: 1 << 30 };
        let store = Store::open(config).unwrap();
        let function = DigestFunction::Blake3;
        let digest = store.put(function, b"content").unwrap();
        let file = |name: &str, how| Step::File { path: name.into(), digest, executable: false, how };
        let steps = [
            Step::Dir { path: "".into(), access: Access::Closed },
            file("link", How::Link),
            file("copy", How::Copy),
            file("give", How::Give),
            Step::Link { path: "out".into(), target: "../../../etc".into() },
            Step::Dir { path: "tmp".into(), access: Access::Sticky },
        ];
        let root = home.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for step in &steps {
            make(&store, function, &root, step, None).unwrap();
        }
        let meta = |name: &str| std::fs::metadata(root.join(name)).unwrap();
        let kept = std::fs::metadata(store.linkable(function, &digest, false).unwrap()).unwrap();
        assert_eq!(meta("link").ino(), kept.ino());
        assert_ne!(meta("copy").ino(), kept.ino());
        assert_eq!(meta("copy").mode() & 0o777, 0o444);
        assert_eq!(meta("give").mode() & 0o777, 0o644);
        assert_eq!(meta("tmp").mode() & 0o7777, 0o1777);
        let absent = function.digest(b"never stored");
        let gone = Step::File { path: "x".into(), digest: absent, executable: false, how: How::Link };
        let error = make(&store, function, &root, &gone, None);
        assert!(matches!(error, Err(StageError::Gone(digest)) if digest == absent));
    }
}
