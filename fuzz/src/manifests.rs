//! Near manifests, as a disk gives them back. A store stands behind, because that is where they come from.

use std::ffi::OsStr;

use dbuild_cache::ActionKey;
use dbuild_intake::{DirTable, FileTable, Inputs, RecallKey, Recalled, Roots, World, recall};
use dbuild_proto::record::{
    AbsentNames, FileSeen, ListingSeen, Manifest, ManifestEntry, OutputFile, TaskOutcome, VariableSeen,
};
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;

use crate::workshop;

const KEY: RecallKey = RecallKey(ActionKey([7; 32]));
/// On every machine there, and small.
const FILE: &str = "/etc/passwd";

/// Looks at the files that a manifest names, changes none.
pub fn manifest(bytes: &[u8]) -> bool {
    workshop::with(|store| {
        let (files, directories) =
            (FileTable::new(16, std::time::SystemTime::now), DirTable::new(16, std::time::SystemTime::now));
        let variables = |name: &OsStr| (name == "SET").then_some(OsStr::new("1"));
        let world = World {
            files: &files,
            directories: &directories,
            variables: &variables,
            preprocessed: true,
            roots: Roots::none(),
        };
        let recalled = || {
            let (recalled, earlier) = recall::recall(store, &KEY, &world, &|_| true)?;
            // What an entry says of directives may be anything.
            earlier.and_then(|earlier| earlier.revive(&files, &directories, &mut |_, _| None));
            Ok::<_, dbuild_cache::CacheError>(recalled)
        };
        store.put_action(&KEY.0, bytes).expect("a store in use takes small values");
        let hit = match recalled().expect("a bad manifest is no error") {
            Recalled::Hit(outcome) => {
                for output in &outcome.outputs {
                    assert!(output.path.starts_with(b"/") && !output.path.contains(&0), "{output:?}");
                    let blob = output.blob.as_ref().expect("an output of a hit has a blob");
                    assert!(Digest::try_from(blob).is_ok());
                }
                true
            }
            _ => false,
        };
        // A new entry does not mind what stood there before; this one has no file, so it is passed over.
        let outcome = TaskOutcome { run_ms: 77, ..TaskOutcome::default() };
        recall::remember(store, &KEY, &world, &Inputs::default(), outcome)
            .expect("a store in use takes small values");
        let after = recalled().expect("a bad manifest is no error");
        assert!(hit || !matches!(after, Recalled::Hit(_)), "nobody answered before");
        hit
    })
}

/// As `intake` makes them of directories that are no links, where no two files are equal.
fn circumstances(directories: &[&str]) -> Vec<u8> {
    let bytes: Vec<u8> = directories
        .iter()
        .flat_map(|path| [&(path.len() as u64).to_le_bytes(), path.as_bytes()].concat())
        .collect();
    DigestFunction::Blake3.digest(&bytes).hash.to_vec()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let content = std::fs::read(FILE).unwrap_or_default();
    let blob = Some(DigestFunction::Blake3.digest(&content).into());
    let seen = |path: &str| FileSeen {
        path: path.to_owned().into(),
        blob: blob.clone(),
        directives: vec![7; 16].into(),
    };
    let output =
        OutputFile { path: b"/b/a.o".to_vec(), blob: blob.clone(), executable: false, masked: false };
    let good = ManifestEntry {
        files: vec![seen(FILE)],
        absent: vec![AbsentNames { directory: "/etc".into(), names: vec!["no such file".into()] }],
        directories: vec!["/etc".into()],
        outcome: Some(TaskOutcome { outputs: vec![output], stderr: b"w".to_vec(), ..TaskOutcome::default() }),
        circumstances: circumstances(&["/etc"]).into(),
        variables: vec![VariableSeen { name: "UNSET".into(), value: Vec::new().into() }],
        listings: Vec::new(),
    };
    let listing = ListingSeen { path: "/etc".into(), names: vec![1; 32].into() };
    let stale = ManifestEntry { listings: vec![listing], ..good.clone() };
    let other = VariableSeen { name: "SET".into(), value: vec![1; 16].into() };
    let elsewhere = ManifestEntry { variables: vec![other], ..good.clone() };
    let gone = ManifestEntry { files: vec![seen("/etc/none")], ..good.clone() };
    [vec![good.clone()], vec![gone, stale, elsewhere, good]]
        .map(|entries| Manifest { entries }.encode_to_vec())
        .into()
}
