//! Blobs in and out, both digest functions, and what the files look like.

use std::os::unix::fs::MetadataExt;

use dbuild_cache::{CacheError, Digest, DigestFunction, Store};

use crate::support::*;

fn is_shareable<T: Send + Sync + Clone + 'static>() {}

#[test]
fn put_then_read_with_both_functions() {
    is_shareable::<Store>();
    let Fixture { store, dir: _dir } = fixture();
    for f in [DigestFunction::Blake3, DigestFunction::Sha256] {
        for len in [1, 100, 65_536, 65_537, 3_000_000] {
            let bytes = noise(len as u64, len);
            let digest = store.put(f, &bytes).unwrap();
            assert_eq!(digest, f.digest(&bytes));
            assert!(store.contains(f, &digest));
            assert_eq!(store.read(f, &digest).unwrap(), bytes);
            assert_eq!(mode(&blob_path(&store, f, &digest)), 0o444);
        }
    }
    // A blob of one function is not one of the other.
    let digest = store.put(DigestFunction::Blake3, b"only blake3").unwrap();
    assert!(!store.contains(DigestFunction::Sha256, &digest));
}

#[test]
fn a_blob_that_is_there_is_not_written_again() {
    let Fixture { store, dir } = fixture();
    let digest = store.put(F, b"hello").unwrap();
    let before = std::fs::metadata(blob_path(&store, F, &digest)).unwrap();
    store.put(F, b"hello").unwrap();
    store.put_verified(F, &digest, b"hello").unwrap();
    let mut writer = store.writer(F, &digest).unwrap();
    writer.write(b"hello").unwrap();
    writer.commit().unwrap();
    std::fs::write(dir.path().join("source"), "hello").unwrap();
    store.put_file(F, &dir.path().join("source")).unwrap();
    let after = std::fs::metadata(blob_path(&store, F, &digest)).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
}

#[test]
fn the_empty_blob_is_always_there() {
    let Fixture { store, dir } = fixture();
    let empty = F.digest(b"");
    assert!(store.contains(F, &empty));
    assert_eq!(store.read(F, &empty).unwrap(), b"");
    assert_eq!(std::io::read_to_string(store.open_blob(F, &empty).unwrap()).unwrap(), "");
    store.put(F, b"").unwrap();
    store.writer(F, &empty).unwrap().commit().unwrap();
    assert_eq!(store.usage().blobs, 0);
    store.copy_to(F, &empty, &dir.path().join("copy"), 0o640).unwrap();
    assert_eq!(std::fs::read(dir.path().join("copy")).unwrap(), b"");
    for executable in [false, true] {
        let path = store.linkable(F, &empty, executable).unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap().len(), mode(&path)),
            (0, if executable { 0o555 } else { 0o444 })
        );
    }
    // No bytes under another name are nothing.
    let wrong = Digest { hash: [7; 32], size: 0 };
    assert!(!store.contains(F, &wrong));
    assert!(store.read(F, &wrong).unwrap_err().is_not_found());
    assert!(matches!(store.put_verified(F, &wrong, b""), Err(CacheError::DigestMismatch { .. })));
    assert!(matches!(store.writer(F, &wrong).unwrap().commit(), Err(CacheError::DigestMismatch { .. })));
}

