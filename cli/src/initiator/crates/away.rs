//! What goes to a helper with a crate. Nobody can tell beforehand what rustc will read, so this is a guess that errs on
//! the side of too much; what comes back says whether it was enough (`back`).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_compilers::CrateUnit;
use dbuild_intake::recall::Earlier;
use dbuild_intake::{Inputs, JOBSERVER, Observed, Roots, Start};
use dbuild_shims::vars;

use super::super::context::Context;
use super::super::task::Prepared;
use super::{Objection, linkers, siblings};

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

/// How the names of variables begin that cargo sets for a crate (cargo book, "Environment variables Cargo sets for crates")
/// and its subcommands for clippy.
const SET: [&str; 3] = ["CARGO_PKG_", "CARGO_BIN_", "CLIPPY_"];
/// The others, and those that rustc asks for.
const SET_TOO: [&str; 13] = [
    "CARGO",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_RUSTC_CURRENT_DIR",
    "CARGO_TARGET_TMPDIR",
    "CI",
    "OUT_DIR",
    "RUSTC_BOOTSTRAP",
    "RUST_BACKTRACE",
    "RUST_MIN_STACK",
    "SOURCE_DATE_EPOCH",
];
/// Variables with these words in their names stay here, even if a source asks for them: its crate does, too, then.
const SECRETS: [&str; 6] = ["AUTH", "CREDENTIAL", "KEY", "PASSW", "SECRET", "TOKEN"];

/// A crate's inputs as far as they are foretold.
pub struct Luggage {
    pub inputs: Inputs,
    /// Without those of dbuild's own. Whoever runs linkers has the caller's `PATH`.
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
    let needs = needs.ok_or(Objection::Because("needs crates that were made before"))?;
    let mut files = needs.crates;
    if unit.links {
        files.extend(siblings(context, unit).filter(|path| path.is_file()));
    }
    for library in files.iter().filter(|path| has_suffix(path, "so")) {
        if let Some(reach) = initiator.loaded.reach(library, &initiator.files, &prepared.toolchain)? {
            return Err(Objection::Because(reach));
        }
    }
    files.extend(unit.argument_files.iter().cloned());
    files.extend(needs.sources.iter().flat_map(|sources| sources.exporting(exporting)).cloned());

    let package = context.variable("CARGO_MANIFEST_DIR").map(|path| context.absolute(Path::new(path)));
    let beside = source.parent().unwrap_or(Path::new("/"));
    let mut heap = Heap::default();
    match &package {
        // What else lies in a package's own directory may be anything.
        Some(package) if package != beside => {
            heap.tree(beside, &|_| true)?;
            heap.directory(package, &|path, size| size <= MAX_TEXT && is_text(path))?;
        }
        Some(package) => heap.tree(package, &|path| is_text(path))?,
        None => heap.directory(beside, &|path, _| has_suffix(path, "rs"))?,
    }
    if let Some(out) = context.variable("OUT_DIR") {
        let is_source = |path: &Path| !NO_SOURCES.iter().any(|suffix| has_suffix(path, suffix));
        heap.tree(&context.absolute(Path::new(out)), &is_source)?;
    }
    for directory in &unit.libraries {
        heap.directory(directory, &|path, _| has_suffix(path, "a"))?;
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
    let mut directories: BTreeSet<PathBuf> =
        unit.searched.iter().chain(&unit.libraries).chain(&package).cloned().collect();
    if unit.links {
        let linker = linkers::known(context, prepared, unit).ok().flatten();
        let linker = linker.ok_or(Objection::Because("its linker was not seen at work yet"))?;
        files.extend(linker.files(Roots::none()).filter(|path| path.is_file()).map(Into::into));
        directories.extend(linker.directories().map(Path::to_path_buf));
        directories.extend(context.variable("TMPDIR").map(|path| context.absolute(Path::new(path))));
        asked.extend(linker.variables().map(OsStr::to_os_string));
    }
    asked.retain(|name| !JOBSERVER.iter().any(|idle| name == idle) && !is_ours(name) && !is_secret(name));
    if unit.links {
        asked.insert(vars::PATH.into());
    }

    let seen = Observed {
        directories: directories.into_iter().filter(|path| path.is_dir()).collect(),
        files: files.into_iter().collect(),
        ..Observed::default()
    };
    let inputs = Inputs::gather_unscanned(&seen, &initiator.files, start)?;
    let env = context.invoke.env.iter();
    let env = env.filter(|(name, _)| travels(name) || asked.contains(name)).cloned().collect();
    Ok(Luggage { inputs, env, start })
}

/// Whether an action's environment has a value of dbuild's own there, unless it is given.
pub fn is_ours(name: &OsStr) -> bool {
    name == vars::PATH || name == vars::LD_PRELOAD || name == "PWD" || name.as_bytes().starts_with(b"DBUILD_")
}

fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    SECRETS.iter().any(|word| name.contains(word))
}

