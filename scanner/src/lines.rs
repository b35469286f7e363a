//! Walks over a file's text, logical line by logical line, as fast as what lies between directives allows.
//!
//! It knows splices, comments, strings, character constants and raw strings; it does not know what a directive means.

use memchr::{memchr, memchr2, memchr3};

use crate::mode::{Has, Mode};
use crate::unsure::Unsure;

/// Bytes at which a line of text is more than text.
const STOPS: [bool; 256] = stops();

const fn stops() -> [bool; 256] {
    let mut table = [false; 256];
    let bytes = b"\n\"'/\\";
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
}

/// Longest delimiter of a raw string ([lex.string]).
const DELIMITER: usize = 16;

/// Which quotes hide comments in the rest of a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Tokens,
    /// `<…>` and `"…"` without escapes.
    HeaderName,
}

pub(crate) struct Walk<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    mode: Mode,
    /// The first thing that was not understood; the whole file is in doubt.
    pub unsure: Option<Unsure>,
}

impl<'a> Walk<'a> {
    pub fn new(bytes: &'a [u8], mode: Mode) -> Walk<'a> {
        let at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Walk { bytes, at, mode, unsure: None }
    }

    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(b'\n')
    }

    fn doubt(&mut self, reason: Unsure) {
        self.unsure.get_or_insert(reason);
    }

    /// Where the line goes on if `at` is a backslash that joins lines. Both compilers allow blanks before the newline.
    fn splice(&self, at: usize) -> Option<usize> {
        let mut end = at + 1;
        while matches!(self.bytes.get(end), Some(b' ' | b'\t' | b'\r' | 0x0b | 0x0c)) {
            end += 1;
        }
        (self.bytes.get(end) == Some(&b'\n')).then_some(end + 1)
    }

