//! What collecting promises about outputs that lie, climb or are missing.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const FUNCTION: DigestFunction = DigestFunction::Blake3;

fn outputs(kind: Kind, paths: &[&str]) -> Vec<Output> {
    paths.iter().map(|path| Output { path: (*path).into(), kind }).collect()
}

fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("w/dir/sub")).unwrap();
    std::fs::write(root.path().join("w/a.o"), "object").unwrap();
    std::fs::write(root.path().join("w/dir/x"), "x").unwrap();
    std::fs::write(root.path().join("w/dir/sub/y"), vec![7; IN_MEMORY as usize + 1]).unwrap();
    std::fs::set_permissions(root.path().join("w/dir/x"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../../dir", root.path().join("w/dir/sub/link")).unwrap();
    root
}

fn gather(root: &Path, outputs: &[Output]) -> Collected {
    collect(root, Path::new("w"), outputs, FUNCTION, 1 << 30).unwrap()
}

#[test]
fn whoever_renames_meanwhile_disturbs_nobody() {
    let (root, other) = (root(), tempfile::tempdir().unwrap());
    let renames = std::sync::atomic::AtomicBool::new(true);
    let (a, b) = (other.path().join("a"), other.path().join("b"));
    std::fs::write(&a, "").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while renames.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(&a, &b).unwrap();
                std::fs::rename(&b, &a).unwrap();
            }
        });
        let climbing = outputs(Kind::Any, &["dir/../../w/dir/sub/../../a.o"]);
        let found = (0..3000).map(|_| collect(root.path(), Path::new("w"), &climbing, FUNCTION, 1 << 30));
        let one = |found: &Result<Collected, Trouble>| matches!(found, Ok(found) if found.result.output_files.len() == 1);
        let right = found.filter(one).count();
        renames.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(right, 3000);
    });
}

#[test]
fn files_links_and_trees_are_described() {
    let root = root();
    symlink("a.o", root.path().join("w/l")).unwrap();
    let found = gather(root.path(), &outputs(Kind::Any, &["a.o", "l", "dir", "absent", "absent/x", "a.o/x"]));
    let result = &found.result;
    let names: Vec<_> = result.output_files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["a.o"]);
    assert_eq!(result.output_files[0].digest, Some(FUNCTION.digest(b"object").to_wire()));
    assert_eq!(result.output_symlinks[0].target, "a.o");
    let directory = &result.output_directories[0];
    let tree = Digest::from_field(directory.tree_digest.as_ref()).unwrap();
    let Payload::Bytes(bytes) = &found.blobs[&tree] else { panic!("a tree is small") };
    let tree: re::Tree = prost::Message::decode(bytes.as_slice()).unwrap();
    let top = tree.root.unwrap();
    assert!(top.files[0].is_executable);
    let bytes = prost::Message::encode_to_vec(&top);
    assert_eq!(directory.root_directory_digest, Some(FUNCTION.digest(&bytes).to_wire()));
    let sub = prost::Message::encode_to_vec(&tree.children[0]);
    assert_eq!(top.directories[0].digest, Some(FUNCTION.digest(&sub).to_wire()));
    assert_eq!(tree.children[0].symlinks[0].target, "../../dir");
    // A large file is uploaded from where it lies.
    let large = FUNCTION.digest(&vec![7; IN_MEMORY as usize + 1]);
    assert!(matches!(&found.blobs[&large], Payload::File(path) if path.ends_with("w/dir/sub/y")));
}

#[test]
fn no_link_leads_out_of_the_root() {
    let root = root();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), root.path().join("w/abs")).unwrap();
    symlink("../../../../../../../../../../..", root.path().join("w/up")).unwrap();
    let climbing = format!("up{}/secret", outside.path().display());
    let dots = format!("../../../../../../../../../..{}/secret", outside.path().display());
    let found = gather(root.path(), &outputs(Kind::Any, &["abs/secret", &climbing, &dots]));
    assert_eq!(found.result, re::ActionResult::default());
    // Inside the root the same ways are good.
    symlink("/w/dir", root.path().join("w/inner")).unwrap();
    let found = gather(root.path(), &outputs(Kind::Any, &["inner/x", "../../w/a.o"]));
    assert_eq!(found.result.output_files.len(), 2);
}

#[test]
#[allow(deprecated)]
fn older_clients_find_links_where_they_look() {
    let root = root();
    symlink("a.o", root.path().join("w/l")).unwrap();
    let found = gather(root.path(), &outputs(Kind::File, &["l"]));
    assert_eq!(found.result.output_file_symlinks, found.result.output_symlinks);
    let found = gather(root.path(), &outputs(Kind::Directory, &["l"]));
    assert_eq!(found.result.output_directory_symlinks.len(), 1);
}

#[test]
fn special_files_and_too_much_are_refused() {
    let root = root();
    let fifo = root.path().join("w/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let refused = |paths: &[&str], bytes| {
        let outputs = outputs(Kind::Any, paths);
        matches!(collect(root.path(), Path::new("w"), &outputs, FUNCTION, bytes), Err(Trouble::Bad(_)))
    };
    assert!(refused(&["fifo"], 1 << 30));
    assert!(refused(&["dir"], 1000));
    assert!(refused(&["../w"], 1 << 30));
}

#[test]
fn streams_are_inline_when_small() {
    let mut found = Collected::default();
    let (raw, digest) = add_stream(&mut found, FUNCTION, vec![1; INLINE]);
    assert!(raw.len() == INLINE && digest.is_none() && found.blobs.is_empty());
    let (raw, digest) = add_stream(&mut found, FUNCTION, vec![1; INLINE + 1]);
    assert!(raw.is_empty() && digest.is_some() && found.blobs.len() == 1);
}
