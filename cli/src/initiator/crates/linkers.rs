//! What linkers read that no call names: themselves, the start of every program, the C library. It is seen at the first
//! link on this machine, kept like what a compile has read, and goes along with all links that follow.

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
const NAME: &str = "what a linker reads";

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
    inputs: &Inputs,
    start: Start,
) -> Result<(), CacheError> {
    let Ok(store) = &context.initiator.store else { return Ok(()) };
    let builds = builds_own(context, unit);
    let is_machines = |path: &Path| !builds.iter().any(|own| path.starts_with(own));
    let files = inputs.files.iter().filter(|input| input.executable || is_linked(&input.path));
    let mut files: BTreeSet<PathBuf> = files.map(|input| input.path.clone()).collect();
    let absent = inputs.absent.iter().map(|absent| &absent.directory);
    let mut directories: BTreeSet<PathBuf> = absent.chain(&inputs.directories).cloned().collect();
    let mut variables: BTreeSet<OsString> = inputs.variables.iter().map(|(name, _)| name.clone()).collect();
    files.retain(|path| is_machines(path));
    directories.retain(|path| is_machines(path));

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
    let given = [&unit.out_dir, &context.invoke.cwd].into_iter().chain(&unit.searched).cloned();
    named.chain(given).collect()
}

/// Whether it is a file that linkers read, by its name: libraries and objects, and the loader's list of libraries.
fn is_linked(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let suffixes: [&[u8]; 3] = [b".a", b".o", b".so"];
    suffixes.iter().any(|suffix| name.ends_with(suffix))
        || name.windows(4).any(|four| four == b".so.")
        || path == Path::new("/etc/ld.so.cache")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linkers_read_libraries_and_objects() {
        for path in
            ["/lib/libm.so.6", "/usr/lib/libc.a", "/x/Scrt1.o", "/usr/lib/libc.so", "/etc/ld.so.cache"]
        {
            assert!(is_linked(Path::new(path)), "{path}");
        }
        for path in ["/etc/passwd", "/home/u/.netrc", "/x/a.so.d/key.pem", "/etc/ld.so.conf"] {
            assert!(!is_linked(Path::new(path)), "{path}");
        }
    }
}
