//! The growing of a tree: pure, but for [`Builder::add_path`], which asks a [`Look`] what is on the way.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dbuild_proto::{Digest, DigestFunction};

use super::{Dir, FileNode, InputRoot, LayoutError, Node};
use crate::resolve::{Kind, Look, Visitor, walk};

/// A tree that grows. Its result does not depend on the order in which things are added.
#[derive(Clone, Debug)]
pub struct Builder {
    function: DigestFunction,
    root: Arc<Dir>,
}

impl Builder {
    pub(super) fn new(function: DigestFunction, root: Arc<Dir>) -> Builder {
        Builder { function, root }
    }

    /// A file at its real path (absolute, no links or `..` in it); its bytes are on disk there.
    pub fn add_file(&mut self, real: &Path, digest: Digest, executable: bool) -> Result<(), LayoutError> {
        self.put(real, Node::File(FileNode { digest, executable, bytes: None }))
    }

    /// A file whose content is given.
    pub fn add_bytes(&mut self, real: &Path, bytes: &[u8], executable: bool) -> Result<(), LayoutError> {
        let digest = self.function.digest(bytes);
        self.put(real, Node::File(FileNode { digest, executable, bytes: Some(bytes.into()) }))
    }

    pub fn add_symlink(&mut self, real: &Path, target: &Path) -> Result<(), LayoutError> {
        let text = target.to_str().ok_or_else(|| LayoutError::NotUtf8(target.to_path_buf()))?;
        self.put(real, Node::Symlink(text.to_owned()))
    }

    /// A directory and its parents; empty unless something is put into it.
    pub fn add_directory(&mut self, real: &Path) -> Result<(), LayoutError> {
        let names = names(real)?;
        match self.node(real) {
            Some(Node::Directory(_)) => Ok(()),
            _ => self.directory(real, &names).map(drop),
        }
    }

    /// All of `tree`, which must agree with what is there.
    pub fn add_tree(&mut self, tree: &InputRoot) -> Result<(), LayoutError> {
        Dir::merge(&mut self.root, &tree.root, &mut PathBuf::from("/"))
    }

    /// Everything on the way to the absolute `path` as `disk` has it (links, each named directory), but not the file
    /// at its end. Answers the end's real path and kind.
    pub fn add_path(&mut self, path: &Path, disk: &dyn Look) -> Result<(PathBuf, Kind), LayoutError> {
        walk(path, disk, self)
    }

    /// [`Builder::add_path`], and the file at the end.
    pub fn add_file_at(
        &mut self,
        path: &Path,
        disk: &dyn Look,
        digest: Digest,
        executable: bool,
    ) -> Result<(), LayoutError> {
        match self.add_path(path, disk)? {
            (real, Kind::File) => self.add_file(&real, digest, executable),
            (real, _) => Err(LayoutError::NotAFile(real)),
        }
    }

    /// Places several files of one directory, as [`Builder::add_file_at`] does each; the way there is walked once.
    pub fn add_files_at(
        &mut self,
        directory: &Path,
        disk: &dyn Look,
        files: &[(&str, Digest, bool)],
    ) -> Result<(), LayoutError> {
        let (real, Kind::Directory) = self.add_path(directory, disk)? else {
            return Err(LayoutError::NotAFile(directory.to_path_buf()));
        };
        let mut plain = Vec::with_capacity(files.len());
        let mut path = real.clone();
        for &(name, digest, executable) in files {
            path.push(name);
            match disk.look(&path)? {
                Kind::File => plain.push((name, digest, executable)),
                _ => self.add_file_at(&directory.join(name), disk, digest, executable)?,
            }
            path.pop();
        }
        let there = self.node(&real);
        if let Some(Node::Directory(dir)) = there {
            // Not edited: what is shared with the toolchain's tree stays shared.
            plain.retain(|&(name, digest, executable)| {
                let node = Node::File(FileNode { digest, executable, bytes: None });
                !dir.children.get(name).is_some_and(|old| old.same(&node))
            });
        }
        if plain.is_empty() {
            return Ok(());
        }
        let names = names(&real)?;
        let dir = self.directory(&real, &names)?;
        if let Some((name, _, _)) = plain.iter().find(|(name, _, _)| dir.children.contains_key(*name)) {
            return Err(LayoutError::Conflict(real.join(name)));
        }
        let count = plain.len();
        let node = |(name, digest, executable): (&str, _, _)| {
            (name.to_owned(), Node::File(FileNode { digest, executable, bytes: None }))
        };
        let mut new: BTreeMap<String, Node> = plain.into_iter().map(node).collect();
        if new.len() != count {
            return Err(LayoutError::Conflict(real));
        }
        dir.children.append(&mut new);
        Ok(())
    }