fn travels(name: &OsStr) -> bool {
    let text = name.to_str().unwrap_or_default();
    SET_TOO.contains(&text) || SET.iter().any(|start| text.starts_with(start))
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.extension() == Some(OsStr::new(suffix))
}

/// Sources, what documentation includes, and what macros and clippy read: neither keys nor logs.
fn is_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    ["rs", "md"].iter().any(|suffix| has_suffix(path, suffix))
        || ["Cargo.toml", "clippy.toml", ".clippy.toml", "README", "LICENSE"]
            .iter()
            .any(|known| name == *known)
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

    /// Everything below a directory, but for hidden directories, those that cargo builds in, and what links lead to outside.
    fn tree(&mut self, root: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), Objection> {
        let Ok(real) = std::fs::canonicalize(root) else { return Ok(()) };
        let visited = |entry: &walkdir::DirEntry| {
            let hidden = entry.file_name().as_bytes().starts_with(b".");
            let built = entry.file_type().is_dir() && entry.path().join("CACHEDIR.TAG").exists();
            entry.depth() == 0 || !(hidden || built)
        };
        for entry in walkdir::WalkDir::new(root).into_iter().filter_entry(visited) {
            // A directory that nobody may read: rustc will say so if it matters.
            let Ok(entry) = entry else { continue };
            let inside = || std::fs::canonicalize(entry.path()).is_ok_and(|path| path.starts_with(&real));
            if entry.file_type().is_dir() || (entry.path_is_symlink() && !inside()) || !wanted(entry.path()) {
                continue;
            }
            if let Ok(meta) = std::fs::metadata(entry.path())
                && meta.is_file()
            {
                self.add(entry.into_path(), meta.len())?;
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
        for path in self.files.iter().filter(|path| has_suffix(path, "rs")) {
            named_variables(&std::fs::read(path)?, &mut names);
        }
        Ok(names)
    }
}

/// The sources below a directory that export macros: rustc reads them where these are expanded, for places in messages and
/// debug information.
fn exporting(root: &Path) -> Vec<PathBuf> {
    const EXPORT: &[u8] = b"macro_export";
    let mut heap = Heap::default();
    // Of too many files, those that were found go along: it is a guess.
    let _ = heap.tree(root, &|path| has_suffix(path, "rs"));
    let exports = |path: &PathBuf| {
        std::fs::read(path).is_ok_and(|text| text.windows(EXPORT.len()).any(|word| word == EXPORT))
    };
    heap.files.retain(exports);
    heap.files
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
    fn only_what_is_set_for_a_crate_travels() {
        for name in [
            "CARGO_PKG_NAME",
            "CARGO_PKG_AUTHORS",
            "RUSTC_BOOTSTRAP",
            "OUT_DIR",
            "CI",
            "CARGO",
            "CLIPPY_ARGS",
        ] {
            assert!(travels(OsStr::new(name)), "{name}");
        }
        for name in
            ["CARGO_REGISTRY_TOKEN", "CARGO_MAKEFLAGS", "CARGO_HTTP_PROXY", "CARGO_BUILD_JOBS", "HOME"]
        {
            assert!(!travels(OsStr::new(name)), "{name}");
        }
        for name in ["GITHUB_TOKEN", "Db_Password", "AWS_SECRET_ACCESS_KEY"] {
            assert!(is_secret(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn links_out_of_a_package_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["package/src/deep", "package/src/.git", "package/src/target", "private"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        let texts = [
            "package/src/a.rs",
            "package/src/deep/b.rs",
            "package/src/.git/c",
            "private/key",
            "private/d.rs",
        ];
        for name in [&texts[..], &["package/src/target/CACHEDIR.TAG", "package/src/target/e.rs"]].concat() {
            std::fs::write(at(name), "text").unwrap();
        }
        std::os::unix::fs::symlink(at("private"), at("package/src/out")).unwrap();
        std::os::unix::fs::symlink(at("private/d.rs"), at("package/src/d.rs")).unwrap();
        std::os::unix::fs::symlink("deep/b.rs", at("package/src/again.rs")).unwrap();
        let mut heap = Heap::default();
        heap.tree(&at("package/src"), &|_| true).ok().unwrap();
        heap.files.sort();
        let want = ["a.rs", "again.rs", "deep/b.rs"].map(|name| at("package/src").join(name));
        assert_eq!(heap.files, want);
    }
}
