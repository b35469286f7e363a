//! The Merkle tree of a file system as a compiler sees it: REAPI `Directory` messages, their digests bottom-up, and
//! the list of blobs they need.
//!
//! Building the tree is pure; [`Builder::add_path`] alone asks a [`Look`] what a path leads through. Subtrees are
//! shared: a toolchain's tree is built once, each action starts from it, and only directories that it changes are
//! copied and hashed again. This module knows neither compilers nor stores.

mod builder;
mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dbuild_proto::{Digest, DigestFunction};

pub use self::builder::Builder;
pub use crate::resolve::{Disk, Kind, Look};

/// Why a tree cannot be built. The messages fit "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("place {0} twice: not the same both times")]
    Conflict(PathBuf),
    #[error("name {0:?} in an input root: not UTF-8")]
    NotUtf8(PathBuf),
    #[error("place {0:?}: not an absolute path without `..`")]
    NotNormal(PathBuf),
    #[error("place {0}: no regular file")]
    NotAFile(PathBuf),
    #[error("walk to an input: {0}")]
    Io(#[from] io::Error),
}

/// A blob that a tree refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub source: BlobSource,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobSource {
    /// On disk. It may have changed since it was hashed: whoever reads it must check the digest.
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileNode {
    digest: Digest,
    executable: bool,
    /// `None`: on disk at the very path it has in the tree.
    bytes: Option<Arc<[u8]>>,
}

#[derive(Clone, Debug)]
enum Node {
    Directory(Arc<Dir>),
    File(FileNode),
    Symlink(String),
}

#[derive(Clone, Debug, Default)]
struct Dir {
    /// Sorted by name, which is the REAPI's canonical order.
    children: BTreeMap<String, Node>,
    /// Set once nothing changes below any more.
    sealed: OnceLock<(Digest, Arc<[u8]>)>,
}

/// A finished tree. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct InputRoot {
    function: DigestFunction,
    root: Arc<Dir>,
}

impl InputRoot {
    /// An empty tree whose digests are in `function`; the digests of files that are added must be, too.
    pub fn builder(function: DigestFunction) -> Builder {
        Builder::new(function, Arc::default())
    }

    /// A builder that starts from this tree and shares what it does not change.
    pub fn to_builder(&self) -> Builder {
        Builder::new(self.function, self.root.clone())
    }

    /// Digest of the root's `Directory` message.
    pub fn digest(&self) -> Digest {
        self.root.seal(self.function).0
    }

    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// Every blob of the tree, once each: directory messages and files. The empty blob is left out: it exists
    /// everywhere.
    pub fn blobs(&self) -> Vec<Blob> {
        self.blobs_beyond(&InputRoot { function: self.function, root: Arc::default() }, &|_| false)
    }

    /// The blobs of this tree that `base` has not at the same place (what an action adds to its toolchain) and that are
    /// not `known`. Below a known directory everything is.
    pub fn blobs_beyond(&self, base: &InputRoot, known: &dyn Fn(&Digest) -> bool) -> Vec<Blob> {
        let mut found = Found { function: self.function, known, seen: HashSet::new(), blobs: Vec::new() };
        found.directory(&self.root, Some(&base.root), &mut PathBuf::from("/"));
        found.blobs
    }

    /// The files, links and directories of the tree, each with its path, parents first.
    pub fn entries(&self) -> Vec<(PathBuf, Entry)> {
        let mut all = Vec::new();
        list(&self.root, &mut PathBuf::from("/"), &mut all);
        all
    }
}

/// What stands at a path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Directory,
    File { digest: Digest, executable: bool, source: BlobSource },
    Symlink(String),
}

fn list(dir: &Dir, path: &mut PathBuf, all: &mut Vec<(PathBuf, Entry)>) {
    for (name, node) in &dir.children {
        path.push(name);
        match node {
            Node::Directory(below) => {
                all.push((path.clone(), Entry::Directory));
                list(below, path, all);
            }
            Node::File(file) => {
                let entry = Entry::File {
                    digest: file.digest,
                    executable: file.executable,
                    source: file.source(path),
                };
                all.push((path.clone(), entry));
            }
            Node::Symlink(target) => all.push((path.clone(), Entry::Symlink(target.clone()))),
        }
        path.pop();
    }
}

struct Found<'k> {
    function: DigestFunction,
    known: &'k dyn Fn(&Digest) -> bool,
    seen: HashSet<Digest>,
    blobs: Vec<Blob>,
}

impl Found<'_> {
    fn directory(&mut self, dir: &Arc<Dir>, base: Option<&Arc<Dir>>, path: &mut PathBuf) {
        let (digest, bytes) = dir.seal(self.function);
        if base.is_some_and(|base| Arc::ptr_eq(base, dir) || base.seal(self.function).0 == digest) {
            return;
        }
        if (self.known)(&digest) {
            return;
        }
        self.add(digest, || BlobSource::Bytes(bytes));
        for (name, node) in &dir.children {
            let counterpart = base.and_then(|base| base.children.get(name));
            path.push(name);
            match (node, counterpart) {
                (Node::Directory(below), Some(Node::Directory(base))) => {
                    self.directory(below, Some(base), path)
                }
                (Node::Directory(below), _) => self.directory(below, None, path),
                (Node::File(file), Some(Node::File(base))) if file.digest == base.digest => {}
                (Node::File(file), _) => self.add(file.digest, || file.source(path)),
                (Node::Symlink(_), _) => {}
            }
            path.pop();
        }
    }

    fn add(&mut self, digest: Digest, source: impl FnOnce() -> BlobSource) {
        if !digest.is_empty() && !self.seen.contains(&digest) && !(self.known)(&digest) {
            self.seen.insert(digest);
            self.blobs.push(Blob { digest, source: source() });
        }
    }
}

impl FileNode {
    fn source(&self, path: &Path) -> BlobSource {
        match &self.bytes {
            Some(bytes) => BlobSource::Bytes(bytes.clone()),
            None => BlobSource::File(path.to_path_buf()),
        }
    }
}

impl Dir {
    fn seal(&self, function: DigestFunction) -> (Digest, Arc<[u8]>) {
        let sealed = self.sealed.get_or_init(|| {
            let bytes = message::directory(&self.children, function);
            (function.digest(&bytes), bytes.into())
        });
        sealed.clone()
    }
}

impl Node {
    /// Equal leaves. Where the bytes lie does not matter.
    fn same(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::File(a), Node::File(b)) => a.digest == b.digest && a.executable == b.executable,
            (Node::Symlink(a), Node::Symlink(b)) => a == b,
            _ => false,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Node::Directory(_) => Kind::Directory,
            Node::File(_) => Kind::File,
            Node::Symlink(target) => Kind::Symlink(target.into()),
        }
    }
}
