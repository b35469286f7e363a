//! The link that is left when a compile-and-link call has given its sources to tasks.
//!
//! Knows nothing of linkers: it keeps the call's arguments in their order and puts objects in the sources' places.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::args::row::{Arg, Effect};
use crate::request::Request;
use crate::split::PLACEHOLDER;
use crate::{Family, Link};

/// Whether a task is better without: clang warns of link flags that a compile does not use.
pub(crate) fn is_link_only(arg: &Arg) -> bool {
    matches!(arg.effect(), Some(Effect::Link | Effect::LinkerInput | Effect::Output))
}

/// Flags for compilers stay (both drivers take some of them into account when they link: `-pthread`, `-fopenmp`,
/// `-fsanitize=`); those go that concern inputs by their place or that would write something.
fn is_compile_only(arg: &Arg) -> bool {
    matches!(
        arg.effect(),
        Some(
            Effect::Language
                | Effect::Depend(_)
                | Effect::ToPreprocessor
                | Effect::ToAssembler
                | Effect::ToFrontend
                | Effect::Include
        )
    )
}

pub(crate) fn link(request: &Request) -> Link {
    let mut args = Vec::with_capacity(request.args.len());
    let mut object_slots = Vec::with_capacity(request.sources.len());
    if request.family == Family::Clang {
        // The tasks have warned of flags that nothing used.
        args.push(OsString::from("-Qunused-arguments"));
    }
    for (at, arg) in request.args.iter().enumerate() {
        if request.sources.iter().any(|source| source.index == at) {
            object_slots.push(args.len());
            args.push(PLACEHOLDER.into());
        } else if !is_compile_only(arg) {
            args.extend(arg.words.iter().cloned());
        }
    }
    Link { args, object_slots }
}

/// Whether `stderr` holds a line in which the driver itself speaks (`gcc: error: …`, `clang: warning: …`) and not one of
/// the programs that it runs. In a call that was split it would have spoken once, in each task it speaks again.
pub fn driver_spoke(argv0: &OsStr, stderr: &[u8]) -> bool {
    let own = Path::new(argv0).file_name().unwrap_or(argv0).as_bytes();
    stderr.split(|&byte| byte == b'\n').any(|line| {
        let plain = without_colours(line);
        let Some(colon) = plain.windows(2).position(|pair| pair == b": ") else { return false };
        let name = &plain[..colon];
        // clang goes by the name of its binary, whatever link led to it: `clang`, `clang-14`.
        name == own || name == b"clang" || name.starts_with(b"clang-") || name.starts_with(b"clang++")
    })
}

/// Without `ESC [ … letter`.
pub(crate) fn without_colours(line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == 0x1b {
            bytes.by_ref().find(u8::is_ascii_alphabetic);
        } else {
            plain.push(byte);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hears_the_driver() {
        let spoke = |stderr: &str| driver_spoke("/usr/bin/gcc-12".as_ref(), stderr.as_bytes());
        assert!(spoke("gcc-12: error: unrecognized command-line option '-fx'\n"));
        assert!(spoke(
            "a.c:1: warning: x\n\x1b[01m\x1b[Kgcc-12:\x1b[m\x1b[K \x1b[01;31m\x1b[Kfatal error:\x1b[m x\n"
        ));
        assert!(spoke("clang: warning: argument unused"));
        assert!(!spoke("a.c:1:2: error: gcc-12: is a word\ncc1: fatal error: x\n"));
        assert!(!spoke(""));
    }
}
