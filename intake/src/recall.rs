//! The near manifests: what a command read when it ran before, and what came of it. If all of that still holds, the
//! answer stands.
//!
//! A manifest is found by the [`RecallKey`] of the command, which knows nothing of files; its entries, newest first,
//! each list files with digests, names that were absent, directories that were there, and the outcome. What a
//! manifest says is checked like anything else that comes from a disk: a bad one is no manifest.
//! This module does not know whether an outcome's blobs are still in the store; its caller says.

mod circumstances;
mod earlier;
mod entry;
mod key;
mod manifest;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dbuild_cache::{CacheError, Store};
use dbuild_proto::record::{FileSeen, ManifestEntry, TaskOutcome};
use dbuild_proto::{Digest, DigestFunction};

pub use earlier::Earlier;
pub use key::{KeyParts, RecallKey};

use crate::files::FileTable;
use crate::inputs::Inputs;
use crate::listings::{DirTable, Presence, gone};
use crate::roots::Roots;

/// How many different sets of inputs are remembered of one command: enough for branches that come and go.
pub const MAX_ENTRIES: usize = 16;

/// What manifests are held against, and made from.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub files: &'a FileTable,
    pub directories: &'a DirTable,
    /// The variables of the call.
    pub variables: &'a dyn Fn(&OsStr) -> Option<&'a OsStr>,
    /// A preprocessor reads the inputs: to it, files of equal content may be one.
    pub preprocessed: bool,
    /// Directories that go by their names.
    pub roots: &'a Roots,
}

impl World<'_> {
    fn digest(&self, path: &Path) -> io::Result<Digest> {
        let facts = if self.preprocessed { self.files.facts(path) } else { self.files.unscanned(path) };
        Ok(facts?.digest)
    }
}

/// What is known of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Recalled {
    /// An entry of which everything holds.
    Hit(TaskOutcome),
    /// Never seen (or only in a manifest that cannot be read).
    Unknown,
    /// Seen, but nothing holds; what changed against the newest entry.
    Changed(Change),
}

/// The first thing in which the world differs from an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another content.
    File(PathBuf),
    /// Was there, or was readable, and is not now.
    FileGone(PathBuf),
    /// Was looked for and not there.
    Appeared(PathBuf),
    DirectoryGone(PathBuf),
    /// A directory is another one by the same name, or files that were one are two.
    Circumstances,
    /// Another value, or one where none was.
    Variable(OsString),
    /// Other names lie in the directory.
    Listing(PathBuf),
    /// The result names directories that are elsewhere now.
    Elsewhere,
    /// Everything holds, but the caller could not use the outcome (its blobs were evicted).
    Unusable,
}

impl fmt::Display for Change {
    /// A fragment that says what happened: `foo.h changed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::File(path) => write!(f, "{} changed", path.display()),
            Change::FileGone(path) => write!(f, "{} is gone", path.display()),
            Change::Appeared(path) => write!(f, "{} is new", path.display()),
            Change::DirectoryGone(path) => write!(f, "the directory {} is gone", path.display()),
            Change::Circumstances => write!(f, "a link or directory on the way is another one"),
            Change::Variable(name) => write!(f, "the variable {} changed", name.display()),
            Change::Listing(path) => write!(f, "files came to or left {}", path.display()),
            Change::Elsewhere => write!(f, "its result names directories of another place"),
            Change::Unusable => write!(f, "its result was evicted from the cache"),
        }
    }
}

/// Looks for an entry of `key` of which everything holds, newest first. `usable` says whether an outcome can be
/// given as an answer: whether its blobs are there. If there is no hit, the newest entry comes along.
///
/// # Errors
/// The store's. What is wrong with a manifest is no error.
pub fn recall(
    store: &Store,
    key: &RecallKey,
    world: &World,
    usable: &dyn Fn(&TaskOutcome) -> bool,
) -> Result<(Recalled, Option<Earlier>), CacheError> {
    let Some(bytes) = store.action(&key.0)? else { return Ok((Recalled::Unknown, None)) };
    world.files.settle();
    let mut newest = None;
    for (mut entry, _) in manifest::entries(bytes.into()).take(MAX_ENTRIES) {
        let change = match compare(&entry, world) {
            Some(change) => change,
            None => match entry.outcome.take_if(|outcome| usable(outcome)) {
                Some(outcome) => return Ok((Recalled::Hit(outcome), None)),
                None => Change::Unusable,
            },
        };
        newest.get_or_insert((change, entry));
    }
    Ok(match newest {
        Some((change, entry)) => (Recalled::Changed(change), Some(Earlier::new(entry))),
        None => (Recalled::Unknown, None),
    })
}

