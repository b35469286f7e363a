//! The store itself: opening it, what its handles share, and the few steps that every kind of file goes
//! through: look up, refresh, install, discard. What the files hold is the business of the other modules.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dbuild_proto::{Digest, DigestFunction};
use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::error::CacheError;
use crate::gc::Sweeper;
use crate::layout::{Entry, Kind, TMP};
use crate::temp::{Session, TempFile, remove_stale};
use crate::verified::{Making, Verified};

/// Where the store is and how large it may grow.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Made if missing. Everything below it belongs to the store.
    pub dir: PathBuf,
    /// The limit, in bytes of disk (each file rounded up to 4 KiB). Also the size of the largest single blob.
    pub max_bytes: u64,
}

/// A handle on one store directory. Cheap to clone; any number of handles and processes may be open on one
/// directory. Counters (`damaged`, `evicted`) and pins belong to the handle and its clones.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones of a handle, and the readers and writers made from it, share.
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) session: Session,
    pub(crate) verified: Verified,
    pub(crate) making: Making,
    pub(crate) sweeper: Sweeper,
    pub(crate) damaged: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pins: Mutex<HashMap<(DigestFunction, Digest), usize>>,
}

/// A use refreshes an mtime older than this.
const REFRESH: Duration = Duration::from_secs(3600);
/// The same, when the store is nearly full and eviction may be near.
const REFRESH_WHEN_FULL: Duration = Duration::from_secs(300);

impl Store {
    /// Opens the store, making what is missing, removes what killed processes left half written, and starts
    /// to count its size in the background.
    ///
    /// # Errors
    /// `Io`; `is_read_only()` where the directory cannot be written and `is_full()` where the disk is full. A
    /// caller then does without a cache.
    pub fn open(config: StoreConfig) -> Result<Store, CacheError> {
        let tmp = config.dir.join(TMP);
        fs::create_dir_all(&tmp)?;
        for kind in Kind::ALL {
            fs::create_dir_all(config.dir.join(kind.dir()))?;
        }
        remove_stale(&tmp);
        let inner = Arc::new(Inner {
            session: Session::begin(&tmp)?,
            root: config.dir,
            max_bytes: config.max_bytes,
            verified: Verified::default(),
            making: Making::default(),
            sweeper: Sweeper::default(),
            damaged: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            pins: Mutex::default(),
        });
        Inner::sweep_in_background(&inner);
        Ok(Store { inner })
    }

    /// The directory that it was opened on.
    pub fn dir(&self) -> &Path {
        &self.inner.root
    }

    /// Whether the blob is there with the right size; refreshes its age. Its bytes are not looked at. The
    /// empty blob is always there.
    pub fn contains(&self, f: DigestFunction, d: &Digest) -> bool {
        if d.is_empty() {
            return is_empty_blob(f, d);
        }
        self.inner.stat(&Entry::blob(f, d)).is_ok_and(|found| found.is_some())
    }

    /// Keeps the blob and its variants from eviction by this handle until the guard is dropped. Other
    /// processes do not see it: what must outlive their sweeps has to be used now and then (`contains` will
    /// do). `clear` heeds no pin.
    pub fn pin(&self, f: DigestFunction, d: &Digest) -> Pin {
        *self.inner.pins().entry((f, *d)).or_insert(0) += 1;
        Pin { inner: Arc::clone(&self.inner), key: (f, *d) }
    }
}

/// See [`Store::pin`].
#[must_use = "the pin ends when it is dropped"]
pub struct Pin {
    inner: Arc<Inner>,
    key: (DigestFunction, Digest),
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.inner.pins();
        if let Some(count) = pins.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.key);
            }
        }
    }
}

/// True for the one right digest of no bytes; a size of 0 with another hash names nothing.
pub(crate) fn is_empty_blob(f: DigestFunction, d: &Digest) -> bool {
    *d == f.digest(b"")
}

impl Inner {
    /// Finds an entry by name: its metadata, if it is a file of the right size. A wrong size is damage.
    pub(crate) fn stat(&self, entry: &Entry) -> Result<Option<Metadata>, CacheError> {
        let path = entry.path(&self.root);
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(self.accept(entry, &path, metadata)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens an entry for reading, under the same conditions as `stat`.
    pub(crate) fn open(&self, entry: &Entry) -> Result<Option<(fs::File, Metadata)>, CacheError> {
        let path = entry.path(&self.root);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        Ok(self.accept(entry, &path, metadata).map(|metadata| (file, metadata)))
    }

    fn accept(&self, entry: &Entry, path: &Path, metadata: Metadata) -> Option<Metadata> {
        let size_is_right = entry.exact_size().is_none_or(|size| size == metadata.len());
        if !metadata.is_file() || !size_is_right {
            self.discard(entry, &metadata);
            return None;
        }
        self.refresh(entry, path, &metadata);
        Some(metadata)
    }

    /// Marks an entry as used, if it was not lately. A store that we may only read keeps its order.
    fn refresh(&self, entry: &Entry, path: &Path, metadata: &Metadata) {
        let after = if self.sweeper.is_nearly_full(self.max_bytes) { REFRESH_WHEN_FULL } else { REFRESH };
        let age = SystemTime::now().duration_since(modified(metadata));
        // An mtime in the future is an error here and refreshed too.
        if age.is_ok_and(|age| age < after) {
            return;
        }
        let now = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        };
        if rustix::fs::utimensat(CWD, path, &now, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            self.verified.follow(entry, metadata, path);
        }
    }

    /// A file to write in. `TooLarge` if `size` could never be kept.
    pub(crate) fn create(&self, size: u64) -> Result<TempFile, CacheError> {
        if size > self.max_bytes {
            return Err(CacheError::TooLarge { size, limit: self.max_bytes });
        }
        Ok(self.session.create()?)
    }

    /// Gives a complete, checked file its name. Whoever had the name before is replaced (equal content).
    pub(crate) fn install(
        self: &Arc<Self>,
        temp: TempFile,
        entry: &Entry,
        size: u64,
    ) -> Result<(), CacheError> {
        temp.persist(&entry.path(&self.root), entry.kind.mode(), true)?;
        if self.sweeper.add(size, self.max_bytes) {
            Inner::sweep_in_background(self);
        }
        Ok(())
    }

    /// Removes a damaged file and counts it; neither if another file has taken its name, or somebody else was
    /// first. (Between the look and the removal a good file may still come: then it is lost, which costs a
    /// miss.)
    pub(crate) fn discard(&self, entry: &Entry, seen: &Metadata) {
        let path = entry.path(&self.root);
        if !std::fs::symlink_metadata(&path).is_ok_and(|found| same_file(&found, seen)) {
            return;
        }
        match std::fs::remove_file(&path) {
            Ok(()) => self.sweeper.subtract(seen.len()),
            Err(error) if is_absent(&error) => return,
            // A store that we may only read: met again each time.
            Err(error) => tracing::debug!(path = %path.display(), %error, "damaged cache file stays"),
        }
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path = %path.display(), "damaged cache file");
    }

    pub(crate) fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<(DigestFunction, Digest), usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error means that there is no such file. A file where a directory should be counts as absent
/// too: then the install that follows reports it.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

pub(crate) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The mtime; files have one on every system that we run on.
pub(crate) fn modified(metadata: &Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}
