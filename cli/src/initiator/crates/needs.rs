//! Which crates a crate needs: rustc loads those that its call names, those that their calls named, and so on.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dbuild_compilers::CrateUnit;

/// More crates than any build has; beyond, what was noted is forgotten, and crates that need it stay here once.
const KEPT: usize = 50_000;

/// What the calls of this initiator's time have named, by the libraries that they make (paths without suffix).
#[derive(Default)]
pub struct Needs(Mutex<HashMap<PathBuf, Arc<[PathBuf]>>>);

impl Needs {
    /// Notes the crates that a call names. Paths are absolute.
    pub fn note(&self, unit: &CrateUnit) {
        let externs: Arc<[PathBuf]> = unit.externs.as_slice().into();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        for stem in &unit.stems {
            known.insert(unit.out_dir.join(stem), externs.clone());
        }
    }

    /// Everything that a call with these externs loads; nothing if some of it was made before anybody looked.
    pub fn of(&self, externs: &[PathBuf]) -> Option<BTreeSet<PathBuf>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeSet::new();
        let mut open: Vec<&Path> = externs.iter().map(PathBuf::as_path).collect();
        while let Some(path) = open.pop() {
            // What a macro was made of is in it.
            if all.insert(path.to_path_buf()) && path.extension().is_some_and(|suffix| suffix != "so") {
                open.extend(known.get(&path.with_extension(""))?.iter().map(PathBuf::as_path));
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
        needs.note(&unit("c-1", &[]));
        needs.note(&unit("b-1", &["/t/libc-1.rmeta", "/t/libm-1.so"]));
        let all = needs.of(&["/t/libb-1.rlib".into()]).unwrap();
        assert_eq!(all, ["/t/libb-1.rlib", "/t/libc-1.rmeta", "/t/libm-1.so"].map(PathBuf::from).into());
        assert_eq!(needs.of(&["/t/libb-1.rlib".into(), "/t/libd-1.rlib".into()]), None);
    }
}
