//! Which crates a crate needs: rustc loads those that its call names, those that their calls named, and so on; and it reads
//! the sources of their macros where these are expanded.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dbuild_compilers::CrateUnit;

/// More crates than any build has; beyond, what was noted is forgotten, and crates that need it stay here once.
const KEPT: usize = 50_000;

/// What the calls of this initiator's time have named, by the libraries that they make (paths without suffix).
#[derive(Default)]
pub struct Needs(Mutex<HashMap<PathBuf, Noted>>);

#[derive(Clone)]
struct Noted {
    externs: Arc<[PathBuf]>,
    sources: Arc<Sources>,
}

/// Where a crate's sources are.
pub struct Sources {
    /// The directory of its root file.
    root: PathBuf,
    exporting: OnceLock<Vec<PathBuf>>,
}

impl Sources {
    /// The files with macros for other crates; `find` looks for them, once.
    pub fn exporting(&self, find: impl FnOnce(&Path) -> Vec<PathBuf>) -> &[PathBuf] {
        self.exporting.get_or_init(|| find(&self.root))
    }
}

/// Everything that a call loads.
pub struct Needed {
    /// Libraries, as the calls named them.
    pub crates: BTreeSet<PathBuf>,
    pub sources: Vec<Arc<Sources>>,
}

impl Needs {
    /// Notes the crates that a call names, and the directory of its root file. Paths are absolute.
    pub fn note(&self, unit: &CrateUnit, root: &Path) {
        let sources = Sources { root: root.to_path_buf(), exporting: OnceLock::new() };
        let noted = Noted { externs: unit.externs.as_slice().into(), sources: Arc::new(sources) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        for stem in &unit.stems {
            known.insert(unit.out_dir.join(stem), noted.clone());
        }
    }

    /// Everything that a call with these externs loads; nothing if some of it was made before anybody looked.
    pub fn of(&self, externs: &[PathBuf]) -> Option<Needed> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Needed { crates: BTreeSet::new(), sources: Vec::new() };
        let mut open: Vec<&Path> = externs.iter().map(PathBuf::as_path).collect();
        while let Some(path) = open.pop() {
            // What a macro was made of is in it.
            if all.crates.insert(path.to_path_buf()) && path.extension().is_some_and(|suffix| suffix != "so")
            {
                let noted = known.get(&path.with_extension(""))?;
                open.extend(noted.externs.iter().map(PathBuf::as_path));
                all.sources.push(noted.sources.clone());
            }
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(stem: &str, externs: &[&str]) -> CrateUnit {
        CrateUnit {
            out_dir: "/t".into(),
            stems: vec![stem.into(), format!("lib{stem}").into()],
            externs: externs.iter().map(PathBuf::from).collect(),
            ..CrateUnit::default()
        }
    }

    #[test]
    fn a_crate_needs_what_its_crates_need() {
        let needs = Needs::default();
        needs.note(&unit("c-1", &[]), Path::new("/c"));
        needs.note(&unit("b-1", &["/t/libc-1.rmeta", "/t/libm-1.so"]), Path::new("/b"));
        let all = needs.of(&["/t/libb-1.rlib".into()]).unwrap();
        let found = all.sources.iter().flat_map(|sources| sources.exporting(|root| vec![root.join("m.rs")]));
        assert_eq!(found.collect::<Vec<_>>(), [Path::new("/b/m.rs"), Path::new("/c/m.rs")]);
        assert_eq!(
            all.crates,
            ["/t/libb-1.rlib", "/t/libc-1.rmeta", "/t/libm-1.so"].map(PathBuf::from).into()
        );
        assert!(needs.of(&["/t/libb-1.rlib".into(), "/t/libd-1.rlib".into()]).is_none());
    }
}
