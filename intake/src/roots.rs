//! Directories that go by a name in keys and records, so that the same build at another place finds them.
//!
//! In what is stored, `/\x01t/debug` stands for `debug` below the root called `t`. A byte `\x01` that was there before is
//! doubled. Without roots, nothing is changed.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use memchr::{memchr, memmem};

const MARK: u8 = 1;

/// A directory with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    name: u8,
    path: Vec<u8>,
}

/// The roots of one call; mostly none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots(Vec<Root>);

impl Roots {
    /// Of most calls.
    pub fn none() -> &'static Roots {
        static NONE: Roots = Roots(Vec::new());
        &NONE
    }

    /// Roots with one-letter names. None at all if a path has bytes that JSON, make or the mark would write otherwise,
    /// or is too short to be told from other text.
    pub fn new(roots: impl IntoIterator<Item = (char, PathBuf)>) -> Roots {
        let root = |(name, path): (char, PathBuf)| Root {
            name: name as u8,
            path: path.components().collect::<PathBuf>().into_os_string().into_encoded_bytes(),
        };
        let mut roots: Vec<Root> = roots.into_iter().map(root).collect();
        let fits = |root: &Root| {
            root.name.is_ascii_lowercase()
                && root.path.len() >= 4
                && root.path.starts_with(b"/")
                && root.path.iter().all(|&byte| byte == b'/' || is_of_name(byte))
        };
        if !roots.iter().all(fits) {
            return Roots::default();
        }
        // What lies in another root is found first.
        roots.sort_by_key(|root| std::cmp::Reverse(root.path.len()));
        Roots(roots)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, for a key.
    pub fn names(&self) -> Vec<u8> {
        let mut names: Vec<u8> = self.0.iter().map(|root| root.name).collect();
        names.sort_unstable();
        names
    }

    /// Names and paths, for what holds only where they are.
    pub fn identity(&self) -> Vec<u8> {
        let each = self.0.iter().flat_map(|root| [&[root.name], &root.path[..], &[0]].concat());
        each.collect()
    }

    /// Text with names in the places of the roots' paths.
    pub fn mask<'b>(&self, text: &'b [u8]) -> Cow<'b, [u8]> {
        if self.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut masked = Vec::new();
        let mut kept = 0;
        let mut at = 0;
        while at < text.len() {
            if text[at] == MARK {
                masked.extend_from_slice(&text[kept..=at]);
                masked.push(MARK);
                at += 1;
                kept = at;
                continue;
            }
            let begins =
                text[at] == b'/' && !at.checked_sub(1).is_some_and(|before| is_in_path(text[before]));
            match self.0.iter().find(|root| begins && root.leads(&text[at..])) {
                Some(root) => {
                    masked.extend_from_slice(&text[kept..at]);
                    masked.extend_from_slice(&[b'/', MARK, root.name]);
                    at += root.path.len();
                    kept = at;
                }
                None => at += 1,
            }
        }
        if kept == 0 {
            return Cow::Borrowed(text);
        }
        masked.extend_from_slice(&text[kept..]);
        Cow::Owned(masked)
    }

    /// What [`Roots::mask`] was given. `None`: the text names a root that is not among these, or was never masked.
    pub fn unmask<'b>(&self, text: &'b [u8]) -> Option<Cow<'b, [u8]>> {
        if self.is_empty() || memchr(MARK, text).is_none() {
            return Some(Cow::Borrowed(text));
        }
        let mut plain = Vec::with_capacity(text.len());
        let mut left = text;
        while let Some(at) = memchr(MARK, left) {
            let (before, rest) = left.split_at(at);
            match *rest.get(1)? {
                MARK => {
                    plain.extend_from_slice(before);
                    plain.push(MARK);
                }
                name => {
                    plain.extend_from_slice(before.strip_suffix(b"/")?);
                    plain.extend_from_slice(&self.0.iter().find(|root| root.name == name)?.path);
                }
            }
            left = &rest[2..];
        }
        plain.extend_from_slice(left);
        Some(Cow::Owned(plain))
    }

    /// [`Roots::unmask`] of a path.
    pub fn unmask_path<'b>(&self, path: &'b [u8]) -> Option<Cow<'b, Path>> {
        Some(match self.unmask(path)? {
            Cow::Borrowed(path) => Cow::Borrowed(Path::new(OsStr::from_bytes(path))),
            Cow::Owned(path) => Cow::Owned(PathBuf::from(OsStr::from_bytes(&path))),
        })
    }

    /// Whether a path leads into the root that is called `t`, the target directory.
    pub fn lie_in_target(&self, path: &Path) -> bool {
        let target = self.0.iter().find(|root| root.name == b't');
        target.is_some_and(|root| path.starts_with(OsStr::from_bytes(&root.path)))
    }

    /// Whether the path of a root stands in `bytes`, in whatever surroundings.
    pub fn appear_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|root| memmem::find(bytes, &root.path).is_some())
    }
}

