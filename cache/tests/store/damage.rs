//! Files that went bad on disk: whatever asks for them gets a miss, the file is gone, the count is one up.

use std::io::Read;

use crate::support::*;

#[test]
fn every_way_out_finds_damage() {
    let Fixture { store, dir } = fixture();
    let to = dir.path().join("out");
    std::fs::write(&to, "old").unwrap();
    for len in [10, 70_000, 3_000_000] {
        let bytes = noise(1, len);
        let digest = F.digest(&bytes);
        let path = blob_path(&store, F, &digest);
        let damages: [&dyn Fn(); 4] = [
            &|| flip(&path, 0),
            &|| flip(&path, len as u64 - 1),
            &|| truncate(&path, len as u64 - 1),
            &|| truncate(&path, len as u64 + 1),
        ];
        let ways_out: [(&str, &dyn Fn() -> bool); 6] = [
            ("read", &|| store.read(F, &digest).unwrap_err().is_not_found()),
            ("copy_to", &|| store.copy_to(F, &digest, &to, 0o644).unwrap_err().is_not_found()),
            ("linkable", &|| store.linkable(F, &digest, false).unwrap_err().is_not_found()),
            ("executable", &|| store.linkable(F, &digest, true).unwrap_err().is_not_found()),
            ("read_zstd", &|| store.read_zstd(F, &digest).err().unwrap().is_not_found()),
            ("open_blob", &|| match store.open_blob(F, &digest) {
                Err(error) => error.is_not_found(),
                Ok(mut reader) => {
                    let mut out = Vec::new();
                    let error = reader.read_to_end(&mut out).unwrap_err();
                    out.len() < len && dbuild_cache::CacheError::from(error).is_not_found()
                }
            }),
        ];
        for damage in damages {
            for (name, misses) in &ways_out {
                store.put(F, &bytes).unwrap();
                let before = store.counters().damaged;
                damage();
                assert!(misses(), "{name} of {len} bytes");
                assert!(!path.exists(), "{name} of {len} bytes");
                assert_eq!(store.counters().damaged, before + 1, "{name} of {len} bytes");
            }
        }
    }
    assert_eq!(std::fs::read(&to).unwrap(), b"old");
    assert_eq!(store.usage().variants, 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5, "no temp files: store's four and `out`");
}

#[test]
fn a_wrong_size_is_seen_without_reading_and_can_be_put_again() {
    let Fixture { store, dir: _dir } = fixture();
    let digest = store.put(F, b"0123456789").unwrap();
    truncate(&blob_path(&store, F, &digest), 3);
    assert!(!store.contains(F, &digest));
    assert_eq!(store.counters().damaged, 1);
    store.put(F, b"0123456789").unwrap();
    truncate(&blob_path(&store, F, &digest), 0);
    store.put(F, b"0123456789").unwrap();
    assert_eq!(store.read(F, &digest).unwrap(), b"0123456789");
    assert_eq!(store.counters().damaged, 2);
}

#[test]
fn a_reader_that_met_damage_does_not_end_well_later() {
    let Fixture { store, dir: _dir } = fixture();
    let bytes = noise(2, 100_000);
    let digest = store.put(F, &bytes).unwrap();
    let mut reader = store.open_blob(F, &digest).unwrap();
    flip(&blob_path(&store, F, &digest), 50_000);
    assert!(reader.seek_to(100_000).is_err());
    let mut out = Vec::new();
    assert!(reader.read_to_end(&mut out).is_err());
    assert_eq!(store.counters().damaged, 1);
}

#[test]
fn a_directory_in_a_blobs_place_is_a_miss() {
    let Fixture { store, dir: _dir } = fixture();
    let digest = F.digest(b"x");
    std::fs::create_dir_all(blob_path(&store, F, &digest)).unwrap();
    assert!(!store.contains(F, &digest));
    assert!(store.read(F, &digest).unwrap_err().is_not_found());
    assert!(store.put(F, b"x").is_err());
}

#[test]
fn a_sweep_removes_what_has_a_wrong_size() {
    let Fixture { store, dir } = fixture();
    let digest = store.put(F, b"0123456789").unwrap();
    truncate(&blob_path(&store, F, &digest), 3);
    let again = open(dir.path(), u64::MAX);
    assert_eq!(again.counters().damaged, 1);
    assert_eq!(again.counters().disk_bytes, 0);
    assert!(!blob_path(&store, F, &digest).exists());
}
