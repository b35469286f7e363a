//! What goes to a helper with a crate. Nobody can tell beforehand what rustc will read, so this is a guess that errs on
//! the side of too much; what comes back says whether it was enough (`back`).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_compilers::CrateUnit;
use dbuild_intake::recall::Earlier;
use dbuild_intake::{Inputs, JOBSERVER, Observed, Start};
use dbuild_shims::vars;

use super::super::context::Context;
use super::super::task::Prepared;
use super::Objection;

/// Where dbuild's own files are in an action's file system; no build has anything there.
pub const OWN: &str = "/.dbuild";
/// The interceptor, whose name it knows itself by.
pub const INTERCEPTOR: &str = "/.dbuild/libdbuild_intercept.so";
/// The trace that comes back with the outputs.
pub const TRACE: &str = "/.dbuild/trace";

/// Packages and output directories with more than this are no guess any more.
const MAX_FILES: usize = 4096;
const MAX_BYTES: u64 = 64 << 20;

/// Texts beside the sources that documentation includes (`#![doc = include_str!("../README.md")]`).
const MAX_TEXT: u64 = 1 << 20;

/// What build scripts leave for their own use.
const NO_SOURCES: [&str; 12] = ["a", "c", "cc", "cmake", "cpp", "d", "h", "hpp", "la", "lo", "o", "so"];

/// How the names of variables begin that cargo sets or rustc and clippy ask for.
const ASKED: [&str; 4] = ["CARGO_", "CLIPPY_", "RUST_", "RUSTC_"];
/// The others.
const ASKED_TOO: [&str; 4] = ["CARGO", "CI", "OUT_DIR", "SOURCE_DATE_EPOCH"];
/// What never leaves this machine unasked.
const SECRETS: [&str; 4] = ["CREDENTIAL", "PASSWORD", "SECRET", "TOKEN"];

/// A crate's inputs as far as they are foretold.
pub struct Luggage {
    pub inputs: Inputs,
    /// Without those of dbuild's own.
    pub env: Vec<(OsString, OsString)>,
    pub start: Start,
}

/// Guesses what the crate will read.
pub fn pack(
    context: &Context,
    prepared: &Prepared,
    unit: &CrateUnit,
    earlier: Option<&Earlier>,
) -> Result<Luggage, Objection> {
    let initiator = &context.initiator;
    let source = context.absolute(&prepared.task.source);
    let start = Start::after(&source);
    let needs = initiator.needs.of(&unit.externs);
    let mut files = needs.ok_or(Objection::Because("needs crates that were made before"))?;
    for library in files.iter().filter(|path| path.extension() == Some(OsStr::new("so"))) {
        if let Some(reach) = initiator.loaded.reach(library, &initiator.files, &prepared.toolchain)? {
            return Err(Objection::Because(reach));
        }
    }
    files.extend(unit.argument_files.iter().cloned());

    let mut heap = Heap::default();
    heap.tree(source.parent().unwrap_or(Path::new("/")), &|_| true)?;
    let package = context.variable("CARGO_MANIFEST_DIR").map(|path| context.absolute(Path::new(path)));
    if let Some(package) = &package {
        heap.directory(package, &|_, size| size <= MAX_TEXT)?;
    }
    if let Some(out) = context.variable("OUT_DIR") {
        let is_source = |path: &Path| {
            let suffix = path.extension().and_then(OsStr::to_str).unwrap_or_default();
            !NO_SOURCES.contains(&suffix)
        };
        heap.tree(&context.absolute(Path::new(out)), &is_source)?;
    }
    for directory in &unit.libraries {
        heap.directory(directory, &|path, _| path.extension() == Some(OsStr::new("a")))?;
    }
    let mut asked: BTreeSet<OsString> = match earlier {
        Some(earlier) => earlier.variables().map(OsStr::to_os_string).collect(),
        None => heap.asked_for()?,
    };
    files.extend(heap.files);
    if let Some(earlier) = earlier {
        let there = earlier.files(&prepared.roots).filter(|path| path.is_file());
        files.extend(there.map(|path| path.into_owned()));
    }
    asked.retain(|name| !JOBSERVER.iter().any(|idle| name == idle) && !is_ours(name));

    let directories = unit.searched.iter().chain(&unit.libraries).chain(&package);
    let seen = Observed {
        directories: directories.filter(|path| path.is_dir()).cloned().collect(),
        files: files.into_iter().collect(),
        ..Observed::default()
    };
    let inputs = Inputs::gather_unscanned(&seen, &initiator.files, start)?;
    let env = context.invoke.env.iter();
    let env = env.filter(|(name, _)| travels(name) || asked.contains(name)).cloned().collect();
    Ok(Luggage { inputs, env, start })
}

