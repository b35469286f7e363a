//! Digests of files, kept warm: one `stat` tells whether what was hashed before still stands there, and where the file
//! can be watched ([`crate::watch`]) not even that is needed.
//!
//! Entries are found by (device, inode), so that every spelling of a file shares one. An entry is used only while
//! size, mtime and ctime are what they were, and only if both times were *older than two seconds* when they were
//! read: a file that is written twice within the grain of its time stamps would otherwise keep its old digest.
//! This module knows nothing of compilers but [`dbuild_compilers::scan`].

mod kept;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dbuild_compilers::{Mentions, scan};
use dbuild_proto::{Digest, DigestFunction, Hasher};
use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::watch::Watch;

/// Where the time comes from: `SystemTime::now`, or a test's own.
pub type Clock = fn() -> SystemTime;

/// Times younger than this may still belong to a file that is being written (the coarsest grain in use: FAT's).
const RACY: Duration = Duration::from_secs(2);

/// Files up to this many bytes are read at once and scanned; nothing that a compiler reads as text is larger.
const SCAN_LIMIT: u64 = 256 << 20;

const SHARDS: usize = 16;

/// What `stat` says of a file, as far as a change of content shows in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub mtime: i128,
    /// Nanoseconds since the epoch. Nobody can set it back, unlike `mtime`.
    pub ctime: i128,
}

impl Signature {
    pub fn of(meta: &std::fs::Metadata) -> Signature {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Signature {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether both times are older than `age` at `now`. Times in the future are not.
    pub fn older_than(&self, age: Duration, now: SystemTime) -> bool {
        let limit = epoch_nanos(now) - age.as_nanos() as i128;
        self.mtime < limit && self.ctime < limit
    }

    /// Whether what it was read from may be recognised by it later, when it was read at `now`.
    pub(crate) fn settled(&self, now: SystemTime) -> bool {
        self.older_than(RACY, now)
    }
}

/// Nanoseconds since the epoch; negative before it.
pub(crate) fn epoch_nanos(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

/// What is known of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    pub digest: Digest,
    /// Words in it that make a result depend on more than content (`__TIME__`, `.incbin`, …).
    pub mentions: Mentions,
    /// Any execute bit is set. A change of mode changes ctime, but is read afresh anyway.
    pub executable: bool,
    pub signature: Signature,
}

/// How much work a table did and was spared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    pub stats: u64,
    pub hashes: u64,
    pub hashed_bytes: u64,
    pub entries: u64,
}

/// What was read of a file's content, and when.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    signature: Signature,
    digest: Digest,
    /// `None` when only the digest was asked so far.
    mentions: Option<Mentions>,
    executable: bool,
}

impl Known {
    fn facts(self) -> FileFacts {
        FileFacts {
            digest: self.digest,
            mentions: self.mentions.unwrap_or_default(),
            executable: self.executable,
            signature: self.signature,
        }
    }

    fn serves(&self, scanned: bool) -> bool {
        self.mentions.is_some() || !scanned
    }
}

/// Digests by file. Shared by all threads of the initiator; bounded.
pub struct FileTable {
    function: DigestFunction,
    clock: Clock,
    shards: Vec<Mutex<Generations<(u64, u64), Known>>>,
    watch: Arc<Watch<Known>>,
    stats: AtomicU64,
    hashes: AtomicU64,
    hashed_bytes: AtomicU64,
}

impl FileTable {
    /// A table of at most `capacity` files, in dbuild's own BLAKE3.
    pub fn new(capacity: usize, clock: Clock) -> FileTable {
        FileTable::with_function(DigestFunction::Blake3, capacity, clock)
    }

    /// A table for a cluster that speaks another function. The near cache needs BLAKE3.
    pub fn with_function(function: DigestFunction, capacity: usize, clock: Clock) -> FileTable {
        let each = (capacity / SHARDS).max(2);
        let shards = (0..SHARDS).map(|_| Mutex::new(Generations::new(each))).collect();
        FileTable {
            function,
            clock,
            shards,
            watch: Arc::new(Watch::none()),
            stats: AtomicU64::new(0),
            hashes: AtomicU64::new(0),
            hashed_bytes: AtomicU64::new(0),
        }
    }

    /// Relies on `watch` where that knows; [`FileTable::settle`] must then be called before questions.
    pub fn watched(self, watch: Arc<Watch<Known>>) -> FileTable {
        FileTable { watch, ..self }
    }

    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// Takes into account what happened to watched files up to now. Whoever asks for the state at some moment calls it
    /// once after that moment, and may then ask for many files.
    pub fn settle(&self) {
        self.watch.settle();
    }

    /// Whether `path` is known, without a look, to be a regular file and no link.
    pub fn is_plain(&self, path: &Path) -> bool {
        self.watch.is_plain(path)
    }

