//! `dbuild helpers [--json]`: the pool as its coordinator sees it; `dbuild helpers drain|resume NAME`.

use std::fmt::Write;
use std::process::ExitCode;

use dbuild_proto::pool::{HelperInfo, ListHelpersRequest, Mood, SetDrainedRequest, pool_client::PoolClient};
use tonic::transport::Channel;

use super::cache::human;
use crate::args::{ChangeHelper, Helpers};
use crate::config::Config;
use crate::error::{CliError, Context, Result};

pub fn run(args: &Helpers, config: &Config) -> Result<ExitCode> {
    let url = super::up::coordinator(config)?;
    let runtime = super::small_runtime()?;
    match &args.change {
        Some(ChangeHelper::Drain { name }) => return runtime.block_on(drain(&url, name, true)),
        Some(ChangeHelper::Resume { name }) => return runtime.block_on(drain(&url, name, false)),
        None => {}
    }
    let helpers = runtime.block_on(list(&url))?;
    let text = if args.json.json { json(&helpers) } else { table(&url, &helpers) };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the coordinator at `url` for its helpers.
pub async fn list(url: &str) -> Result<Vec<HelperInfo>> {
    let answer = connect(url).await?.list_helpers(ListHelpersRequest {}).await;
    Ok(answer.map_err(|status| status.message().to_owned()).context("list the helpers")?.into_inner().helpers)
}

async fn drain(url: &str, name: &str, drained: bool) -> Result<ExitCode> {
    let request = SetDrainedRequest { name: name.to_owned(), drained };
    let answer = connect(url).await?.set_drained(request).await;
    let answer =
        answer.map_err(|status| status.message().to_owned()).context("change the helper")?.into_inner();
    if !answer.known {
        let error = CliError::new(format!("the pool has no helper named {name:?}"));
        return Err(error.hint("`dbuild helpers` lists them."));
    }
    let what = if drained { "gets no more work; what it runs is finished" } else { "gets work again" };
    super::print(&format!("{name} {what}\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn connect(url: &str) -> Result<PoolClient<Channel>> {
    let unreachable = |error: &dyn std::fmt::Display| {
        CliError::new(format!("failed to reach the coordinator at {url}: {error}"))
            .hint("Is `dbuild coordinator` running there, and does the port match?")
    };
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned())
        .map_err(|error| unreachable(&error))?
        .connect_timeout(std::time::Duration::from_secs(5))
        .timeout(std::time::Duration::from_secs(30));
    let channel = endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
        unreachable(&cause)
    })?;
    Ok(PoolClient::new(channel))
}

/// What it does with new work, in one word.
fn standing(helper: &HelperInfo) -> &'static str {
    let mood = helper.state.as_ref().map_or(Mood::Working, |state| state.mood());
    match mood {
        _ if !helper.online => "gone",
        _ if helper.drained => "drained",
        _ if helper.set_aside_ms > 0 => "aside",
        _ if helper.on_trial => "on trial",
        Mood::Working => "online",
        Mood::Full => "full",
        Mood::Yielding => "yielding",
        Mood::Cooling => "cooling",
        Mood::Paused => "paused",
        Mood::Down => "down",
    }
}

fn json(helpers: &[HelperInfo]) -> String {
    let rows: Vec<_> = helpers
        .iter()
        .map(|helper| {
            let state = helper.state.clone().unwrap_or_default();
            serde_json::json!({
                "name": helper.name, "online": helper.online, "slots": helper.slots, "running": state.running,
                "cpu_percent": state.cpu_percent, "load1": state.load1,
                "memory_total": state.memory_total, "memory_available": state.memory_available,
                "disk_available": state.disk_available, "io_pressure": state.io_pressure,
                "tasks_done": state.tasks_done, "tasks_failed": state.tasks_failed,
                "last_seen_ms": helper.last_seen_ms,
                "standing": standing(helper), "why": state.why, "open_slots": helper.open_slots(),
                "own_cpu_percent": state.own_cpu_percent, "swap_total": state.swap_total,
                "swap_available": state.swap_available, "cpu_pressure": state.cpu_pressure,
                "memory_pressure": state.memory_pressure, "received_rate": state.received_rate,
                "sent_rate": state.sent_rate, "store_bytes": state.store_bytes, "trees": state.trees,
                "restarts": state.restarts, "version": helper.version, "platform": helper.platform,
                "set_aside_ms": helper.set_aside_ms, "on_trial": helper.on_trial,
            })
        })
        .collect();
    format!("{}\n", serde_json::json!({ "helpers": rows }))
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
        let state = helper.state.clone().unwrap_or_default();
        let _ = writeln!(
            out,
            "{:<20} {:<8} {:>9} {:>6.0} {:>6.2} {:>12} {:>12} {:>8} {:>7}",
            helper.name,
            standing(helper),
            format!("{}/{}", state.running, helper.slots),
            state.cpu_percent,
            state.load1,
            human(state.memory_available),
            human(state.disk_available),
            state.tasks_done,
            state.tasks_failed
        );
        if !state.why.is_empty() && helper.online {
            let _ = writeln!(out, "  {}: {}", helper.name, state.why);
        }
    }
    out
}
