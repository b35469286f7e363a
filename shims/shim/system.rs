//! The calls of the C library that `std` has no name for, declared by hand and wrapped.

use std::ffi::{CString, OsStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const AF_UNIX: u16 = 1;
const SOCK_STREAM_CLOEXEC: c_int = 1 | 0o2000000;
const SOL_SOCKET: c_int = 1;
const SO_SNDTIMEO: c_int = 21;
const F_SETFD: c_int = 2;
const F_GETFL: c_int = 3;
const F_SETFL: c_int = 4;
const F_DUPFD_CLOEXEC: c_int = 1030;
const O_ACCMODE: c_int = 3;
const O_RDONLY: c_int = 0;
const O_NONBLOCK: c_int = 0o4000;
const TIOCGWINSZ: c_ulong = 0x5413;
const RLIMIT_NOFILE: c_int = 7;
const LOCK_EX_NB: c_int = 2 | 4;
const PR_SET_PDEATHSIG: c_int = 1;
const PR_SET_DUMPABLE: c_int = 4;
const SIGPIPE: c_int = 13;
pub const SIGTERM: c_int = 15;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const SIG_SETMASK: c_int = 2;
const X_OK: c_int = 1;
/// The same numbers on x86-64 and AArch64.
const SYS_PIDFD_OPEN: c_long = 434;
const SYS_CLOSE_RANGE: c_long = 436;
const CLOSE_RANGE_CLOEXEC: c_uint = 4;

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Poll {
    pub fd: RawFd,
    pub events: i16,
    pub revents: i16,
}

pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;
const POLLERR: i16 = 8;
const POLLHUP: i16 = 16;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TimeVal {
    seconds: i64,
    micros: i64,
}

/// `struct rusage`; only the times are used.
#[repr(C)]
#[derive(Default)]
struct Usage {
    user: TimeVal,
    system: TimeVal,
    rest: [c_long; 14],
}

#[repr(C)]
struct SocketAddress {
    family: u16,
    path: [u8; 108],
}

unsafe extern "C" {
    #[link_name = "umask"]
    fn c_umask(mask: c_uint) -> c_uint;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn flock(fd: c_int, operation: c_int) -> c_int;
    fn fork() -> c_int;
    fn getpid() -> c_int;
    fn getppid() -> c_int;
    fn getrlimit(resource: c_int, limit: *mut [u64; 2]) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setsid() -> c_int;
    fn sigprocmask(how: c_int, set: *const c_void, old: *mut c_void) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn syscall(number: c_long, ...) -> c_long;
    fn wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut Usage) -> c_int;
    fn _exit(code: c_int) -> !;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    #[link_name = "connect"]
    fn c_connect(fd: c_int, address: *const SocketAddress, length: c_uint) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: c_uint) -> c_int;
    #[link_name = "poll"]
    fn c_poll(fds: *mut Poll, count: c_ulong, timeout: c_int) -> c_int;
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The file mode creation mask. It can only be read by setting it; the process has one thread.
pub fn umask() -> u32 {
    // SAFETY: takes and gives numbers.
    unsafe {
        let mask = c_umask(0o077);
        c_umask(mask);
        mask
    }
}

pub fn is_executable(path: &Path) -> bool {
    // SAFETY: the path ends in NUL.
    c_string(path.as_os_str()).is_ok_and(|path| unsafe { access(path.as_ptr(), X_OK) } == 0)
}

pub fn pid() -> i32 {
    // SAFETY: takes nothing.
    unsafe { getpid() }
}

/// What `SIGPIPE` did when we were started; handed on to whatever replaces us.
static BROKEN_PIPE: AtomicUsize = AtomicUsize::new(SIG_DFL);

/// From here on a closed socket or pipe is an error, not a signal.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler of ours is involved.
    let before = unsafe { signal(SIGPIPE, SIG_IGN) };
    BROKEN_PIPE.store(before, Ordering::Relaxed);
}

