//! What a command read when it ran before, brought up to date: as long as no file's directives have changed, a new scan
//! would find what the earlier one found.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use dbuild_compilers::Mentions;
use dbuild_proto::Digest;
use dbuild_proto::record::{FileSeen, ManifestEntry, TaskOutcome};
use dbuild_scanner::Fingerprint;

use super::{World, circumstances, path, places};
use crate::files::{FileFacts, FileTable};
use crate::inputs::{Input, Inputs, Role};
use crate::listings::DirTable;
use crate::observe::Absent;
use crate::roots::Roots;

/// The inputs of an earlier run of a command. Nothing says that they are still right.
#[derive(Clone, Debug, PartialEq)]
pub struct Earlier(ManifestEntry);

impl Earlier {
    pub(super) fn new(entry: ManifestEntry) -> Earlier {
        Earlier(entry)
    }

    /// How long it ran; `None` if that is not known.
    pub fn ran(&self) -> Option<Duration> {
        let ms = self.0.outcome.as_ref()?.run_ms;
        (ms > 0).then(|| Duration::from_millis(ms))
    }

    /// The files that were read, where they are now.
    pub fn files<'e>(&'e self, roots: &'e Roots) -> impl Iterator<Item = Cow<'e, Path>> {
        self.0.files.iter().filter_map(|seen| roots.unmask_path(&seen.path))
    }

    /// Directories that were there, by the paths that they had.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.0.directories.iter().map(|bytes| path(bytes))
    }

    /// The variables that were asked for.
    pub fn variables(&self) -> impl Iterator<Item = &OsStr> {
        self.0.variables.iter().map(|seen| OsStr::from_bytes(&seen.name))
    }

    /// As if `inputs` had been remembered just now. `None`: something of them is gone.
    pub fn of(inputs: &Inputs, files: &FileTable, directories: &DirTable) -> Option<Earlier> {
        let world =
            World { files, directories, variables: &|_| None, preprocessed: true, roots: Roots::none() };
        let circumstances = super::circumstances_of(inputs, &world).ok()?;
        Some(Earlier(super::entry::entry(inputs, &circumstances, TaskOutcome::default(), Roots::none())))
    }

    /// The inputs as they are now, if the compile would read the same files as before. `directives` tells what a content
    /// means to a scan, or that nobody knows.
    ///
    /// Only what a scan found can stand: what the compiler itself named may depend on more than directives.
    pub fn revive(
        &self,
        files: &FileTable,
        directories: &DirTable,
        directives: &mut dyn FnMut(&Path, &FileFacts) -> Option<Fingerprint>,
    ) -> Option<Inputs> {
        let entry = &self.0;
        let mut inputs = Inputs { files: Vec::with_capacity(entry.files.len()), ..Inputs::default() };
        let mut mentions = Mentions::default();
        let mut changed: HashSet<Digest> = HashSet::new();
        for seen in &entry.files {
            let path = path(&seen.path);
            let facts = files.facts(path).ok()?;
            let before = digest(seen)?;
            let role = match Fingerprint::try_from(seen.directives.as_ref()) {
                Ok(directives) => Role::Included(directives),
                Err(_) => Role::Other,
            };
            if facts.digest != before {
                let Role::Included(known) = role else { return None };
                if directives(path, &facts)? != known {
                    return None;
                }
                changed.extend([before, facts.digest]);
            }
            mentions = mentions.union(facts.mentions);
            inputs.files.push(Input {
                path: path.to_path_buf(),
                digest: facts.digest,
                executable: facts.executable,
                role,
            });
        }
        inputs.mentions = mentions;
        let stands = inputs.are_scanned()
            && stand_alone(entry, &inputs, &changed)
            && places(entry, directories, Roots::none()).is_none()
            && same_circumstances(entry, &inputs, files, directories);
        if !stands {
            return None;
        }
        inputs.absent = entry
            .absent
            .iter()
            .map(|absent| Absent {
                directory: path(&absent.directory).to_path_buf(),
                names: absent.names.iter().map(|name| OsStr::from_bytes(name).to_os_string()).collect(),
            })
            .collect();
        inputs.directories = entry.directories.iter().map(|bytes| path(bytes).to_path_buf()).collect();
        Some(inputs)
    }
}

/// Files of equal content may be one to `#pragma once`. Which are, the circumstances say; but not where one joined or
/// left such a company.
fn stand_alone(entry: &ManifestEntry, inputs: &Inputs, changed: &HashSet<Digest>) -> bool {
    if changed.is_empty() {
        return true;
    }
    let mut seen = HashSet::new();
    let alone =
        |digest: Digest, seen: &mut HashSet<Digest>| !changed.contains(&digest) || seen.insert(digest);
    let before = entry.files.iter().filter_map(digest).all(|digest| alone(digest, &mut seen));
    seen.clear();
    before && inputs.files.iter().all(|input| alone(input.digest, &mut seen))
}

fn same_circumstances(
    entry: &ManifestEntry,
    inputs: &Inputs,
    files: &FileTable,
    directories: &DirTable,
) -> bool {
    let contents = inputs.files.iter().map(|input| (Cow::Borrowed(&*input.path), input.digest));
    let present = entry.directories.iter().map(|bytes| Cow::Borrowed(path(bytes)));
    let world = World { files, directories, variables: &|_| None, preprocessed: true, roots: Roots::none() };
    let now = circumstances::digest(contents, present, &world);
    now.is_ok_and(|now| now.as_slice() == entry.circumstances.as_ref())
}

fn digest(seen: &FileSeen) -> Option<Digest> {
    Digest::try_from(seen.blob.as_ref()?).ok()
}
