//! A directory tree as it is now, and the first thing in which another one differs.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// One entry. Directories are compared by being there, with their mode.
#[derive(Debug, Clone)]
enum Entry {
    File { bytes: Vec<u8>, mode: u32, links: u64, written: SystemTime },
    Link { target: PathBuf },
    Dir { mode: u32 },
    Other { mode: u32 },
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Snapshot {
    /// Takes everything below `dir` except what one of the globs matches: against the path below `dir`, or against the
    /// last name if the glob has no slash. What is below an excluded directory is excluded, too.
    pub fn take(dir: &Path, exclude: &[&str]) -> Snapshot {
        let excluded = |path: &Path| matches_any(exclude, path.strip_prefix(dir).unwrap());
        let walk =
            walkdir::WalkDir::new(dir).min_depth(1).into_iter().filter_entry(|entry| !excluded(entry.path()));
        let mut entries = BTreeMap::new();
        for found in walk {
            let path = found.unwrap().into_path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let mode = meta.mode() & 0o7777;
            let entry = if meta.is_file() {
                let (links, written) = (meta.nlink(), meta.modified().unwrap());
                Entry::File { bytes: std::fs::read(&path).unwrap(), mode, links, written }
            } else if meta.is_symlink() {
                Entry::Link { target: std::fs::read_link(&path).unwrap() }
            } else if meta.is_dir() {
                Entry::Dir { mode }
            } else {
                Entry::Other { mode }
            };
            entries.insert(path.strip_prefix(dir).unwrap().to_owned(), entry);
        }
        Snapshot { entries }
    }

    /// What matches the pattern, and nothing else.
    pub fn only(&self, pattern: &str) -> Snapshot {
        let mut entries = self.entries.clone();
        entries.retain(|path, _| matches_any(&[pattern], path));
        Snapshot { entries }
    }

    /// Files of this name pattern that are here.
    pub fn files(&self, pattern: &str) -> Vec<&Path> {
        self.entries.keys().filter(|path| matches_any(&[pattern], path)).map(PathBuf::as_path).collect()
    }

    /// How many files of this pattern are here but not in `before`.
    pub fn new_files(&self, before: &Snapshot, pattern: &str) -> usize {
        self.files(pattern).into_iter().filter(|path| !before.entries.contains_key(*path)).count()
    }

    /// The first difference of `here` from this plain result. Of files that match `unstable` only existence and mode
    /// are compared.
    pub fn difference(&self, here: &Snapshot, unstable: &[&str]) -> Option<String> {
        for (path, plain) in &self.entries {
            let Some(other) = here.entries.get(path) else { return Some(format!("{path:?} is missing")) };
            let bytes_count = !matches_any(unstable, path);
            if let Some(what) = entry_difference(plain, other, bytes_count) {
                return Some(format!("{path:?}: {what}"));
            }
        }
        let extra = here.entries.keys().find(|path| !self.entries.contains_key(*path));
        extra.map(|path| format!("{path:?} should not be there"))
    }

    /// The first file which is new or other than in `before` and yet looks as if it had not been written by the run
    /// that began at `began`: an old time, or a second name for one inode (a hard link into a cache).
    pub fn stale(&self, before: &Snapshot, began: SystemTime) -> Option<String> {
        self.entries.iter().find_map(|(path, entry)| {
            let Entry::File { bytes, links, written, .. } = entry else { return None };
            if let Some(Entry::File { bytes: old, .. }) = before.entries.get(path)
                && old == bytes
            {
                return None;
            }
            if *written < began {
                return Some(format!("{path:?} has a time before the run"));
            }
            (*links > 1).then(|| format!("{path:?} has {links} links"))
        })
    }
}

fn entry_difference(plain: &Entry, here: &Entry, bytes_count: bool) -> Option<String> {
    match (plain, here) {
        (Entry::File { bytes, mode, .. }, Entry::File { bytes: other, mode: other_mode, .. }) => {
            if mode != other_mode {
                return Some(format!("mode: plain {mode:o}, here {other_mode:o}"));
            }
            (bytes_count && bytes != other).then(|| byte_difference(bytes, other))
        }
        (Entry::Link { target }, Entry::Link { target: other }) => {
            (target != other).then(|| format!("links to: plain {target:?}, here {other:?}"))
        }
        (Entry::Dir { mode }, Entry::Dir { mode: other })
        | (Entry::Other { mode }, Entry::Other { mode: other }) => {
            (mode != other).then(|| format!("mode: plain {mode:o}, here {other:o}"))
        }
        _ => Some("is of another kind".to_owned()),
    }
}

fn byte_difference(plain: &[u8], here: &[u8]) -> String {
    let at = plain.iter().zip(here).position(|(a, b)| a != b).unwrap_or(plain.len().min(here.len()));
    let around = |bytes: &[u8]| {
        let part = &bytes[at.saturating_sub(16).min(bytes.len())..(at + 48).min(bytes.len())];
        String::from_utf8_lossy(part).replace(|c: char| c.is_control(), ".")
    };
    let sizes = format!("{} and {} bytes", plain.len(), here.len());
    format!("bytes differ at {at} ({sizes}):\n  plain {:?}\n  here  {:?}", around(plain), around(here))
}

/// Whether one of the globs matches; see [`Snapshot::take`].
fn matches_any(globs: &[&str], path: &Path) -> bool {
    globs.iter().any(|pattern| {
        let text = if pattern.contains('/') { Some(path.as_os_str()) } else { path.file_name() };
        text.is_some_and(|text| glob(pattern.as_bytes(), text.as_bytes()))
    })
}

/// `*` stands for any bytes, slashes included.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((byte, rest)) => {
            text.split_first().is_some_and(|(first, tail)| first == byte && glob(rest, tail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let plain = tree(&[("a.o", "same"), ("d/b.o", "one")]);
        let take = |dir: &tempfile::TempDir| Snapshot::take(dir.path(), &[]);
        let difference =
            |other: &tempfile::TempDir| take(&plain).difference(&take(other), &[]).unwrap_or_default();
        assert_eq!(difference(&tree(&[("a.o", "same"), ("d/b.o", "one")])), "");
        assert!(difference(&tree(&[("a.o", "same"), ("d/b.o", "two")])).contains("bytes differ at 0"));
        assert!(difference(&tree(&[("a.o", "same")])).contains("missing"));
        assert!(difference(&tree(&[("a.o", "same"), ("d/b.o", "one"), ("d/c.o", "")])).contains("d/c.o"));
        let other = tree(&[("a.o", "same"), ("d/b.o", "one")]);
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(other.path().join("a.o"), PermissionsExt::from_mode(0o600)).unwrap();
        assert!(difference(&other).contains("mode"));
    }

    #[test]
    fn exclusions_and_unstable_files() {
        let plain = tree(&[("log", "1"), ("d/x.gch", "1"), ("sub/log", "1")]);
        let other = tree(&[("log", "2"), ("d/x.gch", "2"), ("sub/log", "1")]);
        let (plain, other) = (Snapshot::take(plain.path(), &["log"]), Snapshot::take(other.path(), &["log"]));
        assert!(plain.difference(&other, &[]).is_some());
        assert_eq!(plain.difference(&other, &["*.gch"]), None);
        assert_eq!(plain.files("*"), [Path::new("d"), Path::new("d/x.gch"), Path::new("sub")]);
    }

    #[test]
    fn a_file_that_was_not_written_now_is_found() {
        let dir = tree(&[("a.c", "x")]);
        let before = Snapshot::take(dir.path(), &[]);
        std::fs::write(dir.path().join("a.o"), "o").unwrap();
        let after = Snapshot::take(dir.path(), &[]);
        assert_eq!(after.stale(&before, SystemTime::UNIX_EPOCH), None);
        assert!(after.stale(&before, SystemTime::now() + std::time::Duration::from_secs(9)).is_some());
        std::fs::hard_link(dir.path().join("a.o"), dir.path().join("b.o")).unwrap();
        assert!(Snapshot::take(dir.path(), &[]).stale(&before, SystemTime::UNIX_EPOCH).is_some());
    }
}
