//! What the planner promises, on small trees and on generated ones.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use dbuild_proto::DigestFunction;
use proptest::prelude::*;

use super::*;
use crate::command::{Kind, Output};
use crate::tree::{File, Link};

/// Builds an input from `(path, what)`: `what` starting with `->` is a symlink, `/` an empty directory, else content.
fn input(entries: &[(&str, &str)]) -> Input {
    let mut dirs = HashMap::new();
    let root = build(entries, &mut dirs);
    Input::new(root, dirs, 100_000, 64).unwrap()
}

fn build(entries: &[(&str, &str)], dirs: &mut HashMap<Digest, Arc<Dir>>) -> Digest {
    let mut dir = Dir::default();
    let mut below: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (path, what) in entries {
        match path.split_once('/') {
            Some((first, rest)) => below.entry(first).or_default().push((rest, what)),
            None if *what == "/" => drop(below.entry(path).or_default()),
            None => match what.strip_prefix("->") {
                Some(target) => dir.links.push(Link { name: (*path).into(), target: target.into() }),
                None => {
                    let digest = DigestFunction::Blake3.digest(what.as_bytes());
                    dir.files.push(File { name: (*path).into(), digest, executable: false });
                }
            },
        }
    }
    dir.files.sort_by(|a, b| a.name.cmp(&b.name));
    dir.links.sort_by(|a, b| a.name.cmp(&b.name));
    for (name, entries) in below {
        let child = build(&entries, dirs);
        dir.dirs.push((name.into(), child));
    }
    let digest = DigestFunction::Blake3.digest(format!("{dir:?}").as_bytes());
    dirs.insert(digest, Arc::new(dir));
    digest
}

fn outputs(paths: &[&str]) -> Vec<Output> {
    paths.iter().map(|path| Output { path: (*path).into(), kind: Kind::Any }).collect()
}

fn wish<'a>(cwd: &'a str, outputs: &'a [Output]) -> Wish<'a> {
    Wish { cwd, outputs, root_is_root: true, mounts: true, other_uid: false }
}

fn laid(input: &Input, wish: Wish<'_>) -> Plan {
    plan(input, wish, &mut |_| true).unwrap()
}

fn how(plan: &Plan, wanted: &str) -> How {
    plan.steps
        .iter()
        .find_map(|step| match step {
            Step::File { path, how, .. } if path == Path::new(wanted) => Some(*how),
            _ => None,
        })
        .unwrap()
}

#[test]
fn only_outputs_and_working_directory_are_writable() {
    let input = input(&[("src/a.c", "a"), ("src/inc/a.h", "h"), ("usr/lib/x", "x")]);
    let plan = laid(&input, wish("src", &outputs(&["../build/o/a.o"])));
    let expected =
        [Cover::Writable("src".into()), Cover::ReadOnly("src/inc".into()), Cover::Writable("build/o".into())];
    assert_eq!(plan.covers, expected);
    assert_eq!(plan.cwd, Path::new("src"));
    // What stands in a writable directory must not be the store's inode; what stands elsewhere is.
    assert_eq!(how(&plan, "src/a.c"), How::Copy);
    assert_eq!(how(&plan, "src/inc/a.h"), How::Link);
    let other = laid(&input, Wish { other_uid: true, ..wish("src", &[]) });
    assert_eq!(how(&other, "src/a.c"), How::Link);
}

#[test]
fn equal_files_are_different_inodes() {
    let input = input(&[("a/config.h", ""), ("b/config.h", "")]);
    let plan = laid(&input, wish("w", &[]));
    assert_eq!((how(&plan, "a/config.h"), how(&plan, "b/config.h")), (How::Link, How::Copy));
}

#[test]
fn symlinks_in_the_way_of_outputs_are_resolved_inside_the_root() {
    let input = input(&[("lib", "->usr/lib"), ("usr/lib/x", "x"), ("abs", "->/../../usr/lib"), ("l", "->l")]);
    for path in ["lib/y.o", "abs/y.o", "../../lib/y.o", "lib/../lib/y.o"] {
        let plan = laid(&input, wish("w", &outputs(&[&format!("../{path}")])));
        assert!(plan.covers.contains(&Cover::Writable("usr/lib".into())), "{path}: {:?}", plan.covers);
    }
    let looped = plan(&input, wish("w", &outputs(&["../l/x"])), &mut |_| true);
    assert_eq!(looped, Err(LayoutError::Loop("../l".into())));
    let file = plan(&input, wish("usr/lib/x", &[]), &mut |_| true);
    assert_eq!(file, Err(LayoutError::NotADirectory("usr/lib/x".into())));
}

