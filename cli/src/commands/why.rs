//! `dbuild why OUTPUT`: where an output came from, and why.

use std::fmt::Write;
use std::process::ExitCode;

use crate::args::Why;
use crate::config::Config;
use crate::error::{CliError, Context, Result};
use crate::record::{self, Explanation, Placement};

pub fn run(args: &Why, config: &Config) -> Result<ExitCode> {
    let output = std::path::absolute(&args.output).context("find the output")?;
    let found = record::find(&config.data_dir.records(), &output).context("read the record")?;
    let Some(found) = found else {
        return Err(CliError::new(format!("nothing is recorded of {}", output.display()))
            .hint("Only what a compiler wrote inside a `dbuild …` command has a record; name the object, not the source.")
            .code(1));
    };
    let text = if args.json {
        serde_json::to_string(&found).context("write JSON")? + "\n"
    } else {
        describe(&found)
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Explanation) -> String {
    let place = match (found.placement, &found.helper) {
        (Placement::HitLocal, _) => "hit (own cache)".to_owned(),
        (Placement::HitShared, _) => "hit (pool's cache)".to_owned(),
        (Placement::Remote, Some(helper)) => format!("remote on {helper}"),
        (Placement::Remote, None) => "remote".to_owned(),
        (Placement::Local, _) => format!("local: {}", found.reason),
    };
    let mut out = format!("{}: {place}\n", found.output);
    // Writing to a String cannot fail.
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<14}{value}");
    };
    let optional = [("fell back", &found.fault), ("not cached", &found.uncacheable), ("missed", &found.miss)];
    for (name, value) in optional {
        if let Some(value) = value {
            row(name, value);
        }
    }
    row("exit code", &found.exit_code.to_string());
    row("compiler ran", &format!("{} ms", found.run_ms));
    if !found.key.is_empty() {
        let _ = writeln!(out, "  key:");
        for (name, value) in &found.key {
            let _ = writeln!(out, "    {name:<16}{value}");
        }
    }
    out
}
