//! `dbuild initiator` (hidden): detaches from whoever started it, then serves this user's builds.

use std::process::{Command, ExitCode, Stdio};

use dbuild_shims::vars;

use crate::config::Config;
use crate::error::{Context, Result};
use crate::initiator;

/// Set for the second stage, which has nothing of its starter's left.
const DETACHED: &str = "DBUILD_INITIATOR_DETACHED";

pub fn run() -> Result<ExitCode> {
    let config = Config::from_process()?;
    if std::env::var_os(DETACHED).is_none() {
        // ninja and make wait until every copy of their pipes is closed, and a shim may have handed its own down.
        let mut command = Command::new(std::env::current_exe().context("find the dbuild binary")?);
        command
            .arg("initiator")
            .env(DETACHED, "1")
            .env("DBUILD_DATA_DIR", config.data_dir.root())
            .current_dir("/");
        // The interceptor must not be in the initiator, and must not put itself back.
        command.env(vars::DISABLE, "1").env_remove("LD_PRELOAD");
        for name in vars::OURS {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("start the initiator")?;
        return Ok(ExitCode::SUCCESS);
    }
    close_inherited().context("close inherited files")?;
    // Not a group leader: it was just forked, so this cannot fail for a reason that matters.
    let _ = rustix::process::setsid();
    initiator::run(config)?;
    Ok(ExitCode::SUCCESS)
}

/// Closes every descriptor beyond stderr.
fn close_inherited() -> std::io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    // The listing's own descriptor is among them and closed by now.
    let still_open = |fd: &i32| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
    for fd in open.into_iter().filter(|fd| *fd > 2 && still_open(fd)) {
        // SAFETY: this runs before anything of ours has opened a descriptor, so nobody owns this one.
        unsafe { rustix::io::close(fd) };
    }
    Ok(())
}
