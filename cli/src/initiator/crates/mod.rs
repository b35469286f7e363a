//! What a watched rustc call depended on, and what it left: the part of keeping a result that is unlike a C compile. What
//! goes to helpers with a crate is in `away`, what comes back of it in `back`.

pub mod away;
pub mod back;
pub mod linkers;
mod needs;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbuild_compilers::CrateUnit;
use dbuild_intake::{Doubt, Inputs, JOBSERVER, Mapped, Observed, Presence, Start, Toolchain, is_script};

use super::context::Context;
pub use needs::Needs;

/// Programs that a link runs: the driver that rustc calls, and what that calls. Of others nobody knows what they look at.
const LINKERS: [&str; 18] = [
    "as",
    "c++",
    "cc",
    "clang",
    "clang++",
    "collect2",
    "g++",
    "gcc",
    "ld",
    "ld.bfd",
    "ld.gold",
    "ld.lld",
    "ld.mold",
    "lld",
    "lto-wrapper",
    "mold",
    "rust-lld",
    "rust-objcopy",
];

/// Where the loader looks first, for libraries of every program that a call runs.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// Stands among the variables for the width that messages were broken to.
pub const WIDTH: &str = "--diagnostic-width";

/// The unit with absolute paths.
pub fn absolute(context: &Context, unit: &CrateUnit) -> CrateUnit {
    let absolute = |path: &PathBuf| context.absolute(path);
    CrateUnit {
        searched: unit.searched.iter().map(absolute).collect(),
        libraries: unit.libraries.iter().map(absolute).collect(),
        out_dir: absolute(&unit.out_dir),
        externs: unit.externs.iter().map(absolute).collect(),
        ..unit.clone()
    }
}

/// The value of a variable as this call sees it.
pub fn variable<'c>(context: &'c Context, unit: Option<&'c CrateUnit>, name: &OsStr) -> Option<&'c OsStr> {
    if name == WIDTH {
        return unit?.width.as_deref();
    }
    let env = &context.invoke.env;
    if let Some((_, value)) = env.iter().find(|(known, _)| known == name) {
        return Some(value.as_os_str());
    }
    // getenv("A=B") finds `A=B=1`, whose name an environment ends at the first sign.
    let (first, rest) = split_once(name.as_bytes(), b'=')?;
    let value = |(known, value): &'c (OsString, OsString)| {
        let value = value.as_bytes().strip_prefix(rest)?.strip_prefix(b"=")?;
        (known.as_bytes() == first).then(|| OsStr::from_bytes(value))
    };
    env.iter().find_map(value)
}

fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Files that are opened and have no effect on the result: cargo's jobserver (GNU make's manual, "POSIX Jobserver
/// Interaction"), and the files that the arguments came from.
pub fn idle(context: &Context, unit: &CrateUnit) -> Vec<PathBuf> {
    let mut idle = unit.argument_files.clone();
    let flags = JOBSERVER.into_iter().filter_map(|name| context.variable(name));
    for word in flags.flat_map(|flags| flags.as_bytes().split(|byte| *byte == b' ')) {
        let auth = word.strip_prefix(b"--jobserver-auth=").or_else(|| word.strip_prefix(b"--jobserver-fds="));
        let Some(auth) = auth else { continue };
        match auth.strip_prefix(b"fifo:") {
            Some(path) => idle.push(OsStr::from_bytes(path).into()),
            None => {
                let ends = auth.split(|byte| *byte == b',').map(OsStr::from_bytes);
                idle.extend(ends.map(|end| Path::new("/dev/fd").join(end)));
            }
        }
    }
    idle
}

