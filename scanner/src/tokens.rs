//! Cuts the text of one directive into tokens. Values of numbers and characters are worked out here, once.

use crate::lines::is_name;
use crate::mode::{Has, Mode};
use crate::symbols::{NOTHING, Names, Symbol};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Name,
    /// A number or character constant; `value` if `flags` has [`VALUED`].
    Number,
    /// With its quotes.
    String,
    /// `<…>`, with its brackets.
    Header,
    Punct(Op),
    /// A parameter of the macro; `value` is its index.
    Parameter,
    /// What an empty argument beside `##` leaves.
    Placemarker,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Open,
    Close,
    Comma,
    Question,
    Colon,
    Scope,
    OrOr,
    AndAnd,
    Or,
    Xor,
    And,
    Equal,
    NotEqual,
    Less,
    Greater,
    LessEqual,
    GreaterEqual,
    ShiftLeft,
    ShiftRight,
    Plus,
    Minus,
    Times,
    Divide,
    Modulo,
    Not,
    Complement,
    Hash,
    Paste,
    Ellipsis,
    Else,
}

/// Blanks stand before it.
pub(crate) const SPACE: u8 = 1;
/// Met while its macro was being expanded: never to be expanded.
pub(crate) const FROZEN: u8 = 2;
/// `##` follows.
pub(crate) const PASTES: u8 = 4;
/// `#` stood before the parameter.
pub(crate) const STRINGIFIED: u8 = 8;
/// `value` holds the number.
pub(crate) const VALUED: u8 = 16;
/// The number is unsigned.
pub(crate) const UNSIGNED: u8 = 32;
/// The header's name stands in angle brackets.
pub(crate) const ANGLED: u8 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: Kind,
    pub flags: u8,
    pub symbol: Symbol,
    pub value: u64,
}

impl Token {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn is(&self, op: Op) -> bool {
        self.kind == Kind::Punct(op)
    }

    pub fn number(value: u64, unsigned: bool) -> Token {
        let flags = VALUED | if unsigned { UNSIGNED } else { 0 };
        Token { kind: Kind::Number, flags, symbol: NOTHING, value }
    }
}

/// Longest first.
const PUNCTUATORS: &[(&[u8], Op)] = &[
    (b"%:%:", Op::Paste),
    (b"...", Op::Ellipsis),
    (b"<<=", Op::Else),
    (b">>=", Op::Else),
    (b"->*", Op::Else),
    (b"##", Op::Paste),
    (b"%:", Op::Hash),
    (b"<:", Op::Else),
    (b":>", Op::Else),
    (b"<%", Op::Else),
    (b"%>", Op::Else),
    (b"||", Op::OrOr),
    (b"&&", Op::AndAnd),
    (b"==", Op::Equal),
    (b"!=", Op::NotEqual),
    (b"<=", Op::LessEqual),
    (b">=", Op::GreaterEqual),
    (b"<<", Op::ShiftLeft),
    (b">>", Op::ShiftRight),
    (b"::", Op::Scope),
    (b"->", Op::Else),
    (b"++", Op::Else),
    (b"--", Op::Else),
    (b"+=", Op::Else),
    (b"-=", Op::Else),
    (b"*=", Op::Else),
    (b"/=", Op::Else),
    (b"%=", Op::Else),
    (b"&=", Op::Else),
    (b"|=", Op::Else),
    (b"^=", Op::Else),
    (b".*", Op::Else),
    (b"(", Op::Open),
    (b")", Op::Close),
    (b",", Op::Comma),
    (b"?", Op::Question),
    (b":", Op::Colon),
    (b"|", Op::Or),
    (b"^", Op::Xor),
    (b"&", Op::And),
    (b"<", Op::Less),
    (b">", Op::Greater),
    (b"+", Op::Plus),
    (b"-", Op::Minus),
    (b"*", Op::Times),
    (b"/", Op::Divide),
    (b"%", Op::Modulo),
    (b"!", Op::Not),
    (b"~", Op::Complement),
    (b"#", Op::Hash),
];

