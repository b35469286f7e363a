//! Listings of directories, kept warm: whether a name is absent costs one `stat` of its directory.
//!
//! Where the directory can be watched, not even that. Else the same rule as for files: a listing is used while the directory's signature stands, and only if that was older
//! than two seconds when the listing was read. A change of any entry changes a directory's mtime.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dbuild_proto::{DigestFunction, Hasher};

use crate::files::{Clock, Generations, Known, Signature, TableCounts, lock};
use crate::watch::Watch;

/// Larger directories are not listed: a name in them is looked up by itself.
const NAMES_LIMIT: usize = 20_000;

/// What one name of a directory turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No such name in the directory, or it leads nowhere (a dangling link).
    Absent,
    Present,
    /// The directory itself is not there (any more).
    NoDirectory,
}

struct Listing {
    signature: Signature,
    names: Arc<HashSet<OsString>>,
}

/// Listings by directory. Shared by all threads; bounded in directories and in names.
pub struct DirTable {
    clock: Clock,
    listings: Mutex<Generations<(u64, u64), Listing>>,
    watch: Arc<Watch<Known>>,
    stats: AtomicU64,
    reads: AtomicU64,
}

impl DirTable {
    /// A table of at most `capacity` directories.
    pub fn new(capacity: usize, clock: Clock) -> DirTable {
        let listings = Mutex::new(Generations::new(capacity));
        let watch = Arc::new(Watch::none());
        DirTable { clock, listings, watch, stats: AtomicU64::new(0), reads: AtomicU64::new(0) }
    }

    /// Relies on `watch` where that knows; it must be settled before questions.
    pub fn watched(self, watch: Arc<Watch<Known>>) -> DirTable {
        DirTable { watch, ..self }
    }

    /// Whether `path` leads to a directory.
    pub fn is_directory(&self, path: &Path) -> bool {
        if self.watch.is_directory(path) {
            return true;
        }
        self.stats.fetch_add(1, Ordering::Relaxed);
        std::fs::metadata(path).is_ok_and(|meta| meta.is_dir())
    }

