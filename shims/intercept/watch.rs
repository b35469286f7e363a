//! The functions that look at or change the file system, or ask for a variable: each calls the real one and, in a
//! traced process, records what came of it.
//!
//! Only the outermost functions are here: what the C library calls within itself (`fopen`'s own `open`) does not
//! pass through its exported names, so nothing is recorded twice. Not here: `dlopen` (a definition of our own
//! would change which `RUNPATH` it follows), `ftw`, which no compiler uses for its inputs.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::environ;
use crate::format::*;
use crate::real::{Real, real};
use crate::record::{self, Look};
use crate::sys::{self, AT_FDCWD};

type Text = *const c_char;
/// A structure or a buffer of the caller's, only passed on.
type Any = *mut c_void;

const O_ACCMODE: c_int = 3;
const O_CREAT: c_int = 0o100;
const O_TRUNC: c_int = 0o1000;

/// What a function returns when it fails; `errno` says why.
trait Failing: Copy {
    const FAILED: Self;
    fn failed(self) -> bool;
}

impl Failing for c_int {
    const FAILED: c_int = -1;
    fn failed(self) -> bool {
        self == -1
    }
}

impl Failing for isize {
    const FAILED: isize = -1;
    fn failed(self) -> bool {
        self == -1
    }
}

impl<T> Failing for *mut T {
    const FAILED: *mut T = core::ptr::null_mut();
    fn failed(self) -> bool {
        self.is_null()
    }
}

/// The outcome of a call that has just returned `result`.
fn outcome(kind: u8, result: impl Failing) -> Look {
    Look { kind, error: result.failed().then(sys::errno) }
}

fn kind_of_flags(flags: c_int) -> u8 {
    if flags & O_ACCMODE != 0 || flags & (O_CREAT | O_TRUNC) != 0 { OPEN_WRITE } else { OPEN_READ }
}

/// # Safety
/// `mode` is null or a C string.
unsafe fn kind_of_mode(mode: Text) -> u8 {
    // SAFETY: by the caller's promise.
    let writes = unsafe { sys::bytes(mode) }
        .is_some_and(|mode| mode.iter().any(|byte| matches!(byte, b'w' | b'a' | b'+')));
    if writes { OPEN_WRITE } else { OPEN_READ }
}

/// The C library's own definition of a function that is defined here.
macro_rules! real_of {
    ($name:ident) => {
        Real::new(match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(name) => name,
            Err(_) => c"",
        })
    };
}

/// Defines functions of the C library, each as: name, parameters, result; the kind of record; directory
/// and path that it is about. `as` gives the real function's type where it is variadic.
macro_rules! watched {
    ($($name:ident($($parameter:ident: $type:ty),*) -> $result:ty
        $(as ($($real:tt)*))?, $kind:expr, $at:expr, $path:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($parameter: $type),*) -> $result {
            static REAL: Real = real_of!($name);
            let Some(call) = real!(REAL, watched!(@type $result, ($($type),*) $(, $($real)*)?)) else {
                sys::set_errno(sys::ENOSYS);
                return <$result as Failing>::FAILED;
            };
            // SAFETY: the caller's arguments, passed on; the paths are C strings or null.
            unsafe {
                let result = call($($parameter),*);
                record::look(outcome($kind, result), $at, $path);
                result
            }
        }
    )*};
    (@type $result:ty, ($($type:ty),*)) => { unsafe extern "C" fn($($type),*) -> $result };
    (@type $result:ty, ($($type:ty),*), $($real:tt)*) => { unsafe extern "C" fn($($real)*) -> $result };
}