/// Why a crate's result is not kept.
pub enum Objection {
    Because(&'static str),
    Doubt(Doubt),
}

impl From<Doubt> for Objection {
    fn from(doubt: Doubt) -> Self {
        Objection::Doubt(doubt)
    }
}

impl From<std::io::Error> for Objection {
    fn from(error: std::io::Error) -> Self {
        Objection::Doubt(Doubt::Io(error))
    }
}

/// Everything that a watched call depended on.
pub fn inputs(
    context: &Context,
    toolchain: &Toolchain,
    unit: &CrateUnit,
    observed: &Observed,
    (start, stderr): (Start, &[u8]),
) -> Result<Inputs, Objection> {
    let files = &context.initiator.files;
    let mut inputs = Inputs::gather_unscanned(observed, files, start)?;
    for path in observed.files.iter().filter(|path| path.extension() == Some(OsStr::new("so"))) {
        if let Some(reach) = context.initiator.loaded.reach(path, files, toolchain)? {
            return Err(Objection::Because(reach));
        }
    }
    for program in &observed.programs {
        let name = program.file_name().unwrap_or_default();
        // Whatever else runs was started by a macro, or is a wrapper that may look at anything.
        if !LINKERS.iter().any(|known| name == *known || is_version_of(name, known)) {
            return Err(Objection::Because("runs a program that is no known linker"));
        }
        if is_script(program)? {
            return Err(Objection::Because("its linker is a script"));
        }
        let mapped = mapped(context, program)?;
        for path in &mapped.files {
            inputs.add_unscanned(path, files, start)?;
        }
        for (directory, name) in &mapped.absent {
            inputs.add_absent(directory, name);
        }
    }
    if unit.links {
        for path in siblings(context, unit).filter(|path| !path.exists()) {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { continue };
            inputs.add_absent(directory, name);
        }
    }
    inputs.note_listings(&observed.listed, &context.initiator.directories, start)?;
    inputs.note_variables(&observed.variables, &|name| variable(context, Some(unit), name));
    if !is_quiet(stderr) {
        inputs.note_variables(&[WIDTH.into()], &|name| variable(context, Some(unit), name));
    }
    Ok(inputs)
}

/// `gcc-12` is a version of `gcc`, and `x86_64-linux-gnu-ld` is one for a target.
fn is_version_of(name: &OsStr, known: &str) -> bool {
    let name = name.as_bytes();
    let versioned = name.strip_prefix(known.as_bytes()).is_some_and(|rest| rest.starts_with(b"-"));
    versioned || name.strip_suffix(known.as_bytes()).is_some_and(|rest| rest.ends_with(b"-"))
}

/// What the loader maps for a program of the build's. `LD_LIBRARY_PATH`, into which it looks first, must change nothing: helpers
/// know none.
fn mapped(context: &Context, program: &Path) -> Result<Arc<Mapped>, Objection> {
    let loaded = &context.initiator.loaded;
    let plain = loaded.with(program, None)?;
    let directories: Vec<PathBuf> = library_path(context).collect();
    if directories.is_empty() {
        return Ok(plain);
    }
    let joined = std::env::join_paths(&directories).map_err(|_| Objection::Because(OTHER_LIBRARIES))?;
    let steered = loaded.with(program, Some(&joined))?;
    let real = |mapped: &Mapped| -> BTreeSet<PathBuf> {
        mapped.files.iter().filter_map(|path| path.canonicalize().ok()).collect()
    };
    let holds_variables = joined.as_bytes().contains(&b'$');
    match !holds_variables && real(&plain) == real(&steered) {
        true => Ok(steered),
        false => Err(Objection::Because(OTHER_LIBRARIES)),
    }
}

/// What may hold the code of the crates that a program needs, whatever named them: rustc lists the directories where crates
/// are searched, and prefers one kind or another (rustc's book, "Linkage").
pub fn siblings(context: &Context, unit: &CrateUnit) -> impl Iterator<Item = PathBuf> {
    let needed = context.initiator.needs.of(&unit.externs);
    let crates = needed.map_or_else(|| unit.externs.iter().cloned().collect(), |needed| needed.crates);
    let stems: BTreeSet<PathBuf> = crates.into_iter().map(|path| path.with_extension("")).collect();
    let named =
        |stem: &PathBuf, suffix| PathBuf::from([stem.as_os_str(), OsStr::new(suffix)].join(OsStr::new("")));
    stems.into_iter().flat_map(move |stem| [".rlib", ".rmeta", ".so"].map(|suffix| named(&stem, suffix)))
}

/// How rustc writes a variable into a depfile.
pub const ENV_DEP: &[u8] = b"# env-dep:";

/// Whether a depfile says that the crate itself asked for a variable that says how to run (`env!("MAKEFLAGS")`): rustc asks
/// for them, too, so no manifest has them.
pub fn asks_for_the_jobserver(depfile: &[u8]) -> bool {
    let asked = depfile.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(ENV_DEP));
    let mut names = asked.map(|asked| asked.split(|byte| *byte == b'=').next().unwrap_or_default());
    names.any(|name| JOBSERVER.iter().any(|idle| idle.as_bytes() == name))
}

