//! Response files: `@file` stands for the words in that file.
//!
//! gcc: `expandargv` and `buildargv` of libiberty ("@file" in gcc(1)). clang: `TokenizeGNUCommandLine` of LLVM, the same
//! quoting with two differences at the edges (see `words`). Relative names are relative to the working directory in
//! nested files, too. Knows nothing of flags: a word that is some flag's argument is expanded all the same, as both do.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::{Family, FileKind, Files, Reason};

/// Deeper than any build nests, far below what a loop reaches (libiberty stops after 2,000 files).
const MAX_DEPTH: usize = 32;
/// A bound for what a hostile tree of response files can unfold to.
const MAX_WORDS: usize = 1 << 20;
/// The same for files that name each other twice over and hold nothing else.
const MAX_READS: usize = 4096;

/// `argv` (without `argv[0]`) with every `@file` replaced. One that cannot be read stays as it is: it may be the name
/// of an input.
pub(crate) fn expand(
    argv: &[OsString],
    family: Family,
    cwd: &Path,
    files: &dyn Files,
) -> Result<Vec<OsString>, Reason> {
    let mut expansion = Expansion { words: Vec::with_capacity(argv.len()), reads: 0 };
    expand_into(&mut expansion, argv, family, cwd, files, 0)?;
    Ok(expansion.words)
}

/// What came of it so far; both are bounded.
struct Expansion {
    words: Vec<OsString>,
    reads: usize,
}

fn expand_into(
    expanded: &mut Expansion,
    argv: &[OsString],
    family: Family,
    cwd: &Path,
    files: &dyn Files,
    depth: usize,
) -> Result<(), Reason> {
    for word in argv {
        if expanded.words.len() > MAX_WORDS || expanded.reads > MAX_READS {
            return Err(Reason::ResponseDepth);
        }
        let Some(text) = response_text(word, cwd, files)? else {
            expanded.words.push(word.clone());
            continue;
        };
        expanded.reads += 1;
        if depth == MAX_DEPTH {
            return Err(Reason::ResponseDepth);
        }
        expand_into(expanded, &words(&text, family), family, cwd, files, depth + 1)?;
    }
    Ok(())
}

fn response_text(word: &OsStr, cwd: &Path, files: &dyn Files) -> Result<Option<Vec<u8>>, Reason> {
    let Some(name) = word.as_bytes().strip_prefix(b"@") else { return Ok(None) };
    let path = cwd.join(OsStr::from_bytes(name));
    match files.kind(&path) {
        None => return Ok(None),
        Some(FileKind::File) => {}
        // A pipe (`@<(…)`) can be read once only: by the compiler.
        Some(FileKind::Directory | FileKind::Other) => return Err(Reason::ResponseFile),
    }
    let Ok(text) = files.read(&path) else { return Ok(None) };
    // libiberty ends at a NUL; LLVM takes a byte order mark as a sign of another encoding.
    let marked = [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| text.starts_with(mark));
    if marked || text.contains(&0) {
        return Err(Reason::ResponseFile);
    }
    Ok(Some(text))
}

/// Cuts the text of a response file into words: white space separates, quotes of both kinds group, a backslash takes
/// the next byte as it is, within quotes, too. Where the two differ: gcc keeps an empty quoted word and drops a backslash
/// at the very end; clang drops empty words and keeps that backslash outside of quotes.
pub(crate) fn words(text: &[u8], family: Family) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote: Option<u8> = None;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', _) => {
                let word = word.get_or_insert_default();
                match bytes.next() {
                    Some(next) => word.push(next),
                    None if family == Family::Clang => word.push(b'\\'),
                    None => {}
                }
            }
            (_, Some(open)) if byte == open => quote = None,
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (_, None) if is_space(byte) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    if family == Family::Clang {
        words.retain(|word| !word.is_empty());
    }
    words.into_iter().map(OsString::from_vec).collect()
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeFiles;
    use proptest::prelude::*;

    fn split(text: &str, family: Family) -> Vec<String> {
        words(text.as_bytes(), family).into_iter().map(|w| w.into_string().unwrap()).collect()
    }

    #[test]
    fn quotes_and_escapes() {
        let text = " -DA='a b'\t\"-DB=x\\\"y\"\n-DC=a\\ b\r\n'-DE=a\\b' -DF=\"\" ";
        for family in [Family::Gcc, Family::Clang] {
            assert_eq!(split(text, family), ["-DA=a b", "-DB=x\"y", "-DC=a b", "-DE=ab", "-DF="]);
            assert!(split(" \n ", family).is_empty());
            assert_eq!(split("'open end", family), ["open end"]);
        }
    }

    #[test]
    fn the_two_differ_at_the_edges() {
        assert_eq!(split("a '' b\\", Family::Gcc), ["a", "", "b"]);
        assert_eq!(split("a '' b\\", Family::Clang), ["a", "b\\"]);
    }

    #[test]
    fn nesting_missing_files_and_loops() {
        let files = FakeFiles::new(&[("/w/a", "-DA @b @missing"), ("/w/b", "-DB"), ("/w/loop", "@loop")]);
        let expand = |argv: &[&str]| {
            let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
            expand(&argv, Family::Gcc, Path::new("/w"), &files)
        };
        assert_eq!(expand(&["x", "@a", "y"]).unwrap(), ["x", "-DA", "-DB", "@missing", "y"]);
        assert_eq!(expand(&["@loop"]), Err(Reason::ResponseDepth));
    }

    /// Writes words as libiberty's `writeargv` does: a backslash before whatever could be special.
    fn quoted(words: &[Vec<u8>]) -> Vec<u8> {
        let mut text = Vec::new();
        for word in words {
            for &byte in word {
                if is_space(byte) || matches!(byte, b'\\' | b'\'' | b'"') {
                    text.push(b'\\');
                }
                text.push(byte);
            }
            if word.is_empty() {
                text.extend(b"''");
            }
            text.push(b'\n');
        }
        text
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(list in proptest::collection::vec(proptest::collection::vec(1u8.., 0..8), 0..8)) {
            let read: Vec<Vec<u8>> =
                words(&quoted(&list), Family::Gcc).into_iter().map(OsStringExt::into_vec).collect();
            prop_assert_eq!(&read, &list);
            let read: Vec<Vec<u8>> =
                words(&quoted(&list), Family::Clang).into_iter().map(OsStringExt::into_vec).collect();
            let full: Vec<Vec<u8>> = list.into_iter().filter(|word| !word.is_empty()).collect();
            prop_assert_eq!(read, full);
        }

        #[test]
        fn any_text_is_cut(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            words(&text, Family::Gcc);
            words(&text, Family::Clang);
        }
    }
}
