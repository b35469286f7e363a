//! A user of dbuild with nothing but what the test gives: own home, own data directory, fixed locale and `PATH`.
//!
//! Dropping it stops the initiator and then looks for processes that are left: one of them fails the test, and is
//! killed either way.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::{Counters, Process, Ran, Stdio, TestCluster, dbuild, processes_of, run_bounded};

/// The same for every test, whatever the developer has.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static UMASK: Once = Once::new();

#[derive(Debug)]
pub struct Sandbox {
    root: tempfile::TempDir,
    env: BTreeMap<OsString, OsString>,
    /// Words before `dbuild`: whose host the user sits at.
    within: Vec<OsString>,
    used: Cell<bool>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Sandbox {
    /// A user without a coordinator.
    pub fn new() -> Sandbox {
        UMASK.call_once(|| {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        });
        let root = tempfile::Builder::new().prefix("dbuild-test-").tempdir().unwrap();
        let path = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path.into_os_string()
        };
        let env: [(&str, OsString); 13] = [
            ("PATH", PATH.into()),
            ("HOME", path("home")),
            ("TMPDIR", path("tmp")),
            ("XDG_CONFIG_HOME", path("config")),
            ("XDG_CACHE_HOME", path("xdg-cache")),
            ("XDG_DATA_HOME", path("xdg-data")),
            ("XDG_STATE_HOME", path("xdg-state")),
            ("XDG_RUNTIME_DIR", path("run")),
            ("DBUILD_DATA_DIR", path("data")),
            ("LC_ALL", "C.UTF-8".into()),
            ("TZ", "UTC0".into()),
            ("TERM", "xterm".into()),
            ("SHELL", "/bin/sh".into()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Sandbox { root, env, within: Vec::new(), used: Cell::new(false) }
    }

    /// A user of `cluster`, on its coordinator's host, who lets nothing run here that can run elsewhere.
    pub fn of(cluster: &TestCluster) -> Sandbox {
        let mut sandbox = Sandbox::new();
        sandbox.within = cluster.near().to_vec();
        sandbox.set("DBUILD_COORDINATOR", cluster.url());
        sandbox.set("DBUILD_LOCAL_SLOTS", "0");
        sandbox
    }

    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.env.insert(name.into(), value.into());
    }

    /// Where the test may put what it likes.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// An empty directory of this name below the root.
    pub fn fresh_dir(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A command in the user's environment, not started yet.
    pub fn command(&self, cwd: &Path, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(&self.env).env("PWD", cwd).current_dir(cwd);
        command.stdin(std::process::Stdio::null());
        command
    }

    /// `dbuild WORDS…`, not started yet.
    pub fn dbuild_command(&self, cwd: &Path, words: &[impl AsRef<OsStr>]) -> Command {
        self.used.set(true);
        let mut all: Vec<&OsStr> = self.within.iter().map(OsString::as_os_str).collect();
        all.push(dbuild().as_os_str());
        all.extend(words.iter().map(AsRef::as_ref));
        self.command(cwd, &all)
    }

    /// Runs a command without dbuild.
    pub fn plain(&self, cwd: &Path, words: &[impl AsRef<OsStr>]) -> Ran {
        run_bounded(&mut self.command(cwd, words), Stdio::Files)
    }

    /// Runs `dbuild WORDS…`.
    pub fn dbuild(&self, cwd: &Path, words: &[impl AsRef<OsStr>]) -> Ran {
        run_bounded(&mut self.dbuild_command(cwd, words), Stdio::Files)
    }

    /// Runs `sh -c SCRIPT` without dbuild.
    pub fn plain_sh(&self, cwd: &Path, script: &str) -> Ran {
        self.plain(cwd, &["sh", "-c", script])
    }

    /// Runs `dbuild sh -c SCRIPT`.
    pub fn dbuild_sh(&self, cwd: &Path, script: &str) -> Ran {
        self.dbuild(cwd, &["sh", "-c", script])
    }

    pub fn counters(&self) -> Counters {
        Counters::parse(&self.dbuild(self.root(), &["stats", "--json"]).ok().stdout)
    }

    /// What `dbuild why OUTPUT` says, also if that is that it knows nothing.
    pub fn why(&self, output: &Path) -> String {
        let ran = self.dbuild(self.root(), &[OsStr::new("why"), output.as_os_str()]);
        String::from_utf8_lossy(&ran.stdout).into_owned() + &ran.own.join("\n")
    }

    /// This user's initiators that are alive.
    pub fn initiators(&self) -> Vec<Process> {
        let mut found = processes_of(&self.data_dir());
        found.retain(Process::is_initiator);
        found
    }

    /// Ends the initiator in an orderly way.
    pub fn stop(&self) {
        self.dbuild(self.root(), &["stop"]).ok();
    }

    /// What still runs of this user a while after everything was told to end.
    fn left_behind(&self) -> Vec<Process> {
        let start = Instant::now();
        loop {
            let left = processes_of(self.root());
            if left.is_empty() || start.elapsed() > Duration::from_secs(20) {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.used.get() {
            return;
        }
        let _ = self.dbuild_command(self.root(), &["stop"]).stdout(std::process::Stdio::null()).status();
        let left = self.left_behind();
        for process in &left {
            process.kill();
        }
        if !left.is_empty() && !std::thread::panicking() {
            panic!("processes left behind: {left:#?}");
        }
    }
}