/// Bytes of a file that are searched at a time.
const CHUNK: usize = 1 << 20;

impl Roots {
    /// [`Roots::appear_in`] for what is too large to be read at once.
    ///
    /// # Errors
    /// The reader's.
    pub fn appear_in_all(&self, mut from: impl Read) -> io::Result<bool> {
        let longest = self.0.iter().map(|root| root.path.len()).max().unwrap_or_default();
        let mut buffer = Vec::with_capacity(CHUNK + longest);
        loop {
            let read = from.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
            if self.appear_in(&buffer) {
                return Ok(true);
            }
            if read == 0 {
                return Ok(false);
            }
            // A path may lie across the border.
            buffer.drain(..buffer.len().saturating_sub(longest));
        }
    }
}

impl Root {
    /// Whether `text` begins with the path, and not with that of a neighbour whose name goes on.
    fn leads(&self, text: &[u8]) -> bool {
        let rest = text.strip_prefix(&self.path[..]);
        rest.is_some_and(|rest| !rest.first().is_some_and(|&next| is_of_name(next)))
    }
}

/// Bytes of which the names in a root's path are made.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'@')
}

fn is_in_path(byte: u8) -> bool {
    byte == b'/' || is_of_name(byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roots() -> Roots {
        Roots::new([('w', "/home/me/project".into()), ('t', "/home/me/project/target/".into())])
    }

    fn masked(text: &str) -> String {
        String::from_utf8(roots().mask(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn roots_are_named_where_a_path_begins_and_a_name_ends() {
        for (text, want) in [
            ("/home/me/project/target/debug/x.d: /home/me/project/a.rs", "/\u{1}t/debug/x.d: /\u{1}w/a.rs"),
            ("dependency=/home/me/project/target", "dependency=/\u{1}t"),
            ("{\"artifact\":\"/home/me/project/target/a\"}", "{\"artifact\":\"/\u{1}t/a\"}"),
            ("/home/me/projects/x", "/home/me/projects/x"),
            ("/mnt/home/me/project/x", "/mnt/home/me/project/x"),
            ("odd \u{1}", "odd \u{1}\u{1}"),
            ("", ""),
        ] {
            assert_eq!(masked(text), want);
        }
    }

    #[test]
    fn another_place_gives_other_paths() {
        let there = Roots::new([('t', "/ci/t".into()), ('w', "/ci/src".into())]);
        let text = roots().mask(b"/home/me/project/target/x /home/me/project/y").into_owned();
        assert_eq!(there.unmask(&text).unwrap().as_ref(), b"/ci/t/x /ci/src/y");
        assert_eq!(Roots::new([('t', "/ci/t".into())]).unmask(&text), None);
        assert_eq!(roots().unmask(b"x\x01"), None);
        assert_eq!(roots().unmask(b"x\x01t"), None);
    }

    #[test]
    fn paths_that_others_would_write_otherwise_are_no_roots() {
        for path in ["/with space/x", "/quote\"d", "relative/path", "/", "/a", "/näme"] {
            assert!(Roots::new([('t', "/plain/path".into()), ('w', path.into())]).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_path_is_found_in_any_surroundings() {
        assert!(roots().appear_in(b"\0x/home/me/project\xff"));
        assert!(!roots().appear_in(b"/home/me/projec"));
        assert!(!Roots::default().appear_in(b"/home/me/project"));
    }

    #[test]
    fn a_path_is_found_across_the_pieces_of_a_file() {
        for before in [0, 1, CHUNK - 3, CHUNK, 2 * CHUNK - 17] {
            let mut bytes = vec![b'.'; before];
            assert!(!roots().appear_in_all(&bytes[..]).unwrap());
            bytes.extend_from_slice(b"/home/me/project");
            assert!(roots().appear_in_all(&bytes[..]).unwrap(), "{before}");
            bytes.extend_from_slice(&vec![b'.'; CHUNK]);
            assert!(roots().appear_in_all(&bytes[..]).unwrap(), "{before}");
        }
    }

    proptest! {
        #[test]
        fn what_is_masked_comes_back(text in "([a/=\u{1} \"]|/home/me/project|/target|t){0,12}") {
            let roots = roots();
            let masked = roots.mask(text.as_bytes()).into_owned();
            let plain = roots.unmask(&masked).unwrap();
            prop_assert_eq!(plain.as_ref(), text.as_bytes());
        }

        #[test]
        fn anything_can_be_unmasked(text: Vec<u8>) {
            let _ = roots().unmask(&text);
        }
    }
}