    /// The first of `names` that is not absent from `directory`, with what it is; `None` when all are absent.
    pub fn first_present<'n>(
        &self,
        directory: &Path,
        names: impl IntoIterator<Item = &'n OsStr>,
    ) -> io::Result<Option<(&'n OsStr, Presence)>> {
        let mut looked = None;
        for name in names {
            let listed = match self.watch.may_list(directory, name, NAMES_LIMIT) {
                Some(listed) => listed,
                None => {
                    if looked.is_none() {
                        match self.listing(directory) {
                            Ok(listing) => looked = Some(listing),
                            Err(error) if gone(&error) => return Ok(Some((name, Presence::NoDirectory))),
                            Err(error) => return Err(error),
                        }
                    }
                    looked.as_ref().and_then(Option::as_ref).is_none_or(|listing| listing.contains(name))
                }
            };
            if listed && self.leads_somewhere(&directory.join(name))? {
                return Ok(Some((name, Presence::Present)));
            }
        }
        Ok(None)
    }

    /// What `name` is in `directory`.
    pub fn presence(&self, directory: &Path, name: &OsStr) -> io::Result<Presence> {
        Ok(self.first_present(directory, [name])?.map_or(Presence::Absent, |(_, presence)| presence))
    }

    /// Where `directory` really is.
    pub(crate) fn real(&self, directory: &Path) -> io::Result<PathBuf> {
        match self.watch.real(directory) {
            Some(real) => Ok(real),
            None => std::fs::canonicalize(directory),
        }
    }

    /// The names in `directory`; `None` for directories that are too large to keep.
    pub(crate) fn names(&self, directory: &Path) -> io::Result<Option<Arc<HashSet<OsString>>>> {
        match self.watch.names(directory, NAMES_LIMIT) {
            Some(names) => Ok(names),
            None => self.listing(directory),
        }
    }

    /// A digest of the names in `directory` and of what kind each is (readdir(3) tells both), whatever their order. Always
    /// read anew: kinds are not kept warm.
    ///
    /// # Errors
    /// The system's, and `InvalidInput` for one that is too large.
    pub(crate) fn digest_of_names(&self, directory: &Path) -> io::Result<[u8; 32]> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut entries = Vec::new();
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let kind = [kind.is_dir(), kind.is_file(), kind.is_symlink()].map(u8::from);
            entries.push((entry.file_name(), kind));
            if entries.len() > NAMES_LIMIT {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        entries.sort_unstable();
        let mut hasher = Hasher::new(DigestFunction::Blake3);
        for (name, kind) in entries {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_encoded_bytes());
            hasher.update(&kind);
        }
        Ok(hasher.finish().hash)
    }

    /// `None` for directories that are too large to keep.
    fn listing(&self, directory: &Path) -> io::Result<Option<Arc<HashSet<OsString>>>> {
        self.stats.fetch_add(1, Ordering::Relaxed);
        let now = (self.clock)();
        let meta = std::fs::metadata(directory)?;
        if !meta.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let signature = Signature::of(&meta);
        let key = (signature.device, signature.inode);
        {
            let mut listings = lock(&self.listings);
            if let Some(known) = listings.get(&key).filter(|known| known.signature == signature) {
                return Ok(Some(known.names.clone()));
            }
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut names = HashSet::new();
        for entry in std::fs::read_dir(directory)? {
            names.insert(entry?.file_name());
            if names.len() > NAMES_LIMIT {
                return Ok(None);
            }
        }
        let names = Arc::new(names);
        // The signature is from before the reading: a name that came meanwhile changes it.
        if signature.settled(now) {
            lock(&self.listings).put(key, Listing { signature, names: names.clone() });
        }
        Ok(Some(names))
    }

    fn leads_somewhere(&self, path: &Path) -> io::Result<bool> {
        self.stats.fetch_add(1, Ordering::Relaxed);
        match std::fs::metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `stats`, and listings read in place of hashes.
    pub fn counts(&self) -> TableCounts {
        TableCounts {
            stats: self.stats.load(Ordering::Relaxed),
            hashes: self.reads.load(Ordering::Relaxed),
            hashed_bytes: 0,
            entries: lock(&self.listings).len() as u64,
        }
    }
}

/// Whether the error says that the thing looked for is not there.
pub(crate) fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use fs_err as fs;

    use super::*;

    fn late() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn one_listing_answers_until_the_directory_changes() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path();
        fs::write(at.join("a.h"), "").unwrap();
        symlink("nowhere", at.join("lost.h")).unwrap();
        let table = DirTable::new(10, late);
        let presence = |name: &str| table.presence(at, OsStr::new(name)).unwrap();
        assert_eq!(presence("a.h"), Presence::Present);
        assert_eq!(presence("b.h"), Presence::Absent);
        assert_eq!(presence("lost.h"), Presence::Absent);
        assert_eq!(table.counts().hashes, 1);
        fs::write(at.join("b.h"), "").unwrap();
        assert_eq!(presence("b.h"), Presence::Present);
        // The link's target comes, though its directory's listing stays.
        fs::write(at.join("nowhere"), "").unwrap();
        assert_eq!(presence("lost.h"), Presence::Present);
        assert_eq!(table.presence(&at.join("none"), OsStr::new("x")).unwrap(), Presence::NoDirectory);
        assert_eq!(table.presence(&at.join("a.h"), OsStr::new("x")).unwrap(), Presence::NoDirectory);
    }

    #[test]
    fn young_directories_are_listed_every_time() {
        let place = tempfile::tempdir().unwrap();
        let table = DirTable::new(10, SystemTime::now);
        for _ in 0..2 {
            table.presence(place.path(), OsStr::new("x")).unwrap();
        }
        assert_eq!(table.counts().hashes, 2);
    }
}
