//! What kind of program a file is: can the interceptor live in it?
//!
//! Looks at the file's first bytes only, as the kernel and the loader do.

use core::ffi::CStr;

use crate::elf::{self, Kind, PT_DYNAMIC, PT_LOAD, u32_at, u64_at};
use crate::sys;

/// What the kernel will do with a program file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An ELF program of this machine that asks for a loader: `LD_PRELOAD` works.
    Dynamic,
    /// An ELF program of this machine without loader: `LD_PRELOAD` does nothing in it.
    Static,
    /// An ELF program that must not be given this library: of another word size or machine, or one whose first
    /// library is the address sanitizer's, which refuses to start behind another.
    Foreign,
    /// Not there, not readable, or nothing of the above.
    Unknown,
}

/// What a file is, and whether it is a script (then `class` is its interpreter's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub class: Class,
    pub script: bool,
}

/// Enough for every program header table that linkers write behind the ELF header.
const HEAD: usize = 2048;
/// Scripts whose interpreter is a script: as deep as the kernel goes, see execve(2).
const DEPTH: u32 = 4;

const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
/// Enough of the dynamic section to find the first library and the strings.
const DYNAMIC: usize = 1024;
/// The address sanitizer's library as gcc and as clang call it.
const FIRST_OR_NEVER: [&[u8]; 2] = [b"libasan.so", b"libclang_rt.asan"];

/// Looks at the file at `path`, following `#!` lines.
pub fn look(path: &CStr) -> Target {
    look_at(path, DEPTH)
}

fn look_at(path: &CStr, depth: u32) -> Target {
    let mut head = [0; HEAD];
    let unknown = Target { class: Class::Unknown, script: false };
    let Some(file) = sys::open(path, false) else { return unknown };
    let Some(bytes) = file.read_at(&mut head, 0) else { return unknown };
    if let Some(line) = bytes.strip_prefix(b"#!") {
        drop(file);
        let class = match interpreter(line) {
            Some(name) if depth > 0 => {
                // 256 bytes is what the kernel reads of the line
                let mut copy = [0; 256];
                match copy.get_mut(..name.len()) {
                    Some(place) => {
                        place.copy_from_slice(name);
                        CStr::from_bytes_until_nul(&copy)
                            .map_or(Class::Unknown, |name| look_at(name, depth - 1).class)
                    }
                    None => Class::Unknown,
                }
            }
            _ => Class::Unknown,
        };
        return Target { class, script: true };
    }
    let class = match elf::kind(bytes) {
        Some(Kind::Dynamic) if insists_on_first(&file, bytes) == Some(true) => Class::Foreign,
        Some(Kind::Dynamic) => Class::Dynamic,
        Some(Kind::Static) => Class::Static,
        Some(Kind::Foreign) => Class::Foreign,
        None => Class::Unknown,
    };
    Target { class, script: false }
}

/// The interpreter that a line after `#!` names.
fn interpreter(line: &[u8]) -> Option<&[u8]> {
    let line = line.split(|&b| b == b'\n').next()?;
    line.split(|&b| b == b' ' || b == b'\t').find(|word| !word.is_empty()).filter(|name| name.len() < 256)
}

/// Whether the first library that the program needs is one that has to come first.
fn insists_on_first(file: &sys::Fd, bytes: &[u8]) -> Option<bool> {
    let headers = elf::program_headers(bytes)?;
    let section = headers.clone().find(|header| u32_at(header, 0) == Some(PT_DYNAMIC))?;
    let mut dynamic = [0; DYNAMIC];
    let dynamic = file.read_at(&mut dynamic, u64_at(section, 8)?)?;
    let value = |tag: u64| {
        dynamic
            .chunks_exact(16)
            .find(|entry| u64_at(entry, 0) == Some(tag))
            .and_then(|entry| u64_at(entry, 8))
    };
    // where the strings are in memory, and from that in the file
    let address = value(DT_STRTAB)?.checked_add(value(DT_NEEDED)?)?;
    let mut segments = headers.filter(|header| u32_at(header, 0) == Some(PT_LOAD));
    let offset = segments.find_map(|header| {
        let within = address.checked_sub(u64_at(header, 16)?)?;
        (within < u64_at(header, 32)?).then_some(())?;
        u64_at(header, 8)?.checked_add(within)
    })?;
    let mut name = [0; 32];
    let name = file.read_at(&mut name, offset)?;
    Some(FIRST_OR_NEVER.iter().any(|first| name.starts_with(first)))
}