/// The signal settings that the build gave us. Async-signal-safe.
pub fn restore_signals() {
    // SAFETY: as above; what is restored was the disposition at the start, and no handler lives across an exec.
    unsafe { signal(SIGPIPE, BROKEN_PIPE.load(Ordering::Relaxed)) };
}

/// A program, its arguments and its environment, laid out as `execve` wants them.
pub struct ExecImage {
    path: CString,
    _strings: Vec<CString>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
}

// SAFETY: the pointers lead to strings that the image owns and never changes.
unsafe impl Send for ExecImage {}
// SAFETY: as above.
unsafe impl Sync for ExecImage {}

impl ExecImage {
    /// Fails if a text holds a NUL.
    pub fn new<'a>(
        path: &Path,
        argv: impl Iterator<Item = &'a OsStr>,
        env: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
    ) -> io::Result<ExecImage> {
        let mut strings = Vec::new();
        let mut list =
            |texts: &mut dyn Iterator<Item = io::Result<CString>>| -> io::Result<Vec<*const c_char>> {
                let mut pointers = Vec::new();
                for text in texts {
                    let text = text?;
                    // the string's bytes stay where they are when the CString moves
                    pointers.push(text.as_ptr());
                    strings.push(text);
                }
                pointers.push(std::ptr::null());
                Ok(pointers)
            };
        let argv = list(&mut argv.map(c_string))?;
        let envp = list(&mut env.map(|(name, value)| {
            let mut text = name.to_owned();
            text.push("=");
            text.push(value);
            c_string(&text)
        }))?;
        Ok(ExecImage { path: c_string(path.as_os_str())?, _strings: strings, argv, envp })
    }

    /// Replaces this process; comes back only with the error. Async-signal-safe.
    pub fn exec(&self) -> io::Error {
        // SAFETY: both lists end in null and their strings are alive.
        unsafe { execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Connects to the socket at `path` (100 bytes at most), waiting for at most `patience` while its queue is
/// full. Later writes wait no longer than that either; reads wait for as long as it takes.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let mut address = SocketAddress { family: AF_UNIX, path: [0; 108] };
    let bytes = path.as_os_str().as_bytes();
    address.path.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    let patience = TimeVal { seconds: patience.as_secs() as i64, micros: 0 };
    // SAFETY: the structures live across the calls and their sizes are right; the descriptor is ours.
    unsafe {
        let fd = OwnedFd::from_raw_fd(checked(socket(c_int::from(AF_UNIX), SOCK_STREAM_CLOEXEC, 0))?);
        let value = (&raw const patience).cast();
        checked(setsockopt(fd.as_raw_fd(), SOL_SOCKET, SO_SNDTIMEO, value, size_of::<TimeVal>() as c_uint))?;
        checked(c_connect(fd.as_raw_fd(), &address, size_of::<SocketAddress>() as c_uint))?;
        Ok(UnixStream::from(above_standard(fd)?))
    }
}

/// A build may call a compiler with stdout closed; then the next descriptor would take its number, and the
/// compiler's output would go there.
fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: the new descriptor is ours.
    unsafe { Ok(OwnedFd::from_raw_fd(checked(fcntl(fd.as_raw_fd(), F_DUPFD_CLOEXEC, 3))?)) }
}

/// Lets a descriptor live on in the program that replaces us.
pub fn keep_across_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { fcntl(fd.as_raw_fd(), F_SETFD, 0) }).map(drop)
}

pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    unsafe {
        let flags = checked(fcntl(fd.as_raw_fd(), F_GETFL))?;
        checked(fcntl(fd.as_raw_fd(), F_SETFL, flags | O_NONBLOCK)).map(drop)
    }
}

pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: takes numbers.
    unsafe { fcntl(fd, F_GETFL) >= 0 }
}

/// Whether a descriptor is open for writing and has not lost its reader. A full disk is not seen.
pub fn takes_output(fd: RawFd) -> bool {
    // SAFETY: takes numbers.
    let flags = unsafe { fcntl(fd, F_GETFL) };
    let mut fds = [Poll { fd, events: 0, revents: 0 }];
    flags >= 0 && flags & O_ACCMODE != O_RDONLY && {
        poll(&mut fds, Some(Duration::ZERO));
        fds[0].revents & (POLLERR | POLLHUP) == 0
    }
}

