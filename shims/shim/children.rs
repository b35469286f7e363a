//! Runs commands as children of the shim and captures what they print; some of it is passed on as it comes.
//!
//! One thread and one `poll` for all of them: a child's death signal is tied to the thread that started it.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Stdio};
use std::time::Instant;

use crate::frame::{Command, Ran, Run};
use crate::program::Program;
use crate::said::Said;
use crate::system::{self, POLLIN, Poll};
use crate::{answer, call, vars};

/// How much of each stream is captured; what is more is passed on as it comes.
const CAPTURE: usize = 8 << 20;
/// What `poll` ignores.
const NO_FD: i32 = -1;
const CHUNK: usize = 16 << 10;
/// Reads at one time; together more than a pipe can hold (1 MiB), and an end even if somebody keeps writing.
const READS: usize = 80;

/// Runs the commands, at most `parallel` at once, and reports each as it ends. False: output beyond what is
/// captured could not be passed on.
pub fn run(run: &Run, intercept: Option<&Path>, said: &Said, mut ended: impl FnMut(Ran, &Command)) -> bool {
    let parallel = (run.parallel as usize).max(1);
    let mut waiting = run.runs.iter().enumerate();
    let mut running: Vec<Child> = Vec::new();
    let mut taken = true;
    loop {
        while running.len() < parallel {
            let Some((index, command)) = waiting.next() else { break };
            match Child::start(index as u32, command, intercept, said) {
                Ok(child) => running.push(child),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(22);
                    let status = crate::NOT_FOUND << 8;
                    let index = index as u32;
                    ended(Ran { index, status, spawn_errno: errno, ..Ran::default() }, command);
                }
            }
        }
        if running.is_empty() {
            return taken;
        }
        let mut fds: Vec<Poll> = running.iter().flat_map(Child::watched).collect();
        system::poll(&mut fds, None);
        let mut index = 0;
        for ready in fds.chunks_exact(3) {
            let Some(child) = running.get_mut(index) else { break };
            if child.advance(ready) {
                let child = running.remove(index);
                let command = run.runs.get(child.index as usize);
                if let Some(command) = command {
                    let (ran, all) = child.finish();
                    taken &= all;
                    ended(ran, command);
                }
            } else {
                index += 1;
            }
        }
    }
}

/// A running command.
struct Child {
    index: u32,
    pid: i32,
    /// Tells of the end; without it (before Linux 5.3) the end of both streams does.
    pidfd: Option<OwnedFd>,
    stdout: Capture<ChildStdout>,
    stderr: Capture<ChildStderr>,
    begin: Instant,
}

impl Child {
    fn start(index: u32, command: &Command, intercept: Option<&Path>, said: &Said) -> io::Result<Child> {
        let mut program =
            Program { path: command.program.clone(), argv: command.argv.clone(), env: command.env.clone() };
        if let (Some(trace), Some(intercept)) = (&command.trace, intercept) {
            program.env = call::preloading(program.env, intercept.as_os_str());
            program.env.push((vars::TRACE.into(), trace.clone().into_os_string()));
        }
        let image = program.image()?;
        let parent = system::pid();
        // std makes the pipes and the fork; the exec is our own, since std's would sort the environment
        let mut process = std::process::Command::new(&command.program);
        process.stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(&command.cwd);
        // SAFETY: everything called there is async-signal-safe.
        unsafe {
            process.pre_exec(move || {
                system::die_with(parent)?;
                system::restore_signals();
                Err(image.exec())
            });
        }
        let begin = Instant::now();
        let mut child = process.spawn()?;
        let pid = child.id() as i32;
        Ok(Child {
            index,
            pid,
            pidfd: system::pidfd(pid).ok(),
            stdout: Capture::new(child.stdout.take(), 1, command.pass_on, Said::default()),
            stderr: Capture::new(child.stderr.take(), 2, command.pass_on, said.clone()),
            begin,
        })
    }

