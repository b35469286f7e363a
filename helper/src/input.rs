//! Loads the directories of an input root, level by level, and keeps the decoded ones: consecutive actions of a
//! build share nearly all of them. Knows nothing of what the files are for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use dbuild_proto::{Digest, DigestFunction, MAX_MESSAGE};

use crate::Limits;
use crate::fault::Trouble;
use crate::fetch::Fetcher;
use crate::remote::Scope;
use crate::tree::{Dir, Input, TreeError};

/// Decoded directories that are kept in memory (a few hundred bytes each).
const KEPT: usize = 100_000;

type Known = HashMap<(DigestFunction, Digest), Arc<Dir>>;

#[derive(Clone, Debug, Default)]
pub struct Directories {
    known: Arc<Mutex<Known>>,
}

impl Directories {
    /// All directories that `root` reaches, checked and within `limits`.
    pub async fn load(
        &self,
        fetcher: &Fetcher,
        scope: &Scope,
        root: Digest,
        limits: &Limits,
    ) -> Result<Input, Trouble> {
        let mut dirs: HashMap<Digest, Arc<Dir>> = HashMap::new();
        let mut level = HashSet::from([root]);
        let mut depth = 0;
        while !level.is_empty() {
            depth += 1;
            if depth > limits.tree_depth {
                return Err(bad(TreeError::TooDeep(limits.tree_depth)));
            }
            let unknown = self.take_known(scope.function, &level, &mut dirs);
            self.fetch(fetcher, scope, unknown, &mut dirs).await?;
            if dirs.len() as u64 > limits.tree_nodes {
                return Err(bad(TreeError::TooMany(limits.tree_nodes)));
            }
            let below = level.iter().filter_map(|digest| dirs.get(digest));
            level = below
                .flat_map(|dir| dir.dirs.iter().map(|(_, child)| *child))
                .filter(|child| !dirs.contains_key(child))
                .collect();
        }
        Input::new(root, dirs, limits.tree_nodes, limits.tree_depth).map_err(bad)
    }

    fn take_known(
        &self,
        function: DigestFunction,
        level: &HashSet<Digest>,
        dirs: &mut HashMap<Digest, Arc<Dir>>,
    ) -> HashSet<Digest> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unknown = HashSet::new();
        for digest in level {
            match known.get(&(function, *digest)) {
                Some(dir) => {
                    dirs.insert(*digest, Arc::clone(dir));
                }
                None => {
                    unknown.insert(*digest);
                }
            }
        }
        unknown
    }

    async fn fetch(
        &self,
        fetcher: &Fetcher,
        scope: &Scope,
        unknown: HashSet<Digest>,
        dirs: &mut HashMap<Digest, Arc<Dir>>,
    ) -> Result<(), Trouble> {
        if unknown.is_empty() {
            return Ok(());
        }
        if let Some(digest) = unknown.iter().find(|digest| digest.size > MAX_MESSAGE as u64) {
            return Err(Trouble::Bad(format!(
                "decode directory {digest}: it is larger than {MAX_MESSAGE} bytes"
            )));
        }
        let mut decoded = Vec::with_capacity(unknown.len());
        for (digest, bytes) in fetcher.read(scope, unknown).await? {
            decoded.push((digest, Arc::new(Dir::decode(&bytes).map_err(bad)?)));
        }
        let function = scope.function;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + decoded.len() > KEPT {
            known.clear();
        }
        for (digest, dir) in decoded {
            known.insert((function, digest), Arc::clone(&dir));
            dirs.insert(digest, dir);
        }
        Ok(())
    }
}

fn bad(error: TreeError) -> Trouble {
    Trouble::Bad(error.to_string())
}
