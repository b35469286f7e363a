//! A helper's data directory belongs to one helper: two in one would remove each other's actions.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;

use crate::HelperError;

/// Whose lock: one for each process of a helper, since a worker outlives a killed supervisor by some moments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Supervisor,
    Worker,
}

/// Holds the directory for `role` as long as the file that is returned is open. `patience` is how long it is waited for.
///
/// # Errors
/// [`HelperError::Locked`] when another holds it; and what the file system says.
pub(crate) async fn lock(data_dir: &Path, role: Role, patience: Duration) -> Result<OwnedFd, HelperError> {
    let name = match role {
        Role::Supervisor => "supervisor.lock",
        Role::Worker => "lock",
    };
    let file = fs_err::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join(name))?
        .into_file();
    let until = Instant::now() + patience;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(HelperError::Locked(data_dir.to_owned())),
            Err(error) => return Err(HelperError::Io(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_the_next_waits() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), Role::Worker, Duration::ZERO).await.unwrap();
        let other = lock(dir.path(), Role::Worker, Duration::ZERO).await;
        assert!(matches!(other, Err(HelperError::Locked(_))), "{other:?}");
        drop(lock(dir.path(), Role::Supervisor, Duration::ZERO).await.unwrap());
        let (next, ()) = tokio::join!(lock(dir.path(), Role::Worker, Duration::from_secs(60)), async {
            tokio::task::yield_now().await;
            drop(held);
        });
        next.unwrap();
    }
}
