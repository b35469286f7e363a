//! Whether a terminal's width would have changed what gcc printed.
//!
//! On a terminal gcc shifts and cuts the source lines that it quotes to the width of `COLUMNS`, else of the terminal on
//! stdin, and adds a line below them (gcc 12 `diagnostic.cc`, `get_terminal_width`; `diagnostic-show-locus.cc`). No
//! flag does the same: `-fmessage-length` breaks the messages, too. A captured run quotes lines in full, so its output
//! is the terminal's as long as they fit. clang goes by `COLUMNS` alone and has a flag for it: see `colour`.

use std::ffi::{OsStr, OsString};

use crate::environment::get;
use crate::link::without_colours;

/// Room that gcc wants to keep at the right, and the frame of a quoted line; more is only caution.
const MARGIN: usize = 16;

/// Whether something in `stderr`, printed by gcc without a terminal, would look different on a terminal: `columns` is
/// the width of the one on stdin, 0 if there is none.
pub fn cut_on_terminal(env: &[(OsString, OsString)], columns: u32, stderr: &[u8]) -> bool {
    let width = get(env, "COLUMNS").and_then(number).unwrap_or(columns) as usize;
    let quoted = |line: &Vec<u8>| line.first().is_some_and(|first| *first == b' ' || first.is_ascii_digit());
    let lines = stderr.split(|&byte| byte == b'\n').map(without_colours);
    width > 0 && lines.filter(quoted).any(|line| line.len() + MARGIN > width)
}

/// A positive number as atoi(3) reads it.
pub(crate) fn number(text: &OsStr) -> Option<u32> {
    let text = text.to_string_lossy();
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit()).map_or(text, |end| &text[..end]);
    digits.parse().ok().filter(|&number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quoted_lines_that_do_not_fit_count() {
        let quote =
            |length: usize| format!("a.c:1:1: error: {0}\n    1 | {0}\n      | ^\n", "x".repeat(length));
        let cut = |columns: u32, length: usize| cut_on_terminal(&[], columns, quote(length).as_bytes());
        assert!(!cut(0, 500));
        assert!(!cut(80, 50));
        assert!(cut(80, 70));
        let narrow = [("COLUMNS".into(), "40".into())];
        assert!(cut_on_terminal(&narrow, 200, quote(50).as_bytes()));
        assert!(!cut_on_terminal(
            &narrow,
            20,
            b"a.c: In function, which is a message and not a quoted line:\n"
        ));
    }

    #[test]
    fn numbers_are_read_as_the_compilers_read_them() {
        for (text, value) in [("80", Some(80)), (" +60x", Some(60)), ("0", None), ("-5", None), ("x", None)] {
            assert_eq!(number(text.as_ref()), value, "{text}");
        }
    }
}