    pub fn finish(self) -> InputRoot {
        self.root.seal(self.function);
        InputRoot { function: self.function, root: self.root }
    }

    fn put(&mut self, real: &Path, node: Node) -> Result<(), LayoutError> {
        let names = names(real)?;
        let Some((last, parents)) = names.split_last() else {
            return Err(LayoutError::Conflict(real.to_path_buf()));
        };
        match self.node(real) {
            // Not edited: what is shared with the toolchain's tree stays shared.
            Some(there) if there.same(&node) => Ok(()),
            Some(_) => Err(LayoutError::Conflict(real.to_path_buf())),
            None => {
                self.directory(real, parents)?.children.insert((*last).to_owned(), node);
                Ok(())
            }
        }
    }

    fn directory(&mut self, real: &Path, names: &[&str]) -> Result<&mut Dir, LayoutError> {
        let mut dir = Dir::edit(&mut self.root);
        for name in names {
            let node =
                dir.children.entry((*name).to_owned()).or_insert_with(|| Node::Directory(Arc::default()));
            let Node::Directory(below) = node else {
                return Err(LayoutError::Conflict(real.to_path_buf()));
            };
            dir = Dir::edit(below);
        }
        Ok(dir)
    }

    fn node(&self, real: &Path) -> Option<&Node> {
        let names = names(real).ok()?;
        let (last, parents) = names.split_last()?;
        let mut dir = &self.root;
        for name in parents {
            let Node::Directory(below) = dir.children.get(*name)? else { return None };
            dir = below;
        }
        dir.children.get(*last)
    }
}

impl Visitor<LayoutError> for Builder {
    fn directory(&mut self, real: &Path) -> Result<(), LayoutError> {
        self.add_directory(real)
    }

    fn symlink(&mut self, real: &Path, target: &Path) -> Result<(), LayoutError> {
        self.add_symlink(real, target)
    }

    fn known(&self, real: &Path) -> Option<Kind> {
        self.node(real).map(Node::kind)
    }
}

/// The names of a real absolute path.
fn names(real: &Path) -> Result<Vec<&str>, LayoutError> {
    if !real.is_absolute() {
        return Err(LayoutError::NotNormal(real.to_path_buf()));
    }
    real.components()
        .filter(|component| *component != Component::RootDir)
        .map(|component| match component {
            Component::Normal(name) => name.to_str().ok_or_else(|| LayoutError::NotUtf8(real.to_path_buf())),
            _ => Err(LayoutError::NotNormal(real.to_path_buf())),
        })
        .collect()
}

impl Dir {
    /// The directory to change: copied first if another tree shares it, and no longer sealed.
    fn edit(this: &mut Arc<Dir>) -> &mut Dir {
        let dir = Arc::make_mut(this);
        dir.sealed = OnceLock::new();
        dir
    }

    fn merge(this: &mut Arc<Dir>, other: &Arc<Dir>, at: &mut PathBuf) -> Result<(), LayoutError> {
        if Arc::ptr_eq(this, other) {
            return Ok(());
        }
        for (name, node) in &other.children {
            at.push(name);
            match (Dir::edit(this).children.get_mut(name), node) {
                (None, _) => {
                    Dir::edit(this).children.insert(name.clone(), node.clone());
                }
                (Some(Node::Directory(mine)), Node::Directory(theirs)) => Dir::merge(mine, theirs, at)?,
                (Some(mine), theirs) if mine.same(theirs) => {}
                _ => return Err(LayoutError::Conflict(at.clone())),
            }
            at.pop();
        }
        Ok(())
    }
}
