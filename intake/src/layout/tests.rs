//! The tree's laws: one digest for one content, canonical messages, nothing lost, nothing shared by mistake.

use std::collections::HashMap;

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::resolve::tests::Map;

const FUNCTION: DigestFunction = DigestFunction::Blake3;

fn file(text: &str) -> Digest {
    FUNCTION.digest(text.as_bytes())
}

#[derive(Clone, Debug)]
enum Step {
    File(String, String),
    Link(String, String),
    Directory(String),
}

impl Step {
    fn apply(&self, tree: &mut Builder) -> Result<(), LayoutError> {
        match self {
            Step::File(path, text) => tree.add_file(Path::new(path), file(text), text == "x"),
            Step::Link(path, target) => tree.add_symlink(Path::new(path), Path::new(target)),
            Step::Directory(path) => tree.add_directory(Path::new(path)),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path =
        || prop::collection::vec("[a-d]|é|a\\.b", 1..4).prop_map(|names| format!("/{}", names.join("/")));
    let step = prop_oneof![
        (path(), "[xy]?").prop_map(|(path, text)| Step::File(path, text)),
        (path(), "[xy]").prop_map(|(path, target)| Step::Link(path, target)),
        path().prop_map(Step::Directory),
    ];
    prop::collection::vec(step, 0..24)
}

/// Those steps that do not conflict with the ones before.
fn applied(steps: &[Step]) -> (InputRoot, Vec<Step>) {
    let mut tree = InputRoot::builder(FUNCTION);
    let kept = steps.iter().filter(|step| step.apply(&mut tree).is_ok()).cloned().collect();
    (tree.finish(), kept)
}

proptest! {
    #[test]
    fn order_does_not_matter(steps in steps(), seed: u64) {
        let (tree, mut kept) = applied(&steps);
        // Any permutation: sorted by a hash with a seed.
        kept.sort_by_key(|step| file(&format!("{seed}{step:?}")).hash);
        let (again, all) = applied(&kept);
        prop_assert_eq!(all.len(), kept.len());
        prop_assert_eq!(again.digest(), tree.digest());
        prop_assert_eq!(again.entries(), tree.entries());
    }

    #[test]
    fn blobs_rebuild_the_tree_and_are_canonical(steps in steps()) {
        let (tree, _) = applied(&steps);
        let blobs: HashMap<Digest, BlobSource> =
            tree.blobs().into_iter().map(|blob| (blob.digest, blob.source)).collect();
        let mut found = Vec::new();
        unpack(tree.digest(), &blobs, &mut PathBuf::from("/"), &mut found);
        found.sort();
        let mut want: Vec<_> = tree.entries().into_iter().map(|(path, entry)| match entry {
            Entry::Directory => format!("{} dir", path.display()),
            Entry::File { digest, .. } => format!("{} file {digest}", path.display()),
            Entry::Symlink(target) => format!("{} link {target}", path.display()),
        }).collect();
        want.sort();
        prop_assert_eq!(found, want);
    }

    #[test]
    fn a_tree_grown_from_a_base_equals_one_grown_at_once(first in steps(), second in steps()) {
        let (base, mut all) = applied(&first);
        let before = base.digest();
        let mut tree = base.to_builder();
        all.extend(second.iter().filter(|step| step.apply(&mut tree).is_ok()).cloned());
        let tree = tree.finish();
        prop_assert_eq!(base.digest(), before);
        prop_assert_eq!(applied(&all).0.digest(), tree.digest());

        let mut merged = applied(&second).0.to_builder();
        if merged.add_tree(&base).is_ok() {
            prop_assert_eq!(merged.finish().digest(), tree.digest());
        }

        // What the base has, and what is new, is everything.
        let have: Vec<_> =
            base.blobs().into_iter().chain(tree.blobs_beyond(&base, &|_| false)).map(|blob| blob.digest).collect();
        for blob in tree.blobs() {
            prop_assert!(have.contains(&blob.digest));
        }
        prop_assert!(tree.blobs_beyond(&tree, &|_| false).is_empty());
    }
}

fn unpack(digest: Digest, blobs: &HashMap<Digest, BlobSource>, at: &mut PathBuf, found: &mut Vec<String>) {
    let bytes: Arc<[u8]> = match blobs.get(&digest) {
        Some(BlobSource::Bytes(bytes)) => bytes.clone(),
        Some(BlobSource::File(path)) => panic!("a directory in {}", path.display()),
        None => {
            assert!(digest.is_empty());
            Arc::default()
        }
    };
    assert_eq!(FUNCTION.digest(&bytes), digest);
    let message = re::Directory::decode(&*bytes).unwrap();
    assert_eq!(message.encode_to_vec(), *bytes);
    assert!(message.files.is_sorted_by(|a, b| a.name < b.name));
    assert!(message.directories.is_sorted_by(|a, b| a.name < b.name));
    assert!(message.symlinks.is_sorted_by(|a, b| a.name < b.name));
    for node in &message.files {
        let digest = Digest::from_field(node.digest.as_ref()).unwrap();
        let on_disk =
            matches!(blobs.get(&digest), Some(BlobSource::File(path)) if path.file_name().is_some());
        assert!(on_disk || digest.is_empty());
        found.push(format!("{} file {digest}", at.join(&node.name).display()));
    }
    for node in &message.symlinks {
        found.push(format!("{} link {}", at.join(&node.name).display(), node.target));
    }
    for node in &message.directories {
        at.push(&node.name);
        found.push(format!("{} dir", at.display()));
        unpack(Digest::from_field(node.digest.as_ref()).unwrap(), blobs, at, found);
        at.pop();
    }
}

#[test]
fn conflicts_are_errors_and_equal_things_are_none() {
    let mut tree = InputRoot::builder(FUNCTION);
    tree.add_file(Path::new("/a/f"), file("1"), false).unwrap();
    tree.add_file(Path::new("/a/f"), file("1"), false).unwrap();
    let conflict = |result| assert!(matches!(result, Err(LayoutError::Conflict(_))), "{result:?}");
    conflict(tree.add_file(Path::new("/a/f"), file("2"), false));
    conflict(tree.add_file(Path::new("/a/f"), file("1"), true));
    conflict(tree.add_file(Path::new("/a"), file("1"), false));
    conflict(tree.add_file(Path::new("/a/f/g"), file("1"), false));
    conflict(tree.add_directory(Path::new("/a/f")));
    conflict(tree.add_symlink(Path::new("/a"), Path::new("b")));
    conflict(tree.add_file(Path::new("/"), file("1"), false));
    for path in ["a", "/a/../b"] {
        let result = tree.add_directory(Path::new(path));
        assert!(matches!(result, Err(LayoutError::NotNormal(_))), "{path}");
    }
}

#[test]
fn names_must_be_utf8() {
    use std::os::unix::ffi::OsStrExt as _;
    let path = Path::new(std::ffi::OsStr::from_bytes(b"/a/\xff"));
    let mut tree = InputRoot::builder(FUNCTION);
    let result = tree.add_file(path, file("1"), false);
    assert!(matches!(result, Err(LayoutError::NotUtf8(_))));
    assert!(matches!(tree.add_symlink(Path::new("/l"), path), Err(LayoutError::NotUtf8(_))));
}

#[test]
fn a_walk_leaves_links_and_each_named_directory() {
    let kinds = [
        ("/usr", Kind::Directory),
        ("/usr/include", Kind::Directory),
        ("/usr/include/a.h", Kind::File),
        ("/usr/gone", Kind::Directory),
        ("/inc", Kind::Symlink("usr/include".into())),
        ("/latest.h", Kind::Symlink("/inc/a.h".into())),
    ];
    let disk = Map(kinds.into_iter().map(|(path, kind)| (path.into(), kind)).collect());
    let mut tree = InputRoot::builder(FUNCTION);
    tree.add_file_at(Path::new("/usr/gone/../../latest.h"), &disk, file("1"), false).unwrap();
    let listed: Vec<_> = tree
        .finish()
        .entries()
        .into_iter()
        .map(|(path, entry)| match entry {
            Entry::Directory => format!("{}/", path.display()),
            Entry::File { .. } => path.display().to_string(),
            Entry::Symlink(target) => format!("{} -> {target}", path.display()),
        })
        .collect();
    let want = [
        "/inc -> usr/include",
        "/latest.h -> /inc/a.h",
        "/usr/",
        "/usr/gone/",
        "/usr/include/",
        "/usr/include/a.h",
    ];
    assert_eq!(listed, want);
}

#[test]
fn an_empty_tree_is_the_empty_blob() {
    let tree = InputRoot::builder(FUNCTION).finish();
    assert!(tree.digest().is_empty());
    assert_eq!(tree.blobs(), []);
}

#[test]
fn files_of_one_directory_are_placed_as_each_alone() {
    let kinds = [
        ("/usr", Kind::Directory),
        ("/usr/include", Kind::Directory),
        ("/usr/include/a.h", Kind::File),
        ("/usr/include/b.h", Kind::Symlink("a.h".into())),
        ("/usr/include/c.h", Kind::File),
        ("/inc", Kind::Symlink("usr/include".into())),
    ];
    let disk = Map(kinds.into_iter().map(|(path, kind)| (path.into(), kind)).collect());
    let all = [("a.h", file("1"), false), ("b.h", file("1"), false), ("c.h", file("3"), true)];
    let mut one_by_one = InputRoot::builder(FUNCTION);
    for (name, digest, executable) in all {
        one_by_one.add_file_at(&Path::new("/inc").join(name), &disk, digest, executable).unwrap();
    }
    let mut together = InputRoot::builder(FUNCTION);
    together.add_files_at(Path::new("/inc"), &disk, &all).unwrap();
    let base = together.finish();
    assert_eq!(base.digest(), one_by_one.finish().digest());
    // The same again changes nothing; another content is a conflict, and so is a name that is gone.
    let mut again = base.to_builder();
    again.add_files_at(Path::new("/usr/include"), &disk, &all).unwrap();
    assert_eq!(again.clone().finish().digest(), base.digest());
    let changed = again.add_files_at(Path::new("/inc"), &disk, &[("a.h", file("2"), false)]);
    assert!(matches!(changed, Err(LayoutError::Conflict(_))));
    assert!(again.add_files_at(Path::new("/inc"), &disk, &[("gone.h", file("2"), false)]).is_err());
    assert!(again.add_files_at(Path::new("/inc/a.h"), &disk, &all).is_err());
}
