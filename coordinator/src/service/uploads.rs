//! Uploads that may be resumed: what is being written now and what a lost connection left behind, by
//! resource name. Bounded in number and age; nothing of it survives a restart.
//!
//! Only plain uploads are kept. The offset at which a compressed one would continue counts bytes of two
//! kinds (REAPI, ContentAddressableStorage: "which is nonsensical"), so those start again from 0.
//!
//! The lock is this file's own and is not held across I/O.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dbuild_cache::{BlobWriter, CacheError, ZstdWriter};

/// How long a client has to come back.
const KEPT: Duration = Duration::from_secs(600);
/// Abandoned uploads kept at a time; each holds a temp file.
const MAX_KEPT: usize = 256;

/// The store's side of an upload.
pub enum Sink {
    Plain(Box<BlobWriter>),
    Zstd(Box<ZstdWriter>),
}

impl Sink {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        match self {
            Sink::Plain(writer) => writer.write(bytes),
            Sink::Zstd(writer) => writer.write(bytes),
        }
    }

    fn commit(self) -> Result<(), CacheError> {
        match self {
            Sink::Plain(writer) => writer.commit(),
            Sink::Zstd(writer) => writer.commit(),
        }
    }
}

enum Entry {
    /// A stream writes it: which, and how far it is.
    Active { by: u64, committed: u64 },
    /// Left behind at this time.
    Kept { writer: Box<BlobWriter>, since: Instant },
}

#[derive(Default)]
pub struct Uploads {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    last: u64,
}

impl Uploads {
    /// How many bytes of an unfinished upload have been taken; None: nothing is known of it.
    pub fn committed(&self, name: &str) -> Option<u64> {
        match self.state().entries.get(name)? {
            Entry::Active { committed, .. } => Some(*committed),
            Entry::Kept { writer, .. } => Some(writer.written()),
        }
    }

    /// Takes up what an earlier stream left at `offset`; else gives how many bytes there are.
    pub fn resume(self: &Arc<Self>, name: &str, offset: u64) -> Result<Upload, u64> {
        let mut state = self.state();
        match state.entries.remove(name) {
            Some(Entry::Kept { writer, .. }) if writer.written() == offset => {
                drop(state);
                Ok(self.start(name, Sink::Plain(writer)))
            }
            Some(other) => {
                let there = match &other {
                    Entry::Active { committed, .. } => *committed,
                    Entry::Kept { writer, .. } => writer.written(),
                };
                state.entries.insert(name.to_owned(), other);
                Err(there)
            }
            None => Err(0),
        }
    }

    /// A new upload takes the place of what was there under its name.
    pub fn start(self: &Arc<Self>, name: &str, sink: Sink) -> Upload {
        let mut state = self.state();
        state.last += 1;
        let by = state.last;
        let committed = if let Sink::Plain(writer) = &sink { writer.written() } else { 0 };
        let replaced = state.entries.insert(name.to_owned(), Entry::Active { by, committed });
        drop(state);
        // Dropping a writer removes a file, which is I/O.
        drop(replaced);
        Upload { uploads: Arc::clone(self), name: name.to_owned(), by, sink: Some(sink) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is(&self, name: &str, by: u64) -> bool {
        matches!(self.entries.get(name), Some(Entry::Active { by: active, .. }) if *active == by)
    }

    /// Takes out what is too old, or the oldest where there is too much.
    fn make_room(&mut self) -> Vec<Entry> {
        let mut kept: Vec<(Instant, String)> = self
            .entries
            .iter()
            .filter_map(|(name, entry)| match entry {
                Entry::Kept { since, .. } => Some((*since, name.clone())),
                Entry::Active { .. } => None,
            })
            .collect();
        kept.sort_unstable();
        let surplus = (kept.len() + 1).saturating_sub(MAX_KEPT);
        let old = kept.iter().take_while(|(since, _)| since.elapsed() >= KEPT).count();
        let gone = kept.drain(..surplus.max(old).min(kept.len()));
        gone.filter_map(|(_, name)| self.entries.remove(&name)).collect()
    }
}

/// An upload that is being written. Dropped before [`Upload::commit`], it is kept for the client to come
/// back; it may therefore be moved into a blocking call whose caller goes away.
pub struct Upload {
    uploads: Arc<Uploads>,
    name: String,
    by: u64,
    /// None: committed or failed.
    sink: Option<Sink>,
}

impl Upload {
    /// Takes the next bytes, as they travel. Blocks. After an error the upload is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        if let Err(error) = sink.write(bytes) {
            self.sink = None;
            return Err(error);
        }
        if let Sink::Plain(writer) = sink {
            let (now, mut state) = (writer.written(), self.uploads.state());
            if let Some(Entry::Active { by, committed }) = state.entries.get_mut(&self.name)
                && *by == self.by
            {
                *committed = now;
            }
        }
        Ok(())
    }

    /// Verifies what came and puts it into the store. Blocks.
    pub fn commit(mut self) -> Result<(), CacheError> {
        self.sink.take().map_or(Ok(()), Sink::commit)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = self.uploads.state();
        if !state.is(&self.name, self.by) {
            return;
        }
        let gone = match self.sink.take() {
            Some(Sink::Plain(writer)) if writer.written() > 0 => {
                let gone = state.make_room();
                let name = std::mem::take(&mut self.name);
                state.entries.insert(name, Entry::Kept { writer, since: Instant::now() });
                gone
            }
            _ => state.entries.remove(&self.name).into_iter().collect(),
        };
        drop(state);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbuild_cache::{Store, StoreConfig};
    use dbuild_proto::DigestFunction;

    #[test]
    fn the_oldest_goes_when_too_many_were_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { dir: dir.path().into(), max_bytes: 1 << 20 }).unwrap();
        let uploads = Arc::new(Uploads::default());
        let start = |number: usize| {
            let expected = DigestFunction::Blake3.digest(b"abc");
            let writer = store.writer(DigestFunction::Blake3, &expected).unwrap();
            uploads.start(&number.to_string(), Sink::Plain(Box::new(writer)))
        };
        for number in 0..MAX_KEPT + 2 {
            start(number).write(b"a").unwrap();
        }
        let known: Vec<_> = (0..4).map(|number| uploads.committed(&number.to_string())).collect();
        assert_eq!(known, [None, None, Some(1), Some(1)]);
        // One that was left behind is taken up once, and only where it ended.
        assert_eq!(uploads.resume("5", 2).err(), Some(1));
        let resumed = uploads.resume("5", 1).ok().unwrap();
        assert_eq!(uploads.resume("5", 1).err(), Some(1));
        // A fresh start takes its place; the old one's end then changes nothing.
        let fresh = start(5);
        drop(resumed);
        assert_eq!(uploads.committed("5"), Some(0));
        drop(fresh);
        assert_eq!(uploads.committed("5"), None);
    }
}
