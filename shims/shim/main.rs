//! The stand-in: called in a compiler's place, it asks the initiator what to do and does it.
//!
//! All knowledge of compilers is the initiator's. What is here is what must never fail: find the real
//! compiler, and run it if anything at all goes wrong. `std` only, static, and without `std`'s start-up code, so
//! that signals reach the compiler as the build left them and a call costs little more than a process.

#![no_main]

mod answer;
mod call;
mod children;
mod connect;
#[path = "../src/elf.rs"]
#[allow(dead_code)]
mod elf;
mod fallback;
#[path = "../src/frame.rs"]
#[allow(dead_code)]
mod frame;
#[path = "../src/lists.rs"]
#[allow(dead_code)]
mod lists;
#[path = "../src/names.rs"]
#[allow(dead_code)]
mod names;
mod program;
mod resolve;
mod said;
mod system;
#[path = "../src/vars.rs"]
#[allow(dead_code)]
mod vars;
#[path = "../src/view.rs"]
#[allow(dead_code)]
mod view;

use std::ffi::{OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;

use call::{Call, Settings};
use program::Program;
use resolve::Resolved;

/// Exit codes of a shell for a command that cannot be executed, or cannot be found.
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;
/// With fewer files than this (`ulimit -n`) the ones that we keep open could be those that the compiler lacks.
const FILES: u64 = 64;

/// The entry point that the C runtime calls.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let count = usize::try_from(argc).unwrap_or_default();
    let argument = |index| {
        // SAFETY: argv has argc C strings, which live as long as the process.
        let text = unsafe { std::ffi::CStr::from_ptr(*argv.add(index)) };
        OsString::from_vec(text.to_bytes().to_vec())
    };
    stand_in((0..count).map(argument).collect())
}

fn stand_in(argv: Vec<OsString>) -> i32 {
    let env: Vec<_> = std::env::vars_os().collect();
    let settings = Settings::of(&env);
    let Some(resolved) = resolve::compiler(&argv, &settings, &env) else {
        return fallback::not_found(&argv);
    };
    let call = match resolved {
        // it will call the real compiler, which is then caught
        Resolved::Indirect(path) => {
            let env = call::caught(env, &settings);
            return fallback::replace(&Program { path, argv, env });
        }
        Resolved::Compiler(path) => Call::new(path, argv, env, &settings),
        Resolved::Behind(path) => {
            // a driver looks for its parts beside what argv[0] leads to, which would be the launcher
            let name = path.clone().into_os_string();
            let argv = std::iter::once(name).chain(argv.into_iter().skip(1)).collect();
            Call::new(path, argv, env, &settings)
        }
    };
    if settings.passes_through() {
        return fallback::replace(&call.program);
    }
    if system::file_limit() < FILES {
        return fallback::run(&call, &settings, "too few files may be open (ulimit -n)");
    }
    system::ignore_broken_pipes();
    match connect::initiator(&settings) {
        Ok(socket) => answer::obey(socket, &call, &settings),
        Err(reason) => fallback::run(&call, &settings, &reason),
    }
}
