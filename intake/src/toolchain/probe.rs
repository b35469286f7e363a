//! Asking a compiler where its parts are: `-v`, `-print-prog-name=`, `-print-file-name=`, `-print-resource-dir`
//! (GCC manual, "Options for Directory Search"; clang's command line reference). Knows the two drivers' manners,
//! neither digests nor trees.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbuild_compilers::{CompilerInfo, Family};

use super::{Key, refusal, rust};
use crate::elf;
use crate::error::IntakeError;
use crate::locale;
use crate::run::{Ran, Run};

/// A driver answers within milliseconds, unless the machine is swamped.
const LIMIT: Duration = Duration::from_secs(30);

/// gcc's own programs for C, C++ and Objective-C, and what these start. Without `lto1`, a quarter of what would travel:
/// only links start it, and the calls that links make (`-fltrans`, `-fwpa`), and these run where the build is.
const GCC_PROGRAMS: [&str; 9] =
    ["cc1", "cc1plus", "cc1obj", "cc1objplus", "as", "collect2", "lto-wrapper", "objcopy", "ld"];
/// Files that gcc loads if they are there.
const GCC_FILES: [&str; 2] = ["liblto_plugin.so", "specs"];

/// What a compiler said of itself.
#[derive(Debug)]
pub(super) struct Parts {
    pub info: CompilerInfo,
    pub traceable: bool,
    /// The driver first. May name files twice, by different spellings.
    pub files: Vec<PathBuf>,
    /// Directories that it must find, empty or not.
    pub directories: Vec<PathBuf>,
    /// Directories that it lists to find something.
    pub listed: Vec<PathBuf>,
    /// `LD_LIBRARY_PATH` matters.
    pub library_path: bool,
    /// rustc's.
    pub sysroot: Option<PathBuf>,
}

pub(super) fn probe(key: &Key) -> Result<Parts, IntakeError> {
    let compiler = key.compiler.as_path();
    let Some(driver) = elf::read(compiler)? else {
        return Err(refusal(compiler, "it is no 64-bit ELF program (a script?)"));
    };
    if rust::is_rustc(compiler) {
        return rust::probe(key, driver.interpreter.is_some());
    }
    let version = ask(key, &["-v"])?;
    let text = version.stderr_text();
    let info = understand(&text).ok_or_else(|| refusal(compiler, "it is neither gcc nor clang"))?;
    let mut parts = Parts {
        info,
        traceable: driver.interpreter.is_some(),
        files: vec![compiler.to_path_buf()],
        directories: Vec::new(),
        listed: Vec::new(),
        library_path: false,
        sysroot: None,
    };
    match parts.info.family {
        Family::Gcc => gcc(key, &text, &mut parts)?,
        Family::Clang => clang(key, &text, &mut parts)?,
        Family::Rustc => return Err(refusal(compiler, "it is rustc by another name")),
    }
    load(key, &mut parts)?;
    parts.files.extend(locale::files(&key.locale));
    Ok(parts)
}

fn gcc(key: &Key, version: &str, parts: &mut Parts) -> Result<(), IntakeError> {
    for name in GCC_PROGRAMS {
        let path = said(key, &format!("-print-prog-name={name}"))?;
        // A bare name is looked up on PATH when its time comes; gcc's own programs never are there.
        let found = if path.is_absolute() { Some(path) } else { key.program(name).map(Path::to_path_buf) };
        parts.files.extend(found.filter(|path| path.is_file()));
    }
    for name in GCC_FILES {
        let path = said(key, &format!("-print-file-name={name}"))?;
        parts.files.extend(Some(path).filter(|path| path.is_absolute() && path.is_file()));
    }
    for line in version.lines() {
        if let Some(specs) = line.strip_prefix("Reading specs from ") {
            parts.files.extend(Some(PathBuf::from(specs)).filter(|path| path.is_file()));
        }
    }
    if !parts.files.iter().any(|path| path.ends_with("cc1") || path.ends_with("cc1plus")) {
        return Err(refusal(&key.compiler, "its compiler proper (cc1) is not there"));
    }
    Ok(())
}

fn clang(key: &Key, version: &str, parts: &mut Parts) -> Result<(), IntakeError> {
    let assembler = said(key, "-print-prog-name=as")?;
    let assembler =
        if assembler.is_absolute() { Some(assembler) } else { key.program("as").map(Path::to_path_buf) };
    parts.files.extend(assembler.filter(|path| path.is_file()));
    let resources = said(key, "-print-resource-dir")?;
    if !resources.is_dir() {
        return Err(refusal(&key.compiler, "its resource directory is not there"));
    }
    // Lists of what sanitizers leave alone. Headers are inputs; run-time libraries are for links.
    parts.files.extend(children(&resources.join("share")).into_iter().filter(|path| path.is_file()));
    parts
        .directories
        .extend([resources.join("include"), resources.join("lib")].into_iter().filter(|dir| dir.is_dir()));
    parts.directories.push(resources);
    // Which gcc it takes C++ headers from: it lists the directories above, and crtbegin.o marks an installation.
    for line in version.lines() {
        let Some(place) = line.strip_prefix("Found candidate GCC installation: ") else { continue };
        let place = PathBuf::from(place.trim_end());
        let multilib = children(&place).into_iter().filter(|path| path.is_dir());
        let marks = multilib.chain([place.clone()]).map(|dir| dir.join("crtbegin.o"));
        parts.files.extend(marks.filter(|mark| mark.is_file()));
        let above = place.ancestors().skip(1).take(2).map(Path::to_path_buf);
        parts.listed.extend(above.filter(|dir| dir.is_dir()));
    }
    parts.listed.sort();
    parts.listed.dedup();
    Ok(())
}

