//! Merkle trees of `Directory` messages: whether an action's whole input tree is here, and GetTree's pages.
//!
//! Trees are hostile. A tree cannot have a cycle (names are hashes of what the store verified), but one
//! directory that holds another twice, thirty levels deep, is a billion paths in 2 KB. So each distinct
//! directory is read once, and the paths that a helper would have to make are counted, not walked.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dbuild_cache::{CacheError, Store};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, MAX_BATCH, MAX_MESSAGE};
use prost::Message;
use tonic::Status;

use super::messages::Messages;
use super::refusal;

/// Distinct directories of one tree.
const MAX_DIRECTORIES: usize = 500_000;
/// Files, directories and symlinks of one tree, each as often as it occurs.
const MAX_PATHS: u64 = 4_000_000;
/// Levels of directories, root included. (`PATH_MAX` allows 2048.)
const MAX_DEPTH: u32 = 400;
/// Directories in one page of GetTree.
const MAX_PAGE: usize = 1000;
/// How long a complete subtree is believed to stay complete; short beside what the store promises to keep.
const BELIEVED: Duration = Duration::from_secs(60);
/// Subtrees believed at a time.
const MAX_BELIEVED: usize = 200_000;

/// What is wrong with a tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("directory {0} is malformed: {1}")]
    Malformed(Digest, String),
    #[error("the tree has more than {0} {1}")]
    Large(u64, &'static str),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl TreeError {
    pub fn status(self) -> Status {
        match self {
            TreeError::Malformed(..) => Status::invalid_argument(self.to_string()),
            TreeError::Large(..) => Status::resource_exhausted(self.to_string()),
            TreeError::Cache(error) => refusal::cache(error),
        }
    }
}

/// Reads one directory and checks its names and digests. None: it is not in the store.
fn read_directory(
    store: &Store,
    function: DigestFunction,
    digest: &Digest,
) -> Result<Option<(re::Directory, Vec<u8>)>, TreeError> {
    if digest.size > MAX_MESSAGE as u64 {
        return Err(TreeError::Malformed(*digest, format!("it is larger than {MAX_MESSAGE} bytes")));
    }
    let bytes = match store.read(function, digest) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let directory = re::Directory::decode(bytes.as_slice())
        .map_err(|error| TreeError::Malformed(*digest, error.to_string()))?;
    check_directory(&directory).map_err(|why| TreeError::Malformed(*digest, why))?;
    Ok(Some((directory, bytes)))
}

/// Refuses names that could leave the directory, and two entries of one name.
pub fn check_directory(directory: &re::Directory) -> Result<(), String> {
    let files = directory.files.iter().map(|node| &node.name);
    let directories = directory.directories.iter().map(|node| &node.name);
    let symlinks = directory.symlinks.iter().map(|node| &node.name);
    let mut seen = HashSet::new();
    for name in files.chain(directories).chain(symlinks) {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) || name.len() > 255 {
            return Err(format!("{name:?} is not a file name"));
        }
        if !seen.insert(name) {
            return Err(format!("it has two entries named {name:?}"));
        }
    }
    match directory.symlinks.iter().find(|link| link.target.is_empty() || link.target.contains('\0')) {
        Some(link) => Err(format!("symlink {:?} has no target", link.name)),
        None => Ok(()),
    }
}

fn field(directory: &Digest, digest: Option<&re::Digest>) -> Result<Digest, TreeError> {
    Digest::from_field(digest).map_err(|error| TreeError::Malformed(*directory, error.to_string()))
}

#[derive(Clone, Copy)]
struct Subtree {
    paths: u64,
    height: u32,
    complete: bool,
}

/// Which input trees are complete. It remembers subtrees for a minute, because thousands of actions share
/// one toolchain's; the lock is this file's own and never held while the store is asked.
#[derive(Default)]
pub struct Inputs {
    believed: Mutex<HashMap<(DigestFunction, Digest), (Subtree, Instant)>>,
    /// What was read on the way, for those who need it next.
    pub messages: Messages,
}

impl Inputs {
    /// The blobs that the tree under `root` lacks, `root` itself included; at most as many as one answer
    /// names.
    pub fn missing(
        &self,
        store: &Store,
        function: DigestFunction,
        root: &Digest,
    ) -> Result<Vec<Digest>, TreeError> {
        let mut check = Check { inputs: self, store, function, seen: HashMap::new(), missing: Vec::new() };
        let tree = check.visit(root, 0)?;
        if tree.paths > MAX_PATHS {
            return Err(TreeError::Large(MAX_PATHS, "paths"));
        }
        Ok(check.missing)
    }

