//! A store for targets that need one: one per thread, in memory where the system has that, removed with the thread.
//! (libFuzzer ends by `_exit`, so there one directory stays.)

use dbuild_cache::{Store, StoreConfig};
use tempfile::TempDir;

/// Runs `work` with this thread's store.
pub fn with<T>(work: impl FnOnce(&Store) -> T) -> T {
    thread_local!(static HERE: (Store, TempDir) = open());
    HERE.with(|(store, _)| work(store))
}

/// A temporary directory.
pub fn place() -> TempDir {
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    place.expect("a fuzzer needs a temporary directory")
}

fn open() -> (Store, TempDir) {
    let place = place();
    let config = StoreConfig { dir: place.path().join("store"), max_bytes: 64 << 20 };
    (Store::open(config).expect("a new store opens"), place)
}
