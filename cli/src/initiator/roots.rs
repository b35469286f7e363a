//! Which directories go by a name in the keys and records of a call: cargo's target directory, so that a build into
//! another one finds what this one left; and, where the project asks for it, its own place and cargo's home.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use dbuild_compilers::CrateUnit;
use dbuild_intake::{Presence, Roots};

use super::context::Context;

/// Cargo puts it into every target directory (Cache Directory Tagging Specification).
const TAG: &str = "CACHEDIR.TAG";

/// Outputs lie at most so many directories below the target directory: `TRIPLE/PROFILE/build/PACKAGE/out`, and one more.
const DEPTH: usize = 6;

/// What named directories are called in outputs, one letter each below it.
const MAPPED: &str = "/dbuild";

/// The named directories of a rustc call, and the arguments that give them these names in its outputs, too.
pub fn of(context: &Context, unit: &CrateUnit) -> (Roots, Vec<OsString>) {
    if unit.rpath {
        // The number of steps from there to the standard library is in what is made.
        return (Roots::none().clone(), Vec::new());
    }
    let Some(target) = target_directory(context, &context.absolute(&unit.out_dir)) else {
        return (Roots::none().clone(), Vec::new());
    };
    let cwd = context.invoke.cwd.clone();
    if !context.any_path {
        // Where one lies in the other, outputs may name it by the way from there.
        let apart = !cwd.starts_with(&target) && !target.starts_with(&cwd);
        return (if apart { Roots::new([('t', target)]) } else { Roots::none().clone() }, Vec::new());
    }
    let mut named = vec![('t', target)];
    match cargo_home(context, &cwd) {
        Some(home) => named.push(('c', home)),
        None => named.push(('w', cwd)),
    }
    let roots = Roots::new(named.iter().cloned());
    if roots.is_empty() {
        return (roots, Vec::new());
    }
    // Of several that fit, rustc takes the last.
    named.sort_by_key(|(_, path)| path.as_os_str().len());
    let option = |(name, path): &(char, PathBuf)| {
        let mut option = OsString::from("--remap-path-prefix=");
        option.push(path);
        option.push(format!("={MAPPED}/{name}"));
        option
    };
    // In messages, too (`--remap-path-scope` stays as it is): else the metadata holds the real names for them.
    let arguments = named.iter().map(option).collect();
    (roots, arguments)
}

/// The named directory of a C compile that a build script started: the target directory, where the script puts what it
/// makes (cargo's manual, "Build Scripts", `OUT_DIR`).
pub fn of_c(context: &Context) -> Roots {
    let Some(out) = context.variable("OUT_DIR") else { return Roots::none().clone() };
    let Some(target) = target_directory(context, &context.absolute(Path::new(out))) else {
        return Roots::none().clone();
    };
    let cwd = &context.invoke.cwd;
    match !cwd.starts_with(&target) && !target.starts_with(cwd) {
        true => Roots::new([('t', target)]),
        false => Roots::none().clone(),
    }
}

/// The target directory that holds `directory`.
fn target_directory(context: &Context, directory: &Path) -> Option<PathBuf> {
    let directories = &context.initiator.directories;
    let tagged = |path: &&Path| matches!(directories.presence(path, OsStr::new(TAG)), Ok(Presence::Present));
    directory.ancestors().take(DEPTH + 1).find(tagged).map(Path::to_path_buf)
}

/// Cargo's home, if the call works on sources that cargo fetched into it.
fn cargo_home(context: &Context, cwd: &Path) -> Option<PathBuf> {
    let given = context.variable("CARGO_HOME").map(PathBuf::from);
    let home = given.or_else(|| Some(Path::new(context.variable("HOME")?).join(".cargo")))?;
    ["registry/src", "git/checkouts"]
        .iter()
        .any(|sources| cwd.starts_with(home.join(sources)))
        .then_some(home)
}
