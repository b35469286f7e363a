//! What a scan is given besides its host: a translation unit as its command line describes it.

use std::sync::Arc;

use crate::directives::{Content, parse};
use crate::macros::Special;
use crate::mode::Mode;
use crate::symbols::{Names, Symbol};
use crate::unsure::Unsure;

/// A translation unit. Paths are as in the command line.
#[derive(Clone, Copy)]
pub struct Unit<'a> {
    pub mode: Mode,
    /// `#define`s of the compiler itself, and of its driver.
    pub predefined: &'a Arc<Content>,
    /// Names that are macros without a definition.
    pub specials: &'a [(Symbol, Special)],
    /// `-D` and `-U` in their order: [`command_line`].
    pub command_line: &'a Arc<Content>,
    /// Where `"…"` is looked for, besides the file's own directory, before `angled`.
    pub quote: &'a [Vec<u8>],
    pub angled: &'a [Vec<u8>],
    /// Which of `quote` and then `angled` hold the compiler's own headers.
    pub own: &'a [bool],
    /// The header that gcc includes by itself.
    pub preinclude: Option<&'a [u8]>,
    pub imacros: &'a [Vec<u8>],
    pub includes: &'a [Vec<u8>],
    /// The source.
    pub main: &'a [u8],
}

/// What a flag does to macros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set<'a> {
    /// `-D`
    Define(&'a [u8]),
    /// `-U`
    Undefine(&'a [u8]),
}

/// `-D` and `-U` flags as directives.
///
/// # Errors
/// [`Unsure::Flag`] for what is cut off at a newline.
pub fn command_line<'f>(
    flags: impl IntoIterator<Item = Set<'f>>,
    mode: Mode,
    names: &Names,
) -> Result<Content, Unsure> {
    let mut text = Vec::new();
    for flag in flags {
        let (Set::Define(flag_text) | Set::Undefine(flag_text)) = flag;
        if flag_text.contains(&b'\n') || flag_text.ends_with(b"\\") {
            return Err(Unsure::Flag);
        }
        match flag {
            Set::Define(definition) => {
                let (name, body) = match definition.iter().position(|&byte| byte == b'=') {
                    Some(equals) => (&definition[..equals], &definition[equals + 1..]),
                    None => (definition, &b"1"[..]),
                };
                text.extend_from_slice(b"#define ");
                text.extend_from_slice(name);
                text.push(b' ');
                text.extend_from_slice(body);
            }
            Set::Undefine(name) => {
                text.extend_from_slice(b"#undef ");
                text.extend_from_slice(name);
            }
        }
        text.push(b'\n');
    }
    Ok(parse(&text, mode, names))
}
