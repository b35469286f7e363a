//! Subtrees that many actions share (a toolchain's directories): laid out once, read-only, and mounted into each.
//!
//! On disk: `trees-v1/<boot>/<function>-<hash>-<size>`, complete or absent (made as `new-…` beside it, then renamed). The
//! files are copies: were they links to the store, a file of a tree and an equal one beside it would be the same
//! inode, which preprocessors notice. Programs and libraries, which are large and no preprocessor's, are links. A subtree is shared from its third use within a few actions, so that the directories
//! which differ from action to action cost nothing here. The least recently used trees go when all together exceed the budget;
//! one that an action uses stays.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dbuild_proto::{Digest, DigestFunction};
use tokio::sync::OnceCell;

use crate::fault::{Trouble, blocking};
use crate::fetch::Fetcher;
use crate::remote::Scope;
use crate::stage::{Source, StageError, remove_tree};
use crate::tree::Input;

/// Uses in one action each after which a subtree is worth keeping.
const WORTH: u8 = 3;
/// Actions between two uses after which they are counted anew: to make a tree is several times the work of the links
/// that it replaces.
const GAP: u64 = 16;
/// Subtrees whose uses are remembered.
const REMEMBERED: usize = 100_000;

type Key = (DigestFunction, Digest);

/// How many trees are told of.
const NAMED: usize = 64;

/// Lock order: only `state`, never across I/O or `await`.
#[derive(Debug)]
pub struct Trees {
    dir: PathBuf,
    /// Bytes of content that kept trees may hold.
    budget: u64,
    state: Mutex<State>,
    serial: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// How often, and in which action last.
    uses: HashMap<Key, (u8, u64)>,
    actions: u64,
    kept: HashMap<Key, Arc<Tree>>,
    clock: u64,
}

/// A kept tree; holding it keeps it on disk.
#[derive(Debug)]
pub struct Tree {
    pub path: PathBuf,
    /// Bytes of content, once it is complete.
    bytes: OnceCell<u64>,
    used: AtomicU64,
}

impl Trees {
    /// Takes over what an earlier helper left complete in `home`, and removes what it did not complete. Blocks.
    pub fn open(home: &Path, budget: u64) -> std::io::Result<Trees> {
        fs_err::create_dir_all(home)?;
        let dir = home.join(this_boot());
        for entry in fs_err::read_dir(home)? {
            let path = entry?.path();
            if path != dir {
                remove_tree(&path)?;
            }
        }
        fs_err::create_dir_all(&dir)?;
        let mut state = State::default();
        for entry in fs_err::read_dir(&dir)? {
            let path = entry?.path();
            match path.file_name().and_then(|name| name.to_str()).and_then(parse_name) {
                Some(key) => {
                    let bytes = OnceCell::new_with(Some(content(&path)));
                    state.kept.insert(key, Arc::new(Tree { path, bytes, used: AtomicU64::new(0) }));
                }
                None => remove_tree(&path)?,
            }
        }
        let trees = Trees { dir, budget, state: Mutex::new(state), serial: AtomicU64::new(0) };
        trees.evict();
        Ok(trees)
    }

    /// Tells that another action begins.
    pub fn begin(&self) {
        self.lock().actions += 1;
    }

    /// Whether to share a subtree that an action uses now; every call counts as a use.
    pub fn worth(&self, function: DigestFunction, digest: &Digest) -> bool {
        let mut state = self.lock();
        if state.kept.contains_key(&(function, *digest)) {
            return true;
        }
        if state.uses.len() >= REMEMBERED {
            state.uses.clear();
        }
        let now = state.actions;
        let (uses, last) = state.uses.entry((function, *digest)).or_default();
        *uses = if now - *last > GAP { 1 } else { uses.saturating_add(1) };
        *last = now;
        *uses >= WORTH
    }