// `open` and `openat` are variadic in C: the mode is there only with O_CREAT or O_TMPFILE. Defined here with the
// mode as a fixed parameter: on x86-64 and AArch64 Linux an integer is passed in the same register either way,
// and without one that register merely holds something the kernel will not look at.
watched! {
    open(path: Text, flags: c_int, mode: c_uint) -> c_int as (Text, c_int, ...),
        kind_of_flags(flags), AT_FDCWD, path;
    open64(path: Text, flags: c_int, mode: c_uint) -> c_int as (Text, c_int, ...),
        kind_of_flags(flags), AT_FDCWD, path;
    openat(at: c_int, path: Text, flags: c_int, mode: c_uint) -> c_int as (c_int, Text, c_int, ...),
        kind_of_flags(flags), at, path;
    openat64(at: c_int, path: Text, flags: c_int, mode: c_uint) -> c_int as (c_int, Text, c_int, ...),
        kind_of_flags(flags), at, path;
    // what _FORTIFY_SOURCE makes of the calls without a mode
    __open_2(path: Text, flags: c_int) -> c_int, kind_of_flags(flags), AT_FDCWD, path;
    __open64_2(path: Text, flags: c_int) -> c_int, kind_of_flags(flags), AT_FDCWD, path;
    __openat_2(at: c_int, path: Text, flags: c_int) -> c_int, kind_of_flags(flags), at, path;
    __openat64_2(at: c_int, path: Text, flags: c_int) -> c_int, kind_of_flags(flags), at, path;
    creat(path: Text, mode: c_uint) -> c_int, OPEN_WRITE, AT_FDCWD, path;
    creat64(path: Text, mode: c_uint) -> c_int, OPEN_WRITE, AT_FDCWD, path;

    fopen(path: Text, mode: Text) -> Any, kind_of_mode(mode), AT_FDCWD, path;
    fopen64(path: Text, mode: Text) -> Any, kind_of_mode(mode), AT_FDCWD, path;
    freopen(path: Text, mode: Text, stream: Any) -> Any, kind_of_mode(mode), AT_FDCWD, path;
    freopen64(path: Text, mode: Text, stream: Any) -> Any, kind_of_mode(mode), AT_FDCWD, path;

    // these put the name they made into the template
    mkstemp(template: Text) -> c_int, OPEN_WRITE, AT_FDCWD, template;
    mkstemp64(template: Text) -> c_int, OPEN_WRITE, AT_FDCWD, template;
    mkostemp(template: Text, flags: c_int) -> c_int, OPEN_WRITE, AT_FDCWD, template;
    mkostemp64(template: Text, flags: c_int) -> c_int, OPEN_WRITE, AT_FDCWD, template;
    mkstemps(template: Text, suffix: c_int) -> c_int, OPEN_WRITE, AT_FDCWD, template;
    mkstemps64(template: Text, suffix: c_int) -> c_int, OPEN_WRITE, AT_FDCWD, template;
    mkostemps(template: Text, suffix: c_int, flags: c_int) -> c_int, OPEN_WRITE, AT_FDCWD, template;
    mkostemps64(template: Text, suffix: c_int, flags: c_int) -> c_int, OPEN_WRITE, AT_FDCWD, template;

    stat(path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    stat64(path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    lstat(path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    lstat64(path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    fstatat(at: c_int, path: Text, into: Any, flags: c_int) -> c_int, STAT, at, path;
    fstatat64(at: c_int, path: Text, into: Any, flags: c_int) -> c_int, STAT, at, path;
    statx(at: c_int, path: Text, flags: c_int, mask: c_uint, into: Any) -> c_int, STAT, at, path;
    // what the calls above were called before glibc 2.33
    __xstat(version: c_int, path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    __xstat64(version: c_int, path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    __lxstat(version: c_int, path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    __lxstat64(version: c_int, path: Text, into: Any) -> c_int, STAT, AT_FDCWD, path;
    __fxstatat(version: c_int, at: c_int, path: Text, into: Any, flags: c_int) -> c_int, STAT, at, path;
    __fxstatat64(version: c_int, at: c_int, path: Text, into: Any, flags: c_int) -> c_int, STAT, at, path;

    access(path: Text, mode: c_int) -> c_int, ACCESS, AT_FDCWD, path;
    eaccess(path: Text, mode: c_int) -> c_int, ACCESS, AT_FDCWD, path;
    euidaccess(path: Text, mode: c_int) -> c_int, ACCESS, AT_FDCWD, path;
    faccessat(at: c_int, path: Text, mode: c_int, flags: c_int) -> c_int, ACCESS, at, path;

    readlink(path: Text, into: *mut c_char, size: usize) -> isize, READLINK, AT_FDCWD, path;
    readlinkat(at: c_int, path: Text, into: *mut c_char, size: usize) -> isize, READLINK, at, path;
    __readlink_chk(path: Text, into: *mut c_char, size: usize, room: usize) -> isize,
        READLINK, AT_FDCWD, path;
    __readlinkat_chk(at: c_int, path: Text, into: *mut c_char, size: usize, room: usize) -> isize,
        READLINK, at, path;
    realpath(path: Text, into: *mut c_char) -> *mut c_char, REALPATH, AT_FDCWD, path;
    __realpath_chk(path: Text, into: *mut c_char, room: usize) -> *mut c_char, REALPATH, AT_FDCWD, path;
    canonicalize_file_name(path: Text) -> *mut c_char, REALPATH, AT_FDCWD, path;
    opendir(path: Text) -> Any, OPENDIR, AT_FDCWD, path;
    scandir(path: Text, into: Any, filter: Any, order: Any) -> c_int, OPENDIR, AT_FDCWD, path;
    scandir64(path: Text, into: Any, filter: Any, order: Any) -> c_int, OPENDIR, AT_FDCWD, path;

    mkdir(path: Text, mode: c_uint) -> c_int, MAKE_DIRECTORY, AT_FDCWD, path;
    mkdirat(at: c_int, path: Text, mode: c_uint) -> c_int, MAKE_DIRECTORY, at, path;
    mkdtemp(template: *mut c_char) -> *mut c_char, MAKE_DIRECTORY, AT_FDCWD, template;
    // another name for a file, or for a path: what is made counts as written
    link(old: Text, new: Text) -> c_int, OPEN_WRITE, AT_FDCWD, new;
    linkat(old_at: c_int, old: Text, at: c_int, new: Text, flags: c_int) -> c_int, OPEN_WRITE, at, new;
    symlink(target: Text, new: Text) -> c_int, OPEN_WRITE, AT_FDCWD, new;
    symlinkat(target: Text, at: c_int, new: Text) -> c_int, OPEN_WRITE, at, new;
    truncate(path: Text, length: i64) -> c_int, OPEN_WRITE, AT_FDCWD, path;
    // a mode or a time is a trace of somebody's, too
    chmod(path: Text, mode: c_uint) -> c_int, OPEN_WRITE, AT_FDCWD, path;
    fchmodat(at: c_int, path: Text, mode: c_uint, flags: c_int) -> c_int, OPEN_WRITE, at, path;
    utimensat(at: c_int, path: Text, times: Any, flags: c_int) -> c_int, OPEN_WRITE, at, path;
    utimes(path: Text, times: Any) -> c_int, OPEN_WRITE, AT_FDCWD, path;
    truncate64(path: Text, length: i64) -> c_int, OPEN_WRITE, AT_FDCWD, path;

    unlink(path: Text) -> c_int, UNLINK, AT_FDCWD, path;
    rmdir(path: Text) -> c_int, UNLINK, AT_FDCWD, path;
    unlinkat(at: c_int, path: Text, flags: c_int) -> c_int, UNLINK, at, path;
    remove(path: Text) -> c_int, UNLINK, AT_FDCWD, path;
}

/// As the C library's, without what is ours ([`environ::without_us`]). It reads the list of variables itself: looking up the real one could end in an allocator that is
/// just asking for its settings.
#[unsafe(no_mangle)]
unsafe extern "C" fn getenv(name: Text) -> *mut c_char {
    // SAFETY: the caller's name is a C string; the list is the process' own.
    unsafe {
        let Some(bytes) = sys::bytes(name) else { return core::ptr::null_mut() };
        record::variable(bytes);
        let value =
            environ::get(sys::environment(), bytes).and_then(|value| environ::without_us(bytes, value));
        value.map_or(core::ptr::null_mut(), |value| value.as_ptr().cast_mut().cast())
    }
}

/// No process that runs with more rights than its caller loads this library.
#[unsafe(no_mangle)]
unsafe extern "C" fn secure_getenv(name: Text) -> *mut c_char {
    // SAFETY: as for `getenv`.
    unsafe { getenv(name) }
}

/// Defines `glob` and its twin, which list directories by functions within the C library. GNU ld finds the pieces of
/// `/etc/ld.so.conf` by it.
macro_rules! globbing {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(pattern: Text, flags: c_int, error: Any, into: Any) -> c_int {
            static REAL: Real = real_of!($name);
            let Some(call) = real!(REAL, unsafe extern "C" fn(Text, c_int, Any, Any) -> c_int) else {
                return GLOB_ABORTED;
            };
            // SAFETY: the caller's arguments, passed on; the pattern is a C string.
            unsafe {
                let mut directory = [0; sys::PATH_MAX];
                match sys::bytes(pattern).and_then(|pattern| listed(pattern, &mut directory)) {
                    Some(directory) => {
                        let error = sys::open(directory, false).is_none().then_some(sys::ENOENT);
                        record::look(Look { kind: OPENDIR, error }, AT_FDCWD, directory.as_ptr());
                    }
                    None => record::unseen(),
                }
                call(pattern, flags, error, into)
            }
        }
    )*};
}

/// `<glob.h>`: a directory could not be read.
const GLOB_ABORTED: c_int = 2;

globbing! { glob glob64 }

/// The one directory whose names a pattern asks for, if it is one (glob(7)).
fn listed<'a>(pattern: &[u8], into: &'a mut [u8; sys::PATH_MAX]) -> Option<&'a CStr> {
    let slash = pattern.iter().rposition(|byte| *byte == b'/');
    let directory = match slash {
        Some(0) => b"/",
        Some(at) => pattern.get(..at)?,
        None => b".",
    };
    if directory.iter().any(|byte| b"*?[\\{~".contains(byte)) {
        return None;
    }
    into.get_mut(..directory.len())?.copy_from_slice(directory);
    *into.get_mut(directory.len())? = 0;
    CStr::from_bytes_until_nul(into).ok()
}

/// Defines the functions that move a file.
macro_rules! moving {
    ($($name:ident($($parameter:ident: $type:ty),*), $from:expr, $to:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($parameter: $type),*) -> c_int {
            static REAL: Real = real_of!($name);
            let Some(call) = real!(REAL, unsafe extern "C" fn($($type),*) -> c_int) else {
                sys::set_errno(sys::ENOSYS);
                return -1;
            };
            let (from, to): ((c_int, Text), (c_int, Text)) = ($from, $to);
            // SAFETY: the caller's arguments, passed on; the paths are C strings or null.
            unsafe {
                let result = call($($parameter),*);
                record::look_two(outcome(RENAME, result), from.0, from.1, to);
                result
            }
        }
    )*};
}

moving! {
    rename(from: Text, to: Text), (AT_FDCWD, from), (AT_FDCWD, to);
    renameat(from_at: c_int, from: Text, to_at: c_int, to: Text), (from_at, from), (to_at, to);
    renameat2(from_at: c_int, from: Text, to_at: c_int, to: Text, flags: c_uint), (from_at, from), (to_at, to);
}
