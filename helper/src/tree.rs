//! One directory of an input root, checked. A `Directory` message comes from outside and may say anything; a
//! [`Dir`] can be laid out without a path ever leaving its parent. Does no I/O.
//!
//! Rules: REAPI `Directory` ("the names are unique, sorted, without slash"), plus what the file system demands.

use std::collections::HashMap;
use std::sync::Arc;

use dbuild_proto::Digest;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;

/// The longest name that a Linux file system takes, in bytes.
const NAME_MAX: usize = 255;
/// The longest symlink target, in bytes (`PATH_MAX` without its NUL).
const TARGET_MAX: usize = 4095;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub name: Box<str>,
    pub digest: Digest,
    pub executable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: Box<str>,
    /// Any text; never followed by the helper itself.
    pub target: Box<str>,
}

/// A checked directory: every name is one path component, unique in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dir {
    pub files: Vec<File>,
    pub links: Vec<Link>,
    pub dirs: Vec<(Box<str>, Digest)>,
}

/// What a name stands for in a directory.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    File,
    Link(&'a Link),
    Dir(&'a Digest),
}

/// What is wrong with a tree; fits "failed to …".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    #[error("accept the name {0:?} in an input directory")]
    Name(String),
    #[error("accept the names of an input directory: {0:?} is out of order or there twice")]
    Order(String),
    #[error("accept the symlink {0:?}: its target is empty, too long or holds a NUL")]
    Target(String),
    #[error("accept {name:?}: {source}")]
    Digest { name: String, source: dbuild_proto::DigestError },
    #[error("decode an input directory: {0}")]
    Decode(String),
    #[error("lay out an input root of more than {0} nodes")]
    TooMany(u64),
    #[error("lay out an input root more than {0} directories deep")]
    TooDeep(u32),
}

impl Dir {
    /// Decodes and checks a `Directory` message.
    pub fn decode(bytes: &[u8]) -> Result<Dir, TreeError> {
        let message: re::Directory =
            prost::Message::decode(bytes).map_err(|error| TreeError::Decode(error.to_string()))?;
        Dir::check(message)
    }

    /// Checks names, order, uniqueness across the three lists, targets and digests.
    pub fn check(message: re::Directory) -> Result<Dir, TreeError> {
        let mut dir = Dir::default();
        let mut last = String::new();
        for node in message.files {
            ascend(&mut last, &node.name)?;
            let digest = digest(&node.name, node.digest.as_ref())?;
            dir.files.push(File { name: node.name.into(), digest, executable: node.is_executable });
        }
        last.clear();
        for node in message.symlinks {
            ascend(&mut last, &node.name)?;
            let target = &node.target;
            if target.is_empty() || target.len() > TARGET_MAX || target.contains('\0') {
                return Err(TreeError::Target(node.name));
            }
            dir.links.push(Link { name: node.name.into(), target: node.target.into() });
        }
        last.clear();
        for node in message.directories {
            ascend(&mut last, &node.name)?;
            let digest = digest(&node.name, node.digest.as_ref())?;
            dir.dirs.push((node.name.into(), digest));
        }
        dir.unique()?;
        Ok(dir)
    }

    /// Each list is sorted, so a name that stands in two lists is found by search.
    fn unique(&self) -> Result<(), TreeError> {
        let in_dirs = |name: &str| self.dirs.binary_search_by(|(other, _)| (**other).cmp(name)).is_ok();
        let in_links = |name: &str| self.links.binary_search_by(|link| (*link.name).cmp(name)).is_ok();
        let twice = self
            .files
            .iter()
            .map(|file| &*file.name)
            .find(|name| in_dirs(name) || in_links(name))
            .or_else(|| self.links.iter().map(|link| &*link.name).find(|name| in_dirs(name)));
        match twice {
            Some(name) => Err(TreeError::Order(name.to_owned())),
            None => Ok(()),
        }
    }

    /// What `name` is in this directory.
    pub fn find(&self, name: &str) -> Option<Entry<'_>> {
        if let Ok(at) = self.dirs.binary_search_by(|(other, _)| (**other).cmp(name)) {
            return Some(Entry::Dir(&self.dirs[at].1));
        }
        if self.files.binary_search_by(|file| (*file.name).cmp(name)).is_ok() {
            return Some(Entry::File);
        }
        self.links.binary_search_by(|link| (*link.name).cmp(name)).ok().map(|at| Entry::Link(&self.links[at]))
    }
}

/// True for what may be one component of a path.
pub fn is_component(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte == b'/' || byte == 0)
}

fn ascend(last: &mut String, name: &str) -> Result<(), TreeError> {
    if !is_component(name) {
        return Err(TreeError::Name(name.chars().take(300).collect()));
    }
    // An empty `last` is "before the first": no component is empty.
    if name <= last.as_str() {
        return Err(TreeError::Order(name.to_owned()));
    }
    last.clear();
    last.push_str(name);
    Ok(())
}

fn digest(name: &str, digest: Option<&re::Digest>) -> Result<Digest, TreeError> {
    Digest::from_field(digest).map_err(|source| TreeError::Digest { name: name.to_owned(), source })
}

/// All directories of one input root, by digest.
#[derive(Clone, Debug)]
pub struct Input {
    pub root: Digest,
    dirs: HashMap<Digest, Arc<Dir>>,
    /// Of each directory: nodes beneath it if laid out (the same directory counts at each place), and height.
    sizes: HashMap<Digest, (u64, u32)>,
}

