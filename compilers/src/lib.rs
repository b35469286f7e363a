//! What gcc, clang and rustc mean by their arguments.
//!
//! One compiler call goes in, a [`Plan`] comes out: leave it alone ([`Plan::Local`], with the reason), or cut it into
//! independent [`Task`]s (one source file or crate each) and at most one [`Link`]. Each task says what it will write, what it
//! reads besides what the preprocessor opens, which arguments list its inputs, and whether it may be cached or leave
//! this machine.
//!
//! This crate is knowledge only. It starts no process, opens no file (what it must know of the file system it asks
//! through [`Files`]), and has never heard of caches, helpers or networks. Where it is not sure, it says `Local`.

mod args;
mod clang;
mod colour;
mod depend;
mod depfile;
mod environment;
mod gcc;
mod language;
mod link;
mod naming;
mod outputs;
mod plan;
mod reason;
mod request;
mod rustc;
mod scan;
mod split;
#[cfg(test)]
mod testing;
mod width;

pub use depfile::{DependStyle, Depfile, DepfileError, Rule};
pub use environment::relevant_env;
pub use link::driver_spoke;
pub use plan::{
    Call, CompilerInfo, CrateUnit, Family, FileKind, Files, Language, Link, Output, OutputKind, Place, Plan,
    Task,
};
pub use reason::Reason;
pub use scan::{Mentions, scan, scan_args};
pub use split::{analyse, analyse_crate};
pub use width::cut_on_terminal;
