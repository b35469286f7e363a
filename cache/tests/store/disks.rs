//! Disks that are full or read-only. Each test starts this binary again in a mount namespace of its own, on a
//! small tmpfs that vanishes with it. Where that is not permitted, the test says loudly that it was skipped.

use std::path::Path;
use std::process::Command;

use dbuild_cache::{ActionKey, CacheError, Store, StoreConfig};

use crate::support::*;

const DIR: &str = "DBUILD_CACHE_TEST_DISK";
const KEY: ActionKey = ActionKey([5; 32]);

/// `unshare` with what this user needs to mount a tmpfs, then a shell.
fn in_namespace(script: &str, dir: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(dir).arg(std::env::current_exe().unwrap());
    command.env(DIR, dir);
    command
}

/// Runs the ignored test `child` after `mount`, a shell script that mounts something at or below "$1".
fn on_disk(mount: &str, child: &str) {
    let dir = tempfile::tempdir().unwrap();
    match in_namespace(mount, dir.path()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            return skip(&format!("{child}: cannot mount what it needs here: {}", said.trim()));
        }
        Err(error) => return skip(&format!("{child}: no unshare(1) here: {error}")),
    }
    let script = format!("{mount}\nexec \"$2\" --exact disks::{child} --ignored --nocapture");
    let output = in_namespace(&script, dir.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
}

fn disk() -> Option<std::path::PathBuf> {
    std::env::var_os(DIR).map(Into::into)
}

#[test]
fn a_full_disk_is_an_error_that_callers_can_test() {
    on_disk("mount -t tmpfs -o size=4m tmpfs \"$1\"", "child_on_a_small_disk");
}

#[test]
#[ignore = "the child of a_full_disk_is_an_error_that_callers_can_test"]
fn child_on_a_small_disk() {
    let Some(disk) = disk() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let store = open(&disk.join("cache"), u64::MAX);
    let kept = noise(1, 1_000_000);
    let digest = store.put(F, &kept).unwrap();
    // Every way in, at sizes that break at different places.
    let large = noise(2, 8_000_000);
    let source = elsewhere.path().join("source");
    std::fs::write(&source, &large).unwrap();
    let large_digest = F.digest(&large);
    assert!(store.put(F, &large).unwrap_err().is_full());
    assert!(matches!(store.put_file(F, &source).unwrap_err(), error @ CacheError::Io(_) if error.is_full()));
    let mut writer = store.writer(F, &large_digest).unwrap();
    let error = large.chunks(100_000).find_map(|piece| writer.write(piece).err()).unwrap();
    assert!(error.is_full() && !error.is_read_only(), "{error}");
    assert!(writer.write(b"x").is_err(), "a writer that failed stays failed");
    assert!(writer.commit().is_err());
    let stream = zstd::encode_all(&large[..], 1).unwrap();
    assert!(store.put_zstd(F, &large_digest, &stream[..]).unwrap_err().is_full());
    assert!(store.put_action(&KEY, &large).unwrap_err().is_full());
    assert!(!store.contains(F, &large_digest));
    assert_eq!(files(&disk.join("cache/tmp")).len(), 0, "failed writes give their room back");

    // Fill it to the last block: what is there is still served, without room for variants too.
    let mut seed = 3;
    while store.put(F, &noise(seed, 50_000)).is_ok() {
        seed += 1;
    }
    while std::fs::write(disk.join(format!("filler{seed}")), noise(seed, 4096)).is_ok() {
        seed += 1;
    }
    assert_eq!(store.read(F, &digest).unwrap(), kept);
    let mut zstd_stream = store.read_zstd(F, &digest).unwrap();
    zstd_stream.seek_to(0).unwrap();
    assert_eq!(zstd::decode_all(zstd_stream).unwrap(), kept);
    assert!(store.linkable(F, &digest, true).unwrap_err().is_full());
    store.linkable(F, &digest, false).unwrap();
    store.copy_to(F, &digest, &elsewhere.path().join("out"), 0o644).unwrap();
    let error = store.copy_to(F, &digest, &disk.join("out"), 0o644).unwrap_err();
    assert!(matches!(error, CacheError::Destination(_)) && error.is_full(), "{error}");
    assert_eq!(store.counters().damaged, 0);

    // Room comes back.
    store.clear().unwrap();
    store.put(F, &kept).unwrap();
    assert_eq!(store.read(F, &digest).unwrap(), kept);
}

#[test]
fn a_read_only_disk_still_serves() {
    on_disk("mount -t tmpfs -o size=16m tmpfs \"$1\"", "child_on_a_disk_that_becomes_read_only");
}

