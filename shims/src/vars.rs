//! The names that are ours: environment variables and the files in the directories they point to.
//!
//! `core` only, because the interceptor has no `std`. Knows names, never values.

/// Directory with the stand-in, its symbolic links and the interceptor; one directory per build of dbuild.
/// The path may hold neither `:` nor white space: `LD_PRELOAD` and `PATH` cannot quote them.
pub const SHIMS: &str = "DBUILD_SHIMS";
/// Directory that holds the initiator's socket.
pub const SOCKET: &str = "DBUILD_SOCKET";
/// Names the wrapped build that a call belongs to; opaque to the shim.
pub const SESSION: &str = "DBUILD_SESSION";
/// Path of the `dbuild` binary, to start an initiator when none answers.
pub const EXE: &str = "DBUILD_EXE";
/// File to which a shim appends one line with the reason whenever it had to run the compiler unaided.
pub const FALLBACKS: &str = "DBUILD_FALLBACKS";
/// Set by the interceptor for the shim alone: the path that was about to be executed.
pub const EXEC_PATH: &str = "DBUILD_EXEC_PATH";
/// Path of a trace file. Present: the interceptor records and re-routes nothing. Behind [`MAKES_TRACE`] it is a file that
/// the first process makes.
pub const TRACE: &str = "DBUILD_TRACE";
/// Stands before the path in [`TRACE`] where nobody could make the file beforehand.
pub const MAKES_TRACE: u8 = b'+';
/// `1`: every shim runs the real compiler, the interceptor passes everything through.
pub const DISABLE: &str = "DBUILD_DISABLE";
/// The loader's list of preloaded libraries.
pub const LD_PRELOAD: &str = "LD_PRELOAD";
/// The list of directories that programs are looked up in.
pub const PATH: &str = "PATH";

/// What the wrapped build's processes carry for us; the real compiler sees none of it.
/// `DBUILD_COORDINATOR`, `DBUILD_LOCAL_SLOTS` and `DBUILD_DATA_DIR` are the user's and stay.
pub const OURS: [&str; 7] = [SHIMS, SOCKET, SESSION, EXE, FALLBACKS, EXEC_PATH, TRACE];
/// What the interceptor gives back to a child whose environment lost it.
pub const KEPT: [&str; 5] = [SHIMS, SOCKET, SESSION, EXE, FALLBACKS];

/// The stand-in's file name in [`SHIMS`]; the compilers' names beside it are links to it.
pub const SHIM_FILE: &str = "dbuild-shim";
/// The interceptor's file name in [`SHIMS`].
pub const INTERCEPT_FILE: &str = "libdbuild_intercept.so";
/// The socket's file name in [`SOCKET`].
pub const SOCKET_FILE: &str = "initiator.sock";
/// Locked (`flock`, exclusive) in [`SOCKET`] by whoever starts an initiator.
pub const START_LOCK_FILE: &str = "initiator.start.lock";
