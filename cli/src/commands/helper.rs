//! `dbuild helper`: runs actions for a coordinator until it is asked to stop. This process supervises; a second one, which it
//! starts with the same arguments, does the work.

use std::process::ExitCode;
use std::time::Duration;

use dbuild_helper::supervisor::manners::{Manners, Mode};
use dbuild_helper::supervisor::{Coordinator, Ended, PAUSED, Reporting, Supervision};
use dbuild_helper::{HelperConfig, HelperError, SandboxChoice};
use dbuild_registry::is_registry;

use crate::args::{self, At, Helper, Owner, Sandbox, Serve, StateBy, Worker};
use crate::config::{check_url, processors};
use crate::error::{CliError, Context, EXIT_FAILURE, Result};

pub fn run(args: Helper) -> Result<ExitCode> {
    match (args.owner, args.serve) {
        (Some(Owner::Pause(at)), _) => pause(&at, true),
        (Some(Owner::Resume(at)), _) => pause(&at, false),
        (None, Some(serve)) => supervise(serve),
        (None, None) => Err(CliError::new("a helper needs --coordinator URL and --data DIR")),
    }
}

/// A worker's exit code when another worker would end as well.
const REFUSED: u8 = 124;

/// The supervisor.
fn supervise(args: Serve) -> Result<ExitCode> {
    super::log_to_stderr();
    let from_environment = || std::env::var("DBUILD_COORDINATOR").ok().filter(|url| !url.is_empty());
    let url = args.coordinator.clone().or_else(from_environment).ok_or_else(|| {
        CliError::new("a helper needs a coordinator")
            .hint("Say --coordinator http://HOST:PORT, or set DBUILD_COORDINATOR.")
    })?;
    let config = worker(&args, check_url(url.clone())?)?;
    let coordinator = if is_registry(&url) { Coordinator::LeaderOf(url) } else { Coordinator::At(url) };
    // Each argument once more, for the worker: the words of this very process. And this very program, whatever is installed
    // in its place meanwhile.
    let words = std::env::args_os().skip(2);
    let supervision = Supervision {
        name: config.name,
        slots: config.slots,
        data_dir: config.data_dir,
        manners: Manners {
            grace: Duration::from_secs(args.grace),
            cool_off: Duration::from_secs(args.cool_off),
            ..Manners::new(mode(args.mode))
        },
        reporting: match (args.state, &coordinator) {
            (Some(StateBy::Registry(url)), _) => Reporting::ByRegistry { url },
            (None, Coordinator::LeaderOf(url)) => Reporting::ByRegistry { url: url.clone() },
            (Some(StateBy::Separate), Coordinator::LeaderOf(_)) => {
                return Err(CliError::new("state on a separate connection needs one coordinator's URL")
                    .hint("Leave --state away: with a database as --coordinator, state goes there."));
            }
            (Some(StateBy::Separate), Coordinator::At(url)) => {
                Reporting::BySupervisor { coordinator: url.clone() }
            }
            (Some(StateBy::Shared) | None, _) => Reporting::ByWorker,
        },
        coordinator,
        worker: ["/proc/self/exe".into(), "helper-worker".into()].into_iter().chain(words).collect(),
        refusal: REFUSED.into(),
        failure: EXIT_FAILURE.into(),
    };
    let ended = super::small_runtime()?
        .block_on(async { dbuild_helper::supervise(supervision, super::asked_to_stop()).await });
    Ok(match ended.context("run the helper")? {
        Ended::Stopped => ExitCode::SUCCESS,
        Ended::Refused => ExitCode::from(EXIT_FAILURE),
    })
}

/// The worker, whose stdin is the socket to its supervisor.
pub fn work(args: Worker) -> Result<ExitCode> {
    super::log_to_stderr();
    let config = worker(&args.serve, check_url(args.leader)?)?;
    let mode = mode(args.serve.mode);
    let ended = super::server_runtime()?.block_on(dbuild_helper::work(config, mode));
    let for_good = ended.as_ref().is_err_and(HelperError::is_for_good);
    let ended =
        ended.context("run the helper").map_err(|error| if for_good { error.code(REFUSED) } else { error });
    ended.map(|()| ExitCode::SUCCESS)
}

fn worker(args: &Serve, coordinator: String) -> Result<HelperConfig> {
    fs_err::create_dir_all(&args.data).context("make the data directory")?;
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = args.name.clone().unwrap_or_else(host);
    Ok(HelperConfig {
        slots: args.slots.of(processors()),
        max_bytes: args.max_size,
        sandbox: match args.sandbox {
            Sandbox::Auto => SandboxChoice::Auto,
            Sandbox::None => SandboxChoice::None,
        },
        ..HelperConfig::new(coordinator, name, args.data.clone())
    })
}

fn mode(mode: args::Mode) -> Mode {
    match mode {
        args::Mode::Dedicated => Mode::Dedicated,
        args::Mode::Proportional => Mode::Proportional,
        args::Mode::Idle => Mode::Idle,
    }
}

/// A file in the data directory is the owner's wish: it holds for a helper that is started later, too.
fn pause(at: &At, paused: bool) -> Result<ExitCode> {
    let file = at.data.join(PAUSED);
    if !at.data.is_dir() {
        let error = CliError::new(format!("{} is not the data directory of a helper", at.data.display()));
        return Err(error.hint("Name the directory that the helper was started with (--data)."));
    }
    if paused {
        fs_err::write(&file, "").context("pause the helper")?;
        super::print("the helper takes no more work until `dbuild helper resume`\n")?;
    } else {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::new(format!("failed to remove {}: {error}", file.display())));
            }
            _ => super::print("the helper works again\n")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
