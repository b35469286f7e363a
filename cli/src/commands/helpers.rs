//! `dbuild helpers [--json]`: the pool as its coordinator sees it.

use std::fmt::Write;
use std::process::ExitCode;

use dbuild_proto::pool::{HelperInfo, ListHelpersRequest, pool_client::PoolClient};

use super::cache::human;
use crate::args::Json;
use crate::config::Config;
use crate::error::{CliError, Context, Result};

pub fn run(args: &Json, config: &Config) -> Result<ExitCode> {
    let Some(url) = super::up::coordinator_of(config) else {
        return Err(CliError::new("no coordinator is configured").hint(
            "Set DBUILD_COORDINATOR=http://HOST:PORT, or try `dbuild up` for a pool on this machine.",
        ));
    };
    let helpers = super::small_runtime()?.block_on(list(&url))?;
    let text = if args.json { json(&helpers) } else { table(&url, &helpers) };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the coordinator at `url` for its helpers.
pub async fn list(url: &str) -> Result<Vec<HelperInfo>> {
    let unreachable = |error: &dyn std::fmt::Display| {
        CliError::new(format!("failed to reach the coordinator at {url}: {error}"))
            .hint("Is `dbuild coordinator` running there, and does the port match?")
    };
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned())
        .map_err(|error| unreachable(&error))?
        .connect_timeout(std::time::Duration::from_secs(5));
    let channel = endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
        unreachable(&cause)
    })?;
    let answer = PoolClient::new(channel).list_helpers(ListHelpersRequest {}).await;
    Ok(answer.map_err(|status| status.message().to_owned()).context("list the helpers")?.into_inner().helpers)
}

fn json(helpers: &[HelperInfo]) -> String {
    let rows: Vec<_> = helpers
        .iter()
        .map(|helper| {
            let state = helper.state.unwrap_or_default();
            serde_json::json!({
                "name": helper.name, "online": helper.online, "slots": helper.slots, "running": state.running,
                "cpu_percent": state.cpu_percent, "load1": state.load1,
                "memory_total": state.memory_total, "memory_available": state.memory_available,
                "disk_available": state.disk_available, "io_pressure": state.io_pressure,
                "tasks_done": state.tasks_done, "tasks_failed": state.tasks_failed,
                "last_seen_ms": helper.last_seen_ms,
                "set_aside_ms": helper.set_aside_ms, "on_trial": helper.on_trial,
            })
        })
        .collect();
    format!("{}\n", serde_json::json!({ "helpers": rows }))
}

/// In a word.
fn state_of(helper: &HelperInfo) -> &'static str {
    match helper {
        HelperInfo { online: false, .. } => "gone",
        HelperInfo { set_aside_ms: 1.., .. } => "aside",
        HelperInfo { on_trial: true, .. } => "on trial",
        _ => "online",
    }
}

fn table(url: &str, helpers: &[HelperInfo]) -> String {
    if helpers.is_empty() {
        return format!(
            "{url} has no helpers; start one with: dbuild helper --coordinator {url} --data DIR\n"
        );
    }
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:<20} {:<8} {:>9} {:>6} {:>6} {:>12} {:>12} {:>8} {:>7}",
        "name", "state", "running", "cpu %", "load", "memory free", "disk free", "done", "failed"
    );
    for helper in helpers {
        let state = helper.state.unwrap_or_default();
        let _ = writeln!(
            out,
            "{:<20} {:<8} {:>9} {:>6.0} {:>6.2} {:>12} {:>12} {:>8} {:>7}",
            helper.name,
            state_of(helper),
            format!("{}/{}", state.running, helper.slots),
            state.cpu_percent,
            state.load1,
            human(state.memory_available),
            human(state.disk_available),
            state.tasks_done,
            state.tasks_failed
        );
    }
    out
}
