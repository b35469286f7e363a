//! `dbuild stats [--json] [--zero]`: counters of this user's initiator and cache.

use std::fmt::Write;
use std::process::ExitCode;

use crate::args::Stats;
use crate::config::Config;
use crate::error::{Context, Result};
use crate::initiator::{Answer, Client, Request, Warmth};
use crate::record::Counters;

pub fn run(args: &Stats, config: &Config) -> Result<ExitCode> {
    let records = config.data_dir.records();
    let runtime = super::small_runtime()?;
    let (counters, warmth) = runtime.block_on(async {
        let client = Client::connect(&config.data_dir).await.context("reach the initiator")?;
        let Some(mut client) = client else {
            let counters = Counters::load(&records);
            if args.zero && records.exists() {
                Counters::default().save(&records).context("reset the counters")?;
            }
            return Ok((counters, None));
        };
        let Answer::Stats { counters, warmth } =
            client.ask(&Request::Stats).await.context("ask the initiator")?
        else {
            return Err(crate::error::CliError::new("the initiator gave an answer that does not fit"));
        };
        if args.zero {
            client.ask(&Request::Zero).await.context("reset the counters")?;
        }
        Ok((*counters, Some(*warmth)))
    })?;
    let text = if args.json {
        let all = Json { counters, initiator: warmth };
        serde_json::to_string(&all).context("write JSON")? + "\n"
    } else {
        describe(&counters, warmth.as_ref())
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(serde::Serialize)]
struct Json {
    #[serde(flatten)]
    counters: Counters,
    /// `null` if none is running.
    initiator: Option<Warmth>,
}

fn describe(counters: &Counters, warmth: Option<&Warmth>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<22}{value}");
    };
    row("tasks", counters.tasks.to_string());
    row("hits, own cache", counters.hits_local.to_string());
    row("hits, pool's cache", counters.hits_shared.to_string());
    row("on helpers", counters.remote.to_string());
    row("here", counters.local.to_string());
    row("not cacheable", counters.uncacheable.to_string());
    row("fell back", counters.fallbacks.to_string());
    row("ended with an error", counters.errors.to_string());
    row("bytes sent", counters.bytes_sent.to_string());
    row("bytes received", counters.bytes_received.to_string());
    match warmth {
        None => row("initiator", "not running".to_owned()),
        Some(warmth) => {
            row("initiator", format!("process {}, {} MiB", warmth.pid, warmth.memory_bytes >> 20));
            row("  files known", warmth.files.to_string());
            row("  watched", format!("{} facts by {} watches", warmth.watched_facts, warmth.watches));
            row("  forgotten", warmth.forgotten.to_string());
            row("  looks at files", warmth.stats.to_string());
            let scanned = format!("{}, {} KiB kept", warmth.scanned, warmth.scanner_bytes >> 10);
            row("  units scanned", scanned);
            row("  scans that stood", warmth.recalled.to_string());
            for (reason, count) in &warmth.unsure {
                row("  left to the compiler", format!("{count}: {reason}"));
            }
        }
    }
    if !counters.reasons.is_empty() {
        let _ = writeln!(out, "reasons:");
        let mut reasons: Vec<_> = counters.reasons.iter().collect();
        reasons.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
        for (reason, count) in reasons {
            let _ = writeln!(out, "{count:>8}  {reason}");
        }
    }
    out
}