    /// The tree of `digest`, made if need be; concurrent callers wait for one of them to make it.
    pub async fn acquire(
        self: &Arc<Self>,
        fetcher: &Fetcher,
        scope: &Scope,
        input: &Input,
        digest: Digest,
    ) -> Result<Arc<Tree>, Trouble> {
        let key = (scope.function, digest);
        let tree = {
            let mut state = self.lock();
            state.clock += 1;
            let clock = state.clock;
            let tree = state.kept.entry(key).or_insert_with(|| {
                let path = self.dir.join(name(&key));
                Arc::new(Tree { path, bytes: OnceCell::new(), used: AtomicU64::new(0) })
            });
            tree.used.store(clock, Ordering::Relaxed);
            Arc::clone(tree)
        };
        let mut made = false;
        tree.bytes
            .get_or_try_init(|| {
                made = true;
                self.make(fetcher, scope, input, key, tree.path.clone())
            })
            .await?;
        if made {
            let trees = Arc::clone(self);
            blocking(move || {
                trees.evict();
                Ok(())
            })
            .await?;
        }
        Ok(tree)
    }

    async fn make(
        &self,
        fetcher: &Fetcher,
        scope: &Scope,
        input: &Input,
        (function, digest): Key,
        path: PathBuf,
    ) -> Result<u64, Trouble> {
        fetcher.ensure(scope, input.files(&digest).into_iter().collect()).await?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let new = self.dir.join(format!("new-{serial}"));
        let (fetcher, input) = (fetcher.clone(), input.clone());
        blocking(move || {
            let laid = Laying { fetcher: &fetcher, function, input: &input, linked: HashSet::new() }
                .lay(&digest, &new);
            let placed = laid.and_then(|bytes| {
                fs_err::rename(&new, &path)?;
                Ok(bytes)
            });
            if placed.is_err() {
                let _ = remove_tree(&new);
            }
            placed.map_err(|error| Trouble::Infrastructure(error.to_string()))
        })
        .await
    }

    /// Removes the least recently used trees beyond the budget that nobody holds.
    fn evict(&self) {
        loop {
            let doomed = {
                let mut state = self.lock();
                let bytes = |tree: &Tree| tree.bytes.get().copied().unwrap_or(0);
                let total: u64 = state.kept.values().map(|tree| bytes(tree)).sum();
                if total <= self.budget {
                    return;
                }
                // Only the map holds it, and whoever wants it must ask the map, which is locked.
                let free = state.kept.iter().filter(|(_, tree)| Arc::strong_count(tree) == 1);
                let oldest =
                    free.min_by_key(|(_, tree)| tree.used.load(Ordering::Relaxed)).map(|(key, _)| *key);
                let Some(tree) = oldest.and_then(|key| state.kept.remove(&key)) else { return };
                // Renamed under the lock: the name is free for the next one that makes this tree.
                let serial = self.serial.fetch_add(1, Ordering::Relaxed);
                let doomed = self.dir.join(format!("new-{serial}"));
                std::fs::rename(&tree.path, &doomed).map(|()| doomed)
            };
            if let Err(error) = doomed.and_then(|doomed| remove_tree(&doomed)) {
                tracing::warn!("failed to remove a kept tree: {error}");
            }
        }
    }

    /// Bytes of content of all kept trees.
    pub fn bytes(&self) -> u64 {
        self.lock().kept.values().filter_map(|tree| tree.bytes.get()).sum()
    }

    /// Digests of the kept trees that are complete, the latest used first.
    pub fn names(&self) -> Vec<String> {
        let state = self.lock();
        let complete = state.kept.iter().filter(|(_, tree)| tree.bytes.get().is_some());
        let mut all: Vec<_> =
            complete.map(|((_, digest), tree)| (tree.used.load(Ordering::Relaxed), digest.hex())).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.into_iter().take(NAMED).map(|(_, hex)| hex).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subtree on its way to the disk.
struct Laying<'a> {
    fetcher: &'a Fetcher,
    function: DigestFunction,
    input: &'a Input,
    /// Contents of which a link is there: the next one is a copy.
    linked: HashSet<(Digest, bool)>,
}

impl Laying<'_> {
    /// Lays it out at `to`; returns the bytes of its files.
    fn lay(&mut self, digest: &Digest, to: &Path) -> Result<u64, StageError> {
        fs_err::create_dir(to)?;
        let dir = self.input.dir(digest);
        let mut bytes: u64 = 0;
        for link in &dir.links {
            std::os::unix::fs::symlink(&*link.target, to.join(&*link.name))?;
        }
        for file in &dir.files {
            let (store, at) = (self.fetcher.store(), to.join(&*file.name));
            let source =
                Source { store, function: self.function, digest: &file.digest, executable: file.executable };
            match is_code(&file.name, file.executable) && self.linked.insert((file.digest, file.executable)) {
                true => source.link(&at)?,
                false => source.copy(&at, false)?,
            }
            bytes = bytes.saturating_add(file.digest.size);
        }
        for (name, child) in &dir.dirs {
            bytes = bytes.saturating_add(self.lay(child, &to.join(&**name))?);
        }
        Ok(bytes)
    }
}

