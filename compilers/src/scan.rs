//! Looks through the text of an input for what a compile may take from outside of its files: the time of day, and files
//! that no preprocessor lists.
//!
//! Knows no comments, strings or line joins: it finds words. Words that the preprocessor puts together
//! (`a##b`) and names inside macros of an assembler are beyond it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// What was found. `true` may be a false alarm (a comment); `false` is sure, but for words built by `##`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mentions {
    /// `__TIME__`
    pub time: bool,
    /// `__DATE__`
    pub date: bool,
    /// `__TIMESTAMP__`
    pub timestamp: bool,
    /// `.incbin`, in any case of letters, as the assembler takes it
    pub incbin: bool,
    /// `.include` of an assembler
    pub include: bool,
    /// `#embed`
    pub embed: bool,
}

impl Mentions {
    pub fn any(self) -> bool {
        self != Mentions::default()
    }

    pub fn union(self, other: Mentions) -> Mentions {
        Mentions {
            time: self.time | other.time,
            date: self.date | other.date,
            timestamp: self.timestamp | other.timestamp,
            incbin: self.incbin | other.incbin,
            include: self.include | other.include,
            embed: self.embed | other.embed,
        }
    }
}

/// Five bytes of each word, lower-cased; the rest is checked where they are found. Chosen to be rare in sources.
const WINDOWS: [&[u8; WINDOW]; 6] = [b"date_", b"time_", b"tamp_", b".incb", b".incl", b"embed"];
const WINDOW: usize = 5;
const TABLE: usize = 4096;

/// Wu and Manber's search: for each pair of bytes (hashed), how far a window that ends with it can move on safely.
const SHIFTS: [u8; TABLE] = shifts();

/// Lower-cases letters. It folds some other bytes together, too (`_` becomes 0x7f, as here in the windows).
const fn fold(byte: u8) -> u8 {
    byte | 0x20
}

const fn slot(first: u8, second: u8) -> usize {
    (((fold(first) as usize) << 5) ^ fold(second) as usize) & (TABLE - 1)
}

const fn shifts() -> [u8; TABLE] {
    let mut table = [(WINDOW - 1) as u8; TABLE];
    let mut word = 0;
    while word < WINDOWS.len() {
        let mut end = 1;
        while end < WINDOW {
            let slot = slot(WINDOWS[word][end - 1], WINDOWS[word][end]);
            let distance = (WINDOW - 1 - end) as u8;
            if distance < table[slot] {
                table[slot] = distance;
            }
            end += 1;
        }
        word += 1;
    }
    table
}

/// Searches a file's content. About one look per four bytes.
pub fn scan(bytes: &[u8]) -> Mentions {
    let mut found = Mentions::default();
    // `end` is the last byte of the window.
    let mut end = WINDOW - 1;
    while end < bytes.len() {
        let shift = SHIFTS[slot(bytes[end - 1], bytes[end])];
        if shift == 0 {
            check(bytes, end + 1 - WINDOW, &mut found);
            end += 1;
        } else {
            end += usize::from(shift);
        }
    }
    found
}

/// The same for a command line: `-DBUILT=__TIME__`.
pub fn scan_args(args: &[OsString]) -> Mentions {
    args.iter().fold(Mentions::default(), |found, arg| found.union(scan(arg.as_bytes())))
}

fn check(bytes: &[u8], at: usize, found: &mut Mentions) {
    match fold(bytes[at]) {
        b'd' => found.date |= is_at(bytes, at, 2, b"__DATE__"),
        // The windows `time_` and `tamp_`.
        b't' => {
            found.time |= is_at(bytes, at, 2, b"__TIME__");
            found.timestamp |= is_at(bytes, at, 7, b"__TIMESTAMP__");
        }
        b'.' => {
            found.incbin |= is_directive(bytes, at, b".incbin");
            found.include |= is_directive(bytes, at, b".include");
        }
        b'e' => found.embed |= is_embed(bytes, at),
        _ => {}
    }
}

/// Whether `word` stands at `at - before`.
fn is_at(bytes: &[u8], at: usize, before: usize, word: &[u8]) -> bool {
    at.checked_sub(before).is_some_and(|start| bytes[start..].starts_with(word))
}

fn is_directive(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    bytes.get(at..at + word.len()).is_some_and(|there| there.eq_ignore_ascii_case(word))
}

/// `#embed`, `# embed`, `%:embed`
fn is_embed(bytes: &[u8], at: usize) -> bool {
    let before = bytes[..at].iter().rev().find(|byte| !matches!(byte, b' ' | b'\t'));
    bytes[at..].starts_with(b"embed") && matches!(before, Some(b'#' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_each_word_and_only_it() {
        let time = Mentions { time: true, ..Mentions::default() };
        let date = Mentions { date: true, ..Mentions::default() };
        let timestamp = Mentions { timestamp: true, ..Mentions::default() };
        let incbin = Mentions { incbin: true, ..Mentions::default() };
        let include = Mentions { include: true, ..Mentions::default() };
        let embed = Mentions { embed: true, ..Mentions::default() };
        let none = Mentions::default();
        for (text, want) in [
            ("__TIME__", time),
            ("const char *t = __TIME__;", time),
            ("x__DATE__", date),
            ("a __TIMESTAMP__ b", timestamp),
            ("asm(\".incbin \\\"x\\\"\");", incbin),
            ("\t.INCBIN \"x\"", incbin),
            (".include \"y\"", include),
            ("#embed <x>", embed),
            ("#  \tembed \"x\"", embed),
            ("%:embed \"x\"", embed),
            ("#include <time.h>", none),
            ("embed", none),
            ("__time__ TIME_ DATE__", none),
            ("", none),
            ("_", none),
        ] {
            assert_eq!(scan(text.as_bytes()), want, "{text}");
        }
        assert_eq!(scan_args(&["-c".into(), "-DT=__TIME__".into()]), time);
    }

    fn naive(text: &[u8]) -> Mentions {
        let has = |word: &[u8]| text.windows(word.len()).any(|there| there == word);
        let lower = text.to_ascii_lowercase();
        let has_lower = |word: &[u8]| lower.windows(word.len()).any(|there| there == word);
        Mentions {
            time: has(b"__TIME__"),
            date: has(b"__DATE__"),
            timestamp: has(b"__TIMESTAMP__"),
            incbin: has_lower(b".incbin"),
            include: has_lower(b".include"),
            embed: (0..text.len()).any(|at| is_embed(text, at)),
        }
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::sample::select(
                &[
                    "__",
                    "_",
                    "DATE",
                    "TIME",
                    "STAMP",
                    "__TIME__",
                    "__DATE__",
                    "__TIMESTAMP__",
                    ".inc",
                    "bin",
                    ".incbin",
                    ".INCLUDE",
                    "#",
                    " ",
                    "embed",
                    "#embed",
                    "em",
                    "T",
                    "E_",
                ][..]
            )
            .prop_map(|text| text.as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_search(pieces in proptest::collection::vec(piece(), 0..12)) {
            let text = pieces.concat();
            prop_assert_eq!(scan(&text), naive(&text));
        }
    }
}
