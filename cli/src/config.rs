//! Configuration: `/etc/dbuild/config.toml` < user file < project `dbuild.toml` < environment < flags.
//!
//! A build's settings travel to the initiator in the environment of its compilers, so one initiator serves builds
//! with different settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dbuild_registry::{Registry, is_registry};
use serde::Deserialize;

use crate::args::parse_size;
use crate::error::{CliError, Context, Result};
use crate::paths::{DataDir, default_data_dir};

/// What a build runs with.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: DataDir,
    /// URL of the pool; none: this machine alone.
    pub coordinator: Option<String>,
    /// Compilers at a time on this machine; 0: nothing here that can run elsewhere.
    pub local_slots: u32,
    /// Limit of the near cache in bytes.
    pub cache_max_bytes: u64,
    /// The initiator ends after this many seconds without work.
    pub idle_seconds: u64,
    /// No summary line at the end of a build.
    pub quiet: bool,
    /// A build that does not say how many jobs it wants is told the pool's width.
    pub widen: bool,
    /// Results of Rust compiles serve at any place; outputs then name no directory of this machine.
    pub any_path: bool,
}

/// One configuration file. Unknown keys are errors: a misspelt setting must not be ignored in silence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    coordinator: Option<String>,
    local_slots: Option<u32>,
    cache_size: Option<String>,
    idle_seconds: Option<u64>,
    quiet: Option<bool>,
    widen: Option<bool>,
    share: Option<Share>,
}

/// Where a result may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Share {
    /// Where it is what the plain command would give there.
    SamePath,
    /// Anywhere: directories are mapped to fixed names in outputs.
    AnyPath,
}

/// The variable that tells the initiator where this build's results may serve.
pub const SHARE: &str = "DBUILD_SHARE";
pub const ANY_PATH: &str = "any-path";

/// The environment, so that tests need not change their own.
pub type Environment = BTreeMap<OsString, OsString>;

impl Config {
    /// Reads every layer for a process in `cwd`.
    pub fn load(environment: &Environment, cwd: &Path) -> Result<Config> {
        let mut files = vec![PathBuf::from("/etc/dbuild/config.toml")];
        let get = |name: &str| environment.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty());
        match (get("XDG_CONFIG_HOME"), get("HOME")) {
            (Some(config), _) => files.push(PathBuf::from(config).join("dbuild/config.toml")),
            (None, Some(home)) => files.push(PathBuf::from(home).join(".config/dbuild/config.toml")),
            (None, None) => {}
        }
        files.extend(cwd.ancestors().map(|dir| dir.join("dbuild.toml")).find(|file| file.is_file()));

        let mut merged = File::default();
        for file in files {
            if let Some(layer) = read(&file)? {
                merged = merged.under(layer);
            }
        }
        let text = |name: &str| -> Result<Option<String>> {
            let Some(value) = get(name) else { return Ok(None) };
            let value = value.to_str().ok_or_else(|| CliError::new(format!("{name} is not UTF-8")))?;
            Ok(Some(value.to_owned()))
        };
        let number = |name: &str| -> Result<Option<u64>> {
            let Some(value) = text(name)? else { return Ok(None) };
            let parsed = value.parse().map_err(|_| {
                CliError::new(format!("{name}={value} is not a number"))
                    .hint("Use a whole number, 0 or more.")
            });
            parsed.map(Some)
        };
        let data_dir = get("DBUILD_DATA_DIR").map(PathBuf::from).or(merged.data_dir).unwrap_or_else(|| {
            let uid = rustix::process::getuid().as_raw();
            default_data_dir(get("XDG_CACHE_HOME").map(|v| &**v), get("HOME").map(|v| &**v), uid)
        });
        let size = text("DBUILD_CACHE_SIZE")?.or(merged.cache_size).unwrap_or_else(|| "10G".to_owned());
        let slots = number("DBUILD_LOCAL_SLOTS")?.or(merged.local_slots.map(u64::from));
        let quiet = get("DBUILD_QUIET").map(|value| value != "0").or(merged.quiet);
        let share = match text(SHARE)?.as_deref() {
            None => merged.share,
            Some(ANY_PATH) => Some(Share::AnyPath),
            Some("same-path") => Some(Share::SamePath),
            Some(other) => {
                let error = CliError::new(format!("{SHARE}={other} is not known"));
                return Err(error.hint("Use same-path or any-path."));
            }
        };
        let widen = get("DBUILD_WIDEN").map(|value| value != "0").or(merged.widen);
        Ok(Config {
            data_dir: DataDir::new(std::path::absolute(data_dir).map_err(CliError::new)?),
            coordinator: text("DBUILD_COORDINATOR")?.or(merged.coordinator).map(check_url).transpose()?,
            local_slots: slots.map_or_else(processors, |slots| slots.min(4096) as u32),
            cache_max_bytes: parse_size(&size).map_err(|e| CliError::new(format!("cache size: {e}")))?,
            idle_seconds: number("DBUILD_IDLE_SECONDS")?.or(merged.idle_seconds).unwrap_or(600),
            quiet: quiet.unwrap_or(false),
            widen: widen.unwrap_or(true),
            any_path: share == Some(Share::AnyPath),
        })
    }

    /// Reads every layer for this process.
    pub fn from_process() -> Result<Config> {
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        Config::load(&std::env::vars_os().collect(), &cwd)
    }
}

