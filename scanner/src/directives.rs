//! One file's content as a list of directives: parsed once, never changed, shared by all units that read the file.
//!
//! Text between directives is not kept. Conditions, macro bodies and operands are cut into tokens when they are first
//! evaluated; most never are.

mod fingerprint;
mod parse;
mod pragma;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

pub use self::fingerprint::Fingerprint;
pub use self::parse::parse;

use crate::compiled::{Step, compile};
use crate::macros::Definition;
use crate::mode::Mode;
use crate::symbols::{Names, Symbol};
use crate::tokens::{self, ANGLED, Kind, Token};
use crate::unsure::Unsure;

/// The largest file that is scanned.
pub const SIZE_LIMIT: usize = 64 << 20;

/// A directive's operand: a place in [`Content::lines`].
pub(crate) type LineId = u32;

/// Marks a `next` that is a branch of the same group, not the group's end.
pub(crate) const BRANCH: u32 = 1 << 31;

/// Places are indices into [`Content::directives`]: `next` is where a condition that does not hold goes on (see
/// [`BRANCH`]), `end` is behind the `#endif`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    Define {
        name: Symbol,
        line: LineId,
    },
    Undef {
        name: Symbol,
    },
    Include {
        how: Include,
        line: LineId,
    },
    If {
        line: LineId,
        next: u32,
    },
    Ifdef {
        name: Symbol,
        negated: bool,
        next: u32,
    },
    /// Reached from a branch that was taken, or as the `next` of one that was not.
    Elif {
        line: LineId,
        next: u32,
        end: u32,
    },
    Elifdef {
        name: Symbol,
        negated: bool,
        next: u32,
        end: u32,
    },
    Else {
        end: u32,
    },
    Once,
    PushMacro {
        name: Symbol,
    },
    PopMacro {
        name: Symbol,
    },
    Dependency {
        line: LineId,
    },
    PushTarget,
    PopTarget,
    SetTarget,
    /// `#line` with a file name.
    Renames,
    Odd(Unsure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    Plain,
    Next,
    Import,
}

/// The text of an operand, and what was made of it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    start: u32,
    length: u32,
    tokens: OnceLock<Option<Arc<[Token]>>>,
    compiled: OnceLock<Option<Box<[Step]>>>,
    definition: OnceLock<Result<Arc<Definition>, Unsure>>,
}

/// A parsed file.
#[derive(Debug)]
pub struct Content {
    pub(crate) directives: Box<[Directive]>,
    lines: Box<[Line]>,
    text: Box<[u8]>,
    mode: Mode,
    /// Nothing happens in the file while this macro is defined.
    pub(crate) guard: Option<Symbol>,
    /// The file as a whole is not understood.
    pub(crate) unsure: Option<Unsure>,
    fingerprint: OnceLock<Fingerprint>,
}

impl Content {
    /// Memory in use, about; what evaluating adds is part of it by a guess.
    pub fn bytes(&self) -> usize {
        size_of::<Content>()
            + self.directives.len() * size_of::<Directive>()
            + self.lines.len() * (size_of::<Line>() + 80)
            + self.text.len()
    }

    /// What the file means to a scan: with the same fingerprint another content would be evaluated alike. `names` are those
    /// that it was parsed with.
    pub fn fingerprint(&self, names: &Names) -> Fingerprint {
        *self.fingerprint.get_or_init(|| fingerprint::of(self, names))
    }

    /// How many directives there are.
    pub fn len(&self) -> usize {
        self.directives.len()
    }

    pub fn is_empty(&self) -> bool {
        self.directives.is_empty()
    }

    /// Why the file cannot be followed, if that is so.
    pub fn unsure(&self) -> Option<Unsure> {
        self.unsure
    }

    pub(crate) fn text(&self, line: LineId) -> &[u8] {
        let line = &self.lines[line as usize];
        &self.text[line.start as usize..(line.start + line.length) as usize]
    }

    /// The tokens of a condition or an operand.
    pub(crate) fn tokens(&self, line: LineId, names: &Names) -> Option<Arc<[Token]>> {
        let cut = || tokens::cut(self.text(line), self.mode, names, true).map(Arc::from);
        self.lines[line as usize].tokens.get_or_init(cut).clone()
    }

    /// A condition of names and numbers.
    pub(crate) fn compiled(&self, line: LineId, names: &Names) -> Option<&[Step]> {
        let compile = || compile(&self.tokens(line, names)?, self.mode);
        self.lines[line as usize].compiled.get_or_init(compile).as_deref()
    }

    /// The operand of an include: one header name, or what is to be expanded.
    pub(crate) fn operand(&self, line: LineId, names: &Names) -> Option<Arc<[Token]>> {
        let cut = || {
            let text = self.text(line);
            let close = match text.first() {
                Some(b'<') => b'>',
                Some(b'"') => b'"',
                _ => return tokens::cut(text, self.mode, names, false).map(Arc::from),
            };
            let end = 1 + text[1..].iter().position(|&byte| byte == close)?;
            Some(Arc::from([Token {
                kind: Kind::Header,
                flags: if close == b'>' { ANGLED } else { 0 },
                symbol: names.intern(&text[..=end]),
                value: 0,
            }]))
        };
        self.lines[line as usize].tokens.get_or_init(cut).clone()
    }

    /// The number that the macro of a `#define` stands for, if it is known to be just that.
    pub(crate) fn number(&self, line: LineId) -> Option<Token> {
        match self.lines[line as usize].definition.get()? {
            Ok(definition) => definition.number,
            Err(_) => None,
        }
    }

    /// The macro that a `#define` defines.
    pub(crate) fn definition(&self, line: LineId, names: &Names) -> Result<Arc<Definition>, Unsure> {
        let read = || Definition::read(self.text(line), self.mode, names).map(Arc::new);
        self.lines[line as usize].definition.get_or_init(read).clone()
    }

    /// Names that stand as the only operand of something that looks like a question to the compiler
    /// (`__has_builtin(x)`, `MY_HAS_ATTRIBUTE(x)`): worth asking all at once.
    pub fn likely_questions(&self) -> Vec<&[u8]> {
        let mut found = Vec::new();
        let mut rest = &self.text[..];
        while let Some(open) = memchr::memchr(b'(', rest) {
            let head = &rest[..open];
            rest = &rest[open + 1..];
            let from = head.iter().rposition(|&byte| !crate::lines::is_name(byte)).map_or(0, |at| at + 1);
            let asks = head[from..].windows(3).any(|three| three.eq_ignore_ascii_case(b"has"))
                || head[from..].windows(4).any(|four| four.eq_ignore_ascii_case(b"have"));
            let Some(close) = rest.iter().position(|&byte| !crate::lines::is_name(byte) && byte != b':')
            else {
                break;
            };
            if asks && close > 0 && rest[close] == b')' {
                found.push(&rest[..close]);
            }
        }
        found
    }
}
