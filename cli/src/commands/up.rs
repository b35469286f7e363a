//! `dbuild up` and `dbuild down`: a whole pool on this machine, for a first look.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use dbuild_registry::{Leader, is_registry, without_password};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::args::Up;
use crate::config::{Config, processors};
use crate::error::{CliError, Context, Result};

const START_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What `dbuild up` wrote down for `dbuild down` and for builds that name no coordinator.
#[derive(Debug, Serialize, Deserialize)]
struct Pool {
    url: String,
    /// The coordinator first.
    processes: Vec<Process>,
}

/// A process is only ever signalled while its start time is still the recorded one: ids are used again.
#[derive(Debug, Serialize, Deserialize)]
struct Process {
    pid: i32,
    started: u64,
}

/// The coordinator that a build uses: the configured one, else the one that `dbuild up` started.
pub fn coordinator_of(config: &Config) -> Option<String> {
    config.coordinator.clone().or_else(|| {
        let pool = read(config)?;
        pool.processes.first().is_some_and(Process::alive).then_some(pool.url)
    })
}

/// As [`coordinator_of`], for a command that speaks to it: where a database knows who leads, that one.
pub fn coordinator_to_ask(config: &Config) -> Result<Option<String>> {
    let Some(url) = coordinator_of(config).filter(|url| is_registry(url)) else {
        return Ok(coordinator_of(config));
    };
    let found = super::small_runtime()?.block_on(async {
        Leader::follow(&url).context("find the coordinator")?.get().await.context("find the coordinator")
    });
    found.map(Some).map_err(|error| {
        error.hint(format!("{} is where the coordinators of the pool say who leads.", without_password(&url)))
    })
}

/// As [`coordinator_to_ask`], for work that is done here when nobody is to be asked.
pub fn coordinator_or_none(config: &Config) -> Option<String> {
    coordinator_to_ask(config).unwrap_or_else(|error| {
        eprintln!("dbuild: {error}; jobs run here");
        None
    })
}

/// The coordinator of a command that needs one.
pub fn coordinator(config: &Config) -> Result<String> {
    coordinator_to_ask(config)?.ok_or_else(|| {
        CliError::new("no coordinator is configured")
            .hint("Set DBUILD_COORDINATOR=http://HOST:PORT, or try `dbuild up` for a pool on this machine.")
    })
}

pub fn up(args: &Up, config: &Config) -> Result<ExitCode> {
    if let Some(pool) = read(config)
        && pool.processes.iter().any(Process::alive)
    {
        return Err(
            CliError::new(format!("a pool is up already at {}", pool.url)).hint("`dbuild down` stops it.")
        );
    }
    let dir = config.data_dir.pool();
    fs_err::create_dir_all(&dir).context("make the pool's directory")?;
    let mut pool = Pool { url: String::new(), processes: Vec::new() };
    let started = start(args, config, &mut pool);
    if started.is_err() {
        stop(&pool);
    }
    started?;
    super::print(&format!(
        "a pool of {} helpers is up at {}; builds of this user use it until `dbuild down`\n",
        args.helpers, pool.url
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub fn down(config: &Config) -> Result<ExitCode> {
    let Some(pool) = read(config) else {
        super::print("no pool is up\n")?;
        return Ok(ExitCode::SUCCESS);
    };
    if !stop(&pool) {
        return Err(CliError::new("some processes of the pool have not ended within 15 s"));
    }
    fs_err::remove_file(file(config)).context("forget the pool")?;
    super::print("the pool is down\n")?;
    Ok(ExitCode::SUCCESS)
}

fn start(args: &Up, config: &Config, pool: &mut Pool) -> Result<()> {
    let dir = config.data_dir.pool();
    let log = dir.join("coordinator.log");
    let coordinator = dir.join("coordinator");
    let words =
        ["coordinator".into(), "--listen".into(), "127.0.0.1:0".into(), "--data".into(), coordinator.into()];
    pool.processes.push(spawn(&words, &log)?);
    pool.url = wait_for("the coordinator to listen", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("dbuild coordinator listening on ")).map(str::to_owned)
    })
    .map_err(|error| error.hint(format!("Its log is {}.", log.display())))?;
    let slots = args.slots.unwrap_or_else(|| processors().div_ceil(args.helpers));
    for number in 1..=args.helpers {
        let name = format!("local-{number}");
        let words = [
            "helper".into(),
            "--coordinator".into(),
            pool.url.clone().into(),
            "--name".into(),
            name.clone().into(),
            "--slots".into(),
            slots.to_string().into(),
            "--data".into(),
            dir.join(&name).into(),
        ];
        pool.processes.push(spawn(&words, &dir.join(format!("{name}.log")))?);
    }
    let text = serde_json::to_vec(pool).context("write the pool's record")?;
    fs_err::write(file(config), text).context("write the pool's record")?;
    let runtime = super::small_runtime()?;
    wait_for("the helpers to register", || {
        let helpers = runtime.block_on(super::helpers::list(&pool.url)).ok()?;
        (helpers.iter().filter(|helper| helper.online).count() == args.helpers as usize).then_some(())
    })
    .map_err(|error| error.hint(format!("Their logs are in {}.", dir.display())))
}

/// Starts a part of the pool that outlives this command.
fn spawn(words: &[std::ffi::OsString], log: &std::path::Path) -> Result<Process> {
    use std::os::unix::process::CommandExt;
    let out = fs_err::File::create(log).context("open the log")?.into_parts().0;
    let err = out.try_clone().context("open the log")?;
    let mut command = Command::new(std::env::current_exe().context("find the dbuild binary")?);
    command.args(words).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let child = command.spawn().context("start a part of the pool")?;
    let pid = child.id() as i32;
    Ok(Process { pid, started: start_time(pid).unwrap_or(0) })
}

fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(value) = poll() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            return Err(CliError::new(format!("waited {} s in vain for {what}", START_TIMEOUT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends every process of the pool, helpers first; false if one would not go.
fn stop(pool: &Pool) -> bool {
    for process in pool.processes.iter().rev() {
        process.signal(Signal::TERM);
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while pool.processes.iter().any(Process::alive) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

impl Process {
    fn alive(&self) -> bool {
        let running = Pid::from_raw(self.pid).is_some_and(|pid| test_kill_process(pid).is_ok());
        running && start_time(self.pid) == Some(self.started)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.alive()) {
            // It may have ended meanwhile, which is what was wanted.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot; none for a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name before it may hold anything, even parentheses.
    let fields = stat.rsplit_once(')')?.1;
    let mut fields = fields.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn file(config: &Config) -> PathBuf {
    config.data_dir.pool().join("pool.json")
}

fn read(config: &Config) -> Option<Pool> {
    std::fs::read(file(config)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
}