    /// `at`, or where splices that begin there lead.
    pub fn joined(&self, mut at: usize) -> usize {
        while self.bytes.get(at) == Some(&b'\\') {
            match self.splice(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    /// The end of a block comment whose text begins at `at`.
    fn block_comment(&self, mut at: usize) -> usize {
        let from = at;
        while let Some(found) = memchr(b'/', &self.bytes[at..]) {
            let slash = at + found;
            let mut before = slash;
            // `*\` newline `/` closes as well.
            while before > from {
                match self.bytes[before - 1] {
                    b'\n' => match self.spliced_before(before - 1, from) {
                        Some(backslash) => before = backslash,
                        None => break,
                    },
                    b'*' => return slash + 1,
                    _ => break,
                }
            }
            at = slash + 1;
        }
        self.bytes.len()
    }

    /// The backslash that joins the line which ends at `newline`.
    fn spliced_before(&self, newline: usize, from: usize) -> Option<usize> {
        let mut at = newline;
        while at > from {
            match self.bytes[at - 1] {
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => at -= 1,
                b'\\' => return Some(at - 1),
                _ => return None,
            }
        }
        None
    }

    /// The newline that ends the logical line, from within a line comment.
    fn line_comment(&self, mut at: usize) -> usize {
        while let Some(found) = memchr2(b'\n', b'\\', &self.bytes[at..]) {
            let there = at + found;
            if self.bytes[there] == b'\n' {
                return there;
            }
            at = self.splice(there).unwrap_or(there + 1);
        }
        self.bytes.len()
    }

    /// What the slash at `at` begins: where the comment that it opens ends, if it does.
    fn comment(&self, at: usize) -> Option<usize> {
        let next = self.joined(at + 1);
        match self.bytes.get(next) {
            Some(b'*') => Some(self.block_comment(next + 1)),
            Some(b'/') if self.mode.line_comments => Some(self.line_comment(next + 1)),
            _ => None,
        }
    }

    /// Skips blanks and comments within a line; stays before a newline.
    pub fn blanks(&mut self) {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\r' | 0x0b | 0x0c) => self.at += 1,
                Some(b'\\') => match self.splice(self.at) {
                    Some(next) => self.at = next,
                    None => return,
                },
                Some(b'/') => match self.comment(self.at) {
                    Some(end) => self.at = end,
                    None => return,
                },
                _ => return,
            }
        }
    }

    /// The end of a string or character constant that opens at `at`, its closing quote included; where it is not
    /// closed, the newline (both compilers take the rest of the line for it).
    fn quoted(&self, at: usize) -> usize {
        let quote = self.bytes[at];
        let mut at = at + 1;
        while let Some(found) = memchr3(quote, b'\\', b'\n', &self.bytes[at..]) {
            let there = at + found;
            match self.bytes[there] {
                b'\n' => return there,
                b'\\' => match self.splice(there) {
                    Some(next) => at = next,
                    None => {
                        // The escaped character, or the newline.
                        let next = self.joined(there + 1);
                        at = if self.byte(next) == b'\n' { next } else { next + 1 };
                        at = at.min(self.bytes.len());
                    }
                },
                _ => return there + 1,
            }
        }
        self.bytes.len()
    }

    /// Whether the quote at `at` opens a raw string: `R`, `LR`, `uR`, `UR`, `u8R` before it, and no name before that.
    fn is_raw(&mut self, at: usize) -> bool {
        if self.mode.raw_strings == Has::No || at == 0 {
            return false;
        }
        let mut before = at;
        while before > 0 && self.bytes[before - 1] == b'\n' {
            match self.spliced_before(before - 1, 0) {
                Some(backslash) => before = backslash,
                None => return false,
            }
        }
        if before == 0 || self.bytes[before - 1] != b'R' {
            return false;
        }
        let head = &self.bytes[..before - 1];
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80;
        let prefix = [&b"u8"[..], b"u", b"U", b"L", b""].into_iter().find(|prefix| {
            head.strip_suffix(*prefix).is_some_and(|rest| !rest.last().is_some_and(|&byte| named(byte)))
        });
        let Some(prefix) = prefix else { return false };
        let rest = &head[..head.len() - prefix.len()];
        if before != at
            || rest.last() == Some(&b'\n')
                && rest.len() > 1
                && self.spliced_before(rest.len() - 1, 0).is_some()
        {
            // Put together over a join of lines.
            self.doubt(Unsure::RawString);
        }
        if self.mode.raw_strings == Has::Perhaps {
            self.doubt(Unsure::RawString);
        }
        true
    }

    /// The end of the raw string whose quote is at `at`.
    fn raw(&mut self, at: usize) -> usize {
        let rest = &self.bytes[at + 1..];
        let open = rest.iter().take(DELIMITER + 1).position(|&byte| byte == b'(');
        let Some(open) = open.filter(|&open| {
            !rest[..open]
                .iter()
                .any(|byte| matches!(byte, b' ' | b')' | b'\\' | b'\t' | b'\n' | b'"' | 0x0b | 0x0c))
        }) else {
            self.doubt(Unsure::RawString);
            return self.quoted(at);
        };
        let mut closing = Vec::with_capacity(open + 2);
        closing.push(b')');
        closing.extend_from_slice(&rest[..open]);
        closing.push(b'"');
        match memchr::memmem::find(&rest[open + 1..], &closing) {
            Some(found) => at + 1 + open + 1 + found + closing.len(),
            None => {
                self.doubt(Unsure::RawString);
                self.bytes.len()
            }
        }
    }

    /// Whether the quote at `at` separates the digits of a number.
    fn separates_digits(&mut self, at: usize) -> bool {
        if self.mode.digit_separators == Has::No {
            return false;
        }
        let numeric = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'\'' | b'$') || byte >= 0x80
        };
        let start = self.bytes[..at].iter().rposition(|&byte| !numeric(byte)).map_or(0, |before| before + 1);
        let run = &self.bytes[start..at];
        let begins = run.iter().position(|&byte| byte != b'.' && byte != b'\'');
        let follows =
            self.bytes.get(at + 1).is_some_and(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !follows || !begins.is_some_and(|begins| run[begins].is_ascii_digit()) {
            return false;
        }
        if self.mode.digit_separators == Has::Perhaps || begins != Some(0) {
            self.doubt(Unsure::RawString);
        }
        true
    }

    /// Leaves the line behind, and its newline.
    pub fn skip_line(&mut self) {
        let bytes = self.bytes;
        let mut at = self.at;
        loop {
            match bytes[at..].iter().position(|&byte| STOPS[usize::from(byte)]) {
                Some(found) => at += found,
                None => {
                    self.at = bytes.len();
                    return;
                }
            }
            at = match bytes[at] {
                b'\n' => {
                    self.at = at + 1;
                    return;
                }
                b'"' if self.is_raw(at) => self.raw(at),
                b'"' => self.quoted(at),
                b'\'' if self.separates_digits(at) => at + 1,
                b'\'' => self.quoted(at),
                b'/' => self.comment(at).unwrap_or(at + 1),
                _ => self.splice(at).unwrap_or(at + 1),
            };
        }
    }

