//! `dbuild submit -- <command…>`: one job, any command.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::args::{Needs, Submit};
use crate::config::Config;
use crate::error::{CliError, Context, Result};
use crate::jobs::{Done, Job, Runner, Tally, below, outputs_below};

pub fn run(args: Submit, config: &Config) -> Result<ExitCode> {
    let cwd = std::env::current_dir().context("find the current directory")?;
    let job = job(&args.needs, args.command, &cwd)?;
    if args.detach {
        return super::detached::submit(job, config);
    }
    let url = super::up::coordinator_or_none(config);
    super::server_runtime()?.block_on(async {
        let runner = Runner::new(config, url.as_deref())?;
        let done = super::unless_stopped(runner.run(&job)).await?;
        show(&done, &mut std::io::stdout().lock())?;
        let mut tally = Tally::default();
        tally.add(&done.place, done.code);
        say(&tally, config);
        Ok(ExitCode::from(done.code))
    })
}

/// The job that arguments describe.
pub fn job(needs: &Needs, argv: Vec<String>, cwd: &Path) -> Result<Job> {
    let paths = |paths: &[PathBuf]| paths.iter().map(|path| below(cwd, path)).collect::<Result<Vec<_>>>();
    let mut env = BTreeMap::new();
    for pair in &needs.env {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            CliError::new(format!("--env {pair} is not NAME=VALUE"))
                .hint("To pass a variable of yours on, write --env NAME=\"$NAME\".")
        })?;
        env.insert(name.to_owned(), value.to_owned());
    }
    let outputs = outputs_below(cwd, &needs.output)?;
    if needs.input.iter().chain(&needs.output).any(|path| path.as_os_str().is_empty()) {
        return Err(CliError::new("a path is empty").hint("The current directory is called `.`."));
    }
    if argv[0].is_empty() {
        return Err(CliError::new("the command has no program"));
    }
    Ok(Job { argv, env, inputs: paths(&needs.input)?, outputs, uncached: needs.no_cache, salt: Vec::new() })
}

/// Prints what a job printed, and says which outputs it did not write. False if nobody reads any more.
pub fn show(done: &Done, stdout: &mut dyn Write) -> Result<bool> {
    let read = match stdout.write_all(&done.stdout).and_then(|()| stdout.flush()) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => false,
        Err(error) => return Err(error).context("print the result"),
    };
    // A stderr that is closed leaves nobody to tell.
    let _ = std::io::stderr().lock().write_all(&done.stderr);
    for path in done.missing.iter().filter(|_| done.code == 0) {
        eprintln!("dbuild: the command did not write {}", path.display());
    }
    Ok(read)
}

/// The line at the end.
pub fn say(tally: &Tally, config: &Config) {
    if !config.quiet {
        // A stderr that is closed leaves nobody to tell.
        let _ = writeln!(std::io::stderr().lock(), "dbuild: {tally}");
    }
}
