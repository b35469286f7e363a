//! `dbuild`: one word before a build command. This crate reads arguments and configuration, runs commands and the
//! initiator, and decides the wording and exit code of every error. What compilers mean, how blobs are kept and
//! how work is placed is known elsewhere.

mod args;
mod commands;
mod config;
mod door;
mod embedded;
mod error;
mod initiator;
mod jobs;
mod limits;
mod paths;
mod record;
mod width;

use std::process::ExitCode;

/// Parses the command line, runs it, and turns an error into a message and an exit code.
pub fn main() -> ExitCode {
    match args::parse(std::env::args_os().collect()) {
        Ok(cli) => commands::dispatch(cli.command, cli.trace).unwrap_or_else(|error| error.report()),
        Err(exit) => exit,
    }
}