#[test]
#[ignore = "the child of a_read_only_disk_still_serves"]
fn child_on_a_disk_that_becomes_read_only() {
    let Some(disk) = disk() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let place = disk.join("cache");
    let store = open(&place, u64::MAX);
    let bytes = noise(1, 100_000);
    let digest = store.put(F, &bytes).unwrap();
    let damaged = store.put(F, b"damaged").unwrap();
    store.put_action(&KEY, b"value").unwrap();
    for path in files(&place) {
        age(&path, std::time::Duration::from_secs(7200));
    }
    flip(&blob_path(&store, F, &damaged), 0);
    let remount = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&disk).status().unwrap();
    assert!(remount.success());

    assert!(store.contains(F, &digest));
    assert_eq!(store.read(F, &digest).unwrap(), bytes);
    assert_eq!(store.action(&KEY).unwrap().as_deref(), Some(&b"value"[..]));
    store.copy_to(F, &digest, &elsewhere.path().join("out"), 0o644).unwrap();
    assert_eq!(zstd::decode_all(store.read_zstd(F, &digest).unwrap()).unwrap(), bytes);
    store.put(F, &bytes).unwrap();
    assert!(store.read(F, &damaged).unwrap_err().is_not_found());
    assert_eq!(store.counters().damaged, 1);

    let errors = [
        store.put(F, b"new").unwrap_err(),
        store.put_action(&KEY, b"new").unwrap_err(),
        store.remove_action(&KEY).unwrap_err(),
        store.writer(F, &F.digest(b"new")).err().unwrap(),
        store.linkable(F, &digest, true).unwrap_err(),
        store.gc(0).unwrap_err(),
        store.clear().unwrap_err(),
        Store::open(StoreConfig { dir: place, max_bytes: 1 << 30 }).err().unwrap(),
        Store::open(StoreConfig { dir: disk.join("new"), max_bytes: 1 << 30 }).err().unwrap(),
    ];
    for error in errors {
        assert!(error.is_read_only() && !error.is_full(), "{error}");
    }
    let error = store.copy_to(F, &digest, &disk.join("out"), 0o644).unwrap_err();
    assert!(matches!(error, CacheError::Destination(_)) && error.is_read_only(), "{error}");
}

#[test]
fn copies_share_their_blocks_where_the_file_system_can() {
    let btrfs = r#"
        command -v mkfs.btrfs >/dev/null || { echo "no mkfs.btrfs" >&2; exit 1; }
        mount -t tmpfs -o size=200m tmpfs "$1"
        truncate -s 160M "$1/image"
        mkfs.btrfs -q "$1/image"
        mkdir "$1/disk"
        mount -o loop "$1/image" "$1/disk""#;
    on_disk(btrfs, "child_on_a_disk_with_reflinks");
}

#[test]
#[ignore = "the child of copies_share_their_blocks_where_the_file_system_can"]
fn child_on_a_disk_with_reflinks() {
    let Some(disk) = disk() else { return };
    let disk = disk.join("disk");
    let store = open(&disk.join("cache"), u64::MAX);
    let bytes = noise(1, 30_000_000);
    let source = disk.join("source");
    std::fs::write(&source, &bytes).unwrap();
    let digest = store.put_file(F, &source).unwrap();
    store.linkable(F, &digest, true).unwrap();
    // Only shared blocks let so many fit.
    for copy in 0..20 {
        let to = disk.join(format!("copy{copy}"));
        store.copy_to(F, &digest, &to, 0o644).unwrap();
        assert_eq!(mode(&to), 0o644);
    }
    assert_eq!(F.digest(&std::fs::read(disk.join("copy19")).unwrap()), digest);
    flip(&blob_path(&store, F, &digest), 20_000_000);
    assert!(store.copy_to(F, &digest, &disk.join("copy0"), 0o644).unwrap_err().is_not_found());
    assert_eq!(F.digest(&std::fs::read(disk.join("copy0")).unwrap()), digest);
    // To another file system it is a plain copy.
    let elsewhere = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    assert_eq!(store.put_file(F, &source).unwrap(), digest);
    store.copy_to(F, &digest, &elsewhere.path().join("out"), 0o644).unwrap();
    assert_eq!(F.digest(&std::fs::read(elsewhere.path().join("out")).unwrap()), digest);
}

#[test]
fn a_file_in_the_stores_place_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for place in [file.clone(), file.join("below")] {
        let error = Store::open(StoreConfig { dir: place, max_bytes: 1 << 30 }).err().unwrap();
        assert!(matches!(error, CacheError::Io(_)) && !error.is_full());
        assert!(error.to_string().contains("file"), "names the path: {error}");
    }
}