/// Cuts `text`. `headers`: `__has_include (` is followed by a header name, as in the line of a condition.
/// `None`: there is something in it that is not followed.
pub(crate) fn cut(text: &[u8], mode: Mode, names: &Names, headers: bool) -> Option<Vec<Token>> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    let mut flags = 0;
    while let Some(&byte) = text.get(at) {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c) {
            flags = SPACE;
            at += 1;
            continue;
        }
        let start = at;
        let mut value = 0;
        let kind = if byte.is_ascii_digit()
            || byte == b'.' && text.get(at + 1).is_some_and(u8::is_ascii_digit)
        {
            at = number_end(text, at, mode);
            if let Some((number, unsigned)) = number(&text[start..at], mode) {
                value = number;
                flags |= VALUED | if unsigned { UNSIGNED } else { 0 };
            }
            Kind::Number
        } else if is_name(byte) {
            at += text[at..].iter().take_while(|&&byte| is_name(byte)).count();
            if matches!(text.get(at), Some(b'"' | b'\'')) && is_prefix(&text[start..at]) {
                if text[at - 1] == b'R' && mode.raw_strings != Has::No {
                    return None;
                }
                if matches!(&text[start..at], b"L" | b"u" | b"U" | b"u8") {
                    let quote = at;
                    at = quoted_end(text, quote)?;
                    if text[quote] == b'"' {
                        Kind::String
                    } else {
                        // The other prefixes' types differ between modes.
                        let wide = text[start] == b'L' && mode.signed_wide;
                        if let Some(number) = character(&text[quote + 1..at - 1]).filter(|_| wide) {
                            value = number;
                            flags |= VALUED;
                        }
                        Kind::Number
                    }
                } else {
                    Kind::Name
                }
            } else {
                Kind::Name
            }
        } else if byte == b'"' || byte == b'\'' {
            match quoted_end(text, at) {
                Some(end) => {
                    at = end;
                    if byte == b'"' {
                        Kind::String
                    } else {
                        if let Some(number) = character(&text[start + 1..at - 1]) {
                            value = number;
                            flags |= VALUED;
                        }
                        Kind::Number
                    }
                }
                None => {
                    at = text.len();
                    Kind::Other
                }
            }
        } else if byte == b'<' && headers && asks_for_header(&tokens, names) && text[at..].contains(&b'>') {
            at += text[at..].iter().position(|&byte| byte == b'>')? + 1;
            Kind::Header
        } else if byte == b'\\' {
            if matches!(text.get(at + 1), Some(b'u' | b'U')) {
                return None;
            }
            at += 1;
            Kind::Other
        } else {
            let punctuator = PUNCTUATORS.iter().find(|(spelling, _)| {
                text[at..].starts_with(spelling) && (mode.digraphs || !is_digraph(spelling))
            });
            match punctuator {
                Some((spelling, op)) => {
                    at += spelling.len();
                    Kind::Punct(*op)
                }
                None => {
                    at += 1;
                    Kind::Other
                }
            }
        };
        tokens.push(Token { kind, flags, symbol: names.intern(&text[start..at]), value });
        flags = 0;
    }
    Some(tokens)
}

fn is_digraph(spelling: &[u8]) -> bool {
    matches!(spelling, b"%:%:" | b"%:" | b"<:" | b":>" | b"<%" | b"%>")
}

fn is_prefix(name: &[u8]) -> bool {
    matches!(name, b"L" | b"u" | b"U" | b"u8" | b"R" | b"LR" | b"uR" | b"UR" | b"u8R")
}

fn asks_for_header(tokens: &[Token], names: &Names) -> bool {
    let [.., name, open] = tokens else { return false };
    open.is(Op::Open)
        && name.kind == Kind::Name
        && matches!(&*names.spelling(name.symbol), b"__has_include" | b"__has_include_next" | b"__has_embed")
}

fn quoted_end(text: &[u8], at: usize) -> Option<usize> {
    let quote = text[at];
    let mut end = at + 1;
    loop {
        match *text.get(end)? {
            b'\\' => end += 2,
            byte if byte == quote => return Some(end + 1),
            _ => end += 1,
        }
    }
}