#[test]
fn wrong_digests_are_refused_and_leave_nothing() {
    let Fixture { store, dir: _dir } = fixture();
    let digest = F.digest(b"right");
    let result = store.put_verified(F, &digest, b"wrong");
    assert!(matches!(result, Err(CacheError::DigestMismatch { expected, .. }) if expected == digest));
    let result = store.put_verified(F, &Digest { size: 4, ..digest }, b"right");
    assert!(matches!(result, Err(CacheError::DigestMismatch { .. })));
    assert_eq!(files(store.dir()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_wrong_size_finds_nothing_and_harms_nothing() {
    let Fixture { store, dir } = fixture();
    let digest = store.put(F, b"right").unwrap();
    let wrong = Digest { size: 4, ..digest };
    assert!(!store.contains(F, &wrong));
    assert!(store.read(F, &wrong).unwrap_err().is_not_found());
    assert!(store.copy_to(F, &wrong, &dir.path().join("x"), 0o644).unwrap_err().is_not_found());
    assert_eq!(store.read(F, &digest).unwrap(), b"right");
    assert_eq!(store.counters().damaged, 0);
}

#[test]
fn put_file_takes_small_and_large_files_and_nothing_else() {
    let Fixture { store, dir } = fixture();
    let path = dir.path().join("source");
    for len in [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000] {
        let bytes = noise(1, len);
        std::fs::write(&path, &bytes).unwrap();
        let digest = store.put_file(F, &path).unwrap();
        assert_eq!(digest, F.digest(&bytes));
        assert_eq!(store.read(F, &digest).unwrap(), bytes);
        // The store has a copy, not the file.
        std::fs::write(&path, "changed").unwrap();
        assert_eq!(store.read(F, &digest).unwrap(), bytes);
    }
    // These are regular files too, which say that they are empty.
    assert!(store.put_file(F, std::path::Path::new("/proc/self/status")).unwrap().size > 0);
    for odd in [dir.path(), &dir.path().join("missing"), std::path::Path::new("/dev/zero")] {
        assert!(matches!(store.put_file(F, odd), Err(CacheError::Source(_))), "{odd:?}");
    }
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(matches!(store.put_file(F, &fifo), Err(CacheError::Source(_))));
}

#[test]
fn what_could_never_fit_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 100_000);
    let large = Digest { hash: [1; 32], size: u64::MAX };
    assert!(store.writer(F, &large).err().unwrap().is_full());
    assert!(store.zstd_writer(F, &large).err().unwrap().is_full());
    assert!(store.put(F, &noise(1, 100_001)).unwrap_err().is_full());
    store.put(F, &noise(1, 100_000)).unwrap();
}

#[test]
fn copies_are_files_of_their_own() {
    let Fixture { store, dir } = fixture();
    let to = dir.path().join("out.o");
    for (len, mode_wanted) in [(10, 0o644), (70_000, 0o755), (3_000_000, 0o600), (20, 0o444)] {
        let bytes = noise(2, len);
        let digest = store.put(F, &bytes).unwrap();
        store.copy_to(F, &digest, &to, mode_wanted).unwrap();
        let metadata = std::fs::metadata(&to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
        assert_eq!((mode(&to), metadata.nlink()), (mode_wanted, 1));
        assert_ne!(metadata.ino(), std::fs::metadata(blob_path(&store, F, &digest)).unwrap().ino());
    }
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{left:?}");
}

#[test]
fn copies_replace_links_but_no_devices_and_blame_the_destination() {
    let Fixture { store, dir } = fixture();
    let digest = store.put(F, b"bytes").unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    std::fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    store.copy_to(F, &digest, &link, 0o644).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
    assert_eq!(std::fs::read(&target).unwrap(), b"old");

    let null = std::path::Path::new("/dev/null");
    assert!(matches!(store.copy_to(F, &digest, null, 0o644), Err(CacheError::Destination(_))));
    assert!(matches!(store.copy_to(F, &digest, dir.path(), 0o644), Err(CacheError::Destination(_))));
    let missing = dir.path().join("no/such/dir/out.o");
    let error = store.copy_to(F, &digest, &missing, 0o644).unwrap_err();
    assert!(matches!(&error, CacheError::Destination(inner) if inner.kind() == std::io::ErrorKind::NotFound));
    assert!(!error.is_not_found(), "a missing directory is not a missing blob");
    // A miss leaves the destination as it was, and comes first.
    assert!(store.copy_to(F, &F.digest(b"absent"), &target, 0o644).unwrap_err().is_not_found());
    assert!(store.copy_to(F, &F.digest(b"absent"), &missing, 0o644).unwrap_err().is_not_found());
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
}

#[test]
fn names_of_any_bytes_can_be_copied_to() {
    use std::os::unix::ffi::OsStrExt as _;
    let Fixture { store, dir } = fixture();
    let digest = store.put(F, b"bytes").unwrap();
    for name in [&b"sp ace"[..], b"new\nline", b"\xff\xfe", b"'\"$"] {
        let to = dir.path().join(std::ffi::OsStr::from_bytes(name));
        store.copy_to(F, &digest, &to, 0o644).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"bytes");
    }
}

/// Two builds in one directory, or one call that names a source twice: each removes what the other has just put there.
#[test]
fn copies_to_one_place_at_the_same_time_all_succeed() {
    let Fixture { store, dir } = fixture();
    let digest = store.put(F, b"the same").unwrap();
    let to = dir.path().join("out");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    store.copy_to(F, &digest, &to, 0o644).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read(&to).unwrap(), b"the same");
}

#[test]
fn the_directory_may_vanish_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("cache");
    let store = open(&place, u64::MAX);
    let digest = store.put(F, b"before").unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    assert!(store.read(F, &digest).unwrap_err().is_not_found());
    store.put(F, b"before").unwrap();
    assert_eq!(store.read(F, &digest).unwrap(), b"before");
}
