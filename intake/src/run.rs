//! Running a program that answers a question: bounded in time and output, without a terminal or an input, in a
//! process group of its own that is ended as a whole when it takes too long. It does not know what is asked.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Larger answers are cut off here; nothing that is asked has as much to say.
const OUTPUT_LIMIT: usize = 8 << 20;

/// What is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Run<'a> {
    pub program: &'a Path,
    pub argv0: &'a OsStr,
    pub args: &'a [OsString],
    pub cwd: &'a Path,
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    pub limit: Duration,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ran {
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Run<'_> {
    /// # Errors
    /// The system's when it cannot be started; `TimedOut` when it was ended for its time.
    pub fn go(&self) -> io::Result<Ran> {
        let mut command = Command::new(self.program);
        command.arg0(self.argv0).args(self.args).current_dir(self.cwd).env_clear();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("start {}: {error}", self.program.display()))
        })?;
        let answer = self.listen(&mut child);
        if answer.is_err()
            && let Some(group) = Pid::from_raw(child.id() as i32)
        {
            // The child is not waited for yet, so its number, and the group's, cannot be anybody else's.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait()?;
        answer.map(|(stdout, stderr)| Ran { status, stdout, stderr })
    }

    /// Reads both pipes until the child has ended or closed them, or the time is up.
    fn listen(&self, child: &mut Child) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let deadline = Instant::now() + self.limit;
        let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::InvalidData)?;
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        let mut out = Pipe::new(child.stdout.take());
        let mut err = Pipe::new(child.stderr.take());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = format!("{} took longer than {:?}", self.program.display(), self.limit);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let (child_gone, out_ready, err_ready) = {
                let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
                fds.extend(
                    out.source.iter().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)),
                );
                let split = fds.len();
                fds.extend(
                    err.source.iter().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)),
                );
                match poll(&mut fds, Some(&wait)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                let ready = |fds: &[PollFd]| fds.iter().any(|fd| !fd.revents().is_empty());
                (ready(&fds[..1]), ready(&fds[1..split]), ready(&fds[split..]))
            };
            if out_ready {
                out.read()?;
            }
            if err_ready {
                err.read()?;
            }
            // What the child wrote is in the pipes before it is gone; when they are silent then, that was all, even
            // if a process it left behind still holds them.
            if child_gone && !out_ready && !err_ready {
                return Ok((out.bytes, err.bytes));
            }
        }
    }
}

struct Pipe<P> {
    /// `None` after its end.
    source: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read + AsFd> Pipe<P> {
    fn new(source: Option<P>) -> Self {
        Pipe { source, bytes: Vec::new() }
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(source) = &mut self.source else { return Ok(()) };
        let mut buffer = [0; 16 << 10];
        match source.read(&mut buffer) {
            Ok(0) => self.source = None,
            Ok(n) => {
                let room = OUTPUT_LIMIT.saturating_sub(self.bytes.len());
                self.bytes.extend_from_slice(&buffer[..n.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> io::Result<Ran> {
        let args = ["-c".into(), script.into()];
        let env = [("PATH".into(), "/usr/bin:/bin".into())];
        let program = Path::new("/bin/sh");
        Run { program, argv0: OsStr::new("sh"), args: &args, cwd: Path::new("/"), env: &env, limit }.go()
    }

    #[test]
    fn both_pipes_and_the_status_come_back() {
        let ran = shell("echo out; echo err >&2; exit 3", Duration::from_secs(60)).unwrap();
        assert_eq!((ran.stdout.as_slice(), ran.stderr_text().as_str()), (b"out\n".as_slice(), "err\n"));
        assert_eq!(ran.status.code(), Some(3));
    }

    #[test]
    fn much_output_on_both_does_not_block() {
        let script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2";
        let ran = shell(script, Duration::from_secs(60)).unwrap();
        assert_eq!((ran.stdout.len(), ran.stderr.len()), (300_000, 300_000));
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let error = shell("sleep 1000 & sleep 1000", Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
