//! What is remembered of one run, in the form that is stored.

use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use dbuild_proto::record::{
    AbsentNames, BlobRef, FileSeen, ListingSeen, ManifestEntry, TaskOutcome, VariableSeen,
};

use super::value_digest;
use crate::inputs::{Inputs, Role};
use crate::roots::Roots;

/// The entry for a run that read `inputs`. There are some thousand small fields, so they are slices of one piece of
/// memory, which is written first.
pub(super) fn entry(
    inputs: &Inputs,
    circumstances: &[u8; 32],
    outcome: TaskOutcome,
    roots: &Roots,
) -> ManifestEntry {
    let mut text = Vec::new();
    let mut measure = |bytes: &[u8]| {
        text.extend_from_slice(bytes);
        Bytes::new()
    };
    fill(inputs, circumstances, roots, &mut measure);
    let mut rest = Bytes::from(text);
    let mut entry = fill(inputs, circumstances, roots, &mut |bytes| rest.split_to(bytes.len()));
    entry.outcome = Some(outcome);
    entry
}

/// Asks `field` for every field of bytes, always in the same order.
fn fill(
    inputs: &Inputs,
    circumstances: &[u8; 32],
    roots: &Roots,
    field: &mut dyn FnMut(&[u8]) -> Bytes,
) -> ManifestEntry {
    let mut entry = ManifestEntry { files: Vec::with_capacity(inputs.files.len()), ..Default::default() };
    for input in &inputs.files {
        let directives: &[u8] = match &input.role {
            Role::Included(directives) => directives,
            Role::Other => &[],
        };
        entry.files.push(FileSeen {
            path: field(&roots.mask(input.path.as_os_str().as_bytes())),
            blob: Some(BlobRef { hash: field(&input.digest.hash), size: input.digest.size }),
            directives: field(directives),
        });
    }
    for absent in &inputs.absent {
        entry.absent.push(AbsentNames {
            directory: field(&roots.mask(absent.directory.as_os_str().as_bytes())),
            names: absent.names.iter().map(|name| field(name.as_bytes())).collect(),
        });
    }
    let directories = inputs.directories.iter().map(|path| roots.mask(path.as_os_str().as_bytes()));
    entry.directories.extend(directories.map(|path| field(&path)));
    entry.circumstances = field(circumstances);
    for (name, value) in &inputs.variables {
        let value = value_digest(value.as_deref());
        entry.variables.push(VariableSeen { name: field(name.as_bytes()), value: field(&value) });
    }
    for (path, names) in &inputs.listings {
        let path = field(&roots.mask(path.as_os_str().as_bytes()));
        entry.listings.push(ListingSeen { path, names: field(names) });
    }
    entry
}
