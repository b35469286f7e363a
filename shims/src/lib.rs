//! What the stand-in compiler, the exec interceptor and the initiator must agree on: the frames on the
//! socket, the trace file, which names are compilers, which variables and file names are ours.
//!
//! This room stands on `std` alone. The stand-in (`shim/`) and the interceptor (`intercept/`) are compiled
//! by one `rustc` call each and take these files by `#[path]`; the initiator takes them as this library. It
//! does not know what a compiler's arguments mean, and it starts nothing.

pub mod elf;
pub mod frame;
pub mod lists;
pub mod names;
pub mod trace;
pub mod vars;
pub mod view;
