//! Input roots: single directories, whole trees, and what the helper makes of them. No path leaves the root.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path};
use std::sync::Arc;

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, PROPERTY_INPUT_ROOT};
use prost::Message;

use crate::command::Job;
use crate::coordinator::tree::{Inputs, Pages, check_directory};
use crate::layout::{Cover, Plan, Step, Wish, plan};
use crate::raw::{Raw, long};
use crate::shapes::{self, FUNCTION, Shape};
use crate::tree::{Dir, Input};
use crate::workshop;

const MAX_NODES: u64 = 10_000;
const MAX_DEPTH: u32 = 64;
/// The longest path that Linux takes, in bytes.
const PATH_MAX: usize = 4095;

/// One `Directory` message, at both sides.
pub fn directory(bytes: &[u8]) -> bool {
    let Ok(message) = re::Directory::decode(bytes) else {
        assert!(Dir::decode(bytes).is_err());
        return false;
    };
    let names = names(&message);
    let components = names.iter().all(|name| is_one_component(name));
    let unique = names.iter().collect::<HashSet<_>>().len() == names.len();
    let (helper, coordinator) = (Dir::decode(bytes), check_directory(&message));
    assert!(coordinator.is_err() || components && unique, "the coordinator let {names:?} pass");
    assert!(helper.is_err() || components && unique, "the helper let {names:?} pass");
    assert!(
        helper.is_err() || coordinator.is_ok(),
        "the helper takes what the coordinator refuses: {coordinator:?}"
    );
    helper.is_ok()
}

fn names(message: &re::Directory) -> Vec<String> {
    let files = message.files.iter().map(|node| node.name.clone());
    let links = message.symlinks.iter().map(|node| node.name.clone());
    files.chain(links).chain(message.directories.iter().map(|node| node.name.clone())).collect()
}

fn is_one_component(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains('\0')
}

/// A tree, a command and what the sandbox can do: laid out by the helper.
pub fn input_tree(bytes: &[u8]) -> bool {
    let mut raw = Raw(bytes);
    let shape = Shape::read(&mut raw);
    let Some(input) = read(&shape) else { return false };
    let flags = raw.byte();
    let working_directory = raw.long_text();
    let output_paths = (0..raw.below(4)).map(|_| raw.long_text()).collect();
    let property = re::platform::Property { name: PROPERTY_INPUT_ROOT.into(), value: "true".into() };
    let platform = (flags & 1 != 0).then(|| re::Platform { properties: vec![property] });
    let action =
        re::Action { input_root_digest: Some(shape.root().to_wire()), platform, ..Default::default() };
    let arguments = vec!["cc".into()];
    let command = re::Command { arguments, working_directory, output_paths, ..Default::default() };
    let Ok(job) = Job::new(&action, command) else { return false };
    let wish = Wish {
        cwd: &job.cwd,
        outputs: &job.outputs,
        root_is_root: job.root_is_root,
        mounts: flags & 2 != 0,
        other_uid: flags & 4 != 0,
    };
    let Ok(plan) = plan(&input, wish, &mut |_| flags & 8 != 0) else { return false };
    sound(&plan);
    true
}

/// The helper's view.
fn read(shape: &Shape) -> Option<Input> {
    let checked = shape.dirs.iter().map(|dir| Some((dir.digest, Arc::new(Dir::decode(&dir.bytes).ok()?))));
    let dirs: HashMap<Digest, Arc<Dir>> = checked.collect::<Option<_>>()?;
    Input::new(shape.root(), dirs, MAX_NODES, MAX_DEPTH).ok()
}

/// A tree in the coordinator's store, first with one blob left out.
pub fn stored_tree(bytes: &[u8]) -> bool {
    let mut raw = Raw(bytes);
    let shape = Shape::read(&mut raw);
    let taken = stored(&shape, raw.byte(), raw.byte());
    assert!(taken || read(&shape).is_none(), "the helper takes what the coordinator refuses");
    taken
}

