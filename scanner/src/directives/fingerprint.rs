//! What a content means to a scan, as a number that outlives the process: two contents with the same fingerprint are
//! evaluated alike, whatever else their text says.

use super::{Content, Directive};
use crate::symbols::{Names, Symbol};

/// Changes whenever contents are read or evaluated in another way, so that what older versions noted stands no more.
const REVISION: &[u8] = b"dbuild directives 1";

/// 128 bits of BLAKE3.
pub type Fingerprint = [u8; 16];

pub(super) fn of(content: &Content, names: &Names) -> Fingerprint {
    let mut hasher = Hasher { inner: blake3::Hasher::new(), names };
    hasher.bytes(REVISION);
    hasher.bytes(format!("{:?}", content.mode).as_bytes());
    hasher.bytes(format!("{:?}", content.unsure).as_bytes());
    hasher.bytes(&[u8::from(content.guard.is_some())]);
    if let Some(guard) = content.guard {
        hasher.symbol(guard);
    }
    for directive in &content.directives {
        hasher.directive(content, directive);
    }
    let mut short = Fingerprint::default();
    short.copy_from_slice(&hasher.inner.finalize().as_bytes()[..16]);
    short
}

struct Hasher<'n> {
    inner: blake3::Hasher,
    names: &'n Names,
}

impl Hasher<'_> {
    /// With its length, so that two fields never run into each other.
    fn bytes(&mut self, bytes: &[u8]) {
        self.inner.update(&(bytes.len() as u64).to_le_bytes());
        self.inner.update(bytes);
    }

    fn number(&mut self, number: u32) {
        self.inner.update(&number.to_le_bytes());
    }

    fn symbol(&mut self, symbol: Symbol) {
        let spelling = self.names.spelling(symbol);
        self.bytes(&spelling);
    }

    fn directive(&mut self, content: &Content, directive: &Directive) {
        match *directive {
            Directive::Define { name, line } => {
                self.number(0);
                self.symbol(name);
                self.bytes(content.text(line));
            }
            Directive::Undef { name } => {
                self.number(1);
                self.symbol(name);
            }
            Directive::Include { how, line } => {
                self.number(2);
                self.number(how as u32);
                self.bytes(content.text(line));
            }
            Directive::If { line, next } => {
                self.number(3);
                self.number(next);
                self.bytes(content.text(line));
            }
            Directive::Ifdef { name, negated, next } => {
                self.number(4);
                self.number(u32::from(negated));
                self.number(next);
                self.symbol(name);
            }
            Directive::Elif { line, next, end } => {
                self.number(5);
                self.number(next);
                self.number(end);
                self.bytes(content.text(line));
            }
            Directive::Elifdef { name, negated, next, end } => {
                self.number(6);
                self.number(u32::from(negated));
                self.number(next);
                self.number(end);
                self.symbol(name);
            }
            Directive::Else { end } => {
                self.number(7);
                self.number(end);
            }
            Directive::Once => self.number(8),
            Directive::PushMacro { name } => {
                self.number(9);
                self.symbol(name);
            }
            Directive::PopMacro { name } => {
                self.number(10);
                self.symbol(name);
            }
            Directive::Dependency { line } => {
                self.number(11);
                self.bytes(content.text(line));
            }
            Directive::PushTarget => self.number(12),
            Directive::PopTarget => self.number(13),
            Directive::SetTarget => self.number(14),
            Directive::Renames => self.number(15),
            Directive::Odd(reason) => {
                self.number(16);
                self.bytes(reason.phrase().as_bytes());
            }
        }
    }
}
