//! The exec family: decides what a child will be, and hands over to the real functions.
//!
//! A child is replaced by the stand-in if its name is a compiler's and it is a program that can be run; else it
//! only gets the environment in which its own children will be caught.

use core::ffi::{CStr, c_char, c_int, c_void};

use crate::config::{self, Config, Mode};
use crate::environ::{self, List, Preload, Shims, Wanted};
use crate::real::{Real, real};
use crate::search::{self, PathBuffer};
use crate::target::{self, Class};
use crate::{lists, names, record, sys};

type Execve = unsafe extern "C" fn(*const c_char, List, List) -> c_int;
type Execv = unsafe extern "C" fn(*const c_char, List) -> c_int;
type Execveat = unsafe extern "C" fn(c_int, *const c_char, List, List, c_int) -> c_int;
/// pid, path or file, file actions, attributes, argv, envp.
type Spawn =
    unsafe extern "C" fn(*mut c_int, *const c_char, *const c_void, *const c_void, List, List) -> c_int;

static EXECVE: Real = Real::new(c"execve");
static EXECVP: Real = Real::new(c"execvp");
static EXECVPE: Real = Real::new(c"execvpe");
static EXECVEAT: Real = Real::new(c"execveat");
static POSIX_SPAWN: Real = Real::new(c"posix_spawn");
static POSIX_SPAWNP: Real = Real::new(c"posix_spawnp");

/// Looks up all of them. At load, because `dlsym` takes locks, which a `vfork` child must not.
pub fn resolve() {
    for real in [&EXECVE, &EXECVP, &EXECVPE, &EXECVEAT, &POSIX_SPAWN, &POSIX_SPAWNP] {
        real.address();
    }
}

/// What a function of the family is asked to start.
#[derive(Clone, Copy)]
struct Request {
    /// As the caller gave it.
    program: *const c_char,
    /// Without a slash in it, `program` is looked up on `PATH`.
    on_path: bool,
    envp: List,
}

/// What is to be done about it.
enum Route<'a> {
    /// Call the real function with the arguments as they came.
    Pass,
    /// Start the stand-in for the compiler at this path.
    StandIn(&'a CStr),
    /// Start it, with this environment.
    With(Wanted<'a>),
}

/// Decides, and calls one or both of the two: `stand_in(shim, envp)` starts the stand-in and returns only if
/// that failed (or, as `posix_spawn`, says so: `failed`); `plain(envp)` is the real function.
///
/// # Safety
/// The request's pointers are as the exec family requires them.
unsafe fn start<R>(
    request: Request,
    stand_in: impl FnOnce(*const c_char, List) -> R,
    failed: impl FnOnce(&R) -> bool,
    plain: impl FnOnce(List) -> R,
) -> R {
    let config = match config::mode() {
        Mode::Off => return plain(request.envp),
        Mode::Trace(config) => {
            // SAFETY: by the caller's promise.
            unsafe { trace(request, config) };
            return plain(request.envp);
        }
        Mode::Intercept(config) => config,
    };
    if request.envp.is_null() {
        return plain(request.envp);
    }
    // SAFETY: by the caller's promise.
    let seen = unsafe { environ::look(request.envp, config) };
    if seen.disabled || seen.elsewhere {
        return plain(request.envp);
    }
    if !config.is_laid_out() {
        // the loader would complain of a library that is gone
        let wanted = Wanted { preload: Preload::Without, shims: Shims::Absent, exec_path: None };
        // SAFETY: `seen` was taken from this list.
        return unsafe { environ::with(request.envp, &seen, &wanted, config, plain) };
    }
    let mut buffer = PathBuffer::new();
    // SAFETY: by the caller's promise.
    match unsafe { route(request, config, &mut buffer) } {
        Route::Pass => plain(request.envp),
        Route::StandIn(compiler) => {
            let wanted =
                Wanted { preload: Preload::AsIs, shims: Shims::AsIs, exec_path: Some(compiler.to_bytes()) };
            let shim = config.shim().as_ptr();
            // SAFETY: `seen` was taken from this list.
            let result =
                unsafe { environ::with(request.envp, &seen, &wanted, config, |envp| stand_in(shim, envp)) };
            if failed(&result) { plain(request.envp) } else { result }
        }
        // SAFETY: `seen` was taken from this list.
        Route::With(wanted) => unsafe { environ::with(request.envp, &seen, &wanted, config, plain) },
    }
}

/// # Safety
/// As for [`start`].
unsafe fn route<'a>(request: Request, config: &Config, buffer: &'a mut PathBuffer) -> Route<'a> {
    // SAFETY: by the caller's promise.
    let Some(path) = (unsafe { resolved(request, config.shims(), buffer, |_| ()) }) else {
        return Route::Pass;
    };
    if lists::is_inside(path.to_bytes(), config.shims()) {
        return Route::Pass;
    }
    let target = target::look(path);
    // a script is not a compiler yet: what it calls is caught in its turn
    let program = !target.script && target.class != Class::Unknown;
    if program && names::is_compiler(names::basename(path.to_bytes())) && sys::is_executable(path) {
        return Route::StandIn(path);
    }
    let (preload, shims) = match target.class {
        Class::Dynamic => (Preload::With, Shims::Absent),
        Class::Static => (Preload::With, Shims::First),
        Class::Foreign => (Preload::Without, Shims::First),
        Class::Unknown => return Route::Pass,
    };
    Route::With(Wanted { preload, shims, exec_path: None })
}