impl Input {
    /// `dirs` holds every directory that can be reached from `root`. A few messages can describe an exponential
    /// tree, so what counts is its size when laid out.
    pub fn new(
        root: Digest,
        dirs: HashMap<Digest, Arc<Dir>>,
        max_nodes: u64,
        max_depth: u32,
    ) -> Result<Input, TreeError> {
        let mut input = Input { root, dirs, sizes: HashMap::new() };
        let (nodes, _) = input.count(&root, max_depth, max_depth)?;
        if nodes > max_nodes {
            return Err(TreeError::TooMany(max_nodes));
        }
        Ok(input)
    }

    /// `left` bounds the recursion; a subtree met before is as high as it was then.
    fn count(&mut self, digest: &Digest, left: u32, max_depth: u32) -> Result<(u64, u32), TreeError> {
        if let Some(size) = self.sizes.get(digest) {
            return if size.1 <= left { Ok(*size) } else { Err(TreeError::TooDeep(max_depth)) };
        }
        let below = left.checked_sub(1).ok_or(TreeError::TooDeep(max_depth))?;
        let dir = self.dir(digest);
        let mut nodes = (dir.files.len() + dir.links.len()) as u64;
        let mut height = 0;
        for (_, child) in &dir.dirs {
            let (inside, high) = self.count(child, below, max_depth)?;
            nodes = nodes.saturating_add(1).saturating_add(inside);
            height = height.max(high);
        }
        self.sizes.insert(*digest, (nodes, height + 1));
        Ok((nodes, height + 1))
    }

    /// A directory of this input.
    pub fn dir(&self, digest: &Digest) -> Arc<Dir> {
        Arc::clone(self.dirs.get(digest).expect("the loader brought every directory that the root reaches"))
    }

    /// Files, links and directories beneath `digest`, without itself.
    pub fn nodes(&self, digest: &Digest) -> u64 {
        self.sizes.get(digest).map_or(0, |(nodes, _)| *nodes)
    }

    /// Every file beneath `digest`, with repetition.
    pub fn files(&self, digest: &Digest) -> Vec<Digest> {
        let mut found = Vec::new();
        let mut queue = vec![*digest];
        while let Some(next) = queue.pop() {
            let dir = self.dir(&next);
            found.extend(dir.files.iter().map(|file| file.digest));
            queue.extend(dir.dirs.iter().map(|(_, child)| *child));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbuild_proto::DigestFunction;
    use proptest::prelude::*;

    fn node(name: &str) -> re::FileNode {
        let digest = Some(DigestFunction::Blake3.digest(name.as_bytes()).to_wire());
        re::FileNode { name: name.into(), digest, ..Default::default() }
    }

    fn link(name: &str, target: &str) -> re::SymlinkNode {
        re::SymlinkNode { name: name.into(), target: target.into(), node_properties: None }
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc", "a\0b", "../x", &"n".repeat(256)] {
            let dir = re::Directory { files: vec![node(name)], ..Default::default() };
            assert!(matches!(Dir::check(dir), Err(TreeError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn order_and_uniqueness_hold_across_lists() {
        let unsorted = re::Directory { files: vec![node("b"), node("a")], ..Default::default() };
        assert_eq!(Dir::check(unsorted), Err(TreeError::Order("a".into())));
        let twice = re::Directory { files: vec![node("a"), node("a")], ..Default::default() };
        assert!(Dir::check(twice).is_err());
        let both =
            re::Directory { files: vec![node("a")], symlinks: vec![link("a", "/etc")], ..Default::default() };
        assert_eq!(Dir::check(both), Err(TreeError::Order("a".into())));
    }

    #[test]
    fn targets_may_point_anywhere_but_must_be_text() {
        let fine = re::Directory { symlinks: vec![link("a", "../../../etc/passwd")], ..Default::default() };
        assert!(Dir::check(fine).is_ok());
        for target in ["", "a\0b", &"t".repeat(5000)] {
            let dir = re::Directory { symlinks: vec![link("a", target)], ..Default::default() };
            assert_eq!(Dir::check(dir), Err(TreeError::Target("a".into())));
        }
    }

    /// Twenty messages, 2^20 directories: each level names the next one twice.
    #[test]
    fn a_tree_that_explodes_is_refused() {
        let mut dirs = HashMap::new();
        let mut below = DigestFunction::Blake3.digest(b"leaf");
        dirs.insert(below, Arc::new(Dir::default()));
        for level in 0..20u8 {
            let digest = DigestFunction::Blake3.digest(&[level]);
            let dir = Dir { dirs: vec![("a".into(), below), ("b".into(), below)], ..Dir::default() };
            dirs.insert(digest, Arc::new(dir));
            below = digest;
        }
        assert_eq!(Input::new(below, dirs.clone(), 1000, 64).err(), Some(TreeError::TooMany(1000)));
        assert_eq!(Input::new(below, dirs, u64::MAX, 8).err(), Some(TreeError::TooDeep(8)));
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_only_components(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(dir) = Dir::decode(&bytes) {
                prop_assert!(dir.files.iter().all(|file| is_component(&file.name)));
                prop_assert!(dir.dirs.iter().all(|(name, _)| is_component(name)));
            }
        }

        #[test]
        fn hostile_names_never_pass(names in proptest::collection::vec("[./a-c\\x00]{0,4}", 0..6)) {
            let dir = re::Directory { files: names.iter().map(|name| node(name)).collect(), ..Default::default() };
            let fine = names.iter().all(|name| is_component(name)) && names.windows(2).all(|two| two[0] < two[1]);
            prop_assert_eq!(Dir::check(dir).is_ok(), fine);
        }
    }
}
