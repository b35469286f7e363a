//! `dbuild cache info|gc|clear`: this user's own cache.

use std::process::ExitCode;

use dbuild_cache::{Store, StoreConfig};

use crate::args::Cache;
use crate::config::Config;
use crate::error::{Context, Result};

pub fn run(args: &Cache, config: &Config) -> Result<ExitCode> {
    let dir = config.data_dir.cache();
    let store = Store::open(StoreConfig { dir: dir.clone(), max_bytes: config.cache_max_bytes })
        .context("open the cache")?;
    match args {
        Cache::Info(format) => {
            let usage = store.usage();
            let text = if format.json {
                let value = serde_json::json!({
                    "dir": dir.to_string_lossy(), "max_bytes": config.cache_max_bytes,
                    "blobs": usage.blobs, "blob_bytes": usage.blob_bytes,
                    "actions": usage.actions, "action_bytes": usage.action_bytes,
                });
                format!("{value}\n")
            } else {
                format!(
                    "directory  {}\nlimit      {}\nblobs      {} ({})\nresults    {} ({})\n",
                    dir.display(),
                    human(config.cache_max_bytes),
                    usage.blobs,
                    human(usage.blob_bytes),
                    usage.actions,
                    human(usage.action_bytes),
                )
            };
            super::print(&text)?;
        }
        Cache::Gc { keep } => {
            let before = store.usage();
            let after = store.gc(keep.unwrap_or(config.cache_max_bytes)).context("collect garbage")?;
            let (before, after) = (before.disk_bytes, after.disk_bytes);
            super::print(&format!("freed {}, kept {}\n", human(before.saturating_sub(after)), human(after)))?;
        }
        Cache::Clear => {
            store.clear().context("clear the cache")?;
            super::print("cleared\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes as a person reads them.
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}
