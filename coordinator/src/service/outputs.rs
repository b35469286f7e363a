//! Action results that come from outside: are they well formed, is all that they name in the store, and did
//! the action declare what they bring? It does not know who asks.

use std::collections::{BTreeSet, HashSet};

use dbuild_cache::{CacheError, Store};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;

use super::tree::{self, Inputs, TreeError};

/// The largest `Tree` message of an output directory, in bytes.
const MAX_TREE: u64 = 64 * 1024 * 1024;

/// Most bytes that one answer carries inside itself because a client asked for it.
const MAX_INLINE: u64 = 1024 * 1024;

/// What is wrong with a result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    #[error("{0}")]
    Malformed(String),
    #[error("blob {0}, which it names, is not in the store")]
    Missing(Digest),
    #[error("failed to {0}")]
    Cache(#[from] CacheError),
}

impl From<TreeError> for ResultError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Cache(error) => ResultError::Cache(error),
            other => ResultError::Malformed(other.to_string()),
        }
    }
}

/// The outputs that a command declared; paths are compared as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    files: BTreeSet<String>,
    directories: BTreeSet<String>,
}

impl Declared {
    /// Reads and checks a command's outputs: relative, and not out of the input root even by `..`.
    /// `output_paths` replaces the two older fields (REAPI 2.1).
    #[expect(deprecated, reason = "Bazel 4 uses the fields that API 2.1 deprecates")]
    pub fn read(command: &re::Command) -> Result<Self, String> {
        let declared = if command.output_paths.is_empty() {
            Declared {
                files: command.output_files.iter().cloned().collect(),
                directories: command.output_directories.iter().cloned().collect(),
            }
        } else {
            let paths: BTreeSet<String> = command.output_paths.iter().cloned().collect();
            Declared { files: paths.clone(), directories: paths }
        };
        if !stays_inside("", &command.working_directory) {
            return Err(format!("working directory {:?} leaves the input root", command.working_directory));
        }
        for path in declared.files.union(&declared.directories) {
            if !stays_inside(&command.working_directory, path) {
                return Err(format!("output path {path:?} leaves the input root"));
            }
        }
        Ok(declared)
    }

    /// Refuses a result that brings something else, or one path twice.
    #[expect(deprecated, reason = "results of older helpers and clients carry these fields")]
    pub fn check(&self, result: &re::ActionResult) -> Result<(), ResultError> {
        let files = result.output_files.iter().map(|file| &file.path);
        let file_links = result.output_file_symlinks.iter().map(|link| &link.path);
        let directories = result.output_directories.iter().map(|directory| &directory.path);
        let directory_links = result.output_directory_symlinks.iter().map(|link| &link.path);
        let files = files.chain(file_links).map(|path| (path, self.files.contains(path)));
        let directories =
            directories.chain(directory_links).map(|path| (path, self.directories.contains(path)));
        let links = result.output_symlinks.iter().map(|link| {
            (&link.path, self.files.contains(&link.path) || self.directories.contains(&link.path))
        });
        let mut seen = HashSet::new();
        for (path, declared) in files.chain(directories) {
            if !declared {
                return Err(ResultError::Malformed(format!("output {path:?} was not declared")));
            }
            if !seen.insert(path) {
                return Err(ResultError::Malformed(format!("output {path:?} occurs twice")));
            }
        }
        // `output_symlinks` may repeat what stands in one of the two older lists (REAPI 2.1), but not itself.
        let mut linked = HashSet::new();
        for (path, declared) in links {
            if !declared || !linked.insert(path) {
                let why = format!("symlink {path:?} was not declared, or is there twice");
                return Err(ResultError::Malformed(why));
            }
        }
        Ok(())
    }
}

