//! Files to link from, and sidecars: their modes, their making, their damage.

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;

use crate::support::*;

#[test]
fn linkable_files_have_exact_modes() {
    let Fixture { store, dir } = fixture();
    let digest = store.put(F, b"#!/bin/sh\nexit 7\n").unwrap();
    let plain = store.linkable(F, &digest, false).unwrap();
    assert_eq!((plain.as_path(), mode(&plain)), (blob_path(&store, F, &digest).as_path(), 0o444));
    let executable = store.linkable(F, &digest, true).unwrap();
    assert_eq!(executable, variant_path(&store, "cas-v1/blake3-x", &digest));
    assert_eq!(mode(&executable), 0o555);
    assert_eq!(store.linkable(F, &digest, true).unwrap(), executable);
    // Links do not make it look changed; a foreign chmod is mended.
    std::fs::hard_link(&plain, dir.path().join("link")).unwrap();
    std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o600)).unwrap();
    store.linkable(F, &digest, false).unwrap();
    assert_eq!(mode(&plain), 0o444);
    assert_eq!(std::fs::metadata(&plain).unwrap().nlink(), 2);
    let usage = store.usage();
    assert_eq!((usage.blobs, usage.variants, usage.disk_bytes), (1, 1, 8192));
    assert!(store.linkable(F, &F.digest(b"absent"), true).unwrap_err().is_not_found());
}

#[test]
fn a_linkable_file_that_was_written_to_through_a_link_is_found_out() {
    let Fixture { store, dir } = fixture();
    let bytes = noise(1, 100_000);
    let digest = store.put(F, &bytes).unwrap();
    let path = store.linkable(F, &digest, false).unwrap();
    let link = dir.path().join("link");
    std::fs::hard_link(&path, &link).unwrap();
    age(&path, std::time::Duration::from_secs(60));
    store.linkable(F, &digest, false).unwrap();
    flip(&link, 500);
    assert!(store.linkable(F, &digest, false).unwrap_err().is_not_found());
    store.put(F, &bytes).unwrap();
    let executable = store.linkable(F, &digest, true).unwrap();
    age(&executable, std::time::Duration::from_secs(60));
    flip(&executable, 500);
    assert_eq!(store.linkable(F, &digest, true).unwrap(), executable);
    assert_eq!(std::fs::read(&executable).unwrap(), bytes, "made again from the blob");
    assert_eq!(store.counters().damaged, 2);
}

#[test]
fn a_process_checks_the_sidecars_that_it_finds() {
    let Fixture { store, dir } = fixture();
    let bytes = noise(2, 300_000);
    let digest = store.put(F, &bytes).unwrap();
    drop(store.read_zstd(F, &digest).unwrap());
    let sidecar = variant_path(&store, "zst-v1/blake3", &digest);
    let whole = std::fs::metadata(&sidecar).unwrap();
    assert_eq!(mode(&sidecar), 0o444);

    // Another process (another handle) takes a good one as it is.
    let other = open(dir.path(), u64::MAX);
    drop(other.read_zstd(F, &digest).unwrap());
    assert_eq!(std::fs::metadata(&sidecar).unwrap().ino(), whole.ino());
    assert_eq!(other.counters().damaged, 0);

    for damage in
        [&(|| truncate(&sidecar, whole.len() - 1)) as &dyn Fn(), &|| flip(&sidecar, whole.len() / 2), &|| {
            truncate(&sidecar, 0)
        }]
    {
        damage();
        let third = open(dir.path(), u64::MAX);
        let stream = third.read_zstd(F, &digest).unwrap();
        assert_eq!(zstd::decode_all(stream).unwrap(), bytes);
        assert_eq!(third.counters().damaged, 1);
    }
}