/// How many files may be open (`ulimit -n`).
pub fn file_limit() -> u64 {
    // `struct rlimit`: what holds now, and how far it may be raised
    let mut limit = [u64::MAX; 2];
    // SAFETY: the kernel writes two numbers of 64 bits, for which there is room.
    unsafe { getrlimit(RLIMIT_NOFILE, &mut limit) };
    limit[0]
}

/// The width of a terminal; 0 if it is none, or does not tell.
pub fn columns(fd: RawFd) -> u32 {
    // `struct winsize`: rows, columns, and both in pixels
    let mut size = [0_u16; 4];
    // SAFETY: the kernel writes four numbers of 16 bits, for which there is room.
    let told = unsafe { ioctl(fd, TIOCGWINSZ, size.as_mut_ptr()) } == 0;
    if told { u32::from(size[1]) } else { 0 }
}

/// Takes an exclusive lock if nobody has it; it lasts as long as the file is open.
pub fn try_lock(file: &std::fs::File) -> bool {
    // SAFETY: the descriptor is open.
    unsafe { flock(file.as_raw_fd(), LOCK_EX_NB) == 0 }
}

/// Waits until one of the descriptors is ready; for ever without a `timeout`. Interruptions count as ready.
pub fn poll(fds: &mut [Poll], timeout: Option<Duration>) {
    let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as c_int);
    // SAFETY: the slice is writable for its length.
    unsafe { c_poll(fds.as_mut_ptr(), fds.len() as c_ulong, timeout) };
}

/// A descriptor that becomes readable when a child ends; Linux 5.3.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; the new descriptor is ours and closed across exec.
    unsafe {
        let fd = syscall(SYS_PIDFD_OPEN, pid, 0);
        Ok(OwnedFd::from_raw_fd(checked(fd as c_int)?))
    }
}

/// How a child ended.
pub struct Ended {
    pub status: i32,
    pub user_us: u64,
    pub sys_us: u64,
}

/// Waits for a child.
pub fn wait(pid: i32) -> io::Result<Ended> {
    let (mut status, mut usage) = (0, Usage::default());
    loop {
        // SAFETY: both places are writable.
        match checked(unsafe { wait4(pid, &mut status, 0, &mut usage) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let micros = |time: TimeVal| (time.seconds * 1_000_000 + time.micros) as u64;
    Ok(Ended { status, user_us: micros(usage.user), sys_us: micros(usage.system) })
}

/// In a fresh child: to be terminated when its parent `parent` ends. Async-signal-safe.
pub fn die_with(parent: i32) -> io::Result<()> {
    // SAFETY: takes numbers.
    unsafe {
        checked(prctl(PR_SET_PDEATHSIG, SIGTERM as c_ulong))?;
        // it may have ended before that took hold
        if getppid() != parent {
            kill(getpid(), SIGTERM);
        }
    }
    Ok(())
}

/// In a fresh child: leaves terminal, process group and parent behind, and hands no descriptor but the first
/// three on. Async-signal-safe.
pub fn detach() -> io::Result<()> {
    // SAFETY: the process has one thread; the one in the middle does nothing but end.
    unsafe {
        checked(setsid())?;
        if checked(fork())? > 0 {
            _exit(0);
        }
        // before Linux 5.9 what make and ninja let us inherit stays open; the initiator closes it, too
        syscall(SYS_CLOSE_RANGE, 3 as c_uint, c_uint::MAX, CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

/// Ends this process by a signal, without a core file of its own; comes back if the signal does not kill.
pub fn die_of(number: i32) {
    let mask = [0_u64; 16];
    // SAFETY: the mask is as large as `sigset_t`, and all zero means empty.
    unsafe {
        prctl(PR_SET_DUMPABLE, 0 as c_ulong);
        signal(number, SIG_DFL);
        sigprocmask(SIG_SETMASK, mask.as_ptr().cast(), std::ptr::null_mut());
        kill(getpid(), number);
    }
}
