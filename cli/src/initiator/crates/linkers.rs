//! What linkers read that no call names: themselves, the start of every program, the C library. It is seen at the first
//! link on this machine, kept like what a compile has read, and goes along with all links that follow.
//!
//! One project's files and secrets must not travel with another's link: only what lies where systems and toolchains are
//! installed is learned, and only variables that linkers are known to ask for.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_cache::CacheError;
use dbuild_compilers::CrateUnit;
use dbuild_intake::recall::{self, Earlier, KeyParts, RecallKey};
use dbuild_intake::{Inputs, Observed, Roots, Start, World};
use dbuild_proto::record::TaskOutcome;
use dbuild_shims::vars;

use super::super::context::Context;
use super::super::task::Prepared;

/// The program under which this is kept; no build calls one like it.
const NAME: &str = "what a linker reads of the machine's own";

/// Where systems keep what is installed.
const INSTALLED: [&str; 10] =
    ["/bin", "/gnu/store", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/opt", "/sbin", "/usr"];

/// Variables that linkers and their drivers ask for (gcc's manual, "Environment Variables Affecting GCC"; ld's, "Environment
/// Variables"), by how they begin.
const VARIABLES: [&str; 18] = [
    "CCC_",
    "COLLECT_",
    "COLUMNS",
    "COMPILER_PATH",
    "CPATH",
    "GCC_",
    "GNUTARGET",
    "LANG",
    "LC_",
    "LDEMULATION",
    "LD_",
    "LIBRARY_PATH",
    "NO_COLOR",
    "SOURCE_DATE_EPOCH",
    "TEMP",
    "TERM",
    "TMP",
    "TMPDIR",
];

/// More than any linker reads of its own; beyond, nothing more is learned.
const MAX_FILES: usize = 1000;

/// What earlier links with the same linker have read of the machine's own, if there were any.
pub fn known(
    context: &Context,
    prepared: &Prepared,
    unit: &CrateUnit,
) -> Result<Option<Earlier>, CacheError> {
    let Ok(store) = &context.initiator.store else { return Ok(None) };
    let (_, earlier) = recall::recall(store, &key(context, prepared, unit), &world(context), &|_| false)?;
    Ok(earlier)
}

/// Learns from a link on this machine.
pub fn note(
    context: &Context,
    prepared: &Prepared,
    unit: &CrateUnit,
    observed: &Observed,
    inputs: &Inputs,
    start: Start,
) -> Result<(), CacheError> {
    let Ok(store) = &context.initiator.store else { return Ok(()) };
    if observed.programs.is_empty() {
        return Ok(());
    }
    let builds = builds_own(context, unit);
    let mut homes = homes(&observed.programs);
    homes.extend(prepared.toolchain.sysroot.clone());
    let is_machines = |path: &Path| {
        let installed = INSTALLED.iter().any(|root| path.starts_with(root));
        (installed || homes.iter().any(|home| path.starts_with(home)))
            && !builds.iter().any(|own| path.starts_with(own))
    };
    let is_part = |path: &Path| observed.programs.iter().any(|program| program.parent() == path.parent());
    let files = inputs.files.iter().filter(|input| {
        let path = &input.path;
        path == Path::new(CACHE)
            || is_machines(path) && (is_linked(path) || input.executable && is_part(path))
    });
    let mut files: BTreeSet<PathBuf> = files.map(|input| input.path.clone()).collect();
    let absent = inputs.absent.iter().map(|absent| &absent.directory);
    let mut directories: BTreeSet<PathBuf> = absent.chain(&inputs.directories).cloned().collect();
    directories.retain(|path| is_machines(path));
    let asked = inputs.variables.iter().map(|(name, _)| name);
    let mut variables: BTreeSet<OsString> = asked.filter(|name| is_linkers(name)).cloned().collect();

    if let Some(earlier) = known(context, prepared, unit)? {
        let there = |path: &PathBuf| path.exists();
        let before = (files.len(), directories.len(), variables.len());
        let known_files: BTreeSet<PathBuf> =
            earlier.files(Roots::none()).map(Into::into).filter(there).collect();
        let known_directories: BTreeSet<PathBuf> =
            earlier.directories().map(Into::into).filter(there).collect();
        let known_variables: BTreeSet<OsString> = earlier.variables().map(Into::into).collect();
        let nothing_new = files.is_subset(&known_files)
            && directories.is_subset(&known_directories)
            && variables.is_subset(&known_variables);
        if nothing_new {
            return Ok(());
        }
        tracing::debug!(?before, "a linker read more than before");
        files.extend(known_files);
        directories.extend(known_directories);
        variables.extend(known_variables);
    }
    if files.len() > MAX_FILES || directories.len() > MAX_FILES || variables.len() > MAX_FILES {
        return Ok(());
    }
    let seen = Observed {
        files: files.into_iter().collect(),
        directories: directories.into_iter().collect(),
        ..Observed::default()
    };
    let Ok(mut inputs) = Inputs::gather_unscanned(&seen, &context.initiator.files, start) else {
        return Ok(());
    };
    inputs.variables = variables.into_iter().map(|name| (name, None)).collect();
    recall::remember(store, &key(context, prepared, unit), &world(context), &inputs, TaskOutcome::default())
}

/// A linker is found by its name, its parts by where it is: one path leads to one linker.
fn key(context: &Context, prepared: &Prepared, unit: &CrateUnit) -> RecallKey {
    let env = context.variable(vars::PATH).map(|path| (vars::PATH.into(), path.to_os_string()));
    let parts = KeyParts {
        toolchain: &prepared.toolchain.id,
        argv0: OsStr::new(NAME),
        args: &unit.linker.iter().map(|path| path.clone().into_os_string()).collect::<Vec<_>>(),
        cwd: Path::new("/"),
        logical_cwd: None,
        env: env.as_slice(),
        roots: Roots::none(),
        more: &[],
    };
    parts.key()
}

fn world(context: &Context) -> World<'_> {
    World {
        files: &context.initiator.files,
        directories: &context.initiator.directories,
        variables: &|_| None,
        preprocessed: false,
        roots: Roots::none(),
    }
}

