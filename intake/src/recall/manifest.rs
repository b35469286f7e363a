//! The stored form of a manifest: `dbuild.record.v1.Manifest`, read entry by entry, because the newest one mostly
//! decides and the others need not be decoded. Nothing in it is believed before it was checked.

use bytes::Bytes;
use dbuild_proto::Digest;
use dbuild_proto::record::{ManifestEntry, TaskOutcome};
use prost::Message as _;

/// Field 1, length-delimited: `Manifest.entries`, the only field.
const ENTRY: u8 = 1 << 3 | 2;

/// The sound entries of a manifest, in order, each as it is stored, too; ends at the first byte that is not of its form.
pub(super) fn entries(mut rest: Bytes) -> impl Iterator<Item = (ManifestEntry, Bytes)> {
    std::iter::from_fn(move || next(&mut rest)).filter_map(|bytes| {
        let entry = ManifestEntry::decode(bytes.clone()).ok()?;
        is_sound(&entry).then_some((entry, bytes))
    })
}

/// The newest entry and as many of the others, as they are stored, as fit into `limit` bytes.
pub(super) fn encode(newest: &ManifestEntry, others: &[Bytes], limit: usize) -> Vec<u8> {
    let length = newest.encoded_len();
    let mut bytes = Vec::with_capacity(length + others.iter().map(Bytes::len).sum::<usize>() + 16);
    bytes.push(ENTRY);
    // Writing to memory that grows cannot fail.
    let _ = newest.encode_length_delimited(&mut bytes);
    for entry in others {
        // The newest alone may be too large; the store then says so.
        if bytes.len() + 1 + prost::length_delimiter_len(entry.len()) + entry.len() > limit {
            break;
        }
        bytes.push(ENTRY);
        let _ = prost::encode_length_delimiter(entry.len(), &mut bytes);
        bytes.extend_from_slice(entry);
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
        && entry.listings.iter().all(|seen| path(&seen.path))
        && entry.outcome.as_ref().is_some_and(outcome)
}

/// Cuts off one entry's bytes.
fn next(rest: &mut Bytes) -> Option<Bytes> {
    let mut bytes = rest.strip_prefix(&[ENTRY])?;
    let length = prost::decode_length_delimiter(&mut bytes).ok()?;
    let before = rest.len() - bytes.len();
    let end = before.checked_add(length).filter(|end| *end <= rest.len())?;
    Some(rest.split_to(end).slice(before..))
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
            files: vec![FileSeen { path: path.to_owned().into(), blob, directives: Bytes::new() }],
            outcome: Some(TaskOutcome::default()),
            ..Default::default()
        }
    }

    fn encoded(all: &[ManifestEntry], limit: usize) -> Bytes {
        let stored: Vec<Bytes> = all[1..].iter().map(|entry| entry.encode_to_vec().into()).collect();
        encode(&all[0], &stored, limit).into()
    }

    fn read(bytes: Bytes) -> Vec<ManifestEntry> {
        entries(bytes).map(|(entry, _)| entry).collect()
    }

    #[test]
    fn the_form_is_the_message_manifest() {
        let all = [entry("/a"), entry("/b")];
        let bytes = encoded(&all, usize::MAX);
        assert_eq!(Manifest::decode(bytes.clone()).unwrap().entries, all);
        assert_eq!(read(bytes), all);
    }

    #[test]
    fn old_entries_give_way_to_the_limit() {
        let all: Vec<_> = (0..9).map(|i| entry(&format!("/{i}"))).collect();
        let one = encoded(&all[..1], usize::MAX).len();
        for more in [0, 1, one - 1] {
            assert_eq!(read(encoded(&all, one * 3 + more)), all[..3]);
        }
        assert_eq!(read(encoded(&all, 1)).len(), 1);
    }

    #[test]
    fn hostile_entries_are_passed_over() {
        let relative = entry("a");
        let mut digest = entry("/a");
        digest.files[0].blob.as_mut().unwrap().hash.truncate(31);
        let empty = ManifestEntry { files: vec![], ..entry("/a") };
        let silent = ManifestEntry { outcome: None, ..entry("/a") };
        let absent = |name: &str| ManifestEntry {
            absent: vec![AbsentNames { directory: "/".into(), names: vec![name.to_owned().into()] }],
            ..entry("/a")
        };
        let all = [relative, digest, empty, silent, absent("../x"), absent(".."), absent(""), entry("/good")];
        assert_eq!(read(encoded(&all, usize::MAX)), [entry("/good")]);
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes: Vec<u8>) {
            for (entry, stored) in entries(bytes.into()) {
                prop_assert!(is_sound(&entry));
                prop_assert_eq!(ManifestEntry::decode(stored).unwrap(), entry);
            }
        }

        #[test]
        fn a_cut_manifest_gives_its_whole_entries(cut in 0usize..200) {
            let all = [entry("/a"), entry("/b"), entry("/c")];
            let mut bytes = encoded(&all, usize::MAX);
            let one = bytes.len() / 3;
            bytes.truncate(cut);
            prop_assert_eq!(read(bytes.clone()).len(), bytes.len() / one);
        }
    }
}
