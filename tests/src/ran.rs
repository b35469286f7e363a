//! Running a command to its end and keeping what it said. Knows nothing of sandboxes and of files in a tree.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// How long anything may take before it counts as hanging. Never part of a verdict.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// As a shell says it: 128+n for signal n.
    pub code: i32,
    pub stdout: Vec<u8>,
    /// Without the lines of dbuild.
    pub stderr: Vec<u8>,
    /// The lines of dbuild in stderr: they start with `dbuild: ` (and hints below them with two spaces).
    pub own: Vec<String>,
}

/// How a command is connected while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Files: nobody who keeps them open can hold the run up.
    Files,
    /// Pipes, read until everyone has closed them: a background process that inherited one is found out.
    Pipes,
}

impl Ran {
    /// Panics with everything it said unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert!(self.code == 0, "{self}");
        self
    }

    /// The first thing in which a run differs from this one, dbuild's own lines apart.
    pub fn difference(&self, other: &Ran) -> Option<String> {
        if self.code != other.code {
            return Some(format!("exit code: plain {}, here {}\n{other}", self.code, other.code));
        }
        let streams = [("stdout", &self.stdout, &other.stdout), ("stderr", &self.stderr, &other.stderr)];
        streams.into_iter().find(|(_, plain, here)| plain != here).map(|(name, plain, here)| {
            let (plain, here) = (String::from_utf8_lossy(plain), String::from_utf8_lossy(here));
            format!("{name}:\n--- plain\n{plain}--- here\n{here}---")
        })
    }

    /// As [`Ran::difference`], for parallel builds: lines in any order.
    pub fn difference_unordered(&self, other: &Ran) -> Option<String> {
        let sorted = |ran: &Ran| Ran {
            stdout: sort_lines(&ran.stdout),
            stderr: sort_lines(&ran.stderr),
            ..ran.clone()
        };
        sorted(self).difference(&sorted(other))
    }

    /// Whether one of dbuild's own lines mentions one of the words (lower case).
    pub fn says(&self, words: &[&str]) -> bool {
        self.own.iter().any(|line| words.iter().any(|word| line.to_lowercase().contains(word)))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, err) = (String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr));
        write!(
            f,
            "code {}\n--- stdout\n{out}--- stderr\n{err}--- dbuild's own\n{}",
            self.code,
            self.own.join("\n")
        )
    }
}

/// Runs in a process group of its own and waits for its end; a run beyond [`PATIENCE`] is killed, group and all, and
/// panics.
pub fn run_bounded(command: &mut Command, stdio: Stdio) -> Ran {
    let shown = format!("{command:?}");
    command.process_group(0);
    let (status, stdout, stderr) = match stdio {
        Stdio::Files => {
            let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
            let status = spawn_and_wait(command, &shown, None);
            (status, read_back(&mut out), read_back(&mut err))
        }
        Stdio::Pipes => {
            let (out, out_end) = std::io::pipe().unwrap();
            let (err, err_end) = std::io::pipe().unwrap();
            command.stdout(out_end).stderr(err_end);
            let (sender, receiver) = mpsc::channel();
            for (index, mut pipe) in [out, err].into_iter().enumerate() {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    let _ = pipe.read_to_end(&mut bytes);
                    let _ = sender.send((index, bytes));
                });
            }
            let status = spawn_and_wait(command, &shown, Some(()));
            let mut streams = [Vec::new(), Vec::new()];
            for _ in 0..2 {
                let held = "someone still holds the build's stdout or stderr after its end";
                let (index, bytes) = receiver.recv_timeout(Duration::from_secs(60)).expect(held);
                streams[index] = bytes;
            }
            let [out, err] = streams;
            (status, out, err)
        }
    };
    let (stderr, own) = without_own_lines(&stderr);
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ran { code, stdout, stderr, own }
}

/// With `close`, the command's own copies of the pipes are given up once the child has them.
fn spawn_and_wait(command: &mut Command, shown: &str, close: Option<()>) -> ExitStatus {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("failed to start {shown}: {error}"));
    if close.is_some() {
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    }
    let group = Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(status) => status.unwrap(),
        Err(_) => {
            let _ = kill_process_group(group, Signal::KILL);
            panic!("did not end: {shown}");
        }
    }
}

/// Takes dbuild's lines out of a stderr.
pub fn without_own_lines(stderr: &[u8]) -> (Vec<u8>, Vec<String>) {
    let (mut rest, mut own) = (Vec::new(), Vec::new());
    for line in stderr.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"dbuild: ") {
            own.push(String::from_utf8_lossy(line).trim_end().to_owned());
        } else {
            rest.extend_from_slice(line);
        }
    }
    (rest, own)
}

fn read_back(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn sort_lines(bytes: &[u8]) -> Vec<u8> {
    let mut lines: Vec<_> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    lines.concat()
}
