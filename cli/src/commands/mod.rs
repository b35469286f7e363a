//! One file per command. A command prints its results; errors are returned and worded in `error`.

mod cache;
mod coordinator;
mod detached;
mod doctor;
mod helper;
mod helpers;
mod initiator;
mod map;
mod run;
mod stats;
mod stop;
mod submit;
mod up;
mod why;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use detached::Collect;

use crate::args::Command;
use crate::config::Config;
use crate::error::{CliError, Context, Result};

/// As a shell says of what SIGINT ended.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs one command. Only a build writes a trace.
pub fn dispatch(command: Command, trace: Option<PathBuf>) -> Result<ExitCode> {
    match command {
        Command::Build(words) => run::run(words, trace),
        Command::Run(run) => run::run(run.command, trace),
        _ if trace.is_some() => Err(CliError::new("--trace is for builds: dbuild --trace FILE COMMAND…")),
        Command::Coordinator(args) => coordinator::run(args),
        Command::Helper(args) => helper::run(args),
        Command::HelperWorker(args) => helper::work(args),
        Command::Submit(args) => submit::run(args, &Config::from_process()?),
        Command::Wait(args) => detached::collect(&args, Collect::Words, &Config::from_process()?),
        Command::Fetch(args) => detached::collect(&args, Collect::All, &Config::from_process()?),
        Command::Map(args) => map::run(args, &Config::from_process()?),
        Command::Up(args) => up::up(&args, &Config::from_process()?),
        Command::Down => up::down(&Config::from_process()?),
        Command::Stats(args) => stats::run(&args, &Config::from_process()?),
        Command::Helpers(args) => helpers::run(&args, &Config::from_process()?),
        Command::Cache(args) => cache::run(&args, &Config::from_process()?),
        Command::Why(args) => why::run(&args, &Config::from_process()?),
        Command::Doctor => doctor::run(&Config::from_process()?),
        Command::Stop => stop::run(&Config::from_process()?),
        Command::Initiator => initiator::run(),
        Command::SandboxExec => Ok(dbuild_helper::sandbox_init()),
    }
}

/// A runtime for a command that waits for one thing at a time.
fn small_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

/// A runtime for a server.
fn server_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

/// Logs of servers go to stderr; `DBUILD_LOG` says how much (default `info`).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DBUILD_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Prints a result to stdout; a reader that went away (`| head`) is nobody's error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("print the result")
        }
        _ => Ok(()),
    }
}

/// Does the work unless the process is asked to stop: what it made for a time goes with it.
async fn unless_stopped<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = asked_to_stop() => Err(CliError::new("interrupted").code(EXIT_INTERRUPTED)),
    }
}

/// Ends when the process is asked to: SIGINT or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