/// True if `path`, seen from `base`, is relative and never climbs above the root that `base` starts from.
fn stays_inside(base: &str, path: &str) -> bool {
    if path.starts_with('/') || path.contains('\0') {
        return false;
    }
    let mut depth = 0i64;
    for segment in base.split('/').chain(path.split('/')) {
        match segment {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

/// Checks that everything a result names is well formed and in the store, output directories' trees
/// included. Contents that came inside it are put into the store, under the digest that it names, and
/// taken out, and so is a long stdout or stderr: a kept result fits into anybody's messages.
pub fn settle(
    store: &Store,
    function: DigestFunction,
    result: &mut re::ActionResult,
) -> Result<(), ResultError> {
    for file in &mut result.output_files {
        let digest = named(&file.path, file.digest.as_ref())?;
        if !file.contents.is_empty() {
            store.put_verified(function, &digest, &file.contents)?;
            file.contents = Vec::new();
        }
    }
    let streams = [
        (&mut result.stdout_raw, &mut result.stdout_digest),
        (&mut result.stderr_raw, &mut result.stderr_digest),
    ];
    for (raw, digest) in streams {
        if raw.len() as u64 > MAX_INLINE {
            *digest = Some(store.put(function, raw)?.to_wire());
            *raw = Vec::new();
        }
    }
    complete(store, function, result)
}

/// The check of [`settle`], for a result that is only read.
pub fn complete(
    store: &Store,
    function: DigestFunction,
    result: &re::ActionResult,
) -> Result<(), ResultError> {
    let present = |digest: Digest| {
        if store.contains(function, &digest) { Ok(()) } else { Err(ResultError::Missing(digest)) }
    };
    for file in &result.output_files {
        present(named(&file.path, file.digest.as_ref())?)?;
    }
    for (name, digest) in [("stdout", &result.stdout_digest), ("stderr", &result.stderr_digest)] {
        // Some clients send an empty message where they mean none.
        if let Some(digest) = digest.as_ref().filter(|digest| !digest.hash.is_empty()) {
            present(named(name, Some(digest))?)?;
        }
    }
    for directory in &result.output_directories {
        if let Some(root) = &directory.root_directory_digest {
            let root = named(&directory.path, Some(root))?;
            // A fresh memory: outputs are few, and must be here now.
            if let Some(missing) = Inputs::default().missing(store, function, &root)?.first() {
                return Err(ResultError::Missing(*missing));
            }
        }
        if directory.tree_digest.is_some() || directory.root_directory_digest.is_none() {
            check_tree(store, function, &directory.path, directory.tree_digest.as_ref())?;
        }
    }
    Ok(())
}

fn named(what: &str, digest: Option<&re::Digest>) -> Result<Digest, ResultError> {
    Digest::from_field(digest).map_err(|error| ResultError::Malformed(format!("output {what:?}: {error}")))
}

fn check_tree(
    store: &Store,
    function: DigestFunction,
    path: &str,
    digest: Option<&re::Digest>,
) -> Result<(), ResultError> {
    let digest = named(path, digest)?;
    let malformed = |why: String| ResultError::Malformed(format!("tree of output {path:?}: {why}"));
    if digest.size > MAX_TREE {
        return Err(malformed(format!("it is larger than {MAX_TREE} bytes")));
    }
    let bytes = match store.read(function, &digest) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Err(ResultError::Missing(digest)),
        Err(error) => return Err(error.into()),
    };
    let tree = re::Tree::decode(bytes.as_slice()).map_err(|error| malformed(error.to_string()))?;
    let root = tree.root.as_ref().ok_or_else(|| malformed("it has no root".into()))?;
    let children: HashSet<Digest> =
        tree.children.iter().map(|child| function.digest(&child.encode_to_vec())).collect();
    for directory in tree.children.iter().chain([root]) {
        tree::check_directory(directory).map_err(malformed)?;
        for file in &directory.files {
            let content = named(path, file.digest.as_ref())?;
            if !store.contains(function, &content) {
                return Err(ResultError::Missing(content));
            }
        }
        for child in &directory.directories {
            if !children.contains(&named(path, child.digest.as_ref())?) {
                return Err(malformed(format!("directory {:?} is not among its children", child.name)));
            }
        }
    }
    Ok(())
}

/// What a client wants to have inside the answer instead of fetching it.
#[derive(Clone, Debug, Default)]
pub struct Inline {
    pub stdout: bool,
    pub stderr: bool,
    pub files: Vec<String>,
}

impl Inline {
    /// Puts small contents inside the answer. What does not fit or cannot be read is left out, as the API
    /// allows: the digest is there.
    pub fn fill(&self, store: &Store, function: DigestFunction, result: &mut re::ActionResult) {
        let mut budget = MAX_INLINE;
        let mut take = |digest: Option<&re::Digest>| {
            let digest = Digest::from_field(digest).ok()?;
            budget = budget.checked_sub(digest.size)?;
            store.read(function, &digest).ok()
        };
        if self.stdout && result.stdout_raw.is_empty() {
            result.stdout_raw = take(result.stdout_digest.as_ref()).unwrap_or_default();
        }
        if self.stderr && result.stderr_raw.is_empty() {
            result.stderr_raw = take(result.stderr_digest.as_ref()).unwrap_or_default();
        }
        for file in &mut result.output_files {
            if self.files.contains(&file.path) {
                file.contents = take(file.digest.as_ref()).unwrap_or_default();
            }
        }
    }

    pub fn is_nothing(&self) -> bool {
        !self.stdout && !self.stderr && self.files.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(outputs: &[&str], working_directory: &str) -> re::Command {
        re::Command {
            output_paths: outputs.iter().map(|path| path.to_string()).collect(),
            working_directory: working_directory.into(),
            ..Default::default()
        }
    }

    #[test]
    fn outputs_stay_inside_the_input_root() {
        for (outputs, working_directory) in
            [(["a.o"], ""), (["../b/a.o"], "src"), (["./x/../a"], "a/b"), ([""], ""), ([".hidden"], "")]
        {
            assert!(Declared::read(&command(&outputs, working_directory)).is_ok(), "{outputs:?}");
        }
        for (outputs, working_directory) in [
            (["/etc/passwd"], ""),
            (["../a.o"], ""),
            (["../../a"], "b"),
            (["a/../../b"], ""),
            (["a"], "../x"),
        ] {
            assert!(Declared::read(&command(&outputs, working_directory)).is_err(), "{outputs:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_accepted_path_climbs_out(base in "[ab./]{0,8}", path in "[ab./]{0,12}") {
            // The plain way to say it: walk, and never be asked to leave the root.
            let mut here = Vec::new();
            let mut climbed = base.starts_with('/') || path.starts_with('/');
            for segment in format!("{base}/{path}").split('/') {
                match segment {
                    ".." => climbed |= here.pop().is_none(),
                    "" | "." => {}
                    name => here.push(name.to_owned()),
                }
            }
            let read = Declared::read(&command(&[&path], &base));
            proptest::prop_assert_eq!(read.is_ok(), !climbed);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            cases: 48,
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            let config = dbuild_cache::StoreConfig { dir: dir.path().into(), max_bytes: 1 << 20 };
            let store = Store::open(config).unwrap();
            let function = DigestFunction::Blake3;
            let digest = store.put(function, &bytes).unwrap();
            if let Ok(mut result) = re::ActionResult::decode(bytes.as_slice()) {
                let _ = Declared::default().check(&result);
                let _ = settle(&store, function, &mut result);
            }
            let directory = re::OutputDirectory {
                tree_digest: Some(digest.to_wire()),
                root_directory_digest: Some(digest.to_wire()),
                ..Default::default()
            };
            let result = re::ActionResult { output_directories: vec![directory], ..Default::default() };
            let _ = complete(&store, function, &result);
        }
    }

    #[test]
    fn only_declared_outputs_are_taken_and_each_once() {
        let declared = Declared::read(&command(&["a.o", "d"], "")).unwrap();
        let file = |path: &str| re::OutputFile { path: path.into(), ..Default::default() };
        let result = |paths: &[&str]| re::ActionResult {
            output_files: paths.iter().map(|path| file(path)).collect(),
            ..Default::default()
        };
        assert!(declared.check(&result(&["a.o"])).is_ok());
        assert!(declared.check(&result(&[])).is_ok());
        assert!(declared.check(&result(&["a.o", "a.o"])).is_err());
        assert!(declared.check(&result(&["../../home/user/.profile"])).is_err());
        let link = re::OutputSymlink { path: "d".into(), target: "/x".into(), ..Default::default() };
        let links = re::ActionResult { output_symlinks: vec![link], ..Default::default() };
        assert!(declared.check(&links).is_ok());
    }
}
