//! Bytes in, directives out. The only place that looks at a file's text.

use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::{BRANCH, Content, Directive, Include, Line, SIZE_LIMIT, pragma};
use crate::lines::{Rest, Walk, is_name};
use crate::mode::Mode;
use crate::symbols::{DEFINED, Names, Symbol};
use crate::unsure::Unsure;

/// Deeper nesting of conditionals within one file is not followed.
const NESTING: usize = 10_000;

/// Parses a file. Cannot fail: what is not understood is part of the result.
pub fn parse(bytes: &[u8], mode: Mode, names: &Names) -> Content {
    let mut unsure = (bytes.len() > SIZE_LIMIT).then_some(Unsure::TooMuch);
    let bytes = if unsure.is_some() { &[] } else { bytes };
    let bytes = match mode.trigraphs {
        true => without_trigraphs(bytes, mode, &mut unsure),
        false => Cow::Borrowed(bytes),
    };
    unsure = unsure.or_else(|| odd_bytes(&bytes)).or_else(|| pragma::operator(&bytes));
    let mut parser = Parser {
        walk: Walk::new(&bytes, mode),
        mode,
        names,
        directives: Vec::new(),
        lines: Vec::new(),
        text: Vec::new(),
        open: Vec::new(),
        guard: Guard::Perhaps,
        unsure,
        name: Vec::new(),
    };
    parser.run();
    parser.finish()
}

fn odd_bytes(bytes: &[u8]) -> Option<Unsure> {
    let mut rest = bytes;
    while let Some(at) = memchr(b'\r', rest) {
        if rest.get(at + 1) != Some(&b'\n') {
            return Some(Unsure::CarriageReturn);
        }
        rest = &rest[at + 1..];
    }
    memchr(0, bytes).map(|_| Unsure::NulByte)
}

/// ISO C 5.2.1.1.
fn without_trigraphs<'a>(bytes: &'a [u8], mode: Mode, unsure: &mut Option<Unsure>) -> Cow<'a, [u8]> {
    let replacement = |byte: u8| {
        let at = b"=/'()!<>-".iter().position(|&known| known == byte)?;
        Some(b"#\\^[]|{}~"[at])
    };
    let mut replaced = Vec::new();
    let mut rest = bytes;
    let mut any = false;
    while let Some(at) = memmem::find(rest, b"??") {
        match rest.get(at + 2).and_then(|&byte| replacement(byte)) {
            Some(byte) => {
                any = true;
                replaced.extend_from_slice(&rest[..at]);
                replaced.push(byte);
                rest = &rest[at + 3..];
            }
            None => {
                replaced.extend_from_slice(&rest[..at + 1]);
                rest = &rest[at + 1..];
            }
        }
    }
    if !any {
        return Cow::Borrowed(bytes);
    }
    if mode.raw_strings != crate::mode::Has::No && memmem::find(bytes, b"R\"").is_some() {
        *unsure = Some(Unsure::Trigraphs);
    }
    replaced.extend_from_slice(rest);
    Cow::Owned(replaced)
}

/// A group that is open.
struct Open {
    /// Its `#if` or last `#elif`, which does not yet know where it goes on.
    last: u32,
    /// Its `#elif`s and its `#else`, which do not yet know where the group ends.
    pending: Vec<u32>,
    has_else: bool,
}

/// Whether one `#ifndef` holds all the directives of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Perhaps,
    Open(Symbol),
    Closed(Symbol),
    No,
}

struct Parser<'a> {
    walk: Walk<'a>,
    mode: Mode,
    names: &'a Names,
    directives: Vec<Directive>,
    lines: Vec<Line>,
    text: Vec<u8>,
    open: Vec<Open>,
    guard: Guard,
    unsure: Option<Unsure>,
    name: Vec<u8>,
}

