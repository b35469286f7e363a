//! Appends to the trace file, which is mapped at the first record and shared by all processes of a compile.
//!
//! See `format.rs` for the layout. A record's place is taken by one atomic addition; its size is stored last,
//! so that a writer that is killed half-way leaves a hole that the reader notices.

use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::format::*;
use crate::sys::PATH_MAX;
use crate::{config, sys};

/// The mapping; null before the first record, [`UNUSABLE`] if the file cannot be mapped.
static MAPPED: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
/// Size of a trace file that is made here: it travels.
const MADE_CAPACITY: usize = 1 << 20;
/// No mapping begins at such an address.
const UNUSABLE: *mut u8 = core::ptr::dangling_mut();

/// A mapped trace file.
#[derive(Clone, Copy)]
struct File {
    at: *mut u8,
    capacity: usize,
}

impl File {
    fn next(&self) -> &AtomicU64 {
        // SAFETY: the header is mapped for as long as the process lives, and the field is aligned.
        unsafe { AtomicU64::from_ptr(self.at.add(NEXT_AT).cast()) }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.at.add(FLAGS_AT).cast()) }
    }
}

/// What was asked of the file system, and how it was answered.
#[derive(Clone, Copy)]
pub struct Look {
    pub kind: u8,
    /// The `errno` of the failure, or none.
    pub error: Option<c_int>,
}

/// Records a look at `path`, relative to the directory `at` (`AT_FDCWD`: to the working directory). Does nothing
/// unless the process is traced. Null and empty paths are not recorded: nothing is looked up for them.
///
/// # Safety
/// `path` is null or a C string.
#[inline]
pub unsafe fn look(look: Look, at: c_int, path: *const c_char) {
    if config::tracing().is_some() {
        // SAFETY: by the caller's promise.
        unsafe { located(look, at, path, None) }
    }
}

/// Records a look with two paths; each relative to its own directory.
///
/// # Safety
/// Both paths are null or C strings.
pub unsafe fn look_two(look: Look, at: c_int, path: *const c_char, second: (c_int, *const c_char)) {
    if config::tracing().is_some() {
        // SAFETY: by the caller's promise.
        unsafe { located(look, at, path, Some(second)) }
    }
}

/// Records a program that is about to be started. A relative path is one of the working directory.
pub fn exec(path: &[u8]) {
    named(Look { kind: EXEC, error: None }, path);
}

/// Records a program that was looked for and is not there.
pub fn absent(path: &[u8]) {
    named(Look { kind: ACCESS, error: Some(sys::ENOENT) }, path);
}

/// Records that a variable was asked for, unless this process was seen to ask for it before.
pub fn variable(name: &[u8]) {
    if config::tracing().is_some() && !name.is_empty() && is_new(name) {
        append(Look { kind: VARIABLE, error: None }, [b"", name], [b"", b""]);
    }
}

/// Hashes of the names that were recorded. What does not fit is recorded each time.
static ASKED: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

fn is_new(name: &[u8]) -> bool {
    // FNV-1a; 0 means "free"
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = hash.max(1);
    for step in 0..8 {
        let Some(place) = ASKED.get((hash as usize + step) % ASKED.len()) else { return true };
        match place.compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(known) if known == hash => return false,
            Err(_) => {}
        }
    }
    true
}

/// Says that something happens which the trace does not show.
pub fn blind() {
    flag(FLAG_BLIND);
}

/// Says so if the process is traced.
pub fn unseen() {
    if config::tracing().is_some() {
        blind();
    }
}

fn flag(flag: u32) {
    if let Some(file) = file() {
        file.flags().fetch_or(flag, Ordering::Relaxed);
    }
}

fn named(look: Look, path: &[u8]) {
    let mut buffer = [0; PATH_MAX];
    match base(sys::AT_FDCWD, path, &mut buffer) {
        Some(base) => append(look, [base, path], [b"", b""]),
        None => flag(FLAG_OVERFLOW),
    }
}

/// # Safety
/// As for [`look`].
#[inline(never)]
unsafe fn located(look: Look, at: c_int, path: *const c_char, second: Option<(c_int, *const c_char)>) {
    // SAFETY: by the caller's promise.
    let Some(path) = (unsafe { sys::bytes(path) }).filter(|path| !path.is_empty()) else { return };
    let (mut first_buffer, mut second_buffer) = ([0; PATH_MAX], [0; PATH_MAX]);
    let (second_at, second) = match second {
        // SAFETY: by the caller's promise.
        Some((at, second)) => (at, unsafe { sys::bytes(second) }.unwrap_or_default()),
        None => (sys::AT_FDCWD, &b""[..]),
    };
    let bases = (base(at, path, &mut first_buffer), base(second_at, second, &mut second_buffer));
    match bases {
        (Some(base), Some(second_base)) => append(look, [base, path], [second_base, second]),
        _ => flag(FLAG_OVERFLOW),
    }
}

