//! Reaches the initiator, and starts one if none answers.
//!
//! Every wait here is bounded: a build must not stand because nobody listens.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::call::Settings;
use crate::{system, vars};

/// How long a started initiator may take until it listens.
const START: Duration = Duration::from_secs(2);
/// How long an initiator that listens may take until it accepts or reads; it is alive but overwhelmed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a failed start is remembered.
const RETRY: Duration = Duration::from_secs(20);
const FIRST_STEP: Duration = Duration::from_millis(2);
const LAST_STEP: Duration = Duration::from_millis(50);
/// Longest path that goes into a socket's address with room to spare (the kernel's limit is 107).
const ADDRESS: usize = 100;

/// A connection to the initiator; an error says why there is none.
///
/// The lock file remembers a start that failed (it is not empty then): for a while nobody tries again, or a
/// thousand compiles would each wait in vain.
pub fn initiator(settings: &Settings) -> Result<UnixStream, String> {
    let Some(directory) = settings.socket.as_deref() else { return Err("no socket was named".into()) };
    let mut last = match attempt(directory) {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let path = directory.join(vars::START_LOCK_FILE);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| format!("no initiator can be started: {error}"))?;
    if failed_lately(&file) {
        return Err("the initiator could not be started a moment ago".into());
    }
    // held until we are connected: meanwhile nobody else starts one
    let locked = system::try_lock(&file);
    if locked {
        // the one who had the lock before us may just have succeeded
        if let Ok(stream) = attempt(directory) {
            return Ok(stream);
        }
        let exe = settings.exe.as_deref().ok_or_else(|| format!("no initiator answers: {last}"))?;
        if let Err(error) = start(exe, directory) {
            remember(&file, true);
            return Err(format!("the initiator could not be started: {error}"));
        }
    }
    let begin = Instant::now();
    let mut step = FIRST_STEP;
    while begin.elapsed() < START {
        sleep(step);
        step = (step * 2).min(LAST_STEP);
        last = match attempt(directory) {
            Ok(stream) => {
                remember(&file, false);
                return Ok(stream);
            }
            Err(error) => error,
        };
    }
    if locked {
        remember(&file, true);
    }
    Err(format!("no initiator answers: {last}"))
}

fn failed_lately(lock: &File) -> bool {
    lock.metadata().is_ok_and(|data| {
        data.len() > 0 && data.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age < RETRY))
    })
}

/// Best effort: if it cannot be remembered, the next call finds out by itself.
fn remember(mut lock: &File, failed: bool) {
    let _ = lock.set_len(0);
    if failed {
        let _ = lock.write_all(b"failed\n");
    }
}

fn attempt(directory: &Path) -> io::Result<UnixStream> {
    let path = directory.join(vars::SOCKET_FILE);
    if path.as_os_str().as_bytes().len() <= ADDRESS {
        return system::connect(&path, PATIENCE);
    }
    // too long for an address: through an open directory
    let directory = File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(vars::SOCKET_FILE);
    system::connect(&short, PATIENCE)
}

/// Starts an initiator that outlives this build and holds nothing of it.
fn start(exe: &Path, directory: &Path) -> io::Result<()> {
    let mut command = Command::new(exe);
    command.arg("initiator").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/");
    for name in vars::OURS.iter().chain([&vars::LD_PRELOAD]) {
        command.env_remove(name);
    }
    command.env(vars::SOCKET, directory);
    // SAFETY: `detach` only makes async-signal-safe calls.
    unsafe { command.pre_exec(system::detach) };
    // what is waited for is the process in the middle, which ends at once
    command.spawn()?.wait().map(drop)
}
