//! What decides which manifest a command has: everything about it but the content of files.
//!
//! The fields are written once, to a sink; one sink hashes, the other explains (`dbuild why`), so the explanation
//! cannot leave out what the key has.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use dbuild_cache::ActionKey;
use dbuild_proto::{Digest, DigestFunction, Hasher};

use crate::roots::Roots;

/// Changes when the meaning of any field does; old manifests are then never found again.
const VERSION: &str = "dbuild recall 2";

/// Longer values are cut in explanations; a hash of the whole keeps different ones apart.
const SHOWN: usize = 160;

/// Names a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecallKey(pub ActionKey);

/// A command, as far as its result depends on it.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// `Toolchain::id`.
    pub toolchain: &'a Digest,
    /// As the build wrote it: drivers behave by it, and name themselves in messages.
    pub argv0: &'a OsStr,
    /// `Task::args`: intermediate objects are placeholders there, and named directories are masked already.
    pub args: &'a [OsString],
    /// Absolute.
    pub cwd: &'a Path,
    /// See [`logical_directory`](crate::action::logical_directory).
    pub logical_cwd: Option<&'a Path>,
    /// `relevant_env`; its order does not matter, and `PWD` in it is left to `logical_cwd`.
    pub env: &'a [(OsString, OsString)],
    /// Directories that go by their names; the working directory may be one.
    pub roots: &'a Roots,
    /// Whatever else decides, by name: the CPU for `-march=native`, the day for `__DATE__`.
    pub more: &'a [(&'static str, &'a [u8])],
}

impl KeyParts<'_> {
    pub fn key(&self) -> RecallKey {
        let mut hasher = Hasher::new(DigestFunction::Blake3);
        self.write(&mut |name, value| {
            for bytes in [name.as_bytes(), value] {
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
        });
        RecallKey(ActionKey(hasher.finish().hash))
    }

    /// The fields of the key with their values, shortened to a line each.
    pub fn explain(&self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        self.write(&mut |name, value| fields.push((name.to_owned(), show(value))));
        fields
    }

    /// Every list is preceded by its length, so that no two different commands write the same.
    fn write(&self, sink: &mut dyn FnMut(&str, &[u8])) {
        sink("version", VERSION.as_bytes());
        sink("toolchain", self.toolchain.hex().as_bytes());
        sink("program", self.argv0.as_encoded_bytes());
        sink("arguments", self.args.len().to_string().as_bytes());
        for argument in self.args {
            sink("argument", argument.as_encoded_bytes());
        }
        sink("directory", &self.roots.mask(self.cwd.as_os_str().as_encoded_bytes()));
        match self.logical_cwd {
            Some(path) => sink("PWD", &self.roots.mask(path.as_os_str().as_encoded_bytes())),
            None => sink("no PWD", b""),
        }
        let mut env: Vec<_> = self.env.iter().filter(|(name, _)| name != "PWD").collect();
        env.sort();
        sink("variables", env.len().to_string().as_bytes());
        for (name, value) in env {
            let mut pair = name.as_encoded_bytes().to_vec();
            pair.push(b'=');
            pair.extend_from_slice(value.as_encoded_bytes());
            sink("variable", &pair);
        }
        if !self.roots.is_empty() {
            sink("roots", &self.roots.names());
        }
        sink("more", self.more.len().to_string().as_bytes());
        for (name, value) in self.more {
            sink(name, value);
        }
    }
}

fn show(value: &[u8]) -> String {
    let text = named(&String::from_utf8_lossy(value));
    if text.len() <= SHOWN && std::str::from_utf8(value).is_ok() {
        return text;
    }
    let short: String = text.chars().take(SHOWN).collect();
    format!("{short}… ({})", &DigestFunction::Blake3.digest(value).hex()[..12])
}

/// Directories that go by a name, written so that they can be read: `<t>/debug`.
fn named(text: &str) -> String {
    let mut parts = text.split("/\u{1}");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut text, part| {
        let mut rest = part.chars();
        text.extend(rest.next().map(|name| format!("<{name}>")));
        text + rest.as_str()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts<'a>(args: &'a [OsString], env: &'a [(OsString, OsString)], id: &'a Digest) -> KeyParts<'a> {
        KeyParts {
            toolchain: id,
            argv0: OsStr::new("cc"),
            args,
            cwd: Path::new("/b"),
            logical_cwd: None,
            env,
            roots: Roots::none(),
            more: &[],
        }
    }

    proptest! {
        #[test]
        fn different_arguments_have_different_keys(
            a in prop::collection::vec("[ab]{0,2}", 0..4),
            b in prop::collection::vec("[ab]{0,2}", 0..4),
        ) {
            let id = DigestFunction::Blake3.digest(b"x");
            let os = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
            let same = parts(&os(&a), &[], &id).key() == parts(&os(&b), &[], &id).key();
            prop_assert_eq!(same, a == b);
        }
    }

    #[test]
    fn order_of_variables_does_not_matter_and_every_field_does() {
        let id = DigestFunction::Blake3.digest(b"x");
        let a = [("A".into(), "1".into()), ("B".into(), "2".into())];
        let b = [a[1].clone(), a[0].clone()];
        let base = parts(&[], &a, &id);
        assert_eq!(base.key(), parts(&[], &b, &id).key());
        let other = DigestFunction::Blake3.digest(b"y");
        let changed = [
            KeyParts { toolchain: &other, ..base },
            KeyParts { argv0: OsStr::new("gcc"), ..base },
            KeyParts { cwd: Path::new("/c"), ..base },
            KeyParts { logical_cwd: Some(Path::new("/l")), ..base },
            KeyParts { env: &a[..1], ..base },
            KeyParts { more: &[("cpu", b"zen")], ..base },
        ];
        for parts in changed {
            assert_ne!(parts.key(), base.key());
            assert_ne!(parts.explain(), base.explain());
        }
    }

    #[test]
    fn named_directories_can_be_read() {
        assert_eq!(show(b"dependency=/\x01t/debug:/\x01w"), "dependency=<t>/debug:<w>");
        assert_eq!(show(b"/usr/lib"), "/usr/lib");
    }

    #[test]
    fn long_values_stay_apart_in_explanations() {
        let (a, b) = ("x".repeat(500) + "a", "x".repeat(500) + "b");
        assert_ne!(show(a.as_bytes()), show(b.as_bytes()));
        assert!(show(a.as_bytes()).len() < 200);
        assert_ne!(show(b"\xff"), show(b"\xfe"));
    }
}
