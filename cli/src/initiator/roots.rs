//! Which directories go by a name in the keys and records of a call: cargo's target directory, so that a build into
//! another one finds what this one left; and, where the project asks for it, its own place and cargo's home. What of a
//! result is rewritten for that, and which results hold only where they were made.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_cache::{CacheError, Store};
use dbuild_compilers::{CrateUnit, OutputKind};
use dbuild_intake::{Inputs, Presence, Roots};
use dbuild_proto::record::{OutputFile, TaskOutcome};
use dbuild_proto::{Digest, DigestFunction};

use super::context::Context;
use super::crates::{self, ENV_DEP};
use super::task::Prepared;

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
        return (apart(target, &cwd), Vec::new());
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
    apart(target, &context.invoke.cwd)
}

/// The target directory alone, if it and the working directory are apart: where one lies in the other, outputs may name
/// it by the way from there.
fn apart(target: PathBuf, cwd: &Path) -> Roots {
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

/// The arguments as they are in the key: with names in the places of directories, where what comes of them cannot
/// depend on a path without showing it. Conditions and macros can.
pub fn masked(args: &[OsString], roots: &Roots) -> Vec<OsString> {
    let mut is_condition = false;
    let mut mask = |arg: &OsString| {
        let defines = |prefix: &&str| arg.as_bytes().starts_with(prefix.as_bytes());
        let literal = is_condition || ["--cfg", "--env-set", "-D", "-Wp,-D"].iter().any(defines);
        is_condition = ["--cfg", "--env-set", "-D"].iter().any(|option| arg == option);
        let masked = if literal { arg.as_bytes().into() } else { roots.mask(arg.as_bytes()) };
        OsStr::from_bytes(&masked).to_owned()
    };
    args.iter().map(&mut mask).collect()
}

/// Gives directories their names in what is remembered of a task; where that cannot be, binds the outcome to them.
pub fn name_places(
    store: &Store,
    context: &Context,
    prepared: &Prepared,
    inputs: &Inputs,
    outcome: &mut TaskOutcome,
) -> Result<(), CacheError> {
    let roots = &prepared.roots;
    if roots.is_empty() {
        return Ok(());
    }
    // Text that the source itself has is no place of this call's: only what rustc says of its files is rewritten.
    let depends = match prepared.unit(context) {
        Some(unit) => {
            let spoke = !crates::is_quiet(&outcome.stderr) && roots.appear_in(&outcome.stderr);
            spoke || depends_on_places(&unit, inputs, roots)
        }
        None => roots.appear_in(&outcome.stderr) || named_in_inputs(inputs, roots),
    };
    if mask(store, context, prepared, outcome)? || depends {
        outcome.bound = roots.identity();
    }
    Ok(())
}

/// Whether C could make anything of the paths of inputs (`__FILE__`) without showing them.
fn named_in_inputs(inputs: &Inputs, roots: &Roots) -> bool {
    inputs.files.iter().any(|input| roots.appear_in(input.path.as_os_str().as_encoded_bytes()))
}

/// Whether what a crate depends on names directories in a way that no other place can repeat: a file that is neither a
/// crate nor a library of those that the arguments lead to.
fn depends_on_places(unit: &CrateUnit, inputs: &Inputs, roots: &Roots) -> bool {
    let by_argument = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let linked = [&b".rlib"[..], b".rmeta", b".so", b".a"].iter().any(|suffix| name.ends_with(suffix));
        let parent = path.parent().unwrap_or(Path::new("/"));
        linked
            && name.starts_with(b"lib")
            && unit.searched.iter().chain(&unit.libraries).any(|dir| dir == parent)
    };
    // What lies in the package itself is named from there.
    inputs.files.iter().any(|input| roots.lie_in_target(&input.path) && !by_argument(&input.path))
}

/// Whether a depfile holds the value of a variable that names a directory: as text of the source's, not of this call's.
fn quotes_places(depfile: &[u8], roots: &Roots) -> bool {
    let mut lines = depfile.split(|byte| *byte == b'\n');
    lines.any(|line| line.starts_with(ENV_DEP) && roots.appear_in(line))
}

/// Masks what can be, and says whether directories are named where it cannot.
fn mask(
    store: &Store,
    context: &Context,
    prepared: &Prepared,
    outcome: &mut TaskOutcome,
) -> Result<bool, CacheError> {
    let roots = &prepared.roots;
    let places = prepared.outputs(context);
    let depfiles =
        prepared.task.outputs.iter().zip(&places).filter(|(output, _)| output.kind == OutputKind::Depfile);
    let depfiles: Vec<&OsStr> = depfiles.map(|(_, place)| place.name.as_os_str()).collect();
    let mut named = false;
    for output in &mut outcome.outputs {
        let digest = output.blob.as_ref().and_then(|blob| Digest::try_from(blob).ok());
        let Some(digest) = digest else { continue };
        // The store has hashed it then, which the next hit need not do again.
        let kept = store.linkable(DigestFunction::Blake3, &digest, false)?;
        if depfiles.contains(&OsStr::from_bytes(&output.path)) {
            let text = std::fs::read(kept)?;
            named |= quotes_places(&text, roots);
            output.blob = Some(store.put(DigestFunction::Blake3, &roots.mask(&text))?.into());
            output.masked = true;
        } else {
            named = named || roots.appear_in_all(std::fs::File::open(kept)?)?;
        }
        output.path = roots.mask(&output.path).into_owned();
    }
    for said in [&mut outcome.stdout, &mut outcome.stderr] {
        *said = roots.mask(said).into_owned();
    }
    Ok(named)
}

/// A depfile as it reads here.
pub fn unmasked(store: &Store, roots: &Roots, output: &OutputFile) -> Result<Digest, CacheError> {
    let digest = output.blob.as_ref().and_then(|blob| Digest::try_from(blob).ok());
    let digest = digest.unwrap_or_else(|| DigestFunction::Blake3.digest(b""));
    let text = store.read(DigestFunction::Blake3, &digest)?;
    let plain = roots.unmask(&text).unwrap_or_default();
    store.put(DigestFunction::Blake3, &plain)
}
