//! `load`: how much one coordinator bears. Simulated helpers and clients, all in this process, talk over loopback to a
//! real coordinator in a process of its own: what is simulated is the work, not the protocol.
//!
//! ```text
//! cargo run --release -p dbuild-load -- load [--helpers 1000] [--slots 8] [--rate 5000] [--seconds 60]
//! cargo run --release -p dbuild-load -- full [--known 1000000] [--queued 100000]
//! ```
//!
//! `load` offers actions at a steady rate, each with a digest of its own, and prints what came of them, how long they took
//! and what they cost. `full` fills the cache and the queue and prints what the coordinator then holds in memory.

mod action;
mod client;
mod figures;
mod full;
mod helper;
mod load;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What goes wrong here ends the run; it is for people to read.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[derive(Debug, Parser)]
#[command(name = "dbuild-load", about = "How much one coordinator bears")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Actions at a steady rate over many helpers
    Load(load::Args),
    /// Memory with a full cache and a full queue
    Full(full::Args),
    /// The coordinator of the other two
    #[command(hide = true)]
    Serve(server::Args),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    raise_files();
    // Of the blocking threads only the coordinator has a use.
    let runtime = match dbuild_coordinator::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return report(&error),
    };
    let done = runtime.block_on(async {
        match command {
            Command::Load(args) => load::run(args).await,
            Command::Full(args) => full::run(args).await,
            Command::Serve(args) => server::serve(args).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(error.as_ref()),
    }
}

fn report(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("dbuild-load: {error}");
    ExitCode::FAILURE
}

/// A connection for each helper needs a file on either side; a limit that cannot be raised shows itself soon enough.
fn raise_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
