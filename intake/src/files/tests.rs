//! When a digest is taken from the table, and when the file is read again.

use std::os::unix::fs::PermissionsExt;

use fs_err as fs;

use super::*;

/// A time at which everything that a test writes is old.
fn late() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

fn digest(text: &str) -> Digest {
    DigestFunction::Blake3.digest(text.as_bytes())
}

#[test]
fn settled_files_are_read_once_by_any_spelling() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.h");
    fs::write(&path, "#pragma __TIME__").unwrap();
    let table = FileTable::new(100, late);
    for spelling in [path.clone(), place.path().join("./a.h"), path.clone()] {
        let facts = table.facts(&spelling).unwrap();
        assert_eq!(facts.digest, digest("#pragma __TIME__"));
        assert!(facts.mentions.time && !facts.executable);
    }
    let counts = table.counts();
    assert_eq!((counts.hashes, counts.stats, counts.hashed_bytes, counts.entries), (1, 3, 16, 1));

    fs::write(&path, "other").unwrap();
    assert_eq!(table.facts(&path).unwrap().digest, digest("other"));
    fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(table.facts(&path).unwrap().executable);
}

#[test]
fn young_files_are_read_every_time() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.h");
    fs::write(&path, "x").unwrap();
    let table = FileTable::new(100, SystemTime::now);
    table.facts(&path).unwrap();
    table.facts(&path).unwrap();
    assert_eq!(table.counts().hashes, 2);
    assert_eq!(table.counts().entries, 0);
}

#[test]
fn old_mtimes_do_not_hide_young_ctimes() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.h");
    fs::write(&path, "x").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let table = FileTable::new(100, SystemTime::now);
    table.facts(&path).unwrap();
    assert_eq!(table.counts().entries, 0);
}

#[test]
fn a_scan_is_made_up_for() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.s");
    fs::write(&path, ".incbin \"x\"").unwrap();
    let table = FileTable::new(100, late);
    assert!(!table.unscanned(&path).unwrap().mentions.incbin);
    assert!(table.facts(&path).unwrap().mentions.incbin);
    // And now it is known to both.
    table.unscanned(&path).unwrap();
    assert_eq!(table.counts().hashes, 2);
}

#[test]
fn only_regular_files_have_a_digest() {
    let place = tempfile::tempdir().unwrap();
    let table = FileTable::new(100, late);
    assert_eq!(table.facts(place.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let pipe = place.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(table.facts(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(table.read(&pipe, true).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(table.facts(&place.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_is_used_stays_and_the_rest_goes() {
    let mut map = Generations::new(8);
    for i in 0..100 {
        map.put(i, i);
        assert_eq!(map.get(&0), Some(&0), "after {i}");
        assert!(map.len() <= 8);
    }
    assert_eq!(map.get(&50), None);
}
