//! Processes as `/proc` shows them: which belong to a test, and ending them by pid.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A living process (zombies have no command line and are not listed).
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: Pid,
    /// Arguments joined by spaces, lossy.
    pub command: String,
}

impl Process {
    /// Ends it at once. That it is gone already is fine.
    pub fn kill(&self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }

    pub fn is_initiator(&self) -> bool {
        self.command.split(' ').nth(1) == Some("initiator")
    }
}

/// Every process whose `HOME` or `DBUILD_DATA_DIR` is at or below `root`, or which has such a path in its arguments.
pub fn processes_of(root: &Path) -> Vec<Process> {
    let root = root.as_os_str().as_bytes();
    let begins =
        |line: &[u8], name: &str| line.strip_prefix(name.as_bytes()).is_some_and(|at| at.starts_with(root));
    let of_root = |line: &[u8]| begins(line, "HOME=") || begins(line, "DBUILD_DATA_DIR=");
    list(|environ, command| {
        let in_arguments = command.windows(root.len()).any(|window| window == root);
        in_arguments || environ.split(|&byte| byte == 0).any(of_root)
    })
}

/// Every process with `word` somewhere in its arguments: how a compiler in a helper's sandbox is recognised, where
/// the environment is not ours.
pub fn processes_saying(word: &str) -> Vec<Process> {
    let mut found = list(|_, _| true);
    found.retain(|process| process.command.contains(word));
    found
}

/// Polls until `done` says so. For conditions in other processes, which cannot be waited for. Panics after
/// [`crate::PATIENCE`]: the bound is there for a hang, no test depends on how long anything takes.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < crate::PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn list(wanted: impl Fn(&[u8], &[u8]) -> bool) -> Vec<Process> {
    let own = rustix::process::getpid();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != own) else { continue };
        // A process may end between any two of these; then it is not listed.
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if !command.is_empty() && wanted(&environ, &command) {
            let words: Vec<_> = command.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
            found.push(Process { pid, command: words.join(" ").trim_end().to_owned() });
        }
    }
    found
}
