//! Finds the compiler that was meant.
//!
//! The interceptor says which file was about to be executed; a call that came over `PATH` is looked up there
//! again, past ourselves. Links to ccache and its like are looked through to the next compiler on `PATH`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::call::Settings;
use crate::frame::Env;
use crate::{elf, names, system, vars};

/// Where the shell of the C library looks when there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What was found.
pub enum Resolved {
    /// A program that compiles.
    Compiler(PathBuf),
    /// A program that compiles, found behind a launcher: what the call names is not what runs.
    Behind(PathBuf),
    /// A script, a proxy, or a launcher without a compiler behind it on `PATH`: runs as it is, and what it calls
    /// is caught.
    Indirect(PathBuf),
}

/// The compiler for this call; `None` if there is none.
pub fn compiler(argv: &[OsString], settings: &Settings, env: &Env) -> Option<Resolved> {
    let first = match &settings.exec_path {
        Some(path) => Some(path.clone()),
        None => on_path(basename(argv.first()?), env, |path| !is_stand_in(path)),
    }?;
    if !system::is_executable(&first) {
        return None;
    }
    if !is_launcher(&first) {
        return Some(judged(first));
    }
    let name = first.file_name().unwrap_or_default();
    match on_path(name, env, |path| !is_stand_in(path) && !is_launcher(path)) {
        Some(behind) => Some(match judged(behind) {
            Resolved::Compiler(path) => Resolved::Behind(path),
            other => other,
        }),
        None => Some(Resolved::Indirect(first)),
    }
}

fn judged(path: PathBuf) -> Resolved {
    if is_proxy(&path) {
        return Resolved::Indirect(path);
    }
    let mut magic = [0; 4];
    // a compiler that may be executed but not read is taken for one
    let script =
        File::open(&path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && !elf::is_elf(&magic);
    if script { Resolved::Indirect(path) } else { Resolved::Compiler(path) }
}

/// Whether `path` is one of rustup's proxies, which choose a toolchain and run its program of the same name: links to
/// the `rustup` beside them, or other names of that file.
fn is_proxy(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::as_bytes);
    let has_proxies = |name: &[u8]| name.starts_with(b"rustc") || name == b"clippy-driver";
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    name.is_some_and(has_proxies)
        && identity(path).is_some_and(|here| identity(&path.with_file_name("rustup")) == Some(here))
}

/// The first executable file of that name on `PATH` that `wanted` agrees to.
fn on_path(name: &OsStr, env: &Env, wanted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if name.is_empty() || name == vars::SHIM_FILE {
        return None;
    }
    let path = env.iter().find(|(name, _)| name == vars::PATH);
    let path = path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value);
    std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file() && system::is_executable(candidate) && wanted(candidate))
}

/// Whether `path` is this very program, or the stand-in of another dbuild.
pub fn is_stand_in(path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let here = identity(Path::new("/proc/self/exe"));
    here.is_some() && identity(path) == here
        || fs::canonicalize(path).is_ok_and(|path| path.file_name() == Some(OsStr::new(vars::SHIM_FILE)))
}

/// Whether `path` is a link that ends in ccache or one of its like.
fn is_launcher(path: &Path) -> bool {
    fs::canonicalize(path)
        .is_ok_and(|path| path.file_name().is_some_and(|name| names::is_launcher(name.as_bytes())))
}

fn basename(name: &OsStr) -> &OsStr {
    OsStr::from_bytes(names::basename(name.as_bytes()))
}