    /// Forgets what was believed, because something believed turned out to be gone.
    pub fn doubt(&self) {
        self.believed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn recall(&self, key: &(DigestFunction, Digest)) -> Option<Subtree> {
        let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        believed.get(key).filter(|(_, since)| since.elapsed() < BELIEVED).map(|(tree, _)| *tree)
    }

    fn believe(&self, key: (DigestFunction, Digest), tree: Subtree) {
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if believed.len() >= MAX_BELIEVED {
            believed.retain(|_, (_, since)| since.elapsed() < BELIEVED);
            if believed.len() >= MAX_BELIEVED {
                believed.clear();
            }
        }
        believed.insert(key, (tree, Instant::now()));
    }
}

struct Check<'a> {
    inputs: &'a Inputs,
    store: &'a Store,
    function: DigestFunction,
    seen: HashMap<Digest, Subtree>,
    missing: Vec<Digest>,
}

impl Check<'_> {
    /// Recursion is bounded by `MAX_DEPTH`.
    fn visit(&mut self, digest: &Digest, depth: u32) -> Result<Subtree, TreeError> {
        let known = self.seen.get(digest).copied();
        let tree = match known.or_else(|| self.inputs.recall(&(self.function, *digest))) {
            Some(tree) => tree,
            None if depth >= MAX_DEPTH => return Err(TreeError::Large(MAX_DEPTH.into(), "levels")),
            None => self.read(digest, depth)?,
        };
        if depth + tree.height > MAX_DEPTH {
            return Err(TreeError::Large(MAX_DEPTH.into(), "levels"));
        }
        if known.is_none() {
            if self.seen.len() >= MAX_DIRECTORIES {
                return Err(TreeError::Large(MAX_DIRECTORIES as u64, "directories"));
            }
            self.seen.insert(*digest, tree);
        }
        Ok(tree)
    }

    fn read(&mut self, digest: &Digest, depth: u32) -> Result<Subtree, TreeError> {
        let Some((directory, bytes)) = read_directory(self.store, self.function, digest)? else {
            self.lacks(*digest);
            return Ok(Subtree { paths: 1, height: 1, complete: false });
        };
        let own = directory.files.len() + directory.symlinks.len();
        let mut tree = Subtree { paths: 1 + own as u64, height: 1, complete: true };
        for file in &directory.files {
            let content = field(digest, file.digest.as_ref())?;
            if !self.store.contains(self.function, &content) {
                self.lacks(content);
                tree.complete = false;
            }
        }
        let below = directory.directories.iter().map(|child| field(digest, child.digest.as_ref()));
        let below = below.collect::<Result<Vec<_>, _>>()?;
        for child in &below {
            let child = self.visit(child, depth + 1)?;
            tree.paths = tree.paths.saturating_add(child.paths);
            tree.height = tree.height.max(child.height + 1);
            tree.complete &= child.complete;
        }
        if tree.complete {
            self.inputs.believe((self.function, *digest), tree);
            self.inputs.messages.keep(self.function, *digest, bytes, below);
        }
        Ok(tree)
    }

    fn lacks(&mut self, digest: Digest) {
        if self.missing.len() < refusal::MAX_VIOLATIONS && !self.missing.contains(&digest) {
            self.missing.push(digest);
        }
    }
}

/// GetTree: breadth first, each distinct directory once. A page token is the number of directories that
/// come before the page, which is stable because content-addressed trees do not change.
pub struct Pages {
    function: DigestFunction,
    queue: VecDeque<Digest>,
    seen: HashSet<Digest>,
    /// Directories still to pass over, because the token says so.
    skip: usize,
    sent: usize,
    page_size: usize,
}

impl Pages {
    pub fn new(function: DigestFunction, root: Digest, page_size: i32, token: &str) -> Result<Self, Status> {
        let page_size = match usize::try_from(page_size) {
            Err(_) => return Err(Status::invalid_argument(format!("page_size {page_size} is negative"))),
            Ok(0) => MAX_PAGE,
            Ok(size) => size.min(MAX_PAGE),
        };
        let skip = match token {
            "" => 0,
            _ => token
                .parse()
                .map_err(|_| Status::invalid_argument(format!("page_token {token:?} is not from here")))?,
        };
        let (queue, seen) = (VecDeque::from([root]), HashSet::from([root]));
        Ok(Pages { function, queue, seen, skip, sent: 0, page_size })
    }

