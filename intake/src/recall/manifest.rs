//! The stored form of a manifest: `dbuild.record.v1.Manifest`, read entry by entry, because the newest one mostly
//! decides and the others need not be decoded. Nothing in it is believed before it was checked.

use dbuild_proto::Digest;
use dbuild_proto::record::{ManifestEntry, TaskOutcome};
use prost::Message as _;

/// Field 1, length-delimited: `Manifest.entries`, the only field.
const ENTRY: u8 = 1 << 3 | 2;

/// The sound entries of a manifest, in order; ends at the first byte that is not of its form.
pub(super) fn entries(bytes: &[u8]) -> impl Iterator<Item = ManifestEntry> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || next(&mut rest)).filter_map(|bytes| {
        let entry = ManifestEntry::decode(bytes).ok()?;
        is_sound(&entry).then_some(entry)
    })
}

/// The newest entry and as many of the others as fit into `limit` bytes.
pub(super) fn encode(newest: &ManifestEntry, others: &[ManifestEntry], limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::iter::once(newest).chain(others) {
        let before = bytes.len();
        bytes.push(ENTRY);
        bytes.extend_from_slice(&entry.encode_length_delimited_to_vec());
        // The newest alone may be too large; the store then says so.
        if bytes.len() > limit && before > 0 {
            bytes.truncate(before);
            break;
        }
    }
    bytes
}

/// What every entry of ours is: it has an outcome and at least one file (the source), its paths are absolute, its
/// names are names, its digests are digests.
fn is_sound(entry: &ManifestEntry) -> bool {
    let path = |bytes: &[u8]| bytes.first() == Some(&b'/') && !bytes.contains(&0);
    let name = |bytes: &[u8]| {
        !bytes.is_empty()
            && bytes != b"."
            && bytes != b".."
            && !bytes.iter().any(|byte| matches!(byte, 0 | b'/'))
    };
    let blob = |blob: &Option<_>| blob.as_ref().is_some_and(|blob| Digest::try_from(blob).is_ok());
    let outcome =
        |outcome: &TaskOutcome| outcome.outputs.iter().all(|output| path(&output.path) && blob(&output.blob));
    !entry.files.is_empty()
        && entry.files.iter().all(|seen| path(&seen.path) && blob(&seen.blob))
        && entry
            .absent
            .iter()
            .all(|absent| path(&absent.directory) && absent.names.iter().all(|bytes| name(bytes)))
        && entry.directories.iter().all(|bytes| path(bytes))
        && entry.outcome.as_ref().is_some_and(outcome)
}

/// Cuts off one entry's bytes.
fn next<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let mut bytes = rest.strip_prefix(&[ENTRY])?;
    let length = prost::decode_length_delimiter(&mut bytes).ok()?;
    let (entry, after) = bytes.split_at_checked(length)?;
    *rest = after;
    Some(entry)
}

#[cfg(test)]
mod tests {
    use dbuild_proto::DigestFunction;
    use dbuild_proto::record::{AbsentNames, FileSeen, Manifest};
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str) -> ManifestEntry {
        let blob = Some(DigestFunction::Blake3.digest(path.as_bytes()).into());
        ManifestEntry {
            files: vec![FileSeen { path: path.into(), blob, directives: Vec::new() }],
            outcome: Some(TaskOutcome::default()),
            ..Default::default()
        }
    }

    #[test]
    fn the_form_is_the_message_manifest() {
        let all = [entry("/a"), entry("/b")];
        let bytes = encode(&all[0], &all[1..], usize::MAX);
        assert_eq!(Manifest::decode(bytes.as_slice()).unwrap().entries, all);
        assert_eq!(entries(&bytes).collect::<Vec<_>>(), all);
    }

    #[test]
    fn old_entries_give_way_to_the_limit() {
        let all: Vec<_> = (0..9).map(|i| entry(&format!("/{i}"))).collect();
        let one = encode(&all[0], &[], usize::MAX).len();
        let bytes = encode(&all[0], &all[1..], one * 3 + 1);
        assert_eq!(entries(&bytes).collect::<Vec<_>>(), all[..3]);
        assert_eq!(entries(&encode(&all[0], &all[1..], 1)).count(), 1);
    }

    #[test]
    fn hostile_entries_are_passed_over() {
        let relative = entry("a");
        let mut digest = entry("/a");
        digest.files[0].blob.as_mut().unwrap().hash.pop();
        let empty = ManifestEntry { files: vec![], ..entry("/a") };
        let silent = ManifestEntry { outcome: None, ..entry("/a") };
        let absent = |name: &str| ManifestEntry {
            absent: vec![AbsentNames { directory: "/".into(), names: vec![name.into()] }],
            ..entry("/a")
        };
        let all = [relative, digest, empty, silent, absent("../x"), absent(".."), absent(""), entry("/good")];
        let bytes = encode(&all[0], &all[1..], usize::MAX);
        assert_eq!(entries(&bytes).collect::<Vec<_>>(), [entry("/good")]);
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes: Vec<u8>) {
            for entry in entries(&bytes) {
                prop_assert!(is_sound(&entry));
            }
        }

        #[test]
        fn a_cut_manifest_gives_its_whole_entries(cut in 0usize..200) {
            let all = [entry("/a"), entry("/b"), entry("/c")];
            let mut bytes = encode(&all[0], &all[1..], usize::MAX);
            let one = bytes.len() / 3;
            bytes.truncate(cut);
            prop_assert_eq!(entries(&bytes).count(), bytes.len() / one);
        }
    }
}
