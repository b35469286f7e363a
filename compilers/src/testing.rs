//! A file system for unit tests: a map. Every directory above one of its files exists.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::{FileKind, Files};

pub(crate) struct FakeFiles(BTreeMap<PathBuf, Vec<u8>>);

impl FakeFiles {
    pub fn new(files: &[(&str, &str)]) -> FakeFiles {
        FakeFiles(files.iter().map(|(path, text)| (path.into(), text.as_bytes().to_vec())).collect())
    }

    pub fn with_bytes(path: &str, bytes: Vec<u8>) -> FakeFiles {
        FakeFiles([(path.into(), bytes)].into())
    }
}

impl Files for FakeFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        if path.starts_with("/dev/null") {
            return Some(FileKind::Other);
        }
        if self.0.contains_key(path) {
            return Some(FileKind::File);
        }
        self.0.keys().any(|file| file.starts_with(path)).then_some(FileKind::Directory)
    }
}