/// Directories whose files are the build's, and not the machine's.
fn builds_own(context: &Context, unit: &CrateUnit) -> Vec<PathBuf> {
    let named = ["CARGO_MANIFEST_DIR", "OUT_DIR"].into_iter().filter_map(|name| context.variable(name));
    let named = named.map(|path| context.absolute(Path::new(path)));
    let given = [&unit.out_dir, &context.invoke.cwd].into_iter().chain(&unit.searched).chain(&unit.libraries);
    named.chain(given.cloned()).collect()
}

/// The loader's list of libraries.
const CACHE: &str = "/etc/ld.so.cache";

/// Where the parts of a toolchain lie that was installed by itself: beside its programs, and in the libraries next to them.
fn homes(programs: &[PathBuf]) -> BTreeSet<PathBuf> {
    let directories = programs.iter().filter_map(|program| program.parent());
    let parts = |directory: &Path| {
        let libraries = directory.parent().filter(|_| directory.ends_with("bin")).into_iter();
        libraries
            .flat_map(|prefix| ["lib", "lib64", "libexec"].map(|name| prefix.join(name)))
            .collect::<Vec<_>>()
    };
    directories.flat_map(|directory| parts(directory).into_iter().chain([directory.to_path_buf()])).collect()
}

/// Whether it is a file that linkers read, by its name: libraries (with versions) and objects.
fn is_linked(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let suffixes: [&[u8]; 3] = [b".a", b".o", b".so"];
    suffixes.iter().any(|suffix| name.ends_with(suffix))
        || name.windows(5).any(|five| five.starts_with(b".so.") && five[4].is_ascii_digit())
}

fn is_linkers(variable: &OsStr) -> bool {
    VARIABLES.iter().any(|start| variable.as_bytes().starts_with(start.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linkers_read_libraries_and_objects() {
        for path in
            ["/lib/libm.so.6", "/usr/lib/libc.a", "/x/Scrt1.o", "/usr/lib/libc.so", "/x/libL.so.22.1-rust"]
        {
            assert!(is_linked(Path::new(path)), "{path}");
        }
        for path in ["/etc/passwd", "/home/u/.netrc", "/x/a.so.d/key.pem", "/x/key.so.pem", "/etc/ld.so.conf"]
        {
            assert!(!is_linked(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_toolchain_has_its_own_directories() {
        let homes = homes(&["/home/u/bin/cc".into(), "/home/u/t/libexec/gcc/12/collect2".into()]);
        let want =
            ["/home/u/bin", "/home/u/lib", "/home/u/lib64", "/home/u/libexec", "/home/u/t/libexec/gcc/12"];
        assert!(homes.iter().map(|path| path.to_str().unwrap()).eq(want), "{homes:?}");
        assert!(is_linkers(OsStr::new("LD_RUN_PATH")) && !is_linkers(OsStr::new("DATABASE_URL")));
    }
}
