//! `dbuild stop`: end this user's initiator.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{CliError, Context, Result};
use crate::initiator::{Client, Request};

pub fn run(config: &Config) -> Result<ExitCode> {
    super::small_runtime()?.block_on(async {
        let Some(mut client) = Client::connect(&config.data_dir).await.context("reach the initiator")? else {
            super::print("no initiator is running\n")?;
            return Ok(ExitCode::SUCCESS);
        };
        client.ask(&Request::Stop).await.context("stop the initiator")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while config.data_dir.control_socket().exists() {
            if Instant::now() > deadline {
                return Err(CliError::new("the initiator has not ended within 10 s"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        super::print("stopped\n")?;
        Ok(ExitCode::SUCCESS)
    })
}
