//! Parsed files by content, and the names that they share. Bounded: what was not used for long is forgotten, and when
//! the names alone are too many, everything is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dbuild_proto::Digest;
use dbuild_scanner::{Content, Mode, Names, parse};

use crate::files::lock;

/// The digest says what is parsed, the mode how.
type Key = (Digest, Mode);

pub(super) struct Contents {
    pub names: Names,
    /// Bytes that one half may hold.
    half: usize,
    kept: Mutex<Kept>,
    parsed: AtomicU64,
    parsed_bytes: AtomicU64,
}

/// A young and an old half, as in `files`, but measured in bytes.
#[derive(Default)]
struct Kept {
    young: HashMap<Key, Arc<Content>>,
    old: HashMap<Key, Arc<Content>>,
    young_bytes: usize,
    old_bytes: usize,
}

impl Contents {
    /// `limit`: bytes for contents and names together.
    pub fn new(limit: usize) -> Contents {
        Contents {
            names: Names::new(limit / 3),
            half: limit / 3,
            kept: Mutex::default(),
            parsed: AtomicU64::new(0),
            parsed_bytes: AtomicU64::new(0),
        }
    }

    /// What was parsed of a content, or what `read` gives of it.
    pub fn get<E>(
        &self,
        digest: Digest,
        mode: Mode,
        read: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Arc<Content>, E> {
        let key = (digest, mode);
        if let Some(content) = lock(&self.kept).get(&key, self.half) {
            return Ok(content);
        }
        let bytes = read()?;
        let content = Arc::new(parse(&bytes, mode, &self.names));
        self.parsed.fetch_add(1, Ordering::Relaxed);
        self.parsed_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        lock(&self.kept).put(key, content.clone(), self.half);
        Ok(content)
    }

    /// Memory in use, about.
    pub fn bytes(&self) -> usize {
        let kept = lock(&self.kept);
        kept.young_bytes + kept.old_bytes + self.names.bytes()
    }

    /// Files parsed, and their bytes.
    pub fn parsed(&self) -> (u64, u64) {
        (self.parsed.load(Ordering::Relaxed), self.parsed_bytes.load(Ordering::Relaxed))
    }
}

impl Kept {
    fn get(&mut self, key: &Key, half: usize) -> Option<Arc<Content>> {
        if let Some(content) = self.young.get(key) {
            return Some(content.clone());
        }
        let content = self.old.remove(key)?;
        self.old_bytes -= content.bytes();
        self.put(*key, content.clone(), half);
        Some(content)
    }

    fn put(&mut self, key: Key, content: Arc<Content>, half: usize) {
        let bytes = content.bytes();
        if self.young_bytes + bytes > half {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        if self.young.insert(key, content).is_none() {
            self.young_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use dbuild_proto::DigestFunction;

    use super::*;

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let contents = Contents::new(300_000);
        let text = |i: u32| format!("#define N{i} {}\n", "x".repeat(1000)).into_bytes();
        let get = |i: u32| {
            let digest = DigestFunction::Blake3.digest(&text(i));
            contents.get::<()>(digest, Mode::default(), || Ok(text(i))).unwrap();
        };
        for i in 0..1000 {
            get(0);
            get(i);
        }
        let (parsed, bytes) = contents.parsed();
        assert_eq!(parsed, 1000);
        assert!(bytes > 1_000_000);
        let kept = lock(&contents.kept);
        assert!(kept.young_bytes + kept.old_bytes <= 200_000);
    }
}
