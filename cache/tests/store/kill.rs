//! `kill -9` at any moment: whatever is found under a name afterwards is whole, and nothing half written
//! stays.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use dbuild_cache::{ActionKey, Digest, Store};

use crate::support::*;

const DIR: &str = "DBUILD_CACHE_TEST_KILL";

/// The value that the child stores under the key of `n`.
fn value(n: u64) -> Vec<u8> {
    noise(n, 100 + (n as usize % 5000))
}

fn key(n: u64) -> ActionKey {
    ActionKey(F.digest(&n.to_le_bytes()).hash)
}

/// The child: does everything that writes, from several threads, until it is killed.
#[test]
#[ignore = "the child of killed_writers_leave_only_whole_files"]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let store = open(&dir.join("cache"), u64::MAX);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = store.clone();
            scope.spawn(move || {
                for n in (thread..).step_by(4) {
                    write_some(&store, dir, n);
                    // Not println, which the harness would keep; a parent that is gone ends us.
                    writeln!(std::io::stdout(), "wrote {n}").unwrap();
                }
            });
        }
    });
}

fn write_some(store: &Store, dir: &Path, n: u64) {
    let bytes = noise(n, [10, 5_000, 80_000, 1_500_000][n as usize / 4 % 4] + n as usize);
    let digest = store.put(F, &bytes).unwrap();
    store.put_action(&key(n), &value(n)).unwrap();
    store.linkable(F, &digest, true).unwrap();
    drop(store.read_zstd(F, &digest).unwrap());
    store.copy_to(F, &digest, &dir.join("out").join(format!("{}", n % 4)), 0o644).unwrap();
    let streamed = noise(n + 1_000_000, 200_000);
    let mut writer = store.writer(F, &F.digest(&streamed)).unwrap();
    streamed.chunks(10_000).for_each(|piece| writer.write(piece).unwrap());
    writer.commit().unwrap();
}

#[test]
fn killed_writers_leave_only_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let mut half_written = 0;
    // A few kills at different times, and more while none of them came in the middle of a write.
    for (round, lines) in [1, 2, 3, 5, 8, 13, 21, 34].into_iter().cycle().take(100).enumerate() {
        if round >= 8 && half_written > 0 {
            break;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Open until after the kill: a child that cannot print would end in an orderly way.
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let wrote = output.by_ref().filter(|line| line.contains("wrote")).take(lines).count();
        child.kill().unwrap();
        child.wait().unwrap();
        drop(output);
        assert_eq!(wrote, lines, "the child ended before it was killed");
        half_written += files(&dir.path().join("cache/tmp")).len();
        check(dir.path());
    }
    assert!(half_written > 0, "no kill came in the middle of a write, so this test has looked at nothing");
}

fn check(dir: &Path) {
    let store = open(&dir.join("cache"), u64::MAX);
    assert_eq!(files(&dir.join("cache/tmp")).len(), 0, "stale temp files are removed at the opening");
    let names = |family: &str| -> Vec<Digest> {
        let files = files(&store.dir().join(family)).into_iter();
        files
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let (hash, size) = name.split_once('-').unwrap_or((&name, "0"));
                Digest::from_hex(hash, size.parse().unwrap()).unwrap()
            })
            .collect()
    };
    for digest in names("cas-v1/blake3") {
        store.read(F, &digest).unwrap();
    }
    for digest in names("cas-v1/blake3-x") {
        let path = store.linkable(F, &digest, true).unwrap();
        assert_eq!(F.digest(&std::fs::read(&path).unwrap()), digest);
        assert_eq!(mode(&path), 0o555);
    }
    for digest in names("zst-v1/blake3") {
        let stream = store.read_zstd(F, &digest).unwrap();
        assert_eq!(F.digest(&zstd::decode_all(stream).unwrap()), digest);
    }
    for action in names("ac-v1") {
        assert!(store.action(&ActionKey(action.hash)).unwrap().is_some());
    }
    for n in 0..100 {
        if let Some(found) = store.action(&key(n)).unwrap() {
            assert_eq!(found, value(n));
        }
    }
    for path in files(&dir.join("out")) {
        let left_over = path.extension().is_some_and(|extension| extension == "tmp");
        assert!(left_over || store.contains(F, &F.digest(&std::fs::read(&path).unwrap())), "{path:?}");
    }
    assert_eq!(store.counters().damaged, 0);
}
