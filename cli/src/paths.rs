//! Where things are kept: one data directory, and names inside it. Nothing else in the program spells these names.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Identifies this build of dbuild: initiators and shims of different builds never meet.
pub const BUILD_ID: &str = env!("DBUILD_BUILD_ID");

/// The layout under the data directory (`DBUILD_DATA_DIR`).
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new(root: PathBuf) -> Self {
        DataDir(root)
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The near cache; shared by every version of dbuild, whose formats are versioned inside.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Sockets, locks and the log of this build's initiator.
    pub fn run(&self) -> PathBuf {
        self.0.join("run").join(BUILD_ID)
    }

    /// The stand-in compilers and the interceptor of this build.
    pub fn shims(&self) -> PathBuf {
        self.0.join("shims").join(BUILD_ID)
    }

    /// Where `dbuild` talks to its initiator.
    pub fn control_socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// Where shims talk to the initiator; its name is part of the contract with `shims`.
    pub fn shim_socket(&self) -> PathBuf {
        self.run().join("initiator.sock")
    }

    /// Held for life by the one initiator of this build and user.
    pub fn initiator_lock(&self) -> PathBuf {
        self.run().join("initiator.lock")
    }

    pub fn initiator_log(&self) -> PathBuf {
        self.run().join("initiator.log")
    }

    /// Trace files and intermediate objects of running tasks.
    pub fn scratch(&self) -> PathBuf {
        self.run().join("scratch")
    }

    /// What became of each output (`dbuild why`), and the counters.
    pub fn records(&self) -> PathBuf {
        self.0.join("records")
    }

    /// What `dbuild up` started.
    pub fn pool(&self) -> PathBuf {
        self.0.join("pool")
    }
}

/// The default data directory: `$XDG_CACHE_HOME/dbuild`, else `$HOME/.cache/dbuild`, else one per user in /tmp.
pub fn default_data_dir(xdg_cache_home: Option<&OsStr>, home: Option<&OsStr>, uid: u32) -> PathBuf {
    let absolute = |path: Option<&OsStr>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(cache) = absolute(xdg_cache_home) {
        return cache.join("dbuild");
    }
    match absolute(home) {
        Some(home) => home.join(".cache").join("dbuild"),
        None => PathBuf::from(format!("/tmp/dbuild-{uid}")),
    }
}

/// A path that fits into a `sockaddr_un` (108 bytes): the path itself, or one through an open directory. The guard
/// keeps that directory open.
pub fn short_socket_path(path: &Path) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    use std::os::fd::AsRawFd;
    const LIMIT: usize = 100;
    if path.as_os_str().len() <= LIMIT {
        return Ok((path.to_owned(), None));
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path.to_owned(), None));
    };
    let dir = std::fs::File::open(dir)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((short, Some(dir)))
}