/// Remembers what came of a command: a new entry, first of the manifest. Two processes that do so at once lose one
/// of the two entries, and a later run makes it again.
pub fn remember(
    store: &Store,
    key: &RecallKey,
    world: &World,
    inputs: &Inputs,
    outcome: TaskOutcome,
) -> Result<(), CacheError> {
    let Ok(circumstances) = circumstances_of(inputs, world) else {
        // Something is gone since the compile; it would be missed at the first recall.
        return Ok(());
    };
    let entry = entry::entry(inputs, &circumstances, outcome, world.roots);
    let before = store.action(&key.0)?.unwrap_or_default();
    let same = |old: &ManifestEntry| {
        old.files == entry.files
            && old.absent == entry.absent
            && old.directories == entry.directories
            && old.circumstances == entry.circumstances
            && old.variables == entry.variables
            && old.listings == entry.listings
    };
    let others = manifest::entries(before.into()).filter(|(old, _)| !same(old)).map(|(_, stored)| stored);
    let others: Vec<_> = others.take(MAX_ENTRIES - 1).collect();
    store.put_action(&key.0, &manifest::encode(&entry, &others, dbuild_cache::MAX_ACTION_VALUE))
}

/// Forgets all entries of a command.
pub fn forget(store: &Store, key: &RecallKey) -> Result<(), CacheError> {
    store.remove_action(&key.0)
}

fn circumstances_of(inputs: &Inputs, world: &World) -> io::Result<[u8; 32]> {
    let contents = inputs.files.iter().map(|input| (Cow::Borrowed(&*input.path), input.digest));
    let present = inputs.directories.iter().map(|path| Cow::Borrowed(&**path));
    circumstances::digest(contents, present, world)
}

/// The first difference between the world and a (checked) entry.
fn compare(entry: &ManifestEntry, world: &World) -> Option<Change> {
    let bound = entry.outcome.as_ref().map(|outcome| &outcome.bound[..]).unwrap_or_default();
    if !bound.is_empty() && bound != world.roots.identity() {
        return Some(Change::Elsewhere);
    }
    let path = |bytes| world.roots.unmask_path(bytes);
    for seen in &entry.variables {
        let name = OsStr::from_bytes(&seen.name);
        if value_digest((world.variables)(name)) != seen.value {
            return Some(Change::Variable(name.to_os_string()));
        }
    }
    for seen in &entry.files {
        let Some(path) = path(&seen.path) else { return Some(Change::Elsewhere) };
        let Ok(digest) = world.digest(&path) else { return Some(Change::FileGone(path.to_path_buf())) };
        if seen.blob.as_ref().and_then(|blob| Digest::try_from(blob).ok()) != Some(digest) {
            return Some(Change::File(path.to_path_buf()));
        }
    }
    if let Some(change) = places(entry, world.directories, world.roots) {
        return Some(change);
    }
    for seen in &entry.listings {
        let Some(path) = path(&seen.path) else { return Some(Change::Elsewhere) };
        if !world.directories.digest_of_names(&path).is_ok_and(|now| now.as_slice() == seen.names.as_ref()) {
            return Some(Change::Listing(path.to_path_buf()));
        }
    }
    let digest = |seen: &FileSeen| Digest::try_from(seen.blob.as_ref()?).ok();
    let contents = entry.files.iter().filter_map(|seen| Some((path(&seen.path)?, digest(seen)?)));
    let present = entry.directories.iter().filter_map(|bytes| path(bytes));
    let circumstances = circumstances::digest(contents, present, world);
    let same = circumstances.is_ok_and(|now| now.as_slice() == entry.circumstances.as_ref());
    (!same).then_some(Change::Circumstances)
}

/// The first name that is not absent any more, or directory that is gone.
fn places(entry: &ManifestEntry, directories: &DirTable, roots: &Roots) -> Option<Change> {
    for absent in &entry.absent {
        let Some(directory) = roots.unmask_path(&absent.directory) else { return Some(Change::Elsewhere) };
        let directory = &*directory;
        let names = absent.names.iter().map(|name| OsStr::from_bytes(name));
        match directories.first_present(directory, names) {
            Ok(None) => {}
            Ok(Some((_, Presence::NoDirectory))) => {
                return Some(Change::DirectoryGone(directory.to_path_buf()));
            }
            Ok(Some((name, _))) => return Some(Change::Appeared(directory.join(name))),
            Err(error) if gone(&error) => return Some(Change::DirectoryGone(directory.to_path_buf())),
            // What cannot be looked at may be there.
            Err(_) => return Some(Change::Appeared(directory.to_path_buf())),
        }
    }
    let mut present = entry.directories.iter().filter_map(|bytes| roots.unmask_path(bytes));
    let missing = present.find(|path| !directories.is_directory(path));
    missing.map(|path| Change::DirectoryGone(path.into_owned()))
}

/// What is kept of a variable's value: enough to know it again, nothing to read. Empty: not set. Directories keep their
/// paths here: who asked for the value may have made anything of it.
fn value_digest(value: Option<&OsStr>) -> Bytes {
    let digest = |value: &OsStr| DigestFunction::Blake3.digest(value.as_bytes()).hash;
    value.map(|value| Bytes::copy_from_slice(&digest(value)[..16])).unwrap_or_default()
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
