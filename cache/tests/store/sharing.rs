//! Many threads and several handles (which share nothing but the directory, as processes do) at once.

use std::sync::Barrier;

use dbuild_cache::{ActionKey, Store};

use crate::support::*;

/// Runs `work` in `count` threads that start together; even ones on one handle, odd ones on another.
fn together(dir: &std::path::Path, count: usize, work: impl Fn(usize, &Store) + Sync) {
    let handles = [open(dir, u64::MAX), open(dir, u64::MAX)];
    let start = Barrier::new(count);
    std::thread::scope(|scope| {
        for thread in 0..count {
            let (start, work, store) = (&start, &work, &handles[thread % 2]);
            scope.spawn(move || {
                start.wait();
                work(thread, store);
            });
        }
    });
}

#[test]
fn all_may_write_the_same_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let blobs: Vec<_> = (0..40).map(|i| noise(i, 1 << (i % 20))).collect();
    together(dir.path(), 8, |thread, store| {
        for i in 0..blobs.len() {
            let bytes = &blobs[(i + thread) % blobs.len()];
            let digest = F.digest(bytes);
            if i % 2 == 0 {
                store.put(F, bytes).unwrap();
            } else {
                let mut writer = store.writer(F, &digest).unwrap();
                bytes.chunks(10_000).for_each(|piece| writer.write(piece).unwrap());
                writer.commit().unwrap();
            }
            assert_eq!(store.read(F, &digest).unwrap(), *bytes);
        }
    });
    let store = open(dir.path(), u64::MAX);
    assert_eq!((store.usage().blobs, store.usage().damaged), (40, 0));
    assert_eq!(files(&dir.path().join("tmp")).len(), 0);
}

#[test]
fn variants_are_made_by_many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(1, 3_000_000);
    let digest = open(dir.path(), u64::MAX).put(F, &bytes).unwrap();
    together(dir.path(), 8, |_, store| {
        let stream = store.read_zstd(F, &digest).unwrap();
        assert_eq!(zstd::decode_all(stream).unwrap(), bytes);
        let path = store.linkable(F, &digest, true).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), bytes);
        assert_eq!(store.counters().damaged, 0);
    });
    assert_eq!(open(dir.path(), u64::MAX).usage().variants, 2);
}

#[test]
fn one_action_key_always_has_one_whole_value() {
    let dir = tempfile::tempdir().unwrap();
    let key = ActionKey([3; 32]);
    together(dir.path(), 6, |thread, store| {
        for i in 0..100 {
            let value = vec![thread as u8; 1 + (thread * 977 + i * 31) % 5000];
            store.put_action(&key, &value).unwrap();
            let found = store.action(&key).unwrap().unwrap();
            assert!(found.iter().all(|byte| *byte == found[0]));
        }
        assert_eq!(store.counters().damaged, 0);
    });
}

#[test]
fn writing_reading_and_clearing_at_once_gives_misses_never_errors() {
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let blobs: Vec<_> = (0..8).map(|i| noise(i, 70_000 + i as usize)).collect();
    together(dir.path(), 6, |thread, store| {
        for i in 0..60 {
            let bytes = &blobs[(i + thread) % blobs.len()];
            let digest = F.digest(bytes);
            match thread {
                0 => store.clear().unwrap(),
                1 => drop(store.gc(0).unwrap()),
                2 | 3 => drop(store.put(F, bytes).unwrap()),
                _ => {
                    let to = out.path().join(thread.to_string());
                    match store.copy_to(F, &digest, &to, 0o644) {
                        Ok(()) => assert_eq!(std::fs::read(&to).unwrap(), *bytes),
                        Err(error) => assert!(error.is_not_found(), "{error}"),
                    }
                }
            }
        }
        assert_eq!(store.counters().damaged, 0);
    });
}