/// The path of the program that the request names.
unsafe fn resolved<'a>(
    request: Request,
    skip: &[u8],
    buffer: &'a mut PathBuffer,
    missed: impl FnMut(&[u8]),
) -> Option<&'a CStr> {
    // SAFETY: by the caller's promise.
    let name = unsafe { search::program_name(request.program) }?;
    if !request.on_path || name.to_bytes().contains(&b'/') {
        return buffer.join(b"", name.to_bytes());
    }
    search::on_path(name.to_bytes(), skip, buffer, missed)
}

/// Records a start in trace mode, and says so if the trace cannot follow it.
unsafe fn trace(request: Request, config: &Config) {
    let mut buffer = PathBuffer::new();
    // SAFETY: as promised to `start`.
    let path = unsafe { resolved(request, b"", &mut buffer, record::absent) };
    let Some(path) = path else {
        // not on PATH: then nothing starts. No PATH at all: the C library looks in places of its own.
        let unset = search::path().is_none();
        if request.on_path && unset {
            record::blind();
        }
        return;
    };
    if !sys::is_executable(path) {
        return record::absent(path.to_bytes());
    }
    record::exec(path.to_bytes());
    // SAFETY: as promised to `start`.
    let get = |name: &str| unsafe { environ::get(request.envp, name.as_bytes()) };
    let is_ours = |entry: &[u8]| names::basename(entry) == crate::vars::INTERCEPT_FILE.as_bytes();
    let preloads = get(crate::vars::LD_PRELOAD)
        .is_some_and(|list| lists::entries(list, lists::PRELOAD_SEPARATORS).any(is_ours));
    let traced = get(crate::vars::TRACE) == Some(config.trace_setting());
    if !(preloads && traced && target::look(path).class == Class::Dynamic) {
        record::blind();
    }
}

fn refuse() -> c_int {
    sys::set_errno(sys::ENOSYS);
    -1
}

/// The exec functions replace the process, so coming back is failing.
fn came_back(_: &c_int) -> bool {
    true
}

/// `execve` of the stand-in; the real function, whichever of the family was called.
fn exec_stand_in(argv: List) -> impl FnOnce(*const c_char, List) -> c_int {
    move |shim, envp| match real!(EXECVE, Execve) {
        // SAFETY: argv is the caller's, the rest is ours; all end as they must.
        Some(execve) => unsafe { execve(shim, argv, envp) },
        None => -1,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execve(path: *const c_char, argv: List, envp: List) -> c_int {
    let Some(execve) = real!(EXECVE, Execve) else { return refuse() };
    // SAFETY: the caller's arguments, passed on.
    unsafe {
        start(Request { program: path, on_path: false, envp }, exec_stand_in(argv), came_back, |envp| {
            execve(path, argv, envp)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execv(path: *const c_char, argv: List) -> c_int {
    let Some(execve) = real!(EXECVE, Execve) else { return refuse() };
    let envp = sys::environment();
    // SAFETY: the caller's arguments, passed on; execv is execve with the process' own environment.
    unsafe {
        start(Request { program: path, on_path: false, envp }, exec_stand_in(argv), came_back, |envp| {
            execve(path, argv, envp)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execvp(file: *const c_char, argv: List) -> c_int {
    // the C library's search stays the C library's: with execvpe it can have another environment
    let Some(execvpe) = real!(EXECVPE, Execve) else {
        return match real!(EXECVP, Execv) {
            // SAFETY: the caller's arguments, passed on.
            Some(execvp) => unsafe { execvp(file, argv) },
            None => refuse(),
        };
    };
    let envp = sys::environment();
    // SAFETY: the caller's arguments, passed on.
    unsafe {
        start(Request { program: file, on_path: true, envp }, exec_stand_in(argv), came_back, |envp| {
            execvpe(file, argv, envp)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execvpe(file: *const c_char, argv: List, envp: List) -> c_int {
    let Some(execvpe) = real!(EXECVPE, Execve) else { return refuse() };
    // SAFETY: the caller's arguments, passed on.
    unsafe {
        start(Request { program: file, on_path: true, envp }, exec_stand_in(argv), came_back, |envp| {
            execvpe(file, argv, envp)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execveat(
    directory: c_int,
    path: *const c_char,
    argv: List,
    envp: List,
    flags: c_int,
) -> c_int {
    let Some(execveat) = real!(EXECVEAT, Execveat) else { return refuse() };
    // SAFETY: the caller's arguments, passed on.
    unsafe {
        let absolute = sys::bytes(path).is_some_and(|path| path.starts_with(b"/"));
        if flags != 0 || !(absolute || directory == sys::AT_FDCWD) {
            record::unseen();
            return execveat(directory, path, argv, envp, flags);
        }
        start(Request { program: path, on_path: false, envp }, exec_stand_in(argv), came_back, |envp| {
            execveat(directory, path, argv, envp, flags)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawn(
    pid: *mut c_int,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: List,
    envp: List,
) -> c_int {
    let Some(spawn) = real!(POSIX_SPAWN, Spawn) else { return sys::ENOSYS };
    // SAFETY: the caller's arguments, passed on; posix_spawn returns an error number.
    unsafe {
        start(
            Request { program: path, on_path: false, envp },
            |shim, envp| spawn(pid, shim, actions, attributes, argv, envp),
            |result| *result != 0,
            |envp| spawn(pid, path, actions, attributes, argv, envp),
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawnp(
    pid: *mut c_int,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: List,
    envp: List,
) -> c_int {
    let Some(spawnp) = real!(POSIX_SPAWNP, Spawn) else { return sys::ENOSYS };
    // SAFETY: the caller's arguments, passed on; the shim's path has a slash, so it is not searched for.
    unsafe {
        start(
            Request { program: file, on_path: true, envp },
            |shim, envp| spawnp(pid, shim, actions, attributes, argv, envp),
            |result| *result != 0,
            |envp| spawnp(pid, file, actions, attributes, argv, envp),
        )
    }
}
