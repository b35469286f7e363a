//! The file system, as `compilers` asks about it when it reads a call.

use std::io;
use std::path::Path;

use dbuild_compilers::{FileKind, Files};

/// Response files beyond this are not read here: the compiler does it.
const MAX_RESPONSE_FILE: u64 = 64 << 20;

/// This machine's.
pub struct OnDisk;

impl Files for OnDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if fs_err::metadata(path)?.len() > MAX_RESPONSE_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fs_err::read(path)
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        let meta = std::fs::metadata(path).ok()?;
        Some(match () {
            () if meta.is_file() => FileKind::File,
            () if meta.is_dir() => FileKind::Directory,
            () => FileKind::Other,
        })
    }
}
