//! What of a trace says something about the build, and what is the machine's, the toolchain's or dbuild's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use dbuild_compilers::CrateUnit;

use crate::toolchain::Toolchain;

/// Paths under these are the machine's and not the build's: looking at them says nothing. What is *read* there does,
/// unless it is one of [`HARMLESS`].
const MACHINE: [&str; 3] = ["/proc", "/dev", "/sys"];

/// A file system like any other, though under `/dev`.
const SHARED_MEMORY: &str = "/dev/shm";

/// What compilers and their libraries read there without any effect on a result (the processor is part of the key
/// where it has one).
const HARMLESS: [&str; 10] = [
    "/dev/null",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self/exe",
    "/proc/self/maps",
    "/proc/self/statm",
    "/proc/self/status",
];

/// What the observer must know of the compile.
#[derive(Clone, Debug, Default)]
pub struct Scope<'a> {
    /// Its files are no inputs. `None`: everything is.
    pub toolchain: Option<&'a Toolchain>,
    /// Absolute paths of the declared outputs.
    pub outputs: &'a [PathBuf],
    /// Directories of dbuild's own (stand-ins, sockets, traces): what lies under them is no input.
    pub own: &'a [PathBuf],
    /// Files that have no effect on the result though they are opened (a jobserver's, files of arguments).
    pub idle: &'a [PathBuf],
    /// It ran on another machine, whose disk is gone: what it wrote is known by the trace alone.
    pub elsewhere: bool,
    /// What is particular to a crate, with absolute paths.
    pub unit: Option<&'a CrateUnit>,
}

impl Scope<'_> {
    /// Whether rustc writes this file as one of the crate's.
    pub(super) fn is_crates(&self, path: &Path) -> bool {
        self.unit.is_some_and(|unit| {
            path.parent() == Some(&*unit.out_dir) && path.file_name().is_some_and(|name| unit.owns(name))
        })
    }

    /// Whether the toolchain's identity covers this file. A link of the build's own that leads there is an input.
    pub(super) fn is_toolchains(&self, path: &Path, (device, inode): (u64, u64)) -> bool {
        self.toolchain.is_some_and(|toolchain| {
            let owned = toolchain.owns(device, inode);
            owned && (self.unit.is_none() || toolchain.names(path))
        })
    }

    /// Whether the names in this directory say nothing: rustc looks there for what it then opens.
    pub(super) fn is_searched(&self, path: &Path) -> bool {
        let by_toolchain = self.toolchain.and_then(|toolchain| toolchain.sysroot.as_deref());
        let by_unit = self.unit.is_some_and(|unit| unit.searched.iter().any(|searched| searched == path));
        by_unit || by_toolchain.is_some_and(|sysroot| path.starts_with(sysroot))
    }

    /// Whether this is a crate that was met in a search, and not opened: another one of the same name was taken.
    pub(super) fn is_passed_over(&self, path: &Path, was_opened: bool) -> bool {
        let crates = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            name.starts_with(b"lib") && (name.ends_with(b".rlib") || name.ends_with(b".rmeta"))
        };
        !was_opened
            && self.unit.is_some()
            && path.file_name().is_some_and(crates)
            && path.parent().is_some_and(|parent| self.is_searched(parent))
    }

    /// Whether dbuild itself has put the path there.
    pub(super) fn is_own(&self, path: &Path) -> bool {
        self.own.iter().any(|own| path.starts_with(own))
    }

    /// Whether the path lies where nothing says anything about the build, and is none of those known to be harmless.
    pub(super) fn is_odd(&self, path: &Path) -> bool {
        is_ignored(path.as_os_str())
            && !HARMLESS.iter().any(|harmless| path == Path::new(harmless))
            && !self.idle.iter().any(|idle| path == idle)
    }
}

/// Whether the path lies where nothing says anything about the build.
pub(super) fn is_ignored(path: &OsStr) -> bool {
    let bytes = path.as_encoded_bytes();
    let under = |prefix: &str| {
        bytes.strip_prefix(prefix.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    };
    MACHINE.iter().any(|prefix| under(prefix)) && !under(SHARED_MEMORY)
}