#[test]
fn tmp_is_covered_unless_the_tree_uses_it() {
    assert!(!laid(&input(&[("tmp", "/")]), wish("w", &[])).own_tmp);
    let used = laid(&input(&[("tmp/p/a.c", "a")]), wish("tmp/p", &[]));
    assert!(used.own_tmp);
    assert!(used.steps.contains(&Step::Dir { path: "tmp".into(), access: Access::Sticky }));
    assert!(laid(&input(&[("a", "a")]), wish("w", &outputs(&["../tmp/x/y.o"]))).own_tmp);
    let linked = plan(&input(&[("proc", "->/etc")]), wish("w", &[]), &mut |_| true);
    assert_eq!(linked, Err(LayoutError::NotADirectory("proc".into())));
}

#[test]
fn large_subtrees_are_shared_once_and_never_where_something_is_needed() {
    let names: Vec<String> = (0..20).map(|n| format!("f{n:02}")).collect();
    let mut entries = Vec::new();
    for top in ["one", "two", "work"] {
        entries.extend(names.iter().map(|name| (format!("{top}/{name}"), name.clone())));
    }
    let entries: Vec<(&str, &str)> = entries.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let input = input(&entries);
    let plan = laid(&input, wish("work", &[]));
    let shared: Vec<_> = plan.covers.iter().filter(|cover| matches!(cover, Cover::Shared(..))).collect();
    assert!(matches!(shared[..], [Cover::Shared(path, _)] if path == Path::new("one")));
    // Without mounts everything is in the tree itself.
    let flat = laid(&input, Wish { mounts: false, ..wish("work", &[]) });
    assert!(flat.covers.is_empty());
    assert_eq!(flat.steps.iter().filter(|step| matches!(step, Step::File { .. })).count(), 60);
}

#[test]
fn an_input_that_is_an_output_belongs_to_the_action() {
    let input = input(&[("w/a.o", "old"), ("w/out/keep/x", "x")]);
    let plan = laid(&input, Wish { other_uid: true, ..wish("w", &outputs(&["a.o", "out"])) });
    assert_eq!(how(&plan, "w/a.o"), How::Give);
    assert!(plan.steps.contains(&Step::Dir { path: "w/out/keep".into(), access: Access::Open }));
    assert_eq!(plan.covers, [Cover::Writable("w".into())]);
}

#[test]
fn an_execution_root_is_writable_all_over() {
    let input = input(&[("a/b/c", "c"), ("proc", "->/etc")]);
    let plan = laid(&input, Wish { root_is_root: false, ..wish("", &outputs(&["out/x"])) });
    assert!(plan.covers.is_empty());
    assert!(plan.steps.iter().all(|step| !matches!(step, Step::Dir { access: Access::Closed, .. })));
    assert_eq!(how(&plan, "a/b/c"), How::Copy);
}

proptest! {
    /// Whatever the tree and the paths: nothing is laid outside the root, parents come first, no path comes twice,
    /// and no mount stands on anything but a directory that was made.
    #[test]
    fn plans_are_sound(
        files in proptest::collection::btree_map("[ab]/[ab]/[cd]", "[xy]", 0..6),
        links in proptest::collection::btree_map("[ef]", "(\\.\\./|/|[abef]/|zz){1,4}", 0..3),
        cwd in "([abef./]|\\.\\./){0,5}",
        outs in proptest::collection::vec("([abcef./]|\\.\\./){1,6}", 0..3),
    ) {
        let mut entries: Vec<(&str, String)> = files.iter().map(|(path, what)| (path.as_str(), what.clone())).collect();
        entries.extend(links.iter().map(|(path, target)| (path.as_str(), format!("->{target}"))));
        let entries: Vec<(&str, &str)> = entries.iter().map(|(path, what)| (*path, what.as_str())).collect();
        let input = input(&entries);
        let outs: Vec<&str> = outs.iter().map(|out| out.trim_start_matches('/')).collect();
        let outs = outputs(&outs);
        let Ok(plan) = plan(&input, wish(cwd.trim_start_matches('/'), &outs), &mut |_| true) else { return Ok(()) };
        let mut made = HashSet::new();
        let mut seen = HashSet::new();
        for step in &plan.steps {
            let (Step::Dir { path, .. } | Step::Link { path, .. } | Step::File { path, .. }) = step;
            prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            prop_assert!(seen.insert(path.clone()), "{path:?} twice");
            prop_assert!(path.parent().is_none_or(|parent| made.contains(parent)), "{path:?} before its parent");
            if matches!(step, Step::Dir { .. }) {
                made.insert(path.clone());
            }
        }
        prop_assert!(made.contains(&plan.cwd));
        for cover in &plan.covers {
            let (Cover::Writable(path) | Cover::ReadOnly(path) | Cover::Shared(path, _)) = cover;
            prop_assert!(made.contains(path));
        }
    }
}
