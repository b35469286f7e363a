//! Cutting and joining file names as compiler drivers do it: on bytes, by the last dot.
//!
//! Knows the ways to cut, not which one a compiler uses where: that is in `gcc` and `clang`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// `d/a.b.c` and `o` make `a.b.o`: a default output in the working directory.
pub(crate) fn in_cwd(source: &Path, suffix: &str) -> PathBuf {
    let name = source.file_name().unwrap_or(source.as_os_str()).as_bytes();
    joined(&name[..last_dot(name).unwrap_or(name.len())], suffix)
}

/// `d/foo.x.o` and `d` make `d/foo.x.d`; `d/foo` makes `d/foo.d`; and `d/.foo` makes `d/.d`.
pub(crate) fn replaced(path: &Path, suffix: &str) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let base = base_start(bytes);
    let end = last_dot(&bytes[base..]).map_or(bytes.len(), |dot| base + dot);
    joined(&bytes[..end], suffix)
}

/// As `replaced`, but a dot that begins a name begins no suffix: `d/.foo` makes `d/.foo.d`.
pub(crate) fn replaced_keeping_dotfiles(path: &Path, suffix: &str) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let base = base_start(bytes);
    let end = last_dot(&bytes[base..]).filter(|&dot| dot > 0).map_or(bytes.len(), |dot| base + dot);
    joined(&bytes[..end], suffix)
}

/// `foo.h` and `gch` make `foo.h.gch`.
pub(crate) fn appended(path: &Path, suffix: &str) -> PathBuf {
    joined(path.as_os_str().as_bytes(), suffix)
}

/// What follows the last dot of the file's name.
pub(crate) fn suffix(path: &Path) -> Option<&OsStr> {
    let name = path.file_name()?.as_bytes();
    last_dot(name).map(|dot| OsStr::from_bytes(&name[dot + 1..]))
}

/// Absolute, and one spelling for `a`, `./a` and `.//a`. Symbolic links and `..` stay what they are.
pub(crate) fn resolved(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path).components().collect()
}

fn joined(stem: &[u8], suffix: &str) -> PathBuf {
    let mut bytes = stem.to_vec();
    bytes.push(b'.');
    bytes.extend_from_slice(suffix.as_bytes());
    PathBuf::from(OsString::from_vec(bytes))
}

fn base_start(path: &[u8]) -> usize {
    path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)
}

fn last_dot(name: &[u8]) -> Option<usize> {
    name.iter().rposition(|&byte| byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_the_last_dot_of_the_name() {
        let path = |text: &'static str| Path::new(text);
        assert_eq!(in_cwd(path("d.x/a.b.c"), "o"), path("a.b.o"));
        assert_eq!(in_cwd(path("d.x/a"), "o"), path("a.o"));
        assert_eq!(replaced(path("d.x/foo"), "d"), path("d.x/foo.d"));
        assert_eq!(replaced(path("d/foo.x.o"), "d"), path("d/foo.x.d"));
        assert_eq!(replaced(path("d/.foo"), "d"), path("d/.d"));
        assert_eq!(replaced_keeping_dotfiles(path("d/.foo"), "su"), path("d/.foo.su"));
        assert_eq!(replaced_keeping_dotfiles(path("d/.foo.o"), "su"), path("d/.foo.su"));
        assert_eq!(appended(path("d/h.h"), "gch"), path("d/h.h.gch"));
        assert_eq!(suffix(path("d.x/a")), None);
        assert_eq!(resolved(path("/w"), path(".//a/./b")).as_os_str(), "/w/a/b");
    }
}
