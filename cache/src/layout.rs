//! The directory layout: which file holds what. Pure names and paths; nothing here touches the disk.
//!
//! ```text
//! DIR/cas-v1/blake3/ab/HASH-SIZE      a blob, mode 0444           (also sha256/)
//! DIR/cas-v1/blake3-x/ab/HASH-SIZE    the same bytes, mode 0555   (also sha256-x/), made on demand
//! DIR/zst-v1/blake3/ab/HASH-SIZE      the same bytes as one zstd frame, 0444, made on demand
//! DIR/ac-v1/ab/KEY                    an action value, framed as `actions.rs` says, 0444
//! DIR/tmp/SESSION/N                   files that are being written, see `temp.rs`
//! ```
//! `ab` are the first two digits of HASH or KEY (64 lower-case hexadecimal digits); SIZE is the blob's size
//! in bytes, decimal, uncompressed. The size stands in the name so that a digest with the right hash and a
//! wrong size, which any client can send, simply is another name: it is not found, and never taken for damage
//! of the blob that we have. A later format gets a later number; directories of other versions are left
//! alone.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dbuild_proto::{Digest, DigestFunction};

/// Where files that are being written live.
pub(crate) const TMP: &str = "tmp";

/// The families of files in the store. An action's "digest" is its key, with size 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Blob(DigestFunction),
    Executable(DigestFunction),
    Compressed(DigestFunction),
    Action,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] = [
        Kind::Blob(DigestFunction::Blake3),
        Kind::Blob(DigestFunction::Sha256),
        Kind::Executable(DigestFunction::Blake3),
        Kind::Executable(DigestFunction::Sha256),
        Kind::Compressed(DigestFunction::Blake3),
        Kind::Compressed(DigestFunction::Sha256),
        Kind::Action,
    ];

    /// The family's directory below the store's.
    pub(crate) fn dir(self) -> String {
        match self {
            Kind::Blob(f) => format!("cas-v1/{}", f.name()),
            Kind::Executable(f) => format!("cas-v1/{}-x", f.name()),
            Kind::Compressed(f) => format!("zst-v1/{}", f.name()),
            Kind::Action => "ac-v1".to_owned(),
        }
    }

    /// The function that names the blob in question; actions have none.
    pub(crate) fn function(self) -> Option<DigestFunction> {
        match self {
            Kind::Blob(f) | Kind::Executable(f) | Kind::Compressed(f) => Some(f),
            Kind::Action => None,
        }
    }

    /// The exact permissions of the family's files.
    pub(crate) fn mode(self) -> u32 {
        match self {
            Kind::Executable(_) => 0o555,
            _ => 0o444,
        }
    }
}

/// One file of the store, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) digest: Digest,
}

impl Entry {
    pub(crate) fn blob(f: DigestFunction, digest: &Digest) -> Entry {
        Entry { kind: Kind::Blob(f), digest: *digest }
    }

    pub(crate) fn action(key: &[u8; 32]) -> Entry {
        Entry { kind: Kind::Action, digest: Digest { hash: *key, size: 0 } }
    }

    pub(crate) fn path(&self, root: &Path) -> PathBuf {
        let hex = self.digest.hex();
        let mut name = self.kind.dir();
        // Writing to a String cannot fail.
        let _ = write!(name, "/{}/{hex}", &hex[..2]);
        if self.kind != Kind::Action {
            let _ = write!(name, "-{}", self.digest.size);
        }
        root.join(name)
    }

    /// Reads a file name back. `None` for anything that `path` would not have written.
    pub(crate) fn parse(kind: Kind, name: &OsStr) -> Option<Entry> {
        let name = name.to_str()?;
        let digest = match kind {
            Kind::Action => Digest::from_hex(name, 0).ok()?,
            _ => {
                let (hash, size) = name.split_once('-')?;
                let canonical =
                    size.bytes().all(|b| b.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
                Digest::from_hex(hash, size.parse().ok().filter(|_| canonical)?).ok()?
            }
        };
        Some(Entry { kind, digest })
    }

    /// The size that the file must have, where the name tells.
    pub(crate) fn exact_size(&self) -> Option<u64> {
        match self.kind {
            Kind::Blob(_) | Kind::Executable(_) => Some(self.digest.size),
            Kind::Compressed(_) | Kind::Action => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_round_trip(hash: [u8; 32], size: u64, kind in prop::sample::select(&Kind::ALL[..])) {
            let size = if kind == Kind::Action { 0 } else { size };
            let entry = Entry { kind, digest: Digest { hash, size } };
            let path = entry.path(Path::new("/store"));
            prop_assert!(path.starts_with(Path::new("/store").join(kind.dir())));
            let name = path.file_name().unwrap();
            prop_assert_eq!(Entry::parse(kind, name), Some(entry));
        }

        #[test]
        fn odd_names_are_nobodys(name in "[0-9a-f]{60,66}(-[0-9+ ]{0,22})?") {
            for kind in Kind::ALL {
                if let Some(entry) = Entry::parse(kind, OsStr::new(&name)) {
                    let path = entry.path(Path::new("/store"));
                    prop_assert_eq!(path.file_name().unwrap(), OsStr::new(&name));
                }
            }
        }
    }

    #[test]
    fn families_do_not_share_directories() {
        let dirs: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.dir()).collect();
        assert_eq!(dirs.len(), Kind::ALL.len());
    }
}
