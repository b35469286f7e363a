//! Files that are being written: how they are named, and how those that a killed process left are told from
//! those that a living one still writes. Knows nothing of digests.
//!
//! Every open store has a *session*: a directory `tmp/SESSION` that it holds an exclusive `flock` on. The
//! kernel lets the lock go when the process ends, however it ends; whoever opens the store next gets the lock
//! and may remove the directory with all it holds. Ages and process ids (which lie across namespaces) play no
//! part.
//!
//! Race: between `mkdir` and `flock` of a new session another opener may lock and remove it. So the maker,
//! once it has the lock, looks whether the path still is the directory that it locked, and else starts again.
//! Where the file system has no locks, nothing stale is ever removed.

use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fs_err as fs;
use rustix::fs::{FlockOperation, flock};

/// Tries for a fresh name or session before giving up; each failure needs a foreign hand at the same instant.
const TRIES: u32 = 16;

/// This handle's place for files that are being written.
pub(crate) struct Session {
    tmp: PathBuf,
    held: Mutex<Held>,
    next: AtomicU64,
}

#[derive(Clone)]
struct Held {
    dir: PathBuf,
    /// Keeps the lock; shared so that a temp file's maker can copy `Held` out of the mutex.
    _lock: Arc<fs::File>,
}

impl Session {
    /// Makes a session below `tmp`, which exists.
    pub(crate) fn begin(tmp: &Path) -> io::Result<Session> {
        Ok(Session { tmp: tmp.to_owned(), held: Mutex::new(begin_dir(tmp)?), next: AtomicU64::new(0) })
    }

    /// A new file in the session, mode 0600. If somebody removed the whole store below us, its place is made
    /// again: a cache may be deleted at any time.
    pub(crate) fn create(&self) -> io::Result<TempFile> {
        let mut tries = 0;
        loop {
            let held = self.held();
            let path = held.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            match TempFile::create_at(path) {
                Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES => {
                    self.renew(&held.dir)?
                }
                other => return other,
            }
            tries += 1;
        }
    }

    /// A new file beside `to`, which it is meant to replace. Its name tells whose it is if a kill leaves it.
    pub(crate) fn create_beside(&self, to: &Path) -> io::Result<TempFile> {
        let session = self.held().dir;
        let session = session.file_name().and_then(|name| name.to_str()).unwrap_or("session");
        let mut tries = 0;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            match TempFile::create_at(to.with_file_name(format!(".dbuild-{session}-{number}.tmp"))) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                other => return other,
            }
        }
    }

    fn held(&self) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn renew(&self, lost: &Path) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.dir == lost {
            fs::create_dir_all(&self.tmp)?;
            *held = begin_dir(&self.tmp)?;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Writers keep the session alive, so nothing is in it; if that fails, the next opener removes it.
        let _ = std::fs::remove_dir_all(self.held().dir);
    }
}

fn begin_dir(tmp: &Path) -> io::Result<Held> {
    for _ in 0..TRIES {
        let dir = tempfile::Builder::new().prefix("s-").rand_bytes(12).tempdir_in(tmp)?.keep();
        let lock = match fs::File::open(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        // An error means that there are no locks here; then nobody will take it for stale either.
        let _ = flock(&lock, FlockOperation::LockExclusive);
        if is_at(&lock, &dir)? {
            return Ok(Held { dir, _lock: Arc::new(lock) });
        }
    }
    Err(io::Error::new(ErrorKind::ResourceBusy, format!("could not make a session in {}", tmp.display())))
}

/// Whether `path` still names the open `file`.
pub(crate) fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the sessions of processes that are gone. Failures leave something for next time.
pub(crate) fn remove_stale(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(lock) = fs::File::open(entry.path()) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A file that is removed unless it is `persist`ed.
pub(crate) struct TempFile {
    file: fs::File,
    armed: bool,
}

impl TempFile {
    fn create_at(path: PathBuf) -> io::Result<TempFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.options_mut().mode(0o600);
        Ok(TempFile { file: options.open(path)?, armed: true })
    }

    pub(crate) fn file(&mut self) -> &mut fs::File {
        &mut self.file
    }

    /// Gives the file exactly `mode` (whatever the umask), then its place, atomically. Makes the parent when
    /// `make_parent` and it is missing.
    pub(crate) fn persist(mut self, to: &Path, mode: u32, make_parent: bool) -> io::Result<()> {
        self.file.set_permissions(PermissionsExt::from_mode(mode))?;
        match (fs::rename(self.file.path(), to), to.parent()) {
            (Err(error), Some(parent)) if make_parent && error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(parent)?;
                fs::rename(self.file.path(), to)?;
            }
            (result, _) => result?,
        }
        self.armed = false;
        Ok(())
    }
}

impl Write for TempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.armed {
            let _ = std::fs::remove_file(self.file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn stale_sessions_go_and_living_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let stale = dir.path().join("s-of-a-killed-process");
        fs::create_dir(&stale).unwrap();
        fs::write(stale.join("0"), "half").unwrap();
        let session = Session::begin(dir.path()).unwrap();
        let _temp = session.create().unwrap();
        remove_stale(dir.path());
        assert_eq!(names(dir.path()).len(), 1);
        drop(_temp);
        drop(session);
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn a_session_that_was_removed_is_made_again_with_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let tmp = dir.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        let session = Session::begin(&tmp).unwrap();
        fs::remove_dir_all(&tmp).unwrap();
        let mut temp = session.create().unwrap();
        temp.write_all(b"x").unwrap();
        remove_stale(&tmp);
        temp.persist(&dir.path().join("sub/there"), 0o440, true).unwrap();
        assert_eq!(fs::read(dir.path().join("sub/there")).unwrap(), b"x");
    }

    #[test]
    fn opening_and_cleaning_at_once_never_loses_a_living_session() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        remove_stale(dir.path());
                        let session = Session::begin(dir.path()).unwrap();
                        remove_stale(dir.path());
                        assert!(fs::symlink_metadata(session.held().dir).is_ok());
                    }
                });
            }
        });
    }
}
