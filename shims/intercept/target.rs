//! What kind of program a file is: can the interceptor live in it?
//!
//! Looks at the file's first bytes only, as the kernel and the loader do; see elf(5) for the offsets.

use core::ffi::CStr;

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

const ELFCLASS64: u8 = 2;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PROGRAM_HEADER: usize = 56;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
/// Enough of the dynamic section to find the first library and the strings.
const DYNAMIC: usize = 1024;
/// The address sanitizer's library as gcc and as clang call it.
const FIRST_OR_NEVER: [&[u8]; 2] = [b"libasan.so", b"libclang_rt.asan"];

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(target_endian = "little")]
const ELFDATA: u8 = 1;

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
    let class = match classify(bytes) {
        Some(Class::Dynamic) if insists_on_first(&file, bytes) == Some(true) => Class::Foreign,
        class => class.unwrap_or(Class::Unknown),
    };
    Target { class, script: false }
}

/// The interpreter that a line after `#!` names.
fn interpreter(line: &[u8]) -> Option<&[u8]> {
    let line = line.split(|&b| b == b'\n').next()?;
    line.split(|&b| b == b' ' || b == b'\t').find(|word| !word.is_empty()).filter(|name| name.len() < 256)
}

/// Judges an ELF file by its first bytes; `None` if they are not ELF or its headers are out of reach.
fn classify(bytes: &[u8]) -> Option<Class> {
    let ident = bytes.get(..20)?;
    if !ident.starts_with(b"\x7fELF") {
        return None;
    }
    if ident.get(4..6)? != [ELFCLASS64, ELFDATA] || u16_at(bytes, 18)? != MACHINE {
        return Some(Class::Foreign);
    }
    let mut headers = program_headers(bytes)?;
    let dynamic = headers.any(|header| u32_at(header, 0) == Some(PT_INTERP));
    Some(if dynamic { Class::Dynamic } else { Class::Static })
}

/// The program headers; `None` if they do not all lie in `bytes`.
fn program_headers(bytes: &[u8]) -> Option<impl Iterator<Item = &[u8]> + Clone> {
    let table = usize::try_from(u64_at(bytes, 32)?).ok()?;
    let (size, count) = (usize::from(u16_at(bytes, 54)?), usize::from(u16_at(bytes, 56)?));
    let table = bytes.get(table..table.checked_add(size.checked_mul(count)?)?)?;
    (size == PROGRAM_HEADER).then(|| table.chunks_exact(PROGRAM_HEADER))
}

/// Whether the first library that the program needs is one that has to come first.
fn insists_on_first(file: &sys::Fd, bytes: &[u8]) -> Option<bool> {
    let headers = program_headers(bytes)?;
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

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
