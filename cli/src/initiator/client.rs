//! Finding this user's initiator, and starting one when there is none.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::BufReader;
use tokio::net::UnixStream;

use crate::error::{Context, Result};
use crate::paths::{DataDir, short_socket_path};

use super::control::{self, Answer, Request};

/// How long a new initiator may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an initiator that listens may take to answer; it is overwhelmed or stands still.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the initiator's control socket.
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects to a running initiator; `None` when there is none.
    pub async fn connect(data: &DataDir) -> std::io::Result<Option<Client>> {
        let (path, _guard) = match short_socket_path(&data.control_socket()) {
            Ok(path) => path,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Client(BufReader::new(stream)))),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Connects, and starts an initiator first if there is none.
    pub async fn connect_or_start(data: &DataDir) -> Result<Client> {
        if let Some(client) = Client::connect(data).await.context("reach the initiator")? {
            return Ok(client);
        }
        spawn(data).context("start the initiator")?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(client) = Client::connect(data).await.context("reach the initiator")? {
                return Ok(client);
            }
            if Instant::now() > deadline {
                let log = data.initiator_log();
                return Err(crate::error::CliError::new("the initiator did not start within 5 s")
                    .hint(format!("Its log is {}.", log.display())));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn ask(&mut self, request: &Request) -> std::io::Result<Answer> {
        let answer = tokio::time::timeout(PATIENCE, control::ask(&mut self.0, request)).await;
        answer.map_err(|_| std::io::Error::other("the initiator does not answer"))?
    }
}

/// Starts `dbuild initiator`, which detaches itself; losers of a race for its lock end in silence.
fn spawn(data: &DataDir) -> std::io::Result<()> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("initiator").env("DBUILD_DATA_DIR", data.root()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().map(drop)
}
