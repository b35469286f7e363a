//! Reads the make rules that `-MD` and its like write.
//!
//! The format is what gcc's `mkdeps.c` and clang's `DependencyFile.cpp` write: `target…: prerequisite…`, lines continued
//! by a backslash, and for what make would take otherwise: `\ ` for a space, `\#` for a hash, `$$` for a dollar.
//! Backslashes elsewhere stand for themselves; directly before a space or a hash each one is doubled (gcc, as GNU make
//! reads it). Knows no variables, no recipes, no Windows paths.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Which headers a depfile lists (gcc manual, "Preprocessor Options").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependStyle {
    /// `-MD`: all.
    All,
    /// `-MMD`: not those that were found in a system directory, nor what they include.
    User,
}

impl DependStyle {
    /// What the depfile of a call with these arguments lists at least.
    pub fn of(args: &[OsString]) -> DependStyle {
        let user = |arg: &OsString| arg == "-MMD" || arg == "-MM" || arg.as_bytes().starts_with(b"-Wp,-MMD");
        if args.iter().any(user) { DependStyle::User } else { DependStyle::All }
    }
}

/// A depfile's rules, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Depfile {
    pub rules: Vec<Rule>,
}

/// `targets: prerequisites`. With `-MP` there is one with an empty list for each header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// With `-MT` any text that make takes; not only paths.
    pub targets: Vec<OsString>,
    pub prerequisites: Vec<PathBuf>,
}

/// The text is not what a compiler writes: the caller cannot use it to check anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DepfileError {
    #[error("read the depfile: line {line} has no target before a colon")]
    NoTarget { line: usize },
    #[error("read the depfile: line {line} has no colon")]
    NoColon { line: usize },
    #[error("read the depfile: a NUL in line {line}")]
    Nul { line: usize },
}

impl Depfile {
    pub fn parse(text: &[u8]) -> Result<Depfile, DepfileError> {
        let mut rules = Vec::new();
        let mut reader = Reader { text, at: 0, line: 1 };
        while !reader.at_end() {
            if let Some(rule) = reader.rule()? {
                rules.push(rule);
            }
        }
        Ok(Depfile { rules })
    }