/// Why a call is left alone.
pub const OTHER_LIBRARIES: &str = "LD_LIBRARY_PATH leads to other libraries";

/// Whether `LD_LIBRARY_PATH` would give the compiler other libraries than it was found to have.
pub fn is_misled(context: &Context, toolchain: &Toolchain) -> bool {
    let directories = &context.initiator.directories;
    if library_path(context).any(|entry| has_variants(&entry)) {
        return true;
    }
    let mut homes: Vec<&Path> = toolchain.libraries().filter_map(Path::parent).collect();
    homes.dedup();
    let misleads = |directory: &Path, name: &OsStr| match directories.presence(directory, name) {
        Ok(Presence::Absent | Presence::NoDirectory) => false,
        Ok(Presence::Present) => !is_same(&directory.join(name), toolchain),
        Err(_) => true,
    };
    library_path(context).filter(|directory| !homes.contains(&&**directory)).any(|directory| {
        toolchain.libraries().filter_map(Path::file_name).any(|name| misleads(&directory, name))
    })
}

/// Whether the loader would look further down in an entry of `LD_LIBRARY_PATH`, or take it for another (ld.so(8), "Hardware
/// capabilities", "Dynamic string tokens").
fn has_variants(entry: &Path) -> bool {
    const BELOW: [&str; 6] = ["glibc-hwcaps", "tls", "haswell", "xeon_phi", "avx512_1", "x86_64"];
    entry.as_os_str().as_bytes().contains(&b'$') || BELOW.iter().any(|below| entry.join(below).is_dir())
}

/// Whether the file is one of the toolchain's by another path.
fn is_same(path: &Path, toolchain: &Toolchain) -> bool {
    std::fs::metadata(path)
        .map(|meta| identity(&meta))
        .is_ok_and(|(device, inode)| toolchain.owns(device, inode))
}

fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// An empty entry is the working directory (ld.so(8)); an empty list is none.
fn library_path(context: &Context) -> impl Iterator<Item = PathBuf> {
    let value = context.variable(LIBRARY_PATH).map(OsStrExt::as_bytes);
    let entries = value.into_iter().flat_map(|value| value.split(|byte| matches!(byte, b':' | b';')));
    entries.map(|entry| context.absolute(Path::new(OsStr::from_bytes(entry))))
}

/// Whether nothing was said but which files are ready: then the terminal's width says nothing, either.
pub fn is_quiet(stderr: &[u8]) -> bool {
    let mut lines = stderr.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.all(|line| line.starts_with(b"{\"$message_type\":\"artifact\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linkers_go_by_version_and_target() {
        for (name, known) in [("gcc-12", "gcc"), ("x86_64-linux-gnu-ld", "ld"), ("ld.lld-19", "ld.lld")] {
            assert!(is_version_of(OsStr::new(name), known), "{name}");
        }
        for (name, known) in [("gcov", "gcc"), ("build", "ld"), ("git", "gcc")] {
            assert!(!is_version_of(OsStr::new(name), known), "{name}");
        }
    }

    #[test]
    fn only_artifacts_are_quiet() {
        let artifact =
            b"{\"$message_type\":\"artifact\",\"artifact\":\"/t/libx.rmeta\",\"emit\":\"metadata\"}\n";
        assert!(is_quiet(artifact) && is_quiet(b""));
        assert!(!is_quiet(&[&artifact[..], b"{\"$message_type\":\"diagnostic\"}\n"].concat()));
    }
}
