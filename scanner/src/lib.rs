//! Finds the files that a C or C++ compile reads, from directives alone.
//!
//! [`parse`] makes a list of directives of each content, once; [`scan`] evaluates a translation unit over such lists:
//! conditions, macros as far as they decide conditions and includes, search directories. It never lists a file less
//! than the compiler's `-M`; where it does not know, it says why ([`Unsure`]), and somebody else must ask the compiler.
//!
//! Pure: files and the compiler's answers come through [`Host`]. It knows no flags, no processes and no digests.

mod compiled;
mod directives;
mod evaluate;
mod expand;
mod expression;
mod host;
mod lines;
mod macros;
mod memo;
mod mode;
mod search;
mod symbols;
#[cfg(test)]
mod tests;
mod tokens;
mod unit;
mod unsure;

pub use directives::{Content, Fingerprint, SIZE_LIMIT, parse};
pub use evaluate::{Scratch, scan};
pub use host::{FileId, Host, Look};
pub use macros::{Question, Special};
pub use mode::{Dialect, Has, Mode};
pub use search::DirectoryId;
pub use symbols::{Names, Symbol};
pub use unit::{Set, Unit, command_line};
pub use unsure::Unsure;
