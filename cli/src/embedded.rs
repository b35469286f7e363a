//! The stand-in compiler and the interceptor, carried inside this binary and laid out at first use.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dbuild_shims::{names, vars};

use crate::paths::DataDir;

const SHIM: &[u8] = include_bytes!(env!("DBUILD_SHIM_BIN"));
const INTERCEPTOR: &[u8] = include_bytes!(env!("DBUILD_INTERCEPT_LIB"));

/// Lays out the shims directory, gives every compiler name that `path` (a `PATH` value) holds a stand-in, and says
/// where the directory is.
pub fn lay_out(data: &DataDir, path: &OsStr) -> std::io::Result<PathBuf> {
    let dir = directory(data)?;
    lay(&dir, vars::SHIM_FILE, SHIM, 0o755)?;
    lay(&dir, vars::INTERCEPT_FILE, INTERCEPTOR, 0o644)?;
    for search in std::env::split_paths(path) {
        // A directory on PATH that cannot be read is the shell's business, not ours.
        let Ok(entries) = std::fs::read_dir(&search) else { continue };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if !names::is_compiler(name.as_bytes()) {
                continue;
            }
            match symlink(vars::SHIM_FILE, dir.join(&name)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
    }
    Ok(dir)
}

/// The shims directory: `LD_PRELOAD` and `PATH` cannot quote, so a data directory with a colon or white space in
/// its path has it in a private directory under /tmp.
pub fn directory(data: &DataDir) -> std::io::Result<PathBuf> {
    let dir = data.shims();
    let awkward = |byte: &u8| *byte == b':' || byte.is_ascii_whitespace();
    if !dir.as_os_str().as_bytes().iter().any(awkward) {
        fs_err::create_dir_all(&dir)?;
        return Ok(dir);
    }
    let uid = rustix::process::getuid().as_raw();
    let private = PathBuf::from(format!("/tmp/dbuild-{uid}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&private) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs_err::symlink_metadata(&private)?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o022 != 0 {
        return Err(std::io::Error::other(format!(
            "{} is not a private directory of this user",
            private.display()
        )));
    }
    let dir = private.join(crate::paths::BUILD_ID);
    fs_err::create_dir_all(&dir)?;
    Ok(dir)
}

/// Writes one file unless it is there already; its directory is named after this very build.
fn lay(dir: &Path, name: &str, content: &[u8], mode: u32) -> std::io::Result<()> {
    let target = dir.join(name);
    if std::fs::metadata(&target).is_ok_and(|found| found.len() == content.len() as u64) {
        return Ok(());
    }
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    // Written, closed and renamed in this order: a file that is open for writing cannot be executed.
    let temporary = file.into_temp_path();
    temporary.persist(&target).map_err(|error| error.error)
}