/// The directory to put before `path`: nothing if it is absolute or empty; `None` if it cannot be told.
fn base<'a>(at: c_int, path: &[u8], buffer: &'a mut [u8; PATH_MAX]) -> Option<&'a [u8]> {
    if path.is_empty() || path.starts_with(b"/") {
        return Some(b"");
    }
    if at == sys::AT_FDCWD {
        return sys::working_directory(buffer);
    }
    let mut link = [0; 32];
    let link = descriptor_link(at, &mut link)?;
    sys::read_link(link, buffer).filter(|directory| directory.starts_with(b"/"))
}

/// `/proc/self/fd/N`.
fn descriptor_link(fd: c_int, into: &mut [u8; 32]) -> Option<&CStr> {
    let prefix = b"/proc/self/fd/";
    into.get_mut(..prefix.len())?.copy_from_slice(prefix);
    let mut digits = [0; 10];
    let mut left = u32::try_from(fd).ok()?;
    let mut used = prefix.len();
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
        count += 1;
        if left == 0 {
            break;
        }
    }
    for digit in digits.get(digits.len() - count..)? {
        *into.get_mut(used)? = *digit;
        used += 1;
    }
    CStr::from_bytes_until_nul(into).ok()
}

/// Writes a record; each path is a directory (or nothing) and a name.
fn append(look: Look, first: [&[u8]; 2], second: [&[u8]; 2]) {
    let Some(file) = file() else { return };
    let length = |[base, name]: [&[u8]; 2]| base.len() + usize::from(!base.is_empty()) + name.len();
    let (first_length, second_length) = (length(first), length(second));
    let size = record_size(first_length + second_length);
    let start = file.next().fetch_add(size as u64, Ordering::Relaxed);
    let end = start.checked_add(size as u64);
    if end.is_none_or(|end| end > file.capacity as u64) || start % 8 != 0 {
        file.flags().fetch_or(FLAG_OVERFLOW, Ordering::Relaxed);
        return;
    }
    let (result, errno) = match look.error {
        None => (FOUND, 0),
        Some(sys::ENOENT | sys::ENOTDIR) => (ABSENT, 0),
        Some(errno) => (FAILED, errno as u16),
    };
    // SAFETY: `start..end` lies in the mapping and belongs to this record alone; only the size is read by
    // others, and it is written last.
    unsafe {
        let record = file.at.add(start as usize);
        record.add(4).write(look.kind);
        record.add(5).write(result);
        record.add(6).cast::<u16>().write(errno);
        record.add(8).cast::<u32>().write(first_length as u32);
        record.add(12).cast::<u32>().write(second_length as u32);
        let mut to = record.add(RECORD);
        for [base, name] in [first, second] {
            let slash: &[u8] = if base.is_empty() { b"" } else { b"/" };
            for part in [base, slash, name] {
                core::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
                to = to.add(part.len());
            }
        }
        AtomicU32::from_ptr(record.cast()).store(size as u32, Ordering::Release);
    }
}

/// The trace file, mapped if it was not yet. A child of `fork` or `vfork` has its parent's mapping.
fn file() -> Option<File> {
    let mut at = MAPPED.load(Ordering::Acquire);
    if at.is_null() {
        let mapped = map();
        let fresh = mapped.map_or(UNUSABLE, |file| file.at);
        match MAPPED.compare_exchange(at, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => at = fresh,
            Err(other) => {
                if let Some(file) = mapped {
                    // SAFETY: another thread's mapping is used; nobody has seen this one.
                    unsafe { sys::unmap(file.at, file.capacity) };
                }
                at = other;
            }
        }
    }
    if at == UNUSABLE {
        return None;
    }
    // SAFETY: the header is mapped, and the capacity is never written after the file was made; it was held
    // against the file's size when it was mapped.
    let capacity = unsafe { at.add(CAPACITY_AT).cast::<u64>().read() } as usize;
    Some(File { at, capacity })
}

/// Makes an empty trace file, unless it is there: a process that ran before has made it. What fails here is noticed by
/// whoever misses the file.
pub fn make(path: &CStr) -> Option<()> {
    let file = sys::create(path)?;
    file.set_size(MADE_CAPACITY)?;
    let mut header = [0; HEADER];
    let fields: [(usize, [u8; 8]); 3] = [
        (0, MAGIC),
        (CAPACITY_AT, (MADE_CAPACITY as u64).to_ne_bytes()),
        (NEXT_AT, (HEADER as u64).to_ne_bytes()),
    ];
    for (at, bytes) in fields {
        header.get_mut(at..at + bytes.len())?.copy_from_slice(&bytes);
    }
    file.write_start(&header)
}

fn map() -> Option<File> {
    let file = sys::open(config::tracing()?.trace(), true)?;
    let mut header = [0; HEADER];
    let header = file.read_at(&mut header, 0)?;
    let capacity = header.get(CAPACITY_AT..CAPACITY_AT + 8)?.try_into().ok().map(u64::from_ne_bytes)?;
    let capacity = usize::try_from(capacity).ok()?;
    let sound = header.starts_with(&MAGIC)
        && (MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity)
        && file.size()? == capacity;
    let at = if sound { file.map_shared(capacity)? } else { return None };
    Some(File { at, capacity })
}