fn is_ours(name: &OsStr) -> bool {
    name == vars::PATH || name == vars::LD_PRELOAD || name.as_bytes().starts_with(b"DBUILD_")
}

fn travels(name: &OsStr) -> bool {
    let text = name.to_str().unwrap_or_default();
    let asked = ASKED_TOO.contains(&text) || ASKED.iter().any(|start| text.starts_with(start));
    let secret = SECRETS.iter().any(|word| text.contains(word));
    asked && !secret && text != "CARGO_HOME" && !JOBSERVER.contains(&text)
}

/// Files that are gathered, up to a bound.
#[derive(Default)]
struct Heap {
    files: Vec<PathBuf>,
    bytes: u64,
}

impl Heap {
    fn add(&mut self, path: PathBuf, size: u64) -> Result<(), Objection> {
        self.files.push(path);
        self.bytes = self.bytes.saturating_add(size);
        match self.files.len() > MAX_FILES || self.bytes > MAX_BYTES {
            true => Err(Objection::Because("its package is too large to be sent as it is")),
            false => Ok(()),
        }
    }

    /// Everything below a directory, but for hidden directories and those that cargo builds in.
    fn tree(&mut self, root: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), Objection> {
        let visited = |entry: &walkdir::DirEntry| {
            let hidden = entry.file_name().as_bytes().starts_with(b".");
            let built = entry.file_type().is_dir() && entry.path().join("CACHEDIR.TAG").exists();
            entry.depth() == 0 || !(hidden || built)
        };
        for entry in walkdir::WalkDir::new(root).follow_links(true).into_iter().filter_entry(visited) {
            // A link that leads nowhere, or a directory that nobody may read: rustc will say so if it matters.
            let Ok(entry) = entry else { continue };
            if entry.file_type().is_file() && wanted(entry.path()) {
                let size = entry.metadata().map_or(0, |meta| meta.len());
                self.add(entry.into_path(), size)?;
            }
        }
        Ok(())
    }

    /// The files of one directory.
    fn directory(&mut self, place: &Path, wanted: &dyn Fn(&Path, u64) -> bool) -> Result<(), Objection> {
        let Ok(entries) = std::fs::read_dir(place) else { return Ok(()) };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if meta.is_file() && wanted(&path, meta.len()) {
                self.add(path, meta.len())?;
            }
        }
        Ok(())
    }

    /// The variables that the sources name (`env!("NAME")`, `option_env!("NAME")`).
    fn asked_for(&self) -> Result<BTreeSet<OsString>, Objection> {
        let mut names = BTreeSet::new();
        for path in self.files.iter().filter(|path| path.extension() == Some(OsStr::new("rs"))) {
            named_variables(&std::fs::read(path)?, &mut names);
        }
        Ok(names)
    }
}

fn named_variables(text: &[u8], names: &mut BTreeSet<OsString>) {
    const MACRO: &[u8] = b"env!(";
    let mut rest = text;
    while let Some(at) = rest.windows(MACRO.len()).position(|word| word == MACRO) {
        rest = &rest[at + MACRO.len()..];
        let named = rest.trim_ascii_start().strip_prefix(b"\"");
        let end = |named: &[u8]| named.iter().position(|byte| *byte == b'"');
        if let Some(name) = named.and_then(|named| Some(&named[..end(named)?])) {
            names.insert(OsStr::from_bytes(name).to_os_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_sources_are_found() {
        let mut names = BTreeSet::new();
        named_variables(b"a(env!(\"A\"), option_env!( \"B\") env!(x) env!(\"open", &mut names);
        assert_eq!(names, ["A", "B"].map(OsString::from).into());
    }

    #[test]
    fn secrets_stay() {
        for name in ["CARGO_PKG_NAME", "RUSTC_BOOTSTRAP", "OUT_DIR", "CI", "CARGO"] {
            assert!(travels(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_REGISTRY_TOKEN", "CARGO_MAKEFLAGS", "CARGO_HOME", "HOME", "AWS_SECRET_ACCESS_KEY"]
        {
            assert!(!travels(OsStr::new(name)), "{name}");
        }
    }
}
