//! Taking in a blob piece by piece, as it comes from a peer.

use std::io::{self, Write};
use std::sync::Arc;

use dbuild_proto::{Digest, DigestFunction, Hasher};

use crate::error::CacheError;
use crate::layout::Entry;
use crate::store::{Inner, Store};
use crate::temp::TempFile;

/// A blob on its way in. Dropped without `commit`, it leaves nothing. It may be kept while a peer is away and
/// continued at `written()`; what it holds is not counted in the store's size until it is committed.
pub struct BlobWriter {
    inner: Arc<Inner>,
    f: DigestFunction,
    expected: Digest,
    hasher: Hasher,
    temp: TempFile,
    written: u64,
    /// Set when a write failed half way: the file then holds more than was hashed.
    broken: bool,
}

impl Store {
    /// Starts to take in a blob.
    ///
    /// # Errors
    /// `TooLarge` for one that is larger than the whole store may be.
    pub fn writer(&self, f: DigestFunction, expected: &Digest) -> Result<BlobWriter, CacheError> {
        Ok(BlobWriter {
            inner: Arc::clone(&self.inner),
            f,
            expected: *expected,
            hasher: Hasher::new(f),
            temp: self.inner.create(expected.size)?,
            written: 0,
            broken: false,
        })
    }
}

impl BlobWriter {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// `TooLong` past the expected size, with nothing of `bytes` taken. After an I/O error (disk full) the
    /// writer is of no more use and says so at each call.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.usable()?;
        if bytes.len() as u64 > self.expected.size - self.written {
            return Err(CacheError::TooLong { expected: self.expected });
        }
        if let Err(error) = self.temp.write_all(bytes) {
            self.broken = true;
            return Err(error.into());
        }
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes taken so far: where a peer that lost its connection continues.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The blob that is being taken in.
    pub fn expected(&self) -> &Digest {
        &self.expected
    }

    /// Verifies the whole and gives it its name.
    ///
    /// # Errors
    /// `DigestMismatch` if these are not the expected bytes, or not all of them.
    pub fn commit(self) -> Result<(), CacheError> {
        self.usable()?;
        let actual = self.hasher.finish();
        if actual != self.expected {
            return Err(CacheError::DigestMismatch { expected: self.expected, actual });
        }
        let entry = Entry::blob(self.f, &self.expected);
        if self.expected.is_empty() || self.inner.holds(self.f, &entry)? {
            return Ok(());
        }
        self.inner.install(self.temp, &entry, self.expected.size)
    }

    fn usable(&self) -> Result<(), CacheError> {
        if self.broken {
            return Err(CacheError::Io(io::Error::other("an earlier write of this blob failed")));
        }
        Ok(())
    }
}
