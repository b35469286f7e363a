//! Reading a blob as a stream, from any offset, without losing the promise that what leaves the store is
//! right.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use dbuild_proto::{Digest, DigestFunction, Hasher};
use fs_err as fs;

use crate::error::CacheError;
use crate::layout::Entry;
use crate::place::CHUNK;
use crate::store::{Inner, Store, is_empty_blob};

/// A blob as a stream.
///
/// It hashes every byte from the start of the blob on, also those that `seek_to` skips, and checks the digest
/// *before* it hands out the last piece. So who has read to the end has right bytes, and a damaged blob ends
/// in an error (it is removed and counted) instead of its last piece. Who stops early has unchecked bytes.
pub struct BlobReader {
    inner: Arc<Inner>,
    f: DigestFunction,
    digest: Digest,
    /// None for the empty blob, which needs no file.
    file: Option<fs::File>,
    hasher: Hasher,
    position: u64,
}

impl Store {
    /// Opens the blob for reading; its size is checked now.
    ///
    /// # Errors
    /// `NotFound` if it is not there or its size is wrong.
    pub fn open_blob(&self, f: DigestFunction, d: &Digest) -> Result<BlobReader, CacheError> {
        let file = if is_empty_blob(f, d) {
            None
        } else {
            Some(self.inner.open(&Entry::blob(f, d))?.ok_or(CacheError::NotFound(*d))?.0)
        };
        let inner = Arc::clone(&self.inner);
        Ok(BlobReader { inner, f, digest: *d, file, hasher: Hasher::new(f), position: 0 })
    }
}

impl BlobReader {
    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.digest.size
    }

    /// Continues at `offset` bytes from the start. The bytes before it are read and hashed, not skipped.
    ///
    /// # Errors
    /// `Io` of kind `InvalidInput` past the end; else as for reading.
    pub fn seek_to(&mut self, offset: u64) -> Result<(), CacheError> {
        if offset > self.digest.size {
            let message = format!("offset {offset} is past the end of blob {}", self.digest);
            return Err(CacheError::Io(io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        if offset < self.position {
            if let Some(file) = &mut self.file {
                file.seek(SeekFrom::Start(0))?;
            }
            self.hasher = Hasher::new(self.f);
            self.position = 0;
        }
        let mut buffer = vec![0; (offset - self.position).min(CHUNK as u64) as usize];
        while self.position < offset {
            let wanted = (offset - self.position).min(CHUNK as u64) as usize;
            self.read_exact(&mut buffer[..wanted])?;
        }
        Ok(())
    }

    fn damaged(&self, file: &fs::File) -> io::Error {
        match file.metadata() {
            Ok(metadata) => {
                self.inner.discard(&Entry::blob(self.f, &self.digest), &metadata);
                CacheError::NotFound(self.digest).into()
            }
            Err(error) => error,
        }
    }
}

impl Read for BlobReader {
    /// Errors carry a [`CacheError`] inside; `CacheError::from` takes it out again.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.digest.size - self.position;
        let Some(file) = &mut self.file else { return Ok(0) };
        let wanted = left.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let count = file.read(&mut buffer[..wanted])?;
        self.hasher.update(&buffer[..count]);
        self.position += count as u64;
        let ended = self.position == self.digest.size;
        if count == 0 || (ended && self.hasher.clone().finish() != self.digest) {
            // Stays at an error: a reader that asks again must not take this for the end.
            self.position = 0;
            self.hasher = Hasher::new(self.f);
            return Err(match &self.file {
                Some(file) => self.damaged(file),
                None => CacheError::NotFound(self.digest).into(),
            });
        }
        Ok(count)
    }
}
