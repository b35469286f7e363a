//! Random sequences of everything against a model of what must be there. The model knows for each blob
//! whether it is there, damaged (and how), and how old; the store may never say otherwise, and never serve
//! wrong bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use dbuild_cache::{ActionKey, Digest, Store};
use proptest::prelude::*;

use crate::support::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Stream(u8, u16),
    Zstd(u8),
    Read(u8),
    Contains(u8),
    CopyTo(u8),
    Link(u8),
    ReadZstd(u8),
    Flip(u8, prop::sample::Index),
    Cut(u8, prop::sample::Index),
    Age(u8, u16),
    Gc(u8),
    Clear,
    Reopen,
    PutAction(u8, u8),
    Action(u8),
    FlipAction(u8, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let blob = || 0u8..10;
    prop_oneof![
        4 => blob().prop_map(Step::Put),
        1 => (blob(), 1u16..5000).prop_map(|(i, piece)| Step::Stream(i, piece)),
        1 => blob().prop_map(Step::Zstd),
        3 => blob().prop_map(Step::Read),
        2 => blob().prop_map(Step::Contains),
        2 => blob().prop_map(Step::CopyTo),
        2 => blob().prop_map(Step::Link),
        2 => blob().prop_map(Step::ReadZstd),
        2 => (blob(), any::<prop::sample::Index>()).prop_map(|(i, at)| Step::Flip(i, at)),
        1 => (blob(), any::<prop::sample::Index>()).prop_map(|(i, at)| Step::Cut(i, at)),
        3 => (blob(), 60u16..10_000).prop_map(|(i, minutes)| Step::Age(i, minutes)),
        1 => (0u8..40).prop_map(Step::Gc),
        1 => Just(Step::Clear),
        1 => Just(Step::Reopen),
        2 => (0u8..3, any::<u8>()).prop_map(|(key, value)| Step::PutAction(key, value)),
        2 => (0u8..3).prop_map(Step::Action),
        1 => (0u8..3, any::<prop::sample::Index>()).prop_map(|(key, at)| Step::FlipAction(key, at)),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Flipped,
    Cut,
}

/// The blob of a number; some are large enough for a sidecar.
fn content(i: u8) -> Vec<u8> {
    noise(u64::from(i) + 1, 1 + usize::from(i) * usize::from(i) * 1500)
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
    blobs: BTreeMap<u8, State>,
    actions: BTreeMap<u8, Option<u8>>,
}

impl World {
    fn digest(&self, i: u8) -> Digest {
        F.digest(&content(i))
    }

    /// What the model says of a look that only sees names and sizes.
    fn looks(&mut self, i: u8) -> bool {
        if self.blobs.get(&i) == Some(&State::Cut) {
            self.blobs.remove(&i);
        }
        self.blobs.contains_key(&i)
    }

    /// What the model says of a look at the bytes: damage is gone afterwards.
    fn serves(&mut self, i: u8) -> bool {
        if self.looks(i) && self.blobs[&i] == State::Flipped {
            self.blobs.remove(&i);
        }
        self.blobs.contains_key(&i)
    }

    fn arrives(&mut self, i: u8) {
        // A flipped blob looks right and is not written again, until the store has met damage: then it looks closely.
        if !self.looks(i) || self.store.counters().damaged > 0 {
            self.blobs.insert(i, State::Good);
        }
    }

    fn take(&mut self, step: Step) {
        let out = self.dir.path().join("out");
        match step {
            Step::Put(i) => {
                self.store.put(F, &content(i)).unwrap();
                self.arrives(i);
            }
            Step::Stream(i, piece) => {
                let mut writer = self.store.writer(F, &self.digest(i)).unwrap();
                content(i).chunks(usize::from(piece)).for_each(|piece| writer.write(piece).unwrap());
                writer.commit().unwrap();
                self.arrives(i);
            }
            Step::Zstd(i) => {
                let stream = zstd::encode_all(&content(i)[..], 1).unwrap();
                self.store.put_zstd(F, &self.digest(i), &stream[..]).unwrap();
                self.arrives(i);
            }
            Step::Read(i) => {
                let found = self.store.read(F, &self.digest(i)).map_err(|error| error.is_not_found());
                assert_eq!(found, if self.serves(i) { Ok(content(i)) } else { Err(true) });
            }
            Step::Contains(i) => assert_eq!(self.store.contains(F, &self.digest(i)), self.looks(i)),
            Step::CopyTo(i) => {
                let copied =
                    self.store.copy_to(F, &self.digest(i), &out, 0o640).map_err(|error| error.is_not_found());
                assert_eq!(copied, if self.serves(i) { Ok(()) } else { Err(true) });
                if copied.is_ok() {
                    assert_eq!((std::fs::read(&out).unwrap(), mode(&out)), (content(i), 0o640));
                }
            }
            Step::Link(i) => {
                let path =
                    self.store.linkable(F, &self.digest(i), false).map_err(|error| error.is_not_found());
                assert_eq!(path.is_ok(), self.serves(i));
                if let Ok(path) = path {
                    assert_eq!((std::fs::read(&path).unwrap(), mode(&path)), (content(i), 0o444));
                }
            }
            Step::ReadZstd(i) => match self.store.read_zstd(F, &self.digest(i)) {
                Ok(stream) => {
                    // A sidecar outlives damage of its blob, whose bytes are not looked at then.
                    assert!(self.looks(i));
                    assert_eq!(zstd::decode_all(stream).unwrap(), content(i));
                }
                Err(error) => assert!(error.is_not_found() && !self.serves(i)),
            },
            Step::Flip(i, at) => {
                if self.blobs.get(&i) == Some(&State::Good) {
                    flip(&blob_path(&self.store, F, &self.digest(i)), at.index(content(i).len()) as u64);
                    self.blobs.insert(i, State::Flipped);
                }
            }
            Step::Cut(i, at) => {
                if self.blobs.contains_key(&i) {
                    truncate(&blob_path(&self.store, F, &self.digest(i)), at.index(content(i).len()) as u64);
                    self.blobs.insert(i, State::Cut);
                }
            }
            Step::Age(i, minutes) => {
                if self.blobs.contains_key(&i) {
                    let path = blob_path(&self.store, F, &self.digest(i));
                    age(&path, Duration::from_secs(60) * u32::from(minutes));
                }
            }
            Step::Gc(blocks) => self.gc(u64::from(blocks) * 4096),
            Step::Clear => {
                self.store.clear().unwrap();
                self.blobs.clear();
                self.actions.clear();
            }
            Step::Reopen => {
                self.store = open(&self.dir.path().join("cache"), u64::MAX);
                self.blobs.retain(|_, state| *state != State::Cut);
            }
            Step::PutAction(key, value) => {
                self.store.put_action(&ActionKey([key; 32]), &[value; 20]).unwrap();
                self.actions.insert(key, Some(value));
            }
            Step::Action(key) => {
                let found = self.store.action(&ActionKey([key; 32])).unwrap();
                let known = self.actions.remove(&key).flatten();
                assert_eq!(found, known.map(|value| vec![value; 20]));
                if let Some(value) = known {
                    self.actions.insert(key, Some(value));
                }
            }
            Step::FlipAction(key, at) => {
                if let Some(value @ Some(_)) = self.actions.get_mut(&key) {
                    flip(&action_path(&self.store, &ActionKey([key; 32])), at.index(68) as u64);
                    *value = None;
                }
            }
        }
    }

    /// What a sweep leaves is at most the goal, or all of it is young; and nobody goes before an older one.
    fn gc(&mut self, keep: u64) {
        self.blobs.retain(|_, state| *state != State::Cut);
        let ages: BTreeMap<u8, Duration> = self
            .blobs
            .keys()
            .map(|i| {
                let metadata = std::fs::metadata(blob_path(&self.store, F, &self.digest(*i))).unwrap();
                (*i, metadata.modified().unwrap().elapsed().unwrap_or_default())
            })
            .collect();
        let usage = self.store.gc(keep).unwrap();
        assert_eq!(usage, self.store.usage());
        let young = Duration::from_secs(600);
        let is_left = |i: &u8| blob_path(&self.store, F, &self.digest(*i)).exists();
        let (left, gone): (Vec<u8>, Vec<u8>) = ages.keys().partition(|i| is_left(i));
        assert!(usage.disk_bytes <= keep || left.iter().all(|i| ages[i] < young));
        let youngest_gone = gone.iter().map(|i| ages[i]).min();
        let oldest_left = left.iter().map(|i| ages[i]).filter(|age| *age >= young).max();
        if let (Some(gone), Some(left)) = (youngest_gone, oldest_left) {
            assert!(gone >= left, "{gone:?} went before {left:?}");
        }
        assert!(youngest_gone.is_none_or(|age| age >= young));
        self.blobs.retain(|i, _| left.contains(i));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 500, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_what_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("cache"), u64::MAX);
        let mut world = World { dir, store, blobs: BTreeMap::new(), actions: BTreeMap::new() };
        for step in steps {
            world.take(step);
        }
        prop_assert_eq!(files(&world.dir.path().join("cache/tmp")).len(), 0);
    }
}
