//! Runs a staged action to its end, or to the end of somebody's patience: takes in what it writes, up to a bound,
//! and ends it on timeout or cancel. When this returns no process of the action is left.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use crate::announce::Listener;
use crate::fault::Trouble;
use crate::sandbox::spec::{Report, Spec};
use crate::sandbox::{Running, Sandbox};

/// How long a killed action may take to be gone; only a process stuck in the kernel takes longer.
const GRACE: Duration = Duration::from_secs(30);

/// What came of a program that ran.
#[derive(Debug)]
pub struct Finished {
    /// As a shell reports it: the exit code, or 128 + signal.
    pub exit_code: i32,
    /// The signal that ended it; 0: it exited.
    pub signal: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub started: SystemTime,
    pub ended: SystemTime,
    pub report: Report,
}

/// How an action may be ended before its time.
#[derive(Clone, Debug)]
pub struct Patience {
    pub timeout: Duration,
    pub cancel: CancellationToken,
    /// Bytes of stdout and of stderr.
    pub stdio_bytes: u64,
}

/// Runs `spec` in the sandbox, perhaps with a jobserver's pipe. `listener` hears what it prints on stderr; the processor time
/// that it used is added to `spent_us`, however it ended.
pub async fn execute(
    sandbox: &Sandbox,
    spec: Spec,
    jobserver: Option<[OwnedFd; 2]>,
    patience: &Patience,
    mut listener: Listener,
    spent_us: &AtomicU64,
) -> Result<Finished, Trouble> {
    let started = SystemTime::now();
    let oom_kills = crate::state::oom_kills();
    let running = sandbox
        .start(spec, jobserver)
        .await
        .map_err(|error| Trouble::here("start the sandbox's first process", error))?;
    let Running { stdout, stderr, mut reports, mut kill } = running;
    let mut early = None;
    let ran = {
        let limit = patience.stdio_bytes;
        let all = async {
            let (stdout, stderr) = tokio::try_join!(
                take_in(stdout, limit, |_| ()),
                take_in(stderr, limit, |so_far| listener.hear(so_far)),
            )?;
            let report = reports.wait().await.map_err(|error| {
                Trouble::here("hear from the action's first process, which was killed from outside", error)
            })?;
            Ok::<_, Trouble>((stdout, stderr, report))
        };
        tokio::select! {
            ran = all => match ran {
                Ok(ran) => Some(ran),
                Err(trouble) => { early = Some(trouble); None }
            },
            () = tokio::time::sleep(patience.timeout) => {
                early = Some(Trouble::Timeout(patience.timeout.as_millis() as u64));
                None
            }
            () = patience.cancel.cancelled() => {
                early = Some(Trouble::Cancelled);
                None
            }
        }
    };
    let ended = SystemTime::now();
    let Some((stdout, stderr, report)) = ran else {
        kill.kill().await;
        // The report says that the processes are gone, and their files at rest.
        if let Ok(Ok(report)) = tokio::time::timeout(GRACE, reports.wait()).await {
            spent_us.fetch_add(report.user_us.saturating_add(report.system_us), Relaxed);
        }
        return Err(early.unwrap_or(Trouble::Cancelled));
    };
    spent_us.fetch_add(report.user_us.saturating_add(report.system_us), Relaxed);
    if let Some(failure) = &report.failure {
        let message = failure.sentence();
        return Err(if failure.program { Trouble::Bad(message) } else { Trouble::Infrastructure(message) });
    }
    let exit_code = if report.signal == 0 { report.exit_code } else { 128 + report.signal };
    // A compiler driver reports a compiler that was killed as an error of its own, so any failure is suspect.
    if exit_code != 0 && crate::state::oom_kills() > oom_kills {
        return Err(Trouble::Infrastructure(
            "run the action: this machine ran out of memory meanwhile".to_owned(),
        ));
    }
    Ok(Finished { exit_code, signal: report.signal, stdout, stderr, started, ended, report })
}

/// Reads to the end, or fails at more than `limit` bytes; tells what there is as it comes.
async fn take_in(
    from: impl AsyncRead + Unpin,
    limit: u64,
    mut tell: impl FnMut(&[u8]),
) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    let mut from = from.take(limit.saturating_add(1));
    let failed = |error| Trouble::here("read the action's output", error);
    while from.read_buf(&mut bytes).await.map_err(failed)? > 0 {
        tell(&bytes);
    }
    if bytes.len() as u64 > limit {
        let mib = limit as f64 / f64::from(1 << 20);
        return Err(Trouble::Bad(format!("keep what the action prints: more than {mib} MiB")));
    }
    Ok(bytes)
}
