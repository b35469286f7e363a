//! The two doors through which compilers are caught: the interceptor (`LD_PRELOAD`) for dynamic programs, the shims
//! directory on `PATH` for static ones. This decides for the first process of a build; the interceptor itself
//! decides for all that come after.
//!
//! A dynamic program does not get the shims directory: what configure scripts and CMake find on `PATH` and write
//! down would be the stand-in, and the tree would no longer be what the plain command makes.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dbuild_shims::elf::{self, Kind};

/// How a program can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Preload,
    Path,
}

/// What keeps a command from being started, as env(1) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    NotFound,
    NotExecutable,
}

/// Finds `program` as execvp(3) would.
pub fn resolve(program: &OsStr, path: &OsStr) -> Result<PathBuf, Missing> {
    if program.as_bytes().contains(&b'/') {
        return check(Path::new(program));
    }
    let mut seen = Missing::NotFound;
    for dir in std::env::split_paths(path) {
        match check(&dir.join(program)) {
            Ok(found) => return Ok(found),
            Err(Missing::NotExecutable) => seen = Missing::NotExecutable,
            Err(Missing::NotFound) => {}
        }
    }
    Err(seen)
}

fn check(file: &Path) -> Result<PathBuf, Missing> {
    match std::fs::metadata(file) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Ok(file.to_owned()),
        Ok(_) => Err(Missing::NotExecutable),
        Err(_) => Err(Missing::NotFound),
    }
}

/// Which door fits `program`: scripts count as what their `#!` line names.
pub fn door_of(program: &Path) -> Door {
    let mut file = program.to_owned();
    // The kernel follows four levels of `#!` (execve(2)).
    for _ in 0..5 {
        let mut head = Vec::new();
        let read = std::fs::File::open(&file).and_then(|open| open.take(4096).read_to_end(&mut head));
        if read.is_err() {
            return Door::Path;
        }
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
            let interpreter = line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
            file = PathBuf::from(OsString::from_vec(interpreter.to_vec()));
            continue;
        }
        return if elf::kind(&head) == Some(Kind::Dynamic) { Door::Preload } else { Door::Path };
    }
    Door::Path
}

/// `list` with `entry` at its end, unless it is there already. The separator is a colon.
pub fn with_last(list: Option<&OsStr>, entry: &Path) -> OsString {
    let entry = entry.as_os_str();
    match list.filter(|list| !list.is_empty()) {
        None => entry.to_owned(),
        Some(list) if list.as_bytes().split(|b| *b == b':').any(|part| part == entry.as_bytes()) => {
            list.to_owned()
        }
        Some(list) => [list, OsStr::new(":"), entry].into_iter().collect(),
    }
}

/// `list` with `entry` at its beginning.
pub fn with_first(list: &OsStr, entry: &Path) -> OsString {
    if list.is_empty() {
        return entry.as_os_str().to_owned();
    }
    [entry.as_os_str(), OsStr::new(":"), list].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_dynamic_and_a_script_is_its_shell() {
        assert_eq!(door_of(Path::new("/bin/sh")), Door::Preload);
        let dir = tempfile::tempdir().expect("temporary directory");
        let script = dir.path().join("build");
        fs_err::write(&script, "#! /bin/sh -e\nexit 0\n").expect("write");
        assert_eq!(door_of(&script), Door::Preload);
        fs_err::write(&script, "\x7fELF\x02\x01 cut short").expect("write");
        assert_eq!(door_of(&script), Door::Path);
    }

    #[test]
    fn resolution_tells_missing_from_forbidden() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs_err::write(dir.path().join("plain"), "").expect("write");
        assert_eq!(resolve(OsStr::new("plain"), dir.path().as_os_str()), Err(Missing::NotExecutable));
        assert_eq!(resolve(OsStr::new("absent"), dir.path().as_os_str()), Err(Missing::NotFound));
        assert!(resolve(OsStr::new("sh"), OsStr::new("/nonexistent:/bin")).is_ok());
    }

    #[test]
    fn preload_lists_keep_what_the_user_had() {
        let ours = Path::new("/d/i.so");
        assert_eq!(with_last(None, ours), "/d/i.so");
        assert_eq!(with_last(Some(OsStr::new("/u.so")), ours), "/u.so:/d/i.so");
        assert_eq!(with_last(Some(OsStr::new("/u.so:/d/i.so")), ours), "/u.so:/d/i.so");
    }
}