impl Parser<'_> {
    fn run(&mut self) {
        while self.walk.at < self.walk.bytes.len() {
            self.walk.blanks();
            let at = self.walk.at;
            match self.walk.bytes.get(at) {
                Some(b'#') => {
                    self.walk.at = at + 1;
                    self.directive();
                }
                Some(b'%') if self.mode.digraphs => {
                    let colon = self.walk.joined(at + 1);
                    let next = self.walk.joined(colon + 1);
                    // `%:%:` is `##`, but so is `##` at the beginning of a line not a directive.
                    if self.walk.bytes.get(colon) == Some(&b':') && self.walk.bytes.get(next) != Some(&b'%') {
                        self.walk.at = colon + 1;
                        self.directive();
                    } else {
                        self.walk.skip_line();
                    }
                }
                Some(byte) => {
                    if self.mode.modules && matches!(byte, b'i' | b'm' | b'e') {
                        self.module_line();
                    }
                    self.walk.skip_line();
                }
                None => {}
            }
        }
    }

    fn module_line(&mut self) {
        let rest = &self.walk.bytes[self.walk.at..];
        let rest = rest.strip_prefix(b"export").map_or(rest, <[u8]>::trim_ascii_start);
        let follows = ["import", "module"].iter().find_map(|word| rest.strip_prefix(word.as_bytes()));
        let Some(follows) = follows else { return };
        let blank = follows.first().is_some_and(u8::is_ascii_whitespace);
        let next = follows.trim_ascii_start().first();
        let begins = matches!(next, Some(b'<' | b'"' | b':' | b';'))
            || blank && next.is_some_and(|&byte| is_name(byte));
        if begins {
            self.push(Directive::Odd(Unsure::Modules));
        }
    }

    fn directive(&mut self) {
        self.walk.blanks();
        let mut name = std::mem::take(&mut self.name);
        if self.walk.name(&mut name) {
            self.named(&name);
        } else {
            match self.walk.bytes.get(self.walk.at) {
                None | Some(b'\n') => self.walk.skip_line(),
                // `# 12 "file"`
                Some(byte) if byte.is_ascii_digit() => self.line_directive(),
                _ if self.mode.asm => self.walk.skip_line(),
                _ => self.odd(Unsure::UnknownDirective),
            }
        }
        self.name = name;
    }

    fn named(&mut self, name: &[u8]) {
        match name {
            b"define" => self.define(),
            b"undef" => self.with_name(|name| Directive::Undef { name }),
            b"include" => self.include(Include::Plain),
            b"include_next" => self.include(Include::Next),
            b"import" => self.include(Include::Import),
            b"if" => self.condition(),
            b"ifdef" => self.ifdef(false),
            b"ifndef" => self.ifdef(true),
            b"elif" => {
                let line = self.line(Rest::Tokens);
                self.branch(|end| Directive::Elif { line, next: 0, end });
            }
            b"elifdef" | b"elifndef" => {
                let negated = name == b"elifndef";
                match self.symbol() {
                    Some(name) => self.branch(|end| Directive::Elifdef { name, negated, next: 0, end }),
                    None => self.broken(Unsure::Condition),
                }
                self.walk.skip_line();
            }
            b"else" => {
                self.walk.skip_line();
                self.branch(|end| Directive::Else { end });
            }
            b"endif" => {
                self.walk.skip_line();
                self.close();
            }
            b"pragma" => {
                let from = self.text.len();
                self.walk.copy_line(Rest::Tokens, &mut self.text);
                if let Some(directive) = pragma::read(&self.text[from..], self.mode, self.names) {
                    // Only a dependency has an operand that is still wanted.
                    let directive = match directive {
                        pragma::Pragma::Does(directive) => directive,
                        pragma::Pragma::Dependency(operand) => {
                            let line = self.keep(from + operand);
                            Directive::Dependency { line }
                        }
                    };
                    self.push(directive);
                }
                if !matches!(self.directives.last(), Some(Directive::Dependency { .. })) {
                    self.text.truncate(from.max(self.kept()));
                }
            }
            b"line" => self.line_directive(),
            b"error" => self.odd(Unsure::ErrorDirective),
            b"embed" => self.odd(Unsure::Embed),
            b"warning" | b"ident" | b"sccs" | b"assert" | b"unassert" => self.walk.skip_line(),
            _ if self.mode.asm => self.walk.skip_line(),
            _ => self.odd(Unsure::UnknownDirective),
        }
    }

    fn push(&mut self, directive: Directive) {
        if self.open.is_empty() {
            self.guard = Guard::No;
        }
        self.directives.push(directive);
    }

    fn odd(&mut self, reason: Unsure) {
        self.walk.skip_line();
        self.push(Directive::Odd(reason));
    }

    fn broken(&mut self, reason: Unsure) {
        self.unsure.get_or_insert(reason);
    }

    /// How much of `text` belongs to lines.
    fn kept(&self) -> usize {
        self.lines.last().map_or(0, |line| (line.start + line.length) as usize)
    }

    /// Makes a line of the text since `start`.
    fn keep(&mut self, start: usize) -> u32 {
        let line = Line { start: start as u32, length: (self.text.len() - start) as u32, ..Line::default() };
        self.lines.push(line);
        (self.lines.len() - 1) as u32
    }

    fn line(&mut self, rest: Rest) -> u32 {
        let start = self.text.len();
        self.walk.copy_line(rest, &mut self.text);
        self.keep(start)
    }

    /// The name that follows; does not leave the line.
    fn symbol(&mut self) -> Option<Symbol> {
        self.walk.blanks();
        let mut name = Vec::new();
        self.walk.name(&mut name).then(|| self.names.intern(&name))
    }

    fn with_name(&mut self, make: impl FnOnce(Symbol) -> Directive) {
        let directive = self.symbol().map_or(Directive::Odd(Unsure::MacroDefinition), make);
        self.walk.skip_line();
        self.push(directive);
    }

    fn define(&mut self) {
        let line = self.line(Rest::Tokens);
        let text = &self.text[self.lines[line as usize].start as usize..];
        let length = text.iter().take_while(|&&byte| is_name(byte)).count();
        if length == 0 || text[0].is_ascii_digit() || text.get(length) == Some(&b'\\') {
            self.push(Directive::Odd(Unsure::MacroDefinition));
            return;
        }
        let name = self.names.intern(&text[..length]);
        let odd = name == DEFINED;
        self.push(if odd {
            Directive::Odd(Unsure::MacroDefinition)
        } else {
            Directive::Define { name, line }
        });
    }

    fn include(&mut self, how: Include) {
        let line = self.line(Rest::HeaderName);
        self.push(Directive::Include { how, line });
    }

    fn line_directive(&mut self) {
        let from = self.text.len();
        self.walk.copy_line(Rest::Tokens, &mut self.text);
        let plain = self.text[from..].iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace());
        self.text.truncate(from);
        if !plain {
            self.push(Directive::Renames);
        }
    }

    fn condition(&mut self) {
        let start = self.text.len();
        self.walk.copy_line(Rest::Tokens, &mut self.text);
        match defined_only(&self.text[start..]) {
            Some((name, negated)) => {
                let name = self.names.intern(name);
                self.text.truncate(start);
                self.begin(Directive::Ifdef { name, negated, next: 0 });
            }
            None => {
                let line = self.keep(start);
                self.begin(Directive::If { line, next: 0 });
            }
        }
    }

    fn ifdef(&mut self, negated: bool) {
        match self.symbol() {
            Some(name) => self.begin(Directive::Ifdef { name, negated, next: 0 }),
            None => {
                // Still a group; evaluated, it is an error.
                let start = self.text.len();
                let line = self.keep(start);
                self.begin(Directive::If { line, next: 0 });
            }
        }
        self.walk.skip_line();
    }

    fn begin(&mut self, directive: Directive) {
        if self.open.len() >= NESTING {
            self.broken(Unsure::Depth);
            return;
        }
        if self.open.is_empty() {
            self.guard = match (self.guard, directive) {
                (Guard::Perhaps, Directive::Ifdef { name, negated: true, .. }) => Guard::Open(name),
                _ => Guard::No,
            };
        }
        self.open.push(Open { last: self.directives.len() as u32, pending: Vec::new(), has_else: false });
        self.directives.push(directive);
    }

    fn branch(&mut self, make: impl FnOnce(u32) -> Directive) {
        let here = self.directives.len() as u32;
        let directive = make(0);
        let is_else = matches!(directive, Directive::Else { .. });
        if self.open.len() == 1 {
            self.guard = Guard::No;
        }
        match self.open.last_mut() {
            Some(open) if !open.has_else => {
                let last = open.last;
                open.last = here;
                open.has_else = is_else;
                open.pending.push(here);
                self.directives.push(directive);
                self.set_next(last, here | BRANCH);
            }
            _ => self.broken(Unsure::Conditionals),
        }
    }

    fn close(&mut self) {
        let Some(open) = self.open.pop() else {
            self.broken(Unsure::Conditionals);
            return;
        };
        let end = self.directives.len() as u32;
        if !open.has_else {
            self.set_next(open.last, end);
        }
        for at in open.pending {
            match &mut self.directives[at as usize] {
                Directive::Elif { end: place, .. }
                | Directive::Elifdef { end: place, .. }
                | Directive::Else { end: place } => *place = end,
                _ => {}
            }
        }
        if let (true, Guard::Open(name)) = (self.open.is_empty(), self.guard) {
            self.guard = Guard::Closed(name);
        }
    }

    fn set_next(&mut self, at: u32, to: u32) {
        match &mut self.directives[at as usize] {
            Directive::If { next, .. }
            | Directive::Ifdef { next, .. }
            | Directive::Elif { next, .. }
            | Directive::Elifdef { next, .. } => *next = to,
            _ => {}
        }
    }

    fn finish(mut self) -> Content {
        if !self.open.is_empty() {
            self.broken(Unsure::Conditionals);
        }
        let guard = match self.guard {
            Guard::Closed(name) => Some(name),
            _ => None,
        };
        self.text.truncate(self.kept());
        Content {
            fingerprint: std::sync::OnceLock::new(),
            directives: self.directives.into(),
            lines: self.lines.into(),
            text: self.text.into(),
            mode: self.mode,
            guard,
            unsure: self.unsure.or(self.walk.unsure),
        }
    }
}

/// The name in `defined X`, `defined(X)`, and whether `!` stands before it, if that is all.
fn defined_only(text: &[u8]) -> Option<(&[u8], bool)> {
    let (text, negated) = match text {
        [b'!', rest @ ..] => (rest.trim_ascii_start(), true),
        _ => (text, false),
    };
    let rest = text.strip_prefix(b"defined")?;
    if rest.first().is_none_or(|&byte| is_name(byte)) {
        return None;
    }
    let rest = rest.trim_ascii();
    let name = match rest {
        [b'(', inner @ .., b')'] => inner.trim_ascii(),
        _ => rest,
    };
    let named =
        name.first().is_some_and(|byte| !byte.is_ascii_digit()) && name.iter().all(|&byte| is_name(byte));
    named.then_some((name, negated))
}
