//! From a result to files: what a job wrote, brought and put in place. A result is believed as far as its digests go and
//! the job asked for its paths.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dbuild_cache::Store;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;

use super::Job;
use crate::initiator::outputs::{Manner, Ready, cache_fault, place};
use crate::initiator::remote::{Fault, Remote};

const FUNCTION: DigestFunction = DigestFunction::Blake3;

/// Directories within each other, and entries in all, that a result may have.
const MAX_DEPTH: usize = 100;
const MAX_ENTRIES: usize = 1_000_000;

/// What a result holds, checked: paths are below the current directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    /// Those of the job's outputs that are there.
    given: Vec<PathBuf>,
    files: Vec<(PathBuf, Digest, bool)>,
    directories: Vec<PathBuf>,
    links: Vec<(PathBuf, String)>,
}

/// Brings the job's outputs into the directory `to`.
pub async fn bring(
    remote: &Remote,
    store: &Store,
    job: &Job,
    to: &Path,
    result: &re::ActionResult,
) -> Result<(), Fault> {
    let mut trees = Vec::new();
    for directory in &result.output_directories {
        let digest = Digest::from_field(directory.tree_digest.as_ref()).map_err(bad)?;
        remote.download(store, &[digest]).await?;
        let bytes = store.read(FUNCTION, &digest).map_err(|error| Fault::new(cache_fault(&error)))?;
        trees.push((PathBuf::from(&directory.path), re::Tree::decode(bytes.as_slice()).map_err(bad)?));
    }
    let content = content(job, result, &trees)?;
    let digests: Vec<Digest> = content.files.iter().map(|(_, digest, _)| *digest).collect();
    remote.download(store, &digests).await?;
    put(store, to, &content)
}

fn bad(error: impl std::fmt::Display) -> Fault {
    Fault::new(format!("the pool gave a bad result: {error}"))
}

/// What is to be put in place.
fn content(job: &Job, result: &re::ActionResult, trees: &[(PathBuf, re::Tree)]) -> Result<Content, Fault> {
    let mut content = Content::default();
    let files = result.output_files.iter().map(|file| file.path.as_ref());
    let links = result.output_symlinks.iter().map(|link| link.path.as_ref());
    for path in files.chain(links).chain(trees.iter().map(|(path, _)| path.as_path())) {
        if !job.outputs.iter().any(|output| output == path) || content.given.iter().any(|given| given == path)
        {
            return Err(bad(format!("nobody asked for {}, or it is there twice", path.display())));
        }
        content.given.push(path.to_owned());
    }
    for file in &result.output_files {
        let digest = Digest::from_field(file.digest.as_ref()).map_err(bad)?;
        content.files.push((PathBuf::from(&file.path), digest, file.is_executable));
    }
    for link in &result.output_symlinks {
        content.links.push((PathBuf::from(&link.path), link.target.clone()));
    }
    for (path, tree) in trees {
        let children =
            tree.children.iter().map(|child| (FUNCTION.digest(&child.encode_to_vec()), child)).collect();
        walk(
            tree.root.as_ref().ok_or_else(|| bad("a tree without a root"))?,
            path.clone(),
            &children,
            0,
            &mut content,
        )?;
    }
    Ok(content)
}

fn walk(
    directory: &re::Directory,
    path: PathBuf,
    children: &HashMap<Digest, &re::Directory>,
    depth: usize,
    content: &mut Content,
) -> Result<(), Fault> {
    let entries = content.files.len() + content.directories.len() + content.links.len();
    if depth > MAX_DEPTH || entries > MAX_ENTRIES {
        return Err(bad("a tree that is too large"));
    }
    let named = |name: &str| {
        let plain = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
        if plain { Ok(path.join(name)) } else { Err(bad(format!("a file is called {name:?}"))) }
    };
    for file in &directory.files {
        let digest = Digest::from_field(file.digest.as_ref()).map_err(bad)?;
        content.files.push((named(&file.name)?, digest, file.is_executable));
    }
    for link in &directory.symlinks {
        content.links.push((named(&link.name)?, link.target.clone()));
    }
    for node in &directory.directories {
        let digest = Digest::from_field(node.digest.as_ref()).map_err(bad)?;
        let child = children.get(&digest).ok_or_else(|| bad("a tree lacks a directory"))?;
        walk(child, named(&node.name)?, children, depth + 1, content)?;
    }
    content.directories.push(path);
    Ok(())
}

fn put(store: &Store, to: &Path, content: &Content) -> Result<(), Fault> {
    let local = |error: std::io::Error| Fault::new(format!("failed to write an output: {error}"));
    for parent in content.given.iter().filter_map(|path| path.parent()) {
        fs_err::create_dir_all(to.join(parent)).map_err(local)?;
    }
    for directory in &content.directories {
        fs_err::create_dir_all(to.join(directory)).map_err(local)?;
    }
    let ready = |(path, digest, executable): &(PathBuf, Digest, bool)| Ready {
        path: to.join(path),
        digest: *digest,
        executable: *executable,
        manner: Manner::Replace,
    };
    let files: Vec<Ready> = content.files.iter().map(ready).collect();
    place(store, &files, umask()).map_err(|error| Fault::new(cache_fault(&error)))?;
    // Last, so that nothing is written through one.
    for (path, target) in &content.links {
        fs_err::os::unix::fs::symlink(target, to.join(path)).map_err(local)?;
    }
    Ok(())
}

fn umask() -> u32 {
    // Linux tells it without changing it (proc(5), `status`: Umask).
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job { outputs: vec!["out".into()], ..Job::default() }
    }

    fn file(name: &str) -> re::FileNode {
        re::FileNode {
            name: name.into(),
            digest: Some(FUNCTION.digest(b"x").to_wire()),
            ..Default::default()
        }
    }

    fn tree(root: re::Directory, children: Vec<re::Directory>) -> Vec<(PathBuf, re::Tree)> {
        vec![("out".into(), re::Tree { root: Some(root), children })]
    }

    #[test]
    fn a_tree_becomes_files() {
        let below = re::Directory { files: vec![file("b")], ..Default::default() };
        let digest = Some(FUNCTION.digest(&below.encode_to_vec()).to_wire());
        let node = re::DirectoryNode { name: "d".into(), digest };
        let root = re::Directory { files: vec![file("a")], directories: vec![node], ..Default::default() };
        let content = content(&job(), &re::ActionResult::default(), &tree(root, vec![below])).unwrap();
        let paths: Vec<_> = content.files.iter().map(|(path, ..)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["out/a", "out/d/b"]);
        assert_eq!(content.directories, [Path::new("out/d"), Path::new("out")]);
    }

    #[test]
    fn hostile_results_are_refused() {
        let refused = |result: re::ActionResult, trees: &[(PathBuf, re::Tree)]| {
            content(&job(), &result, trees).is_err()
        };
        for name in ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\0b"] {
            let root = re::Directory { files: vec![file(name)], ..Default::default() };
            assert!(refused(re::ActionResult::default(), &tree(root, vec![])), "{name:?}");
        }
        let elsewhere =
            re::OutputFile { path: "../out".into(), digest: file("a").digest, ..Default::default() };
        assert!(refused(re::ActionResult { output_files: vec![elsewhere], ..Default::default() }, &[]));
        let nowhere = re::DirectoryNode { name: "d".into(), digest: file("a").digest };
        let root = re::Directory { directories: vec![nowhere], ..Default::default() };
        assert!(refused(re::ActionResult::default(), &tree(root, vec![])));
    }
}