impl File {
    /// This layer, overridden by a `higher` one.
    fn under(self, higher: File) -> File {
        File {
            data_dir: higher.data_dir.or(self.data_dir),
            coordinator: higher.coordinator.or(self.coordinator),
            local_slots: higher.local_slots.or(self.local_slots),
            cache_size: higher.cache_size.or(self.cache_size),
            idle_seconds: higher.idle_seconds.or(self.idle_seconds),
            quiet: higher.quiet.or(self.quiet),
            widen: higher.widen.or(self.widen),
            share: higher.share.or(self.share),
        }
    }
}

fn read(path: &Path) -> Result<Option<File>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CliError::new(format!("failed to read {}: {error}", path.display()))),
    };
    toml::from_str(&text).map(Some).map_err(|error| {
        CliError::new(format!("{} is not a valid configuration: {}", path.display(), error.message())).hint(
            "Known keys: data_dir, coordinator, local_slots, cache_size, idle_seconds, quiet, widen, share.",
        )
    })
}

/// A coordinator's URL must be one that gRPC can dial, or the address of a database that knows who leads.
pub fn check_url(url: String) -> Result<String> {
    if is_registry(&url) {
        Registry::open(&url).context("find the coordinator")?;
        return Ok(url);
    }
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match authority {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(url),
        _ => Err(CliError::new(format!("{url:?} is not the URL of a coordinator"))
            .hint("Write it as http://HOST:PORT, for example http://10.0.0.1:8980.")),
    }
}

/// How many processors this process may use.
pub fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn environment_wins_over_project_wins_over_user() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let user = dir.path().join("config/dbuild");
        let project = dir.path().join("project/deep");
        fs_err::create_dir_all(&user).expect("user");
        fs_err::create_dir_all(&project).expect("project");
        fs_err::write(user.join("config.toml"), "coordinator = \"http://user:1\"\nlocal_slots = 3\n")
            .expect("write");
        fs_err::write(dir.path().join("project/dbuild.toml"), "coordinator = \"http://project:1\"\n")
            .expect("write");
        let config_home = dir.path().join("config");
        let base = [("XDG_CONFIG_HOME", config_home.to_str().expect("utf-8")), ("HOME", "/nonexistent")];
        let config = Config::load(&environment(&base), &project).expect("load");
        assert_eq!(config.coordinator.as_deref(), Some("http://project:1"));
        assert_eq!(config.local_slots, 3);
        assert_eq!(config.data_dir.root(), Path::new("/nonexistent/.cache/dbuild"));
        let with =
            [&base[..], &[("DBUILD_COORDINATOR", "http://env:1"), ("DBUILD_LOCAL_SLOTS", "0")]].concat();
        let config = Config::load(&environment(&with), &project).expect("load");
        assert_eq!(config.coordinator.as_deref(), Some("http://env:1"));
        assert_eq!(config.local_slots, 0);
    }

    #[test]
    fn wrong_values_are_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs_err::write(dir.path().join("dbuild.toml"), "cordinator = \"http://x:1\"\n").expect("write");
        let error = Config::load(&environment(&[]), dir.path()).expect_err("unknown key");
        assert!(error.to_string().contains("dbuild.toml is not a valid configuration"), "{error}");
        let error = Config::load(&environment(&[("DBUILD_LOCAL_SLOTS", "many")]), Path::new("/"))
            .expect_err("number");
        assert!(error.to_string().contains("DBUILD_LOCAL_SLOTS=many is not a number"), "{error}");
        assert!(check_url("10.0.0.1:8980".to_owned()).is_err());
    }
}