    /// Copies the rest of a directive's line to `text`: lines joined, comments made blanks, ends trimmed. Leaves the
    /// newline behind.
    pub fn copy_line(&mut self, rest: Rest, text: &mut Vec<u8>) {
        self.blanks();
        let start = text.len();
        let bytes = self.bytes;
        let mut at = self.at;
        if rest == Rest::HeaderName && matches!(self.bytes.get(at), Some(b'<' | b'"')) {
            let close = if self.bytes[at] == b'<' { b'>' } else { b'"' };
            text.push(self.bytes[at]);
            at += 1;
            while let Some(&byte) = bytes.get(at) {
                if byte == b'\n' {
                    break;
                }
                if let Some(next) = (byte == b'\\').then(|| self.splice(at)).flatten() {
                    at = next;
                    continue;
                }
                text.push(byte);
                at += 1;
                if byte == close {
                    break;
                }
            }
        }
        loop {
            let found = bytes[at..].iter().position(|&byte| STOPS[usize::from(byte)]);
            let end = found.map_or(bytes.len(), |found| at + found);
            text.extend_from_slice(&bytes[at..end]);
            at = end;
            let Some(&byte) = bytes.get(at) else { break };
            match byte {
                b'\n' => {
                    at += 1;
                    break;
                }
                b'\'' if self.separates_digits(at) => {
                    text.push(byte);
                    at += 1;
                }
                b'"' | b'\'' => {
                    let raw = byte == b'"' && self.is_raw(at);
                    let end = if raw { self.raw(at) } else { self.quoted(at) };
                    if raw && memchr(b'\n', &bytes[at..end]).is_some() {
                        self.doubt(Unsure::RawString);
                    }
                    self.copy_joined(at, end, text);
                    at = end;
                }
                b'/' => match self.comment(at) {
                    Some(end) => {
                        text.push(b' ');
                        at = end;
                    }
                    None => {
                        text.push(byte);
                        at += 1;
                    }
                },
                _ => match self.splice(at) {
                    Some(next) => at = next,
                    None => {
                        text.push(byte);
                        at += 1;
                    }
                },
            }
        }
        self.at = at;
        while text.len() > start && matches!(text.last(), Some(b' ' | b'\t' | b'\r' | 0x0b | 0x0c)) {
            text.pop();
        }
    }

    fn copy_joined(&self, mut from: usize, to: usize, text: &mut Vec<u8>) {
        while let Some(found) = memchr(b'\\', &self.bytes[from..to]) {
            let backslash = from + found;
            text.extend_from_slice(&self.bytes[from..backslash]);
            from = match self.splice(backslash) {
                Some(next) => next.min(to),
                None => {
                    text.push(b'\\');
                    backslash + 1
                }
            };
        }
        text.extend_from_slice(&self.bytes[from..to]);
    }

    /// The name at the place, as one piece even where lines are joined within it; empty if there is none.
    pub fn name(&mut self, joined: &mut Vec<u8>) -> bool {
        joined.clear();
        let mut at = self.at;
        loop {
            match self.bytes.get(at) {
                Some(&byte) if is_name(byte) => {
                    joined.push(byte);
                    at += 1;
                }
                Some(b'\\') if !joined.is_empty() => match self.splice(at) {
                    Some(next) => at = next,
                    None => break,
                },
                _ => break,
            }
        }
        if joined.first().is_some_and(u8::is_ascii_digit) {
            joined.clear();
            return false;
        }
        self.at = at;
        !joined.is_empty()
    }
}

pub(crate) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, rest: Rest) -> String {
        let mode = Mode { cxx: true, line_comments: true, raw_strings: Has::Yes, ..Mode::default() };
        let mut copied = Vec::new();
        Walk::new(text.as_bytes(), mode).copy_line(rest, &mut copied);
        String::from_utf8(copied).unwrap()
    }

    #[test]
    fn directives_lose_comments_and_joins() {
        assert_eq!(line(" a /* x\n y */ b // c\nd", Rest::Tokens), "a   b");
        assert_eq!(line(" a\\\nb \\  \n c\n", Rest::Tokens), "ab  c");
        assert_eq!(line(" \"/*\" '\"' /**/ x\n", Rest::Tokens), "\"/*\" '\"'   x");
        assert_eq!(line("<a//b.h> // c\n", Rest::HeaderName), "<a//b.h>");
        assert_eq!(line("\"a\\b.h\" x\n", Rest::HeaderName), "\"a\\b.h\" x");
    }

    fn lines(text: &str) -> Vec<usize> {
        let mode = Mode {
            cxx: true,
            line_comments: true,
            raw_strings: Has::Yes,
            digit_separators: Has::Yes,
            ..Mode::default()
        };
        let mut walk = Walk::new(text.as_bytes(), mode);
        let mut starts = Vec::new();
        while walk.at < walk.bytes.len() {
            starts.push(walk.at);
            walk.skip_line();
        }
        assert_eq!(walk.unsure, None);
        starts
    }

    #[test]
    fn text_lines_end_where_the_compiler_says() {
        assert_eq!(lines("a\nb\n"), [0, 2]);
        assert_eq!(lines("a /* \n */ b\nc"), [0, 12]);
        assert_eq!(lines("a // \\\n b\nc"), [0, 10]);
        assert_eq!(lines("R\"x(\n#a\n)\" )x\"\nc"), [0, 15]);
        assert_eq!(lines("xR\"x(\nc"), [0, 6]);
        assert_eq!(lines("1'000'000 /*\n*/\nc"), [0, 16]);
        assert_eq!(lines("don't /*\nc"), [0, 9]);
        assert_eq!(lines("\"a\\\nb\\\"\" /*\n*/\nc"), [0, 15]);
        assert_eq!(lines("/* *\\\n/\nc"), [0, 8]);
    }
}
