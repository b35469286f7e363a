//! The coordinator under load: the same code as `dbuild coordinator`, in a process of its own so that its memory and
//! processor time are its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use dbuild_coordinator::CoordinatorConfig;
use tonic::transport::{Channel, Endpoint};

use crate::Result;
use crate::figures::Process;

/// Larger than anything these runs store.
const MAX_BYTES: u64 = 1 << 40;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store
    #[arg(long)]
    data: PathBuf,
    /// Whether clients may write the action cache
    #[arg(long)]
    client_updates: bool,
}

/// Serves until stdin ends, so that it never outlives who started it.
pub async fn serve(args: Args) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let closed = tokio::task::spawn_blocking(|| {
        let _ = std::io::stdin().read(&mut [0]);
    });
    let closed = async {
        let _ = closed.await;
    };
    let config = CoordinatorConfig {
        client_updates: args.client_updates,
        ..CoordinatorConfig::new(args.data, MAX_BYTES)
    };
    dbuild_coordinator::serve(listener, config, closed).await?;
    Ok(())
}

/// A coordinator that runs while the value lives.
pub struct Server {
    process: Child,
    /// Its end is the coordinator's.
    stdin: Option<ChildStdin>,
    url: String,
}

impl Server {
    pub fn start(data: &Path, client_updates: bool) -> Result<Server> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--data")
            .arg(data)
            .args(client_updates.then_some("--client-updates"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take();
        let mut url = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut url)?;
        }
        if url.is_empty() {
            return Err("the coordinator did not start".into());
        }
        Ok(Server { process, stdin, url: url.trim().to_owned() })
    }

    /// A new connection to it.
    pub async fn connect(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true).connect().await?)
    }

    /// What the kernel knows of its process.
    pub fn process(&self) -> Process {
        Process(self.process.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.process.wait();
    }
}
