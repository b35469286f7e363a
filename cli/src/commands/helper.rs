//! `dbuild helper`: runs actions for a coordinator until it is asked to stop.

use std::process::ExitCode;

use dbuild_helper::{HelperConfig, SandboxChoice};

use crate::args::{Helper, Sandbox};
use crate::config::{check_url, processors};
use crate::error::{Context, Result};

pub fn run(args: Helper) -> Result<ExitCode> {
    super::log_to_stderr();
    let coordinator = check_url(args.coordinator)?;
    fs_err::create_dir_all(&args.data).context("make the data directory")?;
    let name = args.name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let config = HelperConfig {
        slots: args.slots.unwrap_or_else(processors),
        max_bytes: args.max_size,
        sandbox: match args.sandbox {
            Sandbox::Auto => SandboxChoice::Auto,
            Sandbox::None => SandboxChoice::None,
        },
        ..HelperConfig::new(coordinator, name, args.data)
    };
    super::server_runtime()?.block_on(async {
        dbuild_helper::run(config, super::asked_to_stop()).await.context("run the helper")?;
        Ok(ExitCode::SUCCESS)
    })
}
