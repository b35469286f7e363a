//! How many files this process may have open. dbuild needs some for itself: with less it is only in the way.

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a build's connections and an initiator's can be had with.
const NEEDED: u64 = 128;

/// More than any initiator needs; some programs that it starts walk through all numbers up to the limit.
const PLENTY: u64 = 1 << 16;

/// Whether [`NEEDED`] more files can be opened here; else what to tell the user.
pub fn enough_files() -> Result<(), String> {
    let mut open = Vec::new();
    while (open.len() as u64) < NEEDED {
        match eventfd(0, EventfdFlags::CLOEXEC) {
            Ok(fd) => open.push(fd),
            Err(error) => {
                let (left, limit) = (open.len(), shown(getrlimit(Resource::Nofile).current));
                return Err(format!(
                    "only {left} more files can be opened here ({error}; ulimit -n is {limit})"
                ));
            }
        }
    }
    Ok(())
}

/// Raises this process' limit as far as it may, for a server that outlives the build that started it.
pub fn raise_files() -> Result<(), String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let within = current.unwrap_or(u64::MAX);
    let wanted = within.max(PLENTY.min(maximum.unwrap_or(u64::MAX)));
    if within < wanted {
        // Where the limit cannot be raised it stays as it is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
    if wanted < NEEDED { Err(format!("only {wanted} files may be open (ulimit -n)")) } else { Ok(()) }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
