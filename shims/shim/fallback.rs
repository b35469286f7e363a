//! What happens when dbuild cannot help: the real compiler runs here, and the reason goes into a file, never to
//! the build's own output.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use crate::answer;
use crate::call::{Call, Settings};
use crate::program::Program;
use crate::{CANNOT_EXECUTE, NOT_FOUND, names};

/// A list of reasons longer than this grows no more: a dead initiator must not fill the disk.
const LIST_LIMIT: u64 = 1 << 20;

/// Notes the reason and replaces this process by the real compiler. Returns the exit code if that fails.
pub fn run(call: &Call, settings: &Settings, reason: &str) -> i32 {
    note(settings, reason);
    replace(&call.program)
}

/// Replaces this process; if that fails, says so as a shell would and returns its exit code.
pub fn replace(program: &Program) -> i32 {
    let error = program.exec();
    let name = program.argv.first().map_or(program.path.as_os_str(), |name| name);
    complain(name, &error.to_string());
    if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }
}

/// Says as a shell would that there is no such compiler; the exit code.
pub fn not_found(argv: &[OsString]) -> i32 {
    let name = argv.first().map_or(OsStr::new("dbuild-shim"), |name| name);
    complain(OsStr::from_bytes(names::basename(name.as_bytes())), "command not found");
    NOT_FOUND
}

fn complain(name: &OsStr, what: &str) {
    // nobody is left to tell if this fails
    let _ = answer::print(2, &[name.as_bytes(), b": ", what.as_bytes(), b"\n"].concat());
}

/// Appends one line to the list of reasons, in one write, so that lines of many shims do not mix.
pub fn note(settings: &Settings, reason: &str) {
    let Some(path) = &settings.fallbacks else { return };
    let Ok(mut file) = OpenOptions::new().append(true).open(path) else { return };
    if file.metadata().is_ok_and(|data| data.len() < LIST_LIMIT) {
        let mut line = reason.replace('\n', " ");
        line.push('\n');
        // nobody is left to tell if this fails
        let _ = file.write_all(line.as_bytes());
    }
}