/// A preprocessing number ([lex.ppnumber]).
fn number_end(text: &[u8], start: usize, mode: Mode) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        let sign = matches!(byte, b'+' | b'-')
            && (matches!(text[at - 1], b'e' | b'E') || matches!(text[at - 1], b'p' | b'P'));
        let separator = byte == b'\''
            && mode.digit_separators == Has::Yes
            && text.get(at + 1).is_some_and(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name(byte) && byte != b'.' && !sign && !separator {
            break;
        }
        at += 1;
    }
    at
}

/// The value of an integer constant, and whether it is unsigned.
fn number(spelling: &[u8], mode: Mode) -> Option<(u64, bool)> {
    let (radix, digits) = match spelling {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', b'b' | b'B', rest @ ..] => (2, rest),
        [b'0', ..] => (8, spelling),
        _ => (10, spelling),
    };
    let mut value: u64 = 0;
    let mut count = 0;
    let mut rest = digits;
    while let [byte, after @ ..] = rest {
        rest = match char::from(*byte).to_digit(radix) {
            Some(digit) => {
                value = value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?;
                count += 1;
                after
            }
            None if *byte == b'\'' && mode.digit_separators == Has::Yes => after,
            None => break,
        };
    }
    let suffix = rest.to_ascii_lowercase();
    let unsigned = match suffix.as_slice() {
        b"" | b"l" | b"ll" => false,
        b"u" | b"ul" | b"lu" | b"ull" | b"llu" => true,
        _ => return None,
    };
    (count > 0).then_some((value, unsigned || value > i64::MAX as u64))
}

/// The value of a plain character constant of one ASCII character.
fn character(text: &[u8]) -> Option<u64> {
    let value = match text {
        [byte] if byte.is_ascii() && *byte != b'\\' => *byte,
        [b'\\', escaped] => match escaped {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'a' => 7,
            b'b' => 8,
            b'v' => 11,
            b'f' => 12,
            b'0'..=b'7' => escaped - b'0',
            b'\\' | b'\'' | b'"' | b'?' => *escaped,
            _ => return None,
        },
        [b'\\', digits @ ..]
            if digits.len() <= 3 && digits.iter().all(|digit| matches!(digit, b'0'..=b'7')) =>
        {
            let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            u8::try_from(value).ok().filter(u8::is_ascii)?
        }
        [b'\\', b'x', digits @ ..] if (1..=2).contains(&digits.len()) => {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok().filter(u8::is_ascii)?
        }
        _ => return None,
    };
    Some(u64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<Option<(u64, bool)>> {
        let names = Names::new(1 << 20);
        let mode = Mode { digit_separators: Has::Yes, digraphs: true, ..Mode::default() };
        cut(text.as_bytes(), mode, &names, true)
            .unwrap()
            .iter()
            .map(|token| token.has(VALUED).then_some((token.value, token.has(UNSIGNED))))
            .collect()
    }

    #[test]
    fn numbers_have_values() {
        assert_eq!(
            values("0 42 0x1fU 017 0b11 1'000 201703L 18446744073709551615"),
            [
                (0, false),
                (42, false),
                (31, true),
                (15, false),
                (3, false),
                (1000, false),
                (201_703, false),
                (u64::MAX, true)
            ]
            .map(Some)
        );
        assert_eq!(values("1.0 08 0x 1q 99999999999999999999"), [None; 5]);
        assert_eq!(
            values("'a' '\\n' '\\101' '\\x41' 'ab' L'a'"),
            [Some((97, false)), Some((10, false)), Some((65, false)), Some((65, false)), None, None]
        );
    }

    #[test]
    fn header_names_only_where_they_are_asked_for() {
        let names = Names::new(1 << 20);
        let cut = |text: &str| {
            let tokens = super::cut(text.as_bytes(), Mode::default(), &names, true).unwrap();
            tokens
                .iter()
                .map(|token| String::from_utf8(names.spelling(token.symbol).to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(cut("__has_include(<a/b.h>)"), ["__has_include", "(", "<a/b.h>", ")"]);
        assert_eq!(cut("A(<a>)"), ["A", "(", "<", "a", ">", ")"]);
        assert_eq!(cut("a<<=b%:%:c"), ["a", "<<=", "b", "%", ":", "%", ":", "c"]);
        assert_eq!(cut("..1e+5 \"a\\\"b\" 'x"), [".", ".1e+5", "\"a\\\"b\"", "'x"]);
    }
}
