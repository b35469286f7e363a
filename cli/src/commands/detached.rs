//! Jobs of whom nobody waits: `dbuild submit --detach`, and `dbuild wait ID` and `dbuild fetch ID` for their results.

use std::process::ExitCode;

use dbuild_proto::Digest;

use super::submit::{say, show};
use crate::args::Task;
use crate::config::Config;
use crate::error::{CliError, Result};
use crate::jobs::{Detached, Job, Tally};

/// Gives the job to the pool and prints its id.
pub fn submit(job: Job, config: &Config) -> Result<ExitCode> {
    let url = super::up::coordinator(config)?;
    super::server_runtime()?.block_on(async {
        let pool = Detached::new(config, &url)?;
        let task = super::unless_stopped(pool.submit(job)).await?;
        super::print(&format!("{task}\n"))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What is done with a result.
#[derive(Clone, Copy)]
pub enum Collect {
    /// Its words and its exit code.
    Words,
    /// Its outputs as well.
    All,
}

/// Waits for a job's end, and ends as it did.
pub fn collect(args: &Task, collect: Collect, config: &Config) -> Result<ExitCode> {
    let task: Digest = args.id.parse().map_err(|_| {
        CliError::new(format!("{:?} is not a job's id", args.id))
            .hint("`dbuild submit --detach` prints it: 64 hexadecimal digits, a slash and a number.")
    })?;
    let url = super::up::coordinator(config)?;
    super::server_runtime()?.block_on(async {
        let pool = Detached::new(config, &url)?;
        let done = match collect {
            Collect::Words => super::unless_stopped(pool.wait(&task)).await?,
            Collect::All => super::unless_stopped(pool.fetch(&task)).await?,
        };
        show(&done, &mut std::io::stdout().lock())?;
        let mut tally = Tally::default();
        tally.add(&done.place, done.code);
        say(&tally, config);
        Ok(ExitCode::from(done.code))
    })
}