    /// Digest and mentions of the regular file at `path` (symbolic links followed).
    ///
    /// # Errors
    /// The system's, and `InvalidInput` for what is no regular file.
    pub fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        self.look(path, true)
    }

    /// As [`FileTable::facts`] for files that no compiler reads as text (programs, libraries): not scanned, and
    /// never in memory as a whole; `mentions` is empty.
    pub fn unscanned(&self, path: &Path) -> io::Result<FileFacts> {
        self.look(path, false)
    }

    fn look(&self, path: &Path, scanned: bool) -> io::Result<FileFacts> {
        if let Some(known) = self.watch.fact(path).filter(|known| known.serves(scanned)) {
            return Ok(known.facts());
        }
        let ticket = self.watch.ticket(path);
        let known = self.look_again(path, scanned)?;
        if let Some(ticket) = ticket {
            self.watch.keep(ticket, known);
        }
        Ok(known.facts())
    }

    fn look_again(&self, path: &Path, scanned: bool) -> io::Result<Known> {
        self.stats.fetch_add(1, Ordering::Relaxed);
        let meta = fs_err::metadata(path)?;
        if !meta.is_file() {
            return Err(not_regular(path));
        }
        let signature = Signature::of(&meta);
        let known = self.shard(&signature, |shard| shard.get(&(signature.device, signature.inode)).copied());
        match known.filter(|known| known.signature == signature && known.serves(scanned)) {
            Some(known) => Ok(Known { executable: meta.mode() & 0o111 != 0, ..known }),
            None => self.read(path, scanned),
        }
    }

    /// Hashes what is there now, until it holds still for as long as that takes.
    fn read(&self, path: &Path, scanned: bool) -> io::Result<Known> {
        // NONBLOCK: the file may have become a pipe since the stat; opening it must not wait for a writer.
        let open = || {
            fs_err::OpenOptions::new()
                .read(true)
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
                .open(path)
        };
        for _ in 0..3 {
            let mut file = open()?;
            let now = (self.clock)();
            let meta = file.metadata()?;
            if !meta.is_file() {
                return Err(not_regular(path));
            }
            let signature = Signature::of(&meta);
            let (digest, mentions) = self.digest(&mut file, meta.len(), scanned)?;
            self.hashes.fetch_add(1, Ordering::Relaxed);
            self.hashed_bytes.fetch_add(digest.size, Ordering::Relaxed);
            if Signature::of(&file.metadata()?) != signature || digest.size != signature.size {
                continue;
            }
            let known = Known { signature, digest, mentions, executable: meta.mode() & 0o111 != 0 };
            if signature.settled(now) {
                self.shard(&signature, |shard| shard.put((signature.device, signature.inode), known));
            }
            return Ok(known);
        }
        Err(io::Error::other(format!("{} changes while it is read", path.display())))
    }

    fn digest(
        &self,
        file: &mut impl Read,
        size: u64,
        scanned: bool,
    ) -> io::Result<(Digest, Option<Mentions>)> {
        if scanned && size <= SCAN_LIMIT {
            let mut bytes = Vec::with_capacity(size as usize + 1);
            // One byte more than the size shows a file that grows; it is read again.
            file.take(size + 1).read_to_end(&mut bytes)?;
            return Ok((self.function.digest(&bytes), Some(scan(&bytes))));
        }
        let mut hasher = Hasher::new(self.function);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hasher.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // What is too large to scan mentions everything: whoever asks must not rely on it.
        let mentions = scanned.then(everything);
        Ok((hasher.finish(), mentions))
    }

    /// Work done since the table was made.
    pub fn counts(&self) -> TableCounts {
        let entries = self.shards.iter().map(|shard| lock(shard).len() as u64).sum();
        TableCounts {
            stats: self.stats.load(Ordering::Relaxed),
            hashes: self.hashes.load(Ordering::Relaxed),
            hashed_bytes: self.hashed_bytes.load(Ordering::Relaxed),
            entries,
        }
    }

    fn shard<T>(&self, signature: &Signature, f: impl FnOnce(&mut Generations<(u64, u64), Known>) -> T) -> T {
        // Inode numbers are dense: their low bits spread well.
        let index = (signature.inode ^ signature.device) as usize % SHARDS;
        f(&mut lock(&self.shards[index]))
    }
}

/// A poisoned table holds nothing half-written: every entry is put in whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(crate) fn everything() -> Mentions {
    Mentions { time: true, date: true, timestamp: true, incbin: true, embed: true, include: true }
}

fn not_regular(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", path.display()))
}

/// A bounded map that forgets roughly what was used longest ago: a young and an old half; what is found in the old
/// half moves to the young one, and when that is full the old half goes.
pub(crate) struct Generations<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq + Clone, V> Generations<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Generations { half: (capacity / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        if let Some(value) = self.old.remove(key) {
            self.put(key.clone(), value);
        }
        self.young.get(key)
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.young.values().chain(self.old.values())
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
