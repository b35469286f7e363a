//! Action values: small records under a key that is not their digest, so each carries its own checksum.
//!
//! ```text
//! 0   "dbac"
//! 4   format version, u32 little-endian: 1
//! 8   length of the value, u64 little-endian
//! 16  BLAKE3 of key and value, 32 bytes
//! 48  the value
//! ```
//! The checksum covers the key, so a file that came to the wrong name is damage like any other. What the
//! value means, and whether the blobs that it names are there, the caller knows. The last writer of a key
//! wins.

use std::io::{Read, Write};

use dbuild_proto::{DigestFunction, Hasher};

use crate::error::CacheError;
use crate::layout::Entry;
use crate::store::Store;

/// The largest action value, in bytes.
pub const MAX_ACTION_VALUE: usize = 16 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"dbac";
const VERSION: u32 = 1;
const HEADER: usize = 48;

/// What an action value is found by: a hash over everything that decides it, made by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionKey(pub [u8; 32]);

impl Store {
    /// The value under `key`. A damaged one is removed, counted, and absent.
    ///
    /// # Errors
    /// `Io` only.
    pub fn action(&self, key: &ActionKey) -> Result<Option<Vec<u8>>, CacheError> {
        let entry = Entry::action(&key.0);
        let Some((file, metadata)) = self.inner.open(&entry)? else { return Ok(None) };
        let limit = (HEADER + MAX_ACTION_VALUE) as u64;
        let mut framed = Vec::with_capacity(metadata.len().min(limit) as usize + 1);
        file.take(limit + 1).read_to_end(&mut framed)?;
        if !is_whole(key, &framed) {
            self.inner.discard(&entry, &metadata);
            return Ok(None);
        }
        framed.drain(..HEADER);
        Ok(Some(framed))
    }

    /// Stores `value` under `key`, replacing what was there.
    ///
    /// # Errors
    /// `TooLarge` above [`MAX_ACTION_VALUE`].
    pub fn put_action(&self, key: &ActionKey, value: &[u8]) -> Result<(), CacheError> {
        if value.len() > MAX_ACTION_VALUE {
            return Err(CacheError::TooLarge { size: value.len() as u64, limit: MAX_ACTION_VALUE as u64 });
        }
        let framed = frame(key, value);
        let entry = Entry::action(&key.0);
        let size = framed.len() as u64;
        let mut temp = self.inner.create(size)?;
        temp.write_all(&framed)?;
        // Its size is taken off now: the rename does not tell whether it replaced one.
        let replaced = self.inner.stat(&entry)?.map(|metadata| metadata.len());
        self.inner.install(temp, &entry, size)?;
        if let Some(size) = replaced {
            self.inner.sweeper.subtract(size);
        }
        Ok(())
    }

    /// Forgets the value under `key`, if there is one.
    pub fn remove_action(&self, key: &ActionKey) -> Result<(), CacheError> {
        self.inner.remove(&Entry::action(&key.0)).map(drop)
    }
}

fn frame(key: &ActionKey, value: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEADER + value.len());
    framed.extend_from_slice(&MAGIC);
    framed.extend_from_slice(&VERSION.to_le_bytes());
    framed.extend_from_slice(&(value.len() as u64).to_le_bytes());
    framed.extend_from_slice(&checksum(key, value));
    framed.extend_from_slice(value);
    framed
}

/// Whether `framed` is exactly what `frame` makes of its value under this key.
fn is_whole(key: &ActionKey, framed: &[u8]) -> bool {
    let Some((header, value)) = framed.split_at_checked(HEADER) else { return false };
    header[..4] == MAGIC
        && header[4..8] == VERSION.to_le_bytes()
        && header[8..16] == (value.len() as u64).to_le_bytes()
        && header[16..] == checksum(key, value)
}

fn checksum(key: &ActionKey, value: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new(DigestFunction::Blake3);
    hasher.update(&key.0);
    hasher.update(value);
    hasher.finish().hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_flipped_bit_and_every_cut_is_found(
            key: [u8; 32],
            value in prop::collection::vec(any::<u8>(), 0..200),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let key = ActionKey(key);
            let framed = frame(&key, &value);
            prop_assert!(is_whole(&key, &framed));
            prop_assert!(!is_whole(&ActionKey(key.0.map(|byte| !byte)), &framed));
            let index = at.index(framed.len());
            prop_assert!(!is_whole(&key, &framed[..index]));
            let mut flipped = framed;
            flipped[index] ^= 1 << bit;
            prop_assert!(!is_whole(&key, &flipped));
        }
    }
}
