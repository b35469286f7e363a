//! A store in a directory of its own, and hands that reach below it: find a blob's file, age it, damage it.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dbuild_cache::{ActionKey, Digest, DigestFunction, Store, StoreConfig};

pub const F: DigestFunction = DigestFunction::Blake3;

/// A store without limit in a temporary directory.
pub struct Fixture {
    pub store: Store,
    pub dir: tempfile::TempDir,
}

pub fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture { store: open(dir.path(), u64::MAX), dir }
}

/// Opens a store and lets its first count end, so that tests do not race with it.
pub fn open(dir: &Path, max_bytes: u64) -> Store {
    let store = Store::open(StoreConfig { dir: dir.to_owned(), max_bytes }).unwrap();
    store.settle();
    store
}

/// Bytes that neither compress away nor repeat, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 & 0x3f
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn blob_path(store: &Store, f: DigestFunction, d: &Digest) -> PathBuf {
    variant_path(store, &format!("cas-v1/{}", f.name()), d)
}

/// `family` is such as `zst-v1/blake3`.
pub fn variant_path(store: &Store, family: &str, d: &Digest) -> PathBuf {
    let hex = d.hex();
    store.dir().join(format!("{family}/{}/{hex}-{}", &hex[..2], d.size))
}

pub fn action_path(store: &Store, key: &ActionKey) -> PathBuf {
    let hex = Digest { hash: key.0, size: 0 }.hex();
    store.dir().join(format!("ac-v1/{}/{hex}", &hex[..2]))
}

pub fn age(path: &Path, by: Duration) {
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

pub fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Changes a byte in place; size and inode stay.
pub fn flip(path: &Path, at: u64) {
    writable(path, |file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    });
}

pub fn truncate(path: &Path, len: u64) {
    writable(path, |file| file.set_len(len).unwrap());
}

fn writable(path: &Path, change: impl FnOnce(&std::fs::File)) {
    let before = mode(path);
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    change(&std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap());
    std::fs::set_permissions(path, PermissionsExt::from_mode(before)).unwrap();
}

/// All regular files below `dir`, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(dir).sort_by_file_name();
    let files = walk.into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

/// Said past the test harness, which would keep it to itself.
pub fn skip(reason: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
