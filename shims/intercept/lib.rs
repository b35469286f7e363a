//! The exec interceptor: a library that every dynamic process of a wrapped build has in `LD_PRELOAD`.
//!
//! Two modes, chosen by the environment when the process starts. *Intercept*: a program whose name is a
//! compiler's is replaced by the stand-in, and every other child gets the environment it needs to be caught
//! itself. *Trace* (`DBUILD_TRACE`): nothing is re-routed; each look at the file system is recorded.
//!
//! One rule stands above both: never break a program. On any doubt the real function is called with the
//! arguments as they came. So there is no allocation, no lock, no panic path on purpose, and no `std`: this code
//! runs between `vfork` and `exec`, in signal handlers, and before `main`.
//!
//! It does not know what a compiler's arguments mean, and it never talks to the initiator.
//!
//! Not covered, and harmless in intercept mode: `execl`, `execlp`, `execle` (variadic; the C library's own do
//! not pass through `execv`), `fexecve`, `system` and `popen` (their `/bin/sh` inherits the environment),
//! programs that make system calls themselves. Such calls simply are not intercepted.

#![no_std]

mod config;
#[path = "../src/elf.rs"]
#[allow(dead_code)]
mod elf;
mod environ;
mod exec;
#[path = "../src/trace/format.rs"]
#[allow(dead_code)]
mod format;
#[path = "../src/lists.rs"]
mod lists;
#[path = "../src/names.rs"]
#[allow(dead_code)]
mod names;
mod real;
mod record;
mod search;
mod sys;
mod target;
#[path = "../src/vars.rs"]
#[allow(dead_code)]
mod vars;
mod watch;

/// Runs when the loader has mapped the library, before `main` and before the process has threads.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    let errno = sys::errno();
    config::load();
    exec::resolve();
    sys::set_errno(errno);
}

// The precompiled `core` refers to this function in its unwind tables, though nothing unwinds here (panic=abort).
// Hidden: a dynamically linked Rust program must keep finding the real one.
core::arch::global_asm!(
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, %function",
    "rust_eh_personality:",
    "ret",
);

/// No code here is meant to panic; slices are taken with `get`, sums are checked.
#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo) -> ! {
    sys::abort()
}
