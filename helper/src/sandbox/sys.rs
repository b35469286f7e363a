//! The system calls of the sandbox that no safe library offers. Everything here is called in processes of one
//! thread (the launcher and what it forks), which is what makes forking without exec sound.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::process::Pid;

/// New namespaces of one action.
pub const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Forks, the child in new namespaces as `flags` say (0: none). `None` in the child.
///
/// # Safety
/// The calling process has one thread only: the child may otherwise find locks held for ever.
pub unsafe fn fork_into(flags: i32) -> io::Result<Option<Pid>> {
    // SAFETY: without CLONE_VM and with a null stack, clone(2) is fork(2); the caller is single-threaded. The
    // order of the null arguments does not matter, so neither does the architecture's order of parameters.
    let pid = unsafe {
        let (none, flags) = (0 as libc::c_long, libc::c_long::from(flags | libc::SIGCHLD));
        libc::syscall(libc::SYS_clone, flags, none, none, none, none)
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

/// Ends this process without running destructors or exit handlers, which belong to the process it was forked from.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Replaces this process; returns only with an error.
pub fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with null and point to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// All signals as a fresh program expects them: default action, none blocked. (Rust's runtime ignores SIGPIPE.)
pub fn default_signals() {
    // SAFETY: no handler of ours runs afterwards; signals that cannot be set (KILL, STOP) just fail. The set is
    // initialised by sigemptyset before use.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// Lets the kernel reap children of this process by itself.
pub fn ignore_children() {
    // SAFETY: ignoring SIGCHLD installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Makes a mount and all mounts beneath it read-only and without set-uid programs (Linux 5.12).
pub fn seal_recursively(path: &CStr) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends with NUL, and the structure is mount_setattr(2)'s first version, with its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `from` also descriptor `to`, which stays open across exec: 0, 1 or 2, or one that is free.
pub fn duplicate(from: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    // SAFETY: dup2 onto a descriptor that nothing in this process owns.
    match unsafe { libc::dup2(from.as_raw_fd(), to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Closes every descriptor but the standard ones: what the helper's own parent let leak must not be held open here
/// (whoever waits for the end of such a pipe would wait for the launcher). For the start of a process only.
pub fn close_inherited() {
    // SAFETY: nothing in this process has opened a descriptor yet, so no owner loses one. Linux 5.9; where it is
    // not known, they stay.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

/// Marks every descriptor from 3 up to be closed by exec. Ours are already; this is for ones that were inherited.
/// Kernels before 5.11 do not know it, which is why nothing rests on it.
pub fn close_others_on_exec() {
    // SAFETY: only sets a flag on descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Processor time in µs (user, system) and largest resident set in KiB of all children that were waited for.
pub fn children_usage() -> (u64, u64, u64) {
    // SAFETY: getrusage fills the structure, for which all zeroes is a value.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    (micros(usage.ru_utime), micros(usage.ru_stime), usage.ru_maxrss as u64)
}

/// Sends SIGKILL to every process that this one may signal, itself and process 1 excepted: in a pid namespace,
/// where this process is 1, that is everything in it.
pub fn kill_everyone() {
    // A machine's own process 1 must never come here.
    if rustix::process::getpid() == Pid::INIT {
        // SAFETY: kill(2) has no preconditions on memory.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}