    /// Every prerequisite of every rule, in order, with repetitions.
    pub fn inputs(&self) -> impl Iterator<Item = &PathBuf> {
        self.rules.iter().flat_map(|rule| &rule.prerequisites)
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

/// What ends a word, or is one.
enum Token {
    Word(Vec<u8>),
    Colon,
    EndOfLine,
}

impl Reader<'_> {
    fn at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// One logical line; `None` for an empty one or a comment.
    fn rule(&mut self) -> Result<Option<Rule>, DepfileError> {
        let line = self.line;
        let mut targets = Vec::new();
        loop {
            match self.token(true)? {
                Token::Word(word) => targets.push(OsString::from_vec(word)),
                Token::Colon if targets.is_empty() => return Err(DepfileError::NoTarget { line }),
                Token::Colon => break,
                Token::EndOfLine if targets.is_empty() => return Ok(None),
                Token::EndOfLine => return Err(DepfileError::NoColon { line }),
            }
        }
        let mut prerequisites = Vec::new();
        while let Token::Word(word) = self.token(false)? {
            prerequisites.push(PathBuf::from(OsString::from_vec(word)));
        }
        Ok(Some(Rule { targets, prerequisites }))
    }

    /// Among targets a colon before white space ends the list; elsewhere it is a letter like any other.
    fn token(&mut self, in_targets: bool) -> Result<Token, DepfileError> {
        let mut word = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(&byte) = rest.first() else { return Ok(self.finish(word, 0)) };
            match byte {
                0 => return Err(DepfileError::Nul { line: self.line }),
                b'\\' => {
                    let run = rest.iter().take_while(|&&byte| byte == b'\\').count();
                    match rest.get(run) {
                        // A continuation separates words. A carriage return before the newline belongs to it.
                        Some(b'\n') | Some(b'\r') if run % 2 == 1 && is_newline(&rest[run..]) => {
                            if run > 1 || !word.is_empty() {
                                word.extend(std::iter::repeat_n(b'\\', run - 1));
                                self.at += run - 1;
                                return Ok(Token::Word(word));
                            }
                            self.at += run + newline_len(&rest[run..]);
                            self.line += 1;
                        }
                        Some(&next @ (b' ' | b'\t' | b'#')) => {
                            word.extend(std::iter::repeat_n(b'\\', run / 2));
                            self.at += run;
                            if run % 2 == 1 {
                                word.push(next);
                                self.at += 1;
                            }
                        }
                        Some(b':') if in_targets && run % 2 == 1 => {
                            word.extend(std::iter::repeat_n(b'\\', run / 2));
                            word.push(b':');
                            self.at += run + 1;
                        }
                        _ => {
                            word.extend(std::iter::repeat_n(b'\\', run));
                            self.at += run;
                        }
                    }
                }
                b'$' => {
                    word.push(b'$');
                    self.at += if rest.get(1) == Some(&b'$') { 2 } else { 1 };
                }
                b'\n' | b'\r' if is_newline(rest) => {
                    if word.is_empty() {
                        self.line += 1;
                        return Ok(self.finish(word, newline_len(rest)));
                    }
                    return Ok(Token::Word(word));
                }
                b'#' if word.is_empty() => {
                    let comment = rest.iter().take_while(|&&byte| byte != b'\n').count();
                    self.at += comment;
                }
                b' ' | b'\t' => {
                    self.at += 1;
                    if !word.is_empty() {
                        return Ok(Token::Word(word));
                    }
                }
                b':' if in_targets && rest.get(1).is_none_or(|next| next.is_ascii_whitespace()) => {
                    if word.is_empty() {
                        self.at += 1;
                        return Ok(Token::Colon);
                    }
                    return Ok(Token::Word(word));
                }
                _ => {
                    word.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn finish(&mut self, word: Vec<u8>, skip: usize) -> Token {
        self.at += skip;
        if word.is_empty() { Token::EndOfLine } else { Token::Word(word) }
    }
}

fn is_newline(text: &[u8]) -> bool {
    text.starts_with(b"\n") || text.starts_with(b"\r\n")
}

fn newline_len(text: &[u8]) -> usize {
    if text.starts_with(b"\r\n") { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    fn parse(text: &str) -> Vec<(Vec<String>, Vec<String>)> {
        let text_of = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
        let depfile = Depfile::parse(text.as_bytes()).unwrap();
        let rule = |rule: Rule| {
            let targets = rule.targets.iter().map(|word| text_of(word)).collect();
            (targets, rule.prerequisites.iter().map(|path| text_of(path.as_os_str())).collect())
        };
        depfile.rules.into_iter().map(rule).collect()
    }

    fn rule(targets: &[&str], prerequisites: &[&str]) -> (Vec<String>, Vec<String>) {
        let owned = |list: &[&str]| list.iter().map(|word| word.to_string()).collect();
        (owned(targets), owned(prerequisites))
    }

    #[test]
    fn rules_continuations_and_phony_targets() {
        let text = "a.o: a.c h.h \\\n /usr/include/stdio.h\n\nh.h:\n/usr/include/stdio.h:\n";
        let want = [
            rule(&["a.o"], &["a.c", "h.h", "/usr/include/stdio.h"]),
            rule(&["h.h"], &[]),
            rule(&["/usr/include/stdio.h"], &[]),
        ];
        assert_eq!(parse(text), want);
        assert_eq!(parse("a.o b.d : x\\\n  y"), [rule(&["a.o", "b.d"], &["x", "y"])]);
        assert_eq!(parse("a.o: a.c \\\r\n b.h\r\n"), [rule(&["a.o"], &["a.c", "b.h"])]);
        assert_eq!(parse("# nothing\n\n"), []);
    }

    #[test]
    fn escapes() {
        assert_eq!(parse(r"a\ b.o: x\ y.h d$$r.h s\#t.h"), [rule(&["a b.o"], &["x y.h", "d$r.h", "s#t.h"])]);
        assert_eq!(
            parse(r"a.o: back\slash.h two\\\ spaces.h"),
            [rule(&["a.o"], &[r"back\slash.h", r"two\ spaces.h"])]
        );
        assert_eq!(parse("a.o: c:d.h"), [rule(&["a.o"], &["c:d.h"])]);
    }

    #[test]
    fn refuses_what_is_no_depfile() {
        assert_eq!(Depfile::parse(b"\n: x"), Err(DepfileError::NoTarget { line: 2 }));
        assert_eq!(Depfile::parse(b"just words\n"), Err(DepfileError::NoColon { line: 1 }));
        assert_eq!(Depfile::parse(b"a: b\0"), Err(DepfileError::Nul { line: 1 }));
    }

    /// Writes a name as gcc's `munge` does.
    fn munged(name: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut slashes = 0;
        for &byte in name {
            match byte {
                b' ' | b'\t' | b'#' => {
                    let doubled = if byte == b'#' { 0 } else { slashes };
                    text.extend(std::iter::repeat_n(b'\\', doubled + 1));
                }
                b'$' => text.push(b'$'),
                _ => {}
            }
            slashes = if byte == b'\\' { slashes + 1 } else { 0 };
            text.push(byte);
        }
        text
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        // No newline (make cannot have it in a name), no backslash before `#` (gcc leaves that ambiguous) or at the end.
        let part = prop_oneof![
            prop::sample::select(&["a", "b.h", "/", " ", "\t", "$", "\\ ", "\\x", "\\\\ ", "x:", "é"][..])
                .prop_map(|text| text.as_bytes().to_vec()),
            Just(b"#".to_vec()),
            any::<u8>()
                .prop_filter("plain", |b| !matches!(b, 0 | b'\n' | b'\r' | b'\\'))
                .prop_map(|b| vec![b]),
        ];
        proptest::collection::vec(part, 1..8).prop_map(|parts| {
            let mut name = parts.concat();
            name.push(b'z');
            name
        })
    }

    proptest! {
        #[test]
        fn what_gcc_writes_is_read(target in name(), inputs in proptest::collection::vec(name(), 0..6)) {
            let mut text = munged(&target);
            text.extend(b":");
            for input in &inputs {
                text.extend(b" \\\n ");
                text.extend(munged(input));
            }
            text.push(b'\n');
            // A colon before a space inside of a target's name is where make itself would stop.
            prop_assume!(!target.windows(2).any(|pair| pair[0] == b':' && pair[1].is_ascii_whitespace()));
            let depfile = Depfile::parse(&text).unwrap();
            prop_assert_eq!(depfile.rules.len(), 1);
            prop_assert_eq!(depfile.rules[0].targets[0].as_bytes(), &target[..]);
            let read: Vec<&[u8]> = depfile.inputs().map(|path| path.as_os_str().as_bytes()).collect();
            prop_assert_eq!(read, inputs.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_end(text in proptest::collection::vec(
            prop::sample::select(&b"a:\\ \n\r\t#$z\0"[..]), 0..40)) {
            let _ = Depfile::parse(&text);
        }
    }
}
