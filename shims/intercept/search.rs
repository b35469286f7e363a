//! Finds a program on `PATH` as the C library's `execvp` does, but never in the shims directory.

use core::ffi::{CStr, c_char};

use crate::sys::PATH_MAX;
use crate::{environ, lists, sys, vars};

/// A path with its NUL, on the stack.
pub struct PathBuffer {
    bytes: [u8; PATH_MAX],
}

impl PathBuffer {
    pub fn new() -> PathBuffer {
        PathBuffer { bytes: [0; PATH_MAX] }
    }

    /// `directory`/`name`, or `name` alone for an empty directory; `None` if it is too long to be a path.
    pub fn join(&mut self, directory: &[u8], name: &[u8]) -> Option<&CStr> {
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let mut used = 0;
        for part in [directory, slash, name, b"\0"] {
            self.bytes.get_mut(used..used + part.len())?.copy_from_slice(part);
            used += part.len();
        }
        CStr::from_bytes_with_nul(self.bytes.get(..used)?).ok()
    }
}

/// The process' own `PATH`, if it has one.
pub fn path() -> Option<&'static [u8]> {
    // SAFETY: the environment is a valid list; its strings are used before the process can change them.
    unsafe { environ::get(sys::environment(), vars::PATH.as_bytes()) }
}

/// The executable file that `execvp(name)` would start. `missed` hears of each candidate that is not there.
/// `None` also when the process has no `PATH`: the C library's default is its own business.
pub fn on_path<'a>(
    name: &[u8],
    skip: &[u8],
    into: &'a mut PathBuffer,
    mut missed: impl FnMut(&[u8]),
) -> Option<&'a CStr> {
    let path = path()?;
    let mut found = None;
    for directory in lists::entries(path, lists::PATH_SEPARATORS) {
        if !skip.is_empty() && lists::same(directory, skip) {
            continue;
        }
        let Some(candidate) = into.join(directory, name) else { continue };
        if sys::is_executable(candidate) {
            found = Some(directory);
            break;
        }
        missed(candidate.to_bytes());
    }
    into.join(found?, name)
}

/// The bytes of a program's name; `None` for null and for the empty name, which are the C library's to refuse.
///
/// # Safety
/// `name` is null or a C string.
pub unsafe fn program_name<'a>(name: *const c_char) -> Option<&'a CStr> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    Some(unsafe { CStr::from_ptr(name) }).filter(|name| !name.is_empty())
}
