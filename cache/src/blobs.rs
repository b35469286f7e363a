//! Whole blobs in and out: from and to memory, and in from a file.

use std::fs::Metadata;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dbuild_proto::{Digest, DigestFunction, Hasher};
use fs_err as fs;

use crate::error::CacheError;
use crate::layout::Entry;
use crate::place::transfer;
use crate::store::{Inner, Store, is_empty_blob};

/// Files up to this size, in bytes, go through memory in one piece.
pub(crate) const IN_MEMORY: u64 = 1 << 20;

impl Store {
    /// Stores `bytes` under their digest. Writes nothing if the blob is there.
    pub fn put(&self, f: DigestFunction, bytes: &[u8]) -> Result<Digest, CacheError> {
        let digest = f.digest(bytes);
        self.inner.put(f, &digest, bytes)?;
        Ok(digest)
    }

    /// Stores `bytes` that a peer says have this digest.
    ///
    /// # Errors
    /// `DigestMismatch` if they have not.
    pub fn put_verified(&self, f: DigestFunction, expected: &Digest, bytes: &[u8]) -> Result<(), CacheError> {
        let actual = f.digest(bytes);
        if actual != *expected {
            return Err(CacheError::DigestMismatch { expected: *expected, actual });
        }
        self.inner.put(f, expected, bytes)
    }

    /// Stores a copy of a regular file (a reflink where possible). The digest is that of the copy, so a file
    /// that changes meanwhile gives some consistent blob, never a wrong one.
    ///
    /// # Errors
    /// `Source` when `path` cannot be read or is no regular file.
    pub fn put_file(&self, f: DigestFunction, path: &Path) -> Result<Digest, CacheError> {
        // Looked at before it is opened: opening a FIFO would wait for its writer.
        let metadata = fs::metadata(path).map_err(CacheError::Source)?;
        if !metadata.is_file() {
            let message = format!("{} is not a regular file", path.display());
            return Err(CacheError::Source(std::io::Error::new(std::io::ErrorKind::InvalidInput, message)));
        }
        let mut file = fs::File::open(path).map_err(CacheError::Source)?;
        if metadata.len() <= IN_MEMORY {
            let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
            (&mut file).take(IN_MEMORY + 1).read_to_end(&mut bytes).map_err(CacheError::Source)?;
            // Else it has grown past what may go through memory: copied below, from its start.
            if bytes.len() as u64 <= IN_MEMORY {
                return self.put(f, &bytes);
            }
            file = fs::File::open(path).map_err(CacheError::Source)?;
        }
        let mut temp = self.inner.create(metadata.len())?;
        let digest = transfer(f, &mut file, metadata.len(), temp.file(), self.inner.max_bytes)
            .map_err(|fault| fault.into_error(CacheError::Source, CacheError::Io))?;
        let entry = Entry::blob(f, &digest);
        if !is_empty_blob(f, &digest) && !self.inner.holds(f, &entry)? {
            self.inner.install(temp, &entry, digest.size)?;
        }
        Ok(digest)
    }

    /// The whole blob, verified, in memory; [`Store::open_blob`] is for large ones.
    ///
    /// # Errors
    /// `NotFound` if it is not there, or was damaged (then it is removed and counted).
    pub fn read(&self, f: DigestFunction, d: &Digest) -> Result<Vec<u8>, CacheError> {
        if is_empty_blob(f, d) {
            return Ok(Vec::new());
        }
        let entry = Entry::blob(f, d);
        let (mut file, metadata) = self.inner.open(&entry)?.ok_or(CacheError::NotFound(*d))?;
        self.inner.read_verified(f, &entry, &mut file, &metadata)
    }
}

impl Inner {
    /// Stores bytes whose digest is known to be right.
    fn put(self: &Arc<Self>, f: DigestFunction, digest: &Digest, bytes: &[u8]) -> Result<(), CacheError> {
        let entry = Entry::blob(f, digest);
        if digest.is_empty() || self.holds(f, &entry)? {
            return Ok(());
        }
        let mut temp = self.create(digest.size)?;
        temp.write_all(bytes)?;
        self.install(temp, &entry, digest.size)
    }

    /// Whether the entry is there and need not be written. Its size tells, until this process has met a damaged file:
    /// from then on nothing is taken to be what it was, and the bytes are looked at.
    pub(crate) fn holds(&self, f: DigestFunction, entry: &Entry) -> Result<bool, CacheError> {
        if self.damaged.load(Ordering::Relaxed) == 0 {
            return Ok(self.stat(entry)?.is_some());
        }
        let Some((mut file, metadata)) = self.open(entry)? else { return Ok(false) };
        match self.read_verified(f, entry, &mut file, &metadata) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads an entry whose bytes are the blob itself; its size was checked when it was opened.
    pub(crate) fn read_verified(
        &self,
        f: DigestFunction,
        entry: &Entry,
        file: &mut fs::File,
        metadata: &Metadata,
    ) -> Result<Vec<u8>, CacheError> {
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.take(metadata.len()).read_to_end(&mut bytes)?;
        if f.digest(&bytes) != entry.digest {
            self.discard(entry, metadata);
            return Err(CacheError::NotFound(entry.digest));
        }
        Ok(bytes)
    }

    /// Hashes an entry whose bytes are the blob itself, without keeping them.
    pub(crate) fn check(
        &self,
        f: DigestFunction,
        entry: &Entry,
        file: &mut fs::File,
        metadata: &Metadata,
    ) -> Result<(), CacheError> {
        let mut hasher = Hasher::new(f);
        let mut buffer = vec![0; metadata.len().min(crate::place::CHUNK as u64) as usize];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
        if hasher.finish() != entry.digest {
            self.discard(entry, metadata);
            return Err(CacheError::NotFound(entry.digest));
        }
        Ok(())
    }
}
