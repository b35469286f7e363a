//! What a command declares, what a result brings, and the trees of output directories.
//!
//! An input is a `Command` and an `ActionResult`, each behind a length of two bytes, and the bytes of a `Tree` (or,
//! after a first byte that is odd, a tree in the form of [`Shape`]).

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;

use crate::command::Job;
use crate::coordinator::outputs::{Declared, Inline, complete, settle};
use crate::coordinator::tree::check_directory;
use crate::raw::{Raw, long};
use crate::shapes::{self, FUNCTION, Shape};
use crate::workshop;

pub fn outputs(bytes: &[u8]) -> bool {
    let mut raw = Raw(bytes);
    let shaped = raw.byte() & 1 != 0;
    let (command, result) = (raw.long(), raw.long());
    let declared = declared(command);
    let tree = tree(shaped, &mut raw);
    let Ok(mut result) = re::ActionResult::decode(result) else { return false };
    workshop::with(|store| {
        let tree = store.put(FUNCTION, &tree).expect("a store in use takes small blobs");
        for directory in &mut result.output_directories {
            directory.tree_digest = Some(tree.to_wire());
        }
        let within = declared.as_ref().is_some_and(|declared| declared.check(&result).is_ok());
        if settle(store, FUNCTION, &mut result).is_err() {
            return false;
        }
        complete(store, FUNCTION, &result).expect("what was settled is complete");
        for directory in &result.output_directories {
            tree_is_sound(&store.read(FUNCTION, &tree).expect("a complete result's tree"), &directory.path);
        }
        assert!(result.output_files.iter().all(|file| file.contents.is_empty()));
        let files = result.output_files.iter().map(|file| file.path.clone()).collect();
        Inline { stdout: true, stderr: true, files }.fill(store, FUNCTION, &mut result);
        within
    })
}

/// What coordinator and helper read of a command. Neither lets an output leave the input root.
fn declared(bytes: &[u8]) -> Option<Declared> {
    let command = re::Command::decode(bytes).ok()?;
    let declared = Declared::read(&command).ok();
    let digest = Some(DigestFunction::Blake3.digest(b"").to_wire());
    let action = re::Action { input_root_digest: digest, ..Default::default() };
    if let Ok(job) = Job::new(&action, command.clone()) {
        assert!(!job.cwd.starts_with('/') && !job.cwd.contains('\0'));
        assert!(
            job.outputs.iter().all(|output| !output.path.starts_with('/') && !output.path.contains('\0'))
        );
        assert!(job.argv.iter().chain(&job.env).all(|text| !text.contains('\0')));
    }
    #[expect(deprecated, reason = "older clients send them")]
    let paths = match &command.output_paths[..] {
        [] => [&command.output_files[..], &command.output_directories].concat(),
        paths => paths.to_vec(),
    };
    if declared.is_some() {
        for path in &paths {
            assert!(!climbs(&command.working_directory, path), "{path:?} leaves the input root");
        }
    }
    declared
}

/// Walks, and says whether it was ever asked to leave the root.
fn climbs(base: &str, path: &str) -> bool {
    let mut here: Vec<&str> = Vec::new();
    let mut climbed = base.starts_with('/') || path.starts_with('/');
    for segment in base.split('/').chain(path.split('/')) {
        match segment {
            ".." => climbed |= here.pop().is_none(),
            "" | "." => {}
            name => here.push(name),
        }
    }
    climbed
}

fn tree(shaped: bool, raw: &mut Raw<'_>) -> Vec<u8> {
    if !shaped {
        return raw.rest().to_vec();
    }
    let shape = Shape::read(raw);
    let mut children: Vec<_> = shape.dirs.iter().map(|dir| dir.message.clone()).collect();
    let root = children.pop();
    workshop::with(|store| {
        for (_, content) in &shape.contents {
            store.put(FUNCTION, content).expect("a store in use takes small blobs");
        }
    });
    re::Tree { root, children }.encode_to_vec()
}

fn tree_is_sound(bytes: &[u8], path: &str) {
    let tree = re::Tree::decode(bytes).expect("a complete result's tree parses");
    let root = tree.root.as_ref().expect("a complete result's tree has a root");
    for directory in tree.children.iter().chain([root]) {
        assert_eq!(check_directory(directory), Ok(()), "in {path:?}");
        assert!(directory.files.iter().all(|file| Digest::from_field(file.digest.as_ref()).is_ok()));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let command = re::Command {
        arguments: vec!["cc".into()],
        output_paths: vec!["a.o".into(), "../lib/d".into()],
        working_directory: "src".into(),
        ..Default::default()
    };
    let content = b"object".to_vec();
    let file = re::OutputFile {
        path: "a.o".into(),
        digest: Some(FUNCTION.digest(&content).to_wire()),
        contents: content,
        ..Default::default()
    };
    let empty =
        re::ActionResult { output_files: vec![file], stdout_raw: b"w".to_vec(), ..Default::default() };
    let directory = re::OutputDirectory { path: "../lib/d".into(), ..Default::default() };
    let full = re::ActionResult { output_directories: vec![directory], ..empty.clone() };
    let encode = |mode: u8, result: &re::ActionResult, tree: Vec<u8>| {
        [vec![mode], long(&command.encode_to_vec()), long(&result.encode_to_vec()), tree].concat()
    };
    let plain = re::Tree { root: Some(re::Directory::default()), children: Vec::new() }.encode_to_vec();
    vec![encode(0, &empty, Vec::new()), encode(0, &full, plain), encode(1, &full, shapes::seed())]
}
