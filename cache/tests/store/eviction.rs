//! Who is evicted, who is spared, and when.

use std::time::{Duration, SystemTime};

use dbuild_cache::{ActionKey, Digest, Store};

use crate::support::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A blob of one block that was last used `age` ago.
fn aged(store: &Store, seed: u64, by: Duration) -> Digest {
    let digest = store.put(F, &noise(seed, 4000)).unwrap();
    age(&blob_path(store, F, &digest), by);
    digest
}

fn is_there(store: &Store, digest: &Digest) -> bool {
    blob_path(store, F, digest).exists()
}

#[test]
fn the_least_recently_used_go_first() {
    let Fixture { store, dir: _dir } = fixture();
    let digests: Vec<_> = (0..10).map(|i| aged(&store, i, HOUR * (20 - i as u32))).collect();
    let key = ActionKey([1; 32]);
    store.put_action(&key, b"old").unwrap();
    age(&action_path(&store, &key), HOUR * 30);
    let usage = store.gc(6 * 4096).unwrap();
    assert_eq!((usage.blobs, usage.actions, usage.disk_bytes, usage.evicted), (6, 0, 6 * 4096, 5));
    for (i, digest) in digests.iter().enumerate() {
        assert_eq!(is_there(&store, digest), i >= 4, "{i}");
    }
    assert_eq!(store.usage(), usage);
}

#[test]
fn a_use_refreshes_but_not_each_time() {
    let Fixture { store, dir: _dir } = fixture();
    let mtime = |digest| std::fs::metadata(blob_path(&store, F, digest)).unwrap().modified().unwrap();
    let old = aged(&store, 1, HOUR * 2);
    let recent = aged(&store, 2, MINUTE * 50);
    let before = mtime(&recent);
    assert!(store.contains(F, &old) && store.contains(F, &recent));
    assert!(mtime(&old).elapsed().unwrap_or_default() < HOUR);
    assert_eq!(mtime(&recent), before);
    let uses: [&dyn Fn(); 5] = [
        &|| drop(store.read(F, &old).unwrap()),
        &|| assert_eq!(store.put(F, &noise(1, 4000)).unwrap(), old),
        &|| drop(store.open_blob(F, &old).unwrap()),
        &|| drop(store.linkable(F, &old, false).unwrap()),
        &|| drop(store.read_zstd(F, &old).unwrap()),
    ];
    for used in uses {
        age(&blob_path(&store, F, &old), HOUR * 2);
        used();
        assert!(mtime(&old).elapsed().unwrap_or_default() < HOUR);
    }
}

#[test]
fn the_young_and_the_pinned_are_spared() {
    let Fixture { store, dir } = fixture();
    let young = store.put(F, b"young").unwrap();
    let pinned = aged(&store, 1, HOUR * 9);
    let executable = store.linkable(F, &pinned, true).unwrap();
    age(&executable, HOUR * 9);
    age(&blob_path(&store, F, &pinned), HOUR * 9);
    let (pin, second) = (store.pin(F, &pinned), store.clone().pin(F, &pinned));
    drop(second);
    let usage = store.gc(0).unwrap();
    assert_eq!((usage.blobs, usage.variants), (2, 1));
    drop(pin);
    let usage = store.gc(0).unwrap();
    assert_eq!((usage.blobs, usage.variants), (1, 0));
    assert!(is_there(&store, &young) && !executable.exists());
    // Pins are the handle's own.
    let pinned = aged(&store, 2, HOUR);
    let _pin = store.pin(F, &pinned);
    open(dir.path(), u64::MAX).gc(0).unwrap();
    assert!(!is_there(&store, &pinned));
}

#[test]
fn times_from_the_future_do_not_keep_a_blob_for_ever() {
    let Fixture { store, dir: _dir } = fixture();
    let future = aged(&store, 1, Duration::ZERO);
    let file = std::fs::File::open(blob_path(&store, F, &future)).unwrap();
    file.set_modified(SystemTime::now() + HOUR * 24 * 365).unwrap();
    let old = aged(&store, 2, HOUR * 24);
    store.gc(4096).unwrap();
    assert!(is_there(&store, &old) && !is_there(&store, &future));
}

#[test]
fn a_full_store_sweeps_itself_down_to_nine_tenths() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 100 * 4096;
    let filler = open(dir.path(), u64::MAX);
    for seed in 0..120 {
        aged(&filler, seed, HOUR);
    }
    // The count at the opening finds it too full.
    let store = open(dir.path(), limit);
    assert_eq!((store.counters().evicted, store.usage().disk_bytes), (30, 90 * 4096));
    // And so does what is written later, once the pause between sweeps is over.
    let mut seed = 1000;
    while store.counters().evicted == 30 {
        aged(&store, seed, HOUR);
        store.settle();
        seed += 1;
        assert!(seed < 100_000, "never swept");
    }
    assert!(store.usage().disk_bytes <= limit);
}

#[test]
fn clear_takes_all_but_what_is_being_written() {
    let Fixture { store, dir: _dir } = fixture();
    let young = store.put(F, &noise(1, 100_000)).unwrap();
    let _pin = store.pin(F, &young);
    store.linkable(F, &young, true).unwrap();
    drop(store.read_zstd(F, &young).unwrap());
    store.put_action(&ActionKey([1; 32]), b"value").unwrap();
    let written = F.digest(b"written");
    let mut writer = store.writer(F, &written).unwrap();
    writer.write(b"writ").unwrap();
    store.settle();
    store.clear().unwrap();
    assert_eq!(store.usage(), Default::default());
    assert_eq!(store.counters().disk_bytes, 0);
    writer.write(b"ten").unwrap();
    writer.commit().unwrap();
    assert!(store.contains(F, &written));
}

#[test]
fn strange_files_are_left_alone() {
    let Fixture { store, dir: _dir } = fixture();
    let strange = store.dir().join("cas-v1/blake3/zz/README");
    std::fs::create_dir_all(strange.parent().unwrap()).unwrap();
    std::fs::write(&strange, "not ours").unwrap();
    let future = store.dir().join("cas-v2/blake3/ab/x");
    std::fs::create_dir_all(future.parent().unwrap()).unwrap();
    std::fs::write(&future, "of a later version").unwrap();
    store.gc(0).unwrap();
    store.clear().unwrap();
    assert!(strange.exists() && future.exists());
    assert_eq!(store.usage().disk_bytes, 0);
}
