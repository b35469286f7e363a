//! The system, declared by hand: raw system calls for the interceptor's own needs, and the few C functions
//! that cannot be done without.
//!
//! Own look-ups go past the C library: its `open` is ours by the time it is called from here, and a raw call
//! leaves `errno` alone. Paths are passed with their terminating NUL. x86-64 and AArch64 Linux.

use core::arch::asm;
use core::ffi::{CStr, c_char, c_int, c_void};

pub const AT_FDCWD: c_int = -100;
pub const ENOENT: c_int = 2;
pub const ENOTDIR: c_int = 20;
pub const ENOSYS: c_int = 38;
/// Longest path with its NUL, as the kernel takes it.
pub const PATH_MAX: usize = 4096;

const O_RDWR: usize = 2;
const O_CREAT: usize = 0o100;
const O_EXCL: usize = 0o200;
const O_CLOEXEC: usize = 0o2000000;
const X_OK: usize = 1;
const R_OK: usize = 4;
const PROT_READ_WRITE: usize = 1 | 2;
const MAP_SHARED: usize = 1;
const MAP_PRIVATE_ANONYMOUS: usize = 2 | 0x20;
const SEEK_END: usize = 2;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const CLOSE: usize = 3;
    pub const LSEEK: usize = 8;
    pub const MMAP: usize = 9;
    pub const MUNMAP: usize = 11;
    pub const PREAD64: usize = 17;
    pub const PWRITE64: usize = 18;
    pub const FTRUNCATE: usize = 77;
    pub const GETCWD: usize = 79;
    pub const OPENAT: usize = 257;
    pub const READLINKAT: usize = 267;
    pub const FACCESSAT: usize = 269;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const CLOSE: usize = 57;
    pub const LSEEK: usize = 62;
    pub const MMAP: usize = 222;
    pub const MUNMAP: usize = 215;
    pub const PREAD64: usize = 67;
    pub const PWRITE64: usize = 68;
    pub const FTRUNCATE: usize = 46;
    pub const GETCWD: usize = 17;
    pub const OPENAT: usize = 56;
    pub const READLINKAT: usize = 78;
    pub const FACCESSAT: usize = 48;
}

#[link(name = "c")]
unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    #[link_name = "abort"]
    fn c_abort() -> !;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    #[link_name = "environ"]
    static mut c_environ: *const *const c_char;
}

pub fn errno() -> c_int {
    // SAFETY: the C library gives a valid pointer to this thread's errno.
    unsafe { *__errno_location() }
}

pub fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *__errno_location() = value }
}

pub fn abort() -> ! {
    // SAFETY: takes nothing, returns never.
    unsafe { c_abort() }
}

/// The next definition of a function after this library; null if there is none.
pub fn next_symbol(name: &CStr) -> *mut c_void {
    // RTLD_NEXT is -1
    // SAFETY: `name` ends in NUL.
    unsafe { dlsym(usize::MAX as *mut c_void, name.as_ptr()) }
}

/// The process' environment as the C library has it now.
pub fn environment() -> *const *const c_char {
    // SAFETY: a plain load of a pointer that the C library keeps valid; racing with `setenv` is as it is for
    // `getenv`.
    unsafe { c_environ }
}

/// The bytes of a C string, without its NUL; `None` for a null pointer.
///
/// # Safety
/// `text` is null or points to a string that ends in NUL and lives for `'a`.
pub unsafe fn bytes<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: by the caller's promise.
    if text.is_null() { None } else { Some(unsafe { CStr::from_ptr(text) }.to_bytes()) }
}

/// Opens `path`, read-only or for reading and writing.
pub fn open(path: &CStr, write: bool) -> Option<Fd> {
    open_with(path, if write { O_RDWR } else { 0 })
}

/// Makes a file for reading and writing; nothing if there is one of this name.
pub fn create(path: &CStr) -> Option<Fd> {
    open_with(path, O_RDWR | O_CREAT | O_EXCL)
}

fn open_with(path: &CStr, flags: usize) -> Option<Fd> {
    let (path, mode) = (path.as_ptr() as usize, 0o644);
    // SAFETY: the path ends in NUL; the kernel checks the rest.
    let fd = unsafe { call(number::OPENAT, [AT_FDCWD as usize, path, flags | O_CLOEXEC, mode, 0, 0]) };
    c_int::try_from(fd).ok().filter(|&fd| fd >= 0).map(Fd)
}

/// An open file of our own.
pub struct Fd(c_int);

