//! What the head of an ELF file says of the program: whose it is, and whether it asks for a loader. See elf(5) for the
//! offsets.
//!
//! `core` only, because the interceptor has no `std`. Reads bytes that it is given, never files.

/// What the kernel will do with a program of this head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A program of this machine that asks for a loader.
    Dynamic,
    /// A program of this machine without loader.
    Static,
    /// A program of another word size or machine.
    Foreign,
}

pub const PT_LOAD: u32 = 1;
pub const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const ELFCLASS64: u8 = 2;
const PROGRAM_HEADER: usize = 56;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(target_endian = "little")]
const ELFDATA: u8 = 1;

/// Whether a file that begins so is meant to be ELF.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Judges a file by its head; `None` if that is not ELF or its program headers are out of reach.
pub fn kind(head: &[u8]) -> Option<Kind> {
    let ident = head.get(..20)?;
    if !is_elf(ident) {
        return None;
    }
    if ident.get(4..6)? != [ELFCLASS64, ELFDATA] || u16_at(head, 18)? != MACHINE {
        return Some(Kind::Foreign);
    }
    let mut headers = program_headers(head)?;
    let dynamic = headers.any(|header| u32_at(header, 0) == Some(PT_INTERP));
    Some(if dynamic { Kind::Dynamic } else { Kind::Static })
}

/// The program headers; `None` if they do not all lie in `head`.
pub fn program_headers(head: &[u8]) -> Option<impl Iterator<Item = &[u8]> + Clone> {
    let table = usize::try_from(u64_at(head, 32)?).ok()?;
    let (size, count) = (usize::from(u16_at(head, 54)?), usize::from(u16_at(head, 56)?));
    let table = head.get(table..table.checked_add(size.checked_mul(count)?)?)?;
    (size == PROGRAM_HEADER).then(|| table.chunks_exact(PROGRAM_HEADER))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