/// Whether the coordinator finds the tree good and, in the end, complete.
fn stored(shape: &Shape, left_out: u8, page_size: u8) -> bool {
    workshop::with(|store| {
        store.clear().expect("a store in use can be cleared");
        let blobs = shape.dirs.iter().map(|dir| (dir.digest, &dir.bytes[..]));
        let blobs: Vec<_> =
            blobs.chain(shape.contents.iter().map(|(digest, byte)| (*digest, &byte[..]))).collect();
        let absent = blobs[usize::from(left_out) % blobs.len()];
        for (_, bytes) in blobs.iter().filter(|blob| blob.0 != absent.0) {
            store.put(FUNCTION, bytes).expect("a store in use takes small blobs");
        }
        let inputs = Inputs::default();
        if let Ok(missing) = inputs.missing(store, FUNCTION, &shape.root()) {
            assert!(missing.iter().all(|digest| *digest == absent.0), "{missing:?}: only {} is", absent.0);
            assert!(missing.len() <= 1);
        }
        store.put(FUNCTION, absent.1).expect("a store in use takes small blobs");
        let Ok(missing) = inputs.missing(store, FUNCTION, &shape.root()) else { return false };
        assert_eq!(missing, [], "a tree that is there is complete");

        let distinct: HashSet<Digest> = shape.dirs.iter().map(|dir| dir.digest).collect();
        let (mut token, mut seen) = (String::new(), 0);
        loop {
            let mut pages =
                Pages::new(FUNCTION, shape.root(), i32::from(page_size), &token).expect("our own token");
            let page = pages.next_page(store).expect("the tree is there");
            seen += page.directories.len();
            assert!(seen <= distinct.len(), "each directory comes once");
            token = page.next_page_token;
            if token.is_empty() {
                break true;
            }
        }
    })
}

/// Nothing lies outside the root or behind a link, parents come first, no path comes twice, and mounts stand on
/// directories that were made.
fn sound(plan: &Plan) {
    let mut seen = HashSet::new();
    let mut made = HashSet::new();
    for step in &plan.steps {
        let (Step::Dir { path, .. } | Step::Link { path, .. } | Step::File { path, .. }) = step;
        assert!(
            path.components().all(|part| matches!(part, Component::Normal(_))),
            "{path:?} may leave the root"
        );
        assert!(
            path.as_os_str().len() <= PATH_MAX,
            "no kernel makes a path of {} bytes",
            path.as_os_str().len()
        );
        assert!(seen.insert(path), "{path:?} twice");
        assert!(path.parent().is_none_or(|parent| made.contains(parent)), "{path:?} before its parent");
        if matches!(step, Step::Dir { .. }) {
            made.insert(path.as_path());
        }
    }
    assert!(made.contains(plan.cwd.as_path()), "the working directory is made");
    for cover in &plan.covers {
        let (Cover::Writable(path) | Cover::ReadOnly(path) | Cover::Shared(path, _)) = cover;
        assert!(made.contains(path.as_path()), "{path:?} is no directory of the plan");
    }
}

pub fn directory_seeds() -> Vec<Vec<u8>> {
    let shape = Shape::read(&mut Raw(&shapes::seed()));
    shape.dirs.into_iter().map(|dir| dir.bytes).collect()
}

pub fn tree_seeds() -> Vec<Vec<u8>> {
    let command = |flags: u8, cwd: &str, outputs: &[&str]| {
        let outputs = outputs.iter().map(|path| long(path.as_bytes())).collect::<Vec<_>>();
        [shapes::seed(), vec![flags], long(cwd.as_bytes()), vec![outputs.len() as u8], outputs.concat()]
            .concat()
    };
    vec![
        command(0, "", &["out/x.o"]),
        command(15, "src", &["../build/o/a.o", "a.d"]),
        command(3, "lib/up", &["../../abs/y.o", "a.c", "../out"]),
        command(5, "tmp/x", &["../../../../tmp/x/y"]),
    ]
}

pub fn stored_seeds() -> Vec<Vec<u8>> {
    vec![[shapes::seed(), vec![1, 1]].concat(), [shapes::seed(), vec![6, 0]].concat()]
}