/// Whether it is a program or a library, which no preprocessor reads. Headers may be executable, too, by mistake.
fn is_code(name: &str, executable: bool) -> bool {
    let library = [".a", ".rlib", ".rmeta", ".so"].iter().any(|suffix| name.ends_with(suffix));
    library || name.contains(".so.") || (executable && !name.contains('.'))
}

/// Trees are not written through: after a crash of the machine a complete name may stand over empty files.
fn this_boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot.chars().filter(char::is_ascii_alphanumeric).collect();
    // Where nobody can tell, nothing is taken over: no boot has such a name twice.
    if boot.is_empty() { format!("pid-{}", std::process::id()) } else { boot }
}

fn name((function, digest): &Key) -> String {
    format!("{}-{}-{}", function.name(), digest.hex(), digest.size)
}

fn parse_name(name: &str) -> Option<Key> {
    let mut parts = name.split('-');
    let function = [DigestFunction::Blake3, DigestFunction::Sha256];
    let function = function.into_iter().find(|function| Some(function.name()) == parts.clone().next())?;
    parts.next();
    let hash = parts.next()?;
    let digest = Digest::from_hex(hash, parts.next()?.parse().ok()?).ok()?;
    (self::name(&(function, digest)) == name).then_some((function, digest))
}

/// Bytes of all files under a directory.
fn content(path: &Path) -> u64 {
    let files = walkdir::WalkDir::new(path).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    files.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_removed() {
        let key = (DigestFunction::Sha256, DigestFunction::Sha256.digest(b"x"));
        assert_eq!(parse_name(&name(&key)), Some(key));
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(this_boot());
        std::fs::create_dir_all(home.path().join("another-boot").join(name(&key))).unwrap();
        for left in [name(&key), "new-7".to_owned(), "sha256-00-1".to_owned()] {
            std::fs::create_dir_all(dir.join(left)).unwrap();
        }
        let trees = Trees::open(home.path(), 1000).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(trees.worth(key.0, &key.1));
    }

    #[test]
    fn sharing_begins_at_the_third_use() {
        let home = tempfile::tempdir().unwrap();
        let trees = Trees::open(home.path(), 1000).unwrap();
        let digest = DigestFunction::Blake3.digest(b"x");
        let worth: Vec<bool> = (0..4).map(|_| trees.worth(DigestFunction::Blake3, &digest)).collect();
        assert_eq!(worth, [false, false, true, true]);
        let other = DigestFunction::Blake3.digest(b"y");
        for _ in 0..5 {
            (0..=GAP).for_each(|_| trees.begin());
            assert!(!trees.worth(DigestFunction::Blake3, &other));
        }
    }

    #[test]
    fn programs_and_libraries_are_known() {
        for name in ["libc.a", "libstd-1.rlib", "libLLVM.so.22.1-rust-1.95.0-stable", "libz.so", "libm.so.6"]
        {
            assert!(is_code(name, false), "{name}");
        }
        for (name, executable) in [("a.h", true), ("so", false), ("x.so_h", false), ("stdio.h", false)] {
            assert!(!is_code(name, executable), "{name}");
        }
        assert!(is_code("rustc", true));
    }

    #[test]
    fn over_budget_only_unused_trees_go() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(this_boot());
        let key = |text: &str| (DigestFunction::Blake3, DigestFunction::Blake3.digest(text.as_bytes()));
        for text in ["a", "b"] {
            std::fs::create_dir_all(dir.join(name(&key(text)))).unwrap();
            std::fs::write(dir.join(name(&key(text))).join("f"), [0; 100]).unwrap();
        }
        let mut trees = Trees::open(home.path(), 1000).unwrap();
        trees.budget = 100;
        let held = Arc::clone(&trees.lock().kept[&key("a")]);
        trees.evict();
        assert!(held.path.exists() && !dir.join(name(&key("b"))).exists());
    }
}