    fn watched(&self) -> [Poll; 3] {
        let watch = |fd| Poll { fd, events: POLLIN, revents: 0 };
        let pidfd = self.pidfd.as_ref().map_or(NO_FD, AsRawFd::as_raw_fd);
        [watch(self.stdout.fd()), watch(self.stderr.fd()), watch(pidfd)]
    }

    /// Takes what is ready; whether the child has ended. What it left running in the background may hold the
    /// streams open and is not waited for.
    fn advance(&mut self, ready: &[Poll]) -> bool {
        let is_ready = |index: usize| ready.get(index).is_some_and(|poll| poll.revents != 0);
        // seen before the streams are read: then they hold all that it wrote
        let ended = is_ready(2);
        if is_ready(0) || ended {
            self.stdout.take();
        }
        if is_ready(1) || ended {
            self.stderr.take();
        }
        ended || (self.pidfd.is_none() && self.stdout.ended() && self.stderr.ended())
    }

    /// How it ended, and whether all that was to be passed on was.
    fn finish(mut self) -> (Ran, bool) {
        let end = system::wait(self.pid);
        let wall_us = self.begin.elapsed().as_micros() as u64;
        let truncated = self.stdout.truncated || self.stderr.truncated;
        let printed = self.stdout.passes_on || self.stderr.passes_on;
        if printed {
            self.stdout.pass_on();
            self.stderr.pass_on();
            self.stderr.say_rest();
        }
        // without a status, which cannot be, the command counts as failed
        let (status, user_us, sys_us) =
            end.map_or((crate::NOT_FOUND << 8, 0, 0), |end| (end.status, end.user_us, end.sys_us));
        let taken = !self.stdout.refused && !self.stderr.refused;
        let ran = Ran {
            index: self.index,
            status,
            spawn_errno: 0,
            stdout: self.stdout.bytes,
            stderr: self.stderr.bytes,
            printed,
            truncated,
            user_us,
            sys_us,
            wall_us,
        };
        (ran, taken)
    }
}

/// One stream of a child.
struct Capture<R> {
    /// `None` after its end.
    pipe: Option<R>,
    /// Where it goes when it is passed on, or there is too much of it.
    to: i32,
    /// All of it, or its beginning.
    bytes: Vec<u8>,
    /// What is not printed again.
    said: Said,
    /// What was captured is printed, and what comes is, too.
    passes_on: bool,
    /// There was more than is captured.
    truncated: bool,
    /// It could not be printed; the child learns that from its pipe.
    refused: bool,
}

impl<R: Read + AsRawFd + AsFd> Capture<R> {
    fn new(pipe: Option<R>, to: i32, passes_on: bool, said: Said) -> Capture<R> {
        // a pipe that blocks could only be read when poll says so, which is the case but for the last time
        let pipe = pipe.filter(|pipe| system::set_nonblocking(pipe.as_fd()).is_ok());
        Capture { pipe, to, bytes: Vec::new(), said, passes_on, truncated: false, refused: false }
    }

    fn fd(&self) -> i32 {
        self.pipe.as_ref().map_or(NO_FD, AsRawFd::as_raw_fd)
    }

    fn ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// Reads all that is there now.
    fn take(&mut self) {
        let mut chunk = [0; CHUNK];
        for _ in 0..READS {
            if self.refused {
                self.pipe = None;
            }
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    let fresh = chunk.get(..n).unwrap_or_default();
                    if !self.truncated && self.bytes.len() + n > CAPTURE {
                        self.truncated = true;
                        self.pass_on();
                    }
                    if self.passes_on {
                        self.refused |= !answer::print(self.to, &self.said.beyond(fresh));
                    }
                    if !self.truncated {
                        self.bytes.extend_from_slice(fresh);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    /// Prints what was held back, at the end.
    fn say_rest(&mut self) {
        let rest = self.said.last();
        self.refused |= !answer::print(self.to, &rest);
    }

    /// Prints what was captured, once; from now on what comes is printed, too.
    fn pass_on(&mut self) {
        if !self.passes_on {
            self.refused = !answer::print(self.to, &self.said.beyond(&self.bytes));
            self.passes_on = true;
        }
    }
}