/// Adds the loader and the shared libraries of all programs and libraries.
pub(super) fn load(key: &Key, parts: &mut Parts) -> Result<(), IntakeError> {
    let library_path = key.steered_by("LD_LIBRARY_PATH");
    let mut seen = BTreeSet::new();
    let mut libraries = BTreeSet::new();
    let mut main_loader = None;
    let mut by_cache = false;
    for file in &parts.files {
        if !seen.insert(fs_err::canonicalize(file)?) {
            continue;
        }
        let Some(elf) = elf::read(file)? else { continue };
        if elf.interpreter.is_some() && main_loader.is_none() {
            main_loader.clone_from(&elf.interpreter);
        }
        // A library without a loader of its own is loaded by the driver's.
        let (true, Some(loader)) = (elf.dynamic, elf.interpreter.as_ref().or(main_loader.as_ref())) else {
            continue;
        };
        let incomplete = |error: std::io::Error| refusal(&key.compiler, error.to_string());
        let mut found = elf::libraries(loader, file, None);
        let mut steered_by = None;
        if library_path.is_some() {
            let other = elf::libraries(loader, file, library_path).map_err(incomplete)?;
            if !found.as_ref().is_ok_and(|found| found.paths == other.paths) {
                parts.library_path = true;
                steered_by = library_path;
                found = Ok(other);
            }
        }
        let found = found.map_err(incomplete)?;
        by_cache |= !elf::needs_no_cache(&found, loader, file, steered_by);
        libraries.insert(loader.clone());
        libraries.extend(found.paths);
    }
    parts.files.extend(libraries);
    if by_cache {
        parts.files.push("/etc/ld.so.cache".into());
    }
    Ok(())
}

/// Family, version and target out of what `-v` prints.
fn understand(text: &str) -> Option<CompilerInfo> {
    let target = text.lines().find_map(|line| line.strip_prefix("Target: "))?.trim().to_owned();
    let (family, version) = text.lines().find_map(|line| {
        if let Some(rest) = line.strip_prefix("gcc version ") {
            return Some((Family::Gcc, rest));
        }
        // A vendor's name may stand before it: `Debian clang version 14.0.6`.
        let at = line.find("clang version ")?;
        Some((Family::Clang, &line[at + "clang version ".len()..]))
    })?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    let major = numbers.next().filter(|&major| major > 0)?;
    Some(CompilerInfo {
        family,
        version: (major, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        target,
    })
}

pub(super) fn ask(key: &Key, args: &[&str]) -> Result<Ran, IntakeError> {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let mut env: Vec<(OsString, OsString)> = key.steering.clone();
    env.push(("LC_ALL".into(), "C".into()));
    // Only so that clang, which is asked for `as`, looks where the caller's would.
    let path: Vec<&Path> = key.programs.iter().filter_map(|program| program.parent()).collect();
    env.push(("PATH".into(), std::env::join_paths(path).unwrap_or_default()));
    let run = Run {
        program: &key.compiler,
        argv0: key.compiler.as_os_str(),
        args: &args,
        cwd: Path::new("/"),
        env: &env,
        limit: LIMIT,
    };
    let ran = run.go()?;
    if !ran.status.success() {
        let reason = format!("{:?} gave {}: {}", args, ran.status, ran.stderr_text().trim());
        return Err(refusal(&key.compiler, reason));
    }
    Ok(ran)
}

/// A path that it prints.
fn said(key: &Key, arg: &str) -> Result<PathBuf, IntakeError> {
    use std::os::unix::ffi::OsStrExt as _;
    let ran = ask(key, &[arg])?;
    Ok(PathBuf::from(OsStr::from_bytes(ran.stdout.trim_ascii())))
}

pub(super) fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_told_apart() {
        let gcc = "Using built-in specs.\nTarget: x86_64-linux-gnu\nThread model: posix\n\
                   gcc version 12.2.0 (Debian 12.2.0-14+deb12u1) \n";
        let info = understand(gcc).unwrap();
        assert_eq!(
            (info.family, info.version, info.target.as_str()),
            (Family::Gcc, (12, 2, 0), "x86_64-linux-gnu")
        );
        let clang = "Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\nInstalledDir: /usr/bin\n\
                     Found candidate GCC installation: /usr/bin/../lib/gcc/x86_64-linux-gnu/12\n";
        let info = understand(clang).unwrap();
        assert_eq!((info.family, info.version), (Family::Clang, (14, 0, 6)));
        for other in ["", "Target: x\nicc version 3\n", "gcc version 12\n", "Target: x\ngcc version x\n"] {
            assert_eq!(understand(other), None, "{other}");
        }
    }
}