    pub fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next page. Directories that the store lacks are left out, as the API says, except the root.
    pub fn next_page(&mut self, store: &Store) -> Result<re::GetTreeResponse, Status> {
        let mut page = re::GetTreeResponse::default();
        let mut bytes = 0;
        while page.directories.len() < self.page_size && bytes < MAX_BATCH as u64 {
            let Some(digest) = self.queue.pop_front() else { break };
            let read = read_directory(store, self.function, &digest).map_err(TreeError::status)?;
            let Some((directory, _)) = read else {
                if self.sent == 0 {
                    return Err(refusal::cache(CacheError::NotFound(digest)));
                }
                continue;
            };
            for child in &directory.directories {
                let child = field(&digest, child.digest.as_ref()).map_err(TreeError::status)?;
                if self.seen.insert(child) {
                    self.queue.push_back(child);
                }
            }
            if self.seen.len() > MAX_DIRECTORIES {
                return Err(TreeError::Large(MAX_DIRECTORIES as u64, "directories").status());
            }
            self.sent += 1;
            if self.sent > self.skip {
                bytes += digest.size;
                page.directories.push(directory);
            }
        }
        if !self.is_done() {
            page.next_page_token = self.sent.to_string();
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const F: DigestFunction = DigestFunction::Blake3;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let config = dbuild_cache::StoreConfig { dir: dir.path().into(), max_bytes: 1 << 30 };
        let store = Store::open(config).unwrap();
        (dir, store)
    }

    fn node(name: String, digest: Digest) -> re::DirectoryNode {
        re::DirectoryNode { name, digest: Some(digest.to_wire()) }
    }

    #[test]
    fn depth_is_bounded_and_a_deep_tree_costs_no_stack() {
        let (_dir, store) = store();
        let mut root = store.put(F, b"").unwrap();
        for level in 1..=2 * MAX_DEPTH {
            let parent = re::Directory { directories: vec![node("d".into(), root)], ..Default::default() };
            root = store.put(F, &parent.encode_to_vec()).unwrap();
            if [MAX_DEPTH - 1, MAX_DEPTH, 2 * MAX_DEPTH].contains(&level) {
                let result = Inputs::default().missing(&store, F, &root);
                assert_eq!(result.is_ok(), level < MAX_DEPTH, "{level}");
            }
        }
    }

    #[test]
    fn what_is_believed_can_be_doubted() {
        let (_dir, store) = store();
        let content = store.put(F, b"content").unwrap();
        let file = re::FileNode { name: "f".into(), digest: Some(content.to_wire()), ..Default::default() };
        let root = re::Directory { files: vec![file], ..Default::default() }.encode_to_vec();
        let root = store.put(F, &root).unwrap();
        let inputs = Inputs::default();
        assert_eq!(inputs.missing(&store, F, &root).unwrap(), []);
        store.clear().unwrap();
        assert_eq!(inputs.missing(&store, F, &root).unwrap(), []);
        inputs.doubt();
        assert_eq!(inputs.missing(&store, F, &root).unwrap(), [root]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        /// Random graphs of directories: each refers to later ones, some of which are not in the store.
        #[test]
        fn exactly_what_can_be_seen_to_be_absent_is_missing(
            shape in prop::collection::vec((prop::collection::vec(0..8usize, 0..4), 0..6u8, any::<bool>()), 1..8),
        ) {
            let (_dir, store) = store();
            let mut digests: Vec<Digest> = Vec::new();
            let mut missing: Vec<HashSet<Digest>> = Vec::new();
            for (number, (children, file, present)) in shape.iter().enumerate() {
                // Even contents are uploaded, odd ones are not.
                let content = F.digest(&[*file]);
                let mut absent = HashSet::new();
                if file % 2 == 0 {
                    store.put(F, &[*file]).unwrap();
                } else {
                    absent.insert(content);
                }
                let files = vec![re::FileNode {
                    name: "f".into(),
                    digest: Some(content.to_wire()),
                    ..Default::default()
                }];
                let below = children.iter().filter(|child| **child < number);
                let directories = below.enumerate().map(|(i, child)| {
                    absent.extend(&missing[*child]);
                    node(format!("d{i}"), digests[*child])
                });
                let directories = directories.collect();
                // A directory of its own in any case, whatever the others hold.
                let target = number.to_string();
                let symlinks = vec![re::SymlinkNode { name: "l".into(), target, ..Default::default() }];
                let bytes = re::Directory { files, directories, symlinks, ..Default::default() }.encode_to_vec();
                let digest = F.digest(&bytes);
                if *present {
                    store.put(F, &bytes).unwrap();
                } else {
                    absent = HashSet::from([digest]);
                }
                digests.push(digest);
                missing.push(absent);
            }
            let inputs = Inputs::default();
            // The second time with what was believed from the first.
            for _ in 0..2 {
                for (root, expected) in digests.iter().zip(&missing) {
                    let found = inputs.missing(&store, F, root).unwrap();
                    prop_assert_eq!(&found.iter().copied().collect::<HashSet<_>>(), expected);
                    prop_assert_eq!(found.len(), expected.len());
                }
            }
        }
    }
}