impl Fd {
    /// Reads at `offset`; the bytes read, fewer than asked for only at the end of the file.
    pub fn read_at<'a>(&self, into: &'a mut [u8], offset: u64) -> Option<&'a [u8]> {
        let mut filled = 0;
        while let Some(space) = into.get_mut(filled..).filter(|space| !space.is_empty()) {
            let to = space.as_mut_ptr() as usize;
            let at = (offset as usize).checked_add(filled)?;
            // SAFETY: `space` is writable for its length.
            let n = unsafe { call(number::PREAD64, [self.0 as usize, to, space.len(), at, 0, 0]) };
            match usize::try_from(n).ok()? {
                0 => break,
                n => filled += n,
            }
        }
        into.get(..filled)
    }

    pub fn size(&self) -> Option<usize> {
        // SAFETY: no memory is passed.
        let size = unsafe { call(number::LSEEK, [self.0 as usize, 0, SEEK_END, 0, 0, 0]) };
        usize::try_from(size).ok()
    }

    pub fn set_size(&self, size: usize) -> Option<()> {
        // SAFETY: no memory is passed.
        (unsafe { call(number::FTRUNCATE, [self.0 as usize, size, 0, 0, 0, 0]) } == 0).then_some(())
    }

    /// Writes all of `bytes` at the file's start.
    pub fn write_start(&self, bytes: &[u8]) -> Option<()> {
        let from = bytes.as_ptr() as usize;
        // SAFETY: `bytes` is readable for its length.
        let n = unsafe { call(number::PWRITE64, [self.0 as usize, from, bytes.len(), 0, 0, 0]) };
        (usize::try_from(n) == Ok(bytes.len())).then_some(())
    }

    /// Maps the first `size` bytes, shared with every other process that maps the file.
    pub fn map_shared(&self, size: usize) -> Option<*mut u8> {
        map(size, MAP_SHARED, self.0 as usize)
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        unsafe { call(number::CLOSE, [self.0 as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Fresh zeroed memory, to be given back with [`unmap`].
pub fn map_private(size: usize) -> Option<*mut u8> {
    map(size, MAP_PRIVATE_ANONYMOUS, usize::MAX)
}

fn map(size: usize, kind: usize, fd: usize) -> Option<*mut u8> {
    // SAFETY: a mapping at an address of the kernel's choice touches no memory in use.
    let at = unsafe { call(number::MMAP, [0, size, PROT_READ_WRITE, kind, fd, 0]) };
    // errors are -4095..=-1
    if (-4095..=0).contains(&at) { None } else { Some(at as usize as *mut u8) }
}

/// # Safety
/// `at` and `size` are of one mapping that nothing uses any more.
pub unsafe fn unmap(at: *mut u8, size: usize) {
    // SAFETY: by the caller's promise.
    unsafe { call(number::MUNMAP, [at as usize, size, 0, 0, 0, 0]) };
}

pub fn is_executable(path: &CStr) -> bool {
    may(path, X_OK)
}

pub fn is_readable(path: &CStr) -> bool {
    may(path, R_OK)
}

fn may(path: &CStr, mode: usize) -> bool {
    // SAFETY: the path ends in NUL.
    unsafe { call(number::FACCESSAT, [AT_FDCWD as usize, path.as_ptr() as usize, mode, 0, 0, 0]) == 0 }
}

/// The working directory, if it can be named (not if it was removed or lies outside of the root).
pub fn working_directory(into: &mut [u8; PATH_MAX]) -> Option<&[u8]> {
    // SAFETY: `into` is writable for its length.
    let length = unsafe { call(number::GETCWD, [into.as_mut_ptr() as usize, PATH_MAX, 0, 0, 0, 0]) };
    // the length counts the NUL
    let path = into.get(..usize::try_from(length).ok()?.checked_sub(1)?)?;
    path.starts_with(b"/").then_some(path)
}

/// What the link at `path` points to; `None` also if it is longer than a path may be.
pub fn read_link<'a>(path: &CStr, into: &'a mut [u8; PATH_MAX]) -> Option<&'a [u8]> {
    let to = into.as_mut_ptr() as usize;
    // SAFETY: the path ends in NUL, `into` is writable for its length.
    let n =
        unsafe { call(number::READLINKAT, [AT_FDCWD as usize, path.as_ptr() as usize, to, PATH_MAX, 0, 0]) };
    let length = usize::try_from(n).ok().filter(|&n| n < PATH_MAX)?;
    into.get(..length)
}

/// A system call: its result, or the negated error.
///
/// # Safety
/// As for the call of that number.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; rcx and r11 are its scratch registers.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A system call: its result, or the negated error.
///
/// # Safety
/// As for the call of that number.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    result
}
