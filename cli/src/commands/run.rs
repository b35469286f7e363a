//! `dbuild <command…>`: wraps a build. The child owns the terminal; its exit code is ours.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use dbuild_shims::{names, vars};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{ANY_PATH, Config, SHARE, processors};
use crate::door::{Door, Missing, door_of, resolve, with_first, with_last};
use crate::embedded;
use crate::error::{CliError, Context, EXIT_CANNOT_INVOKE, EXIT_NOT_FOUND, Result};
use crate::initiator::{Answer, Client, Request};
use crate::limits::enough_files;
use crate::paths::DataDir;
use crate::record::Tally;
use crate::width;

const COORDINATOR: &str = "DBUILD_COORDINATOR";

/// Variables to set for the child.
type Changes = Vec<(&'static str, OsString)>;

pub fn run(words: Vec<OsString>, trace: Option<PathBuf>) -> Result<ExitCode> {
    let program = find(&words[0])?;
    if std::env::var_os(vars::DISABLE).is_some_and(|value| value == "1") || nested() {
        return Err(exec(&words));
    }
    if let Err(reason) = enough_files() {
        say(&format!("dbuild: {reason}; the build runs without dbuild\n"));
        return Err(exec(&words));
    }
    let config = Config::from_process()?;
    // Found out now, not after an hour's build; and the initiator has another working directory.
    let trace = trace.map(|file| fs_err::File::create(&file).and_then(|_| std::path::absolute(file)));
    let trace = trace.transpose().context("write the trace")?;
    super::small_runtime()?.block_on(wrap(&config, &words, program, trace))
}

/// Already inside a wrapped build: its doors are open.
fn nested() -> bool {
    std::env::var_os(vars::SESSION).is_some() && std::env::var_os(vars::SOCKET).is_some()
}

fn find(program: &OsString) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    resolve(program, &path).map_err(|missing| {
        let name = program.to_string_lossy();
        match missing {
            Missing::NotFound => CliError::new(format!("{name}: no such command"))
                .hint("`dbuild --help` lists dbuild's own commands; anything else is run as a build command.")
                .code(EXIT_NOT_FOUND),
            Missing::NotExecutable => {
                CliError::new(format!("{name}: not executable")).code(EXIT_CANNOT_INVOKE)
            }
        }
    })
}

/// Becomes the command; returns only when that fails.
fn exec(words: &[OsString]) -> CliError {
    use std::os::unix::process::CommandExt;
    cannot_invoke(&words[0], &std::process::Command::new(&words[0]).args(&words[1..]).exec())
}

fn cannot_invoke(program: &OsString, error: &std::io::Error) -> CliError {
    let code = if error.kind() == std::io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_CANNOT_INVOKE };
    CliError::new(format!("failed to run {}: {error}", program.to_string_lossy())).code(code)
}

async fn wrap(
    config: &Config,
    words: &[OsString],
    program: PathBuf,
    trace: Option<PathBuf>,
) -> Result<ExitCode> {
    let started = Instant::now();
    let session = format!("{}-{}", std::process::id(), unix_nanos());
    let opened = open(config, &session, &program, trace).await;
    let mut words = words.to_vec();
    let (changes, mut client) = match opened {
        Ok((mut changes, mut client)) => {
            widen(config, &session, &mut client, &mut words, &mut changes).await;
            (changes, Some(client))
        }
        Err(error) => {
            // A fault of dbuild's costs time, never a build.
            say(&format!("dbuild: {error}; the build runs without dbuild\n"));
            (Vec::new(), None)
        }
    };
    let stand_in = client.as_ref().and_then(|_| stand_in(&program, &changes));
    let status = run_child(&words, stand_in, &changes).await?;
    if let Some(client) = &mut client {
        let tally = end(client, &config.data_dir, session).await;
        let fallbacks = changes.iter().find(|(name, _)| *name == vars::FALLBACKS).map(|(_, file)| take(file));
        if changes.iter().any(|(name, dir)| *name == vars::SHIMS && !Path::new(dir).exists()) {
            say("dbuild: the data directory was removed during the build, which went on without dbuild\n");
        }
        if !config.quiet {
            say(&summary(tally.as_ref(), &fallbacks.unwrap_or_default(), started.elapsed()));
        }
    }
    Ok(exit_code(status))
}

/// The build's tally; from the initiator that took over, if the first one was killed.
async fn end(client: &mut Client, data: &DataDir, session: String) -> Option<Tally> {
    let request = Request::End { session };
    let answer = match client.ask(&request).await {
        Ok(answer) => Some(answer),
        Err(_) => Client::connect(data).await.ok()??.ask(&request).await.ok(),
    };
    match answer? {
        Answer::Tally { tally, trace_failed } => {
            if let Some(why) = trace_failed {
                say(&format!("dbuild: the trace could not be written: {why}\n"));
            }
            Some(*tally)
        }
        _ => None,
    }
}

/// Prints to stderr; one that is closed or full must not change the build's exit code.
fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The shim, if the command is itself a compiler: there is no process before it that could be intercepted.
fn stand_in(program: &Path, changes: &Changes) -> Option<PathBuf> {
    let name = program.file_name()?;
    let (_, shims) = changes.iter().find(|(name, _)| *name == vars::SHIMS)?;
    names::is_compiler(name.as_bytes()).then(|| Path::new(shims).join(vars::SHIM_FILE))
}

/// Lays out the doors, finds the initiator, and says what the child's environment needs.
async fn open(
    config: &Config,
    session: &str,
    program: &Path,
    trace: Option<PathBuf>,
) -> Result<(Changes, Client)> {
    let data = &config.data_dir;
    let path = std::env::var_os("PATH").unwrap_or_default();
    fs_err::create_dir_all(data.run()).context("use the data directory")?;
    let shims = embedded::lay_out(data, &path).context("lay out the shims")?;
    let mut client = Client::connect_or_start(data).await?;
    let begin = Request::Begin { session: session.to_owned(), trace };
    client.ask(&begin).await.context("talk to the initiator")?;

    let fallbacks = fallbacks_file(data, session);
    fs_err::File::create(&fallbacks).context("make the list of fallbacks")?;
    let exe = std::env::current_exe().context("find the dbuild binary")?;
    let mut changes: Changes = vec![
        (vars::SHIMS, shims.clone().into()),
        (vars::SOCKET, data.run().into()),
        (vars::SESSION, session.into()),
        (vars::EXE, exe.into()),
        (vars::FALLBACKS, fallbacks.into()),
        ("DBUILD_DATA_DIR", data.root().into()),
        ("DBUILD_LOCAL_SLOTS", config.local_slots.to_string().into()),
    ];
    changes.extend(config.any_path.then(|| (SHARE, ANY_PATH.into())));
    changes.extend(super::up::coordinator_of(config).map(|url| (COORDINATOR, url.into())));
    if names::is_compiler(program.file_name().unwrap_or_default().as_bytes()) {
        changes.push((vars::EXEC_PATH, program.into()));
    }
    changes.push(match door_of(program) {
        Door::Preload => {
            let list = std::env::var_os(vars::LD_PRELOAD);
            (vars::LD_PRELOAD, with_last(list.as_deref(), &shims.join(vars::INTERCEPT_FILE)))
        }
        Door::Path => (vars::PATH, with_first(&path, &shims)),
    });
    Ok((changes, client))
}

/// Where the build does not say how many jobs it wants, tells it as many as there are slots in the pool and here.
async fn widen(
    config: &Config,
    session: &str,
    client: &mut Client,
    words: &mut Vec<OsString>,
    changes: &mut Changes,
) {
    let variable = |name: &str| {
        let set = std::env::var_os(name).filter(|value| !value.is_empty());
        set.or_else(|| (name == width::CARGO_JOBS).then(configured_jobs).flatten())
    };
    let url = changes.iter().find(|(name, _)| *name == COORDINATOR).and_then(|(_, url)| url.to_str());
    let Some(url) = url.filter(|_| config.widen && width::may_widen(words, &variable)) else { return };
    let request = Request::Slots { session: session.to_owned(), coordinator: url.to_owned() };
    let Ok(Answer::Slots(slots)) = client.ask(&request).await else { return };
    if let Some(jobs) = width::jobs(slots, config.local_slots) {
        let widened = width::widen(words, &variable, jobs, processors());
        changes.extend(widened.variables);
        words.splice(1..1, widened.arguments);
    }
}

/// `build.jobs` of cargo's configuration files (cargo book, "Configuration", "Hierarchical structure").
fn configured_jobs() -> Option<OsString> {
    let here = std::env::current_dir().ok()?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let places = here.ancestors().map(|above| above.join(".cargo")).chain(home);
    let mut files = places.flat_map(|place| [place.join("config.toml"), place.join("config")]);
    files.find_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        let table: toml::Table = text.parse().ok()?;
        Some(table.get("build")?.get("jobs")?.to_string().into())
    })
}

/// Runs the command to its end. Signals of the terminal reach it by themselves; we only outlive them.
async fn run_child(words: &[OsString], stand_in: Option<PathBuf>, changes: &Changes) -> Result<ExitStatus> {
    // Handlers, not SIG_IGN: an ignored signal would stay ignored in the child.
    let listen = |kind| signal(kind).context("listen to signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut quit = listen(SignalKind::quit())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut command =
        tokio::process::Command::new(stand_in.as_deref().map_or(words[0].as_os_str(), Path::as_os_str));
    command.arg0(&words[0]).args(&words[1..]).envs(changes.iter().map(|(name, value)| (name, value)));
    let mut child = command.spawn().map_err(|error| cannot_invoke(&words[0], &error))?;
    loop {
        tokio::select! {
            status = child.wait() => return status.context("wait for the command"),
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => {
                let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
                if let Some(pid) = pid {
                    // It may have ended this very moment; then there is nothing to tell it.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
        }
    }
}

/// The command's own code, or 128 + n for one that signal n ended (as shells have it).
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(code as u8)
}

fn unix_nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

fn fallbacks_file(data: &DataDir, session: &str) -> PathBuf {
    data.run().join(format!("fallbacks-{session}"))
}

/// Reads and removes the shims' own list of reasons.
fn take(file: &OsString) -> Vec<String> {
    let text = std::fs::read(file).unwrap_or_default();
    // Removed by somebody else: nobody reads it any more.
    let _ = std::fs::remove_file(file);
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Kinds of faults that a summary tells one by one.
const MAX_FAULTS: usize = 5;

/// One line of figures, and one line for each kind of fault.
fn summary(tally: Option<&Tally>, alone: &[String], elapsed: Duration) -> String {
    let empty = Tally::default();
    let tally = tally.unwrap_or(&empty);
    let counters = &tally.counters;
    let hits = counters.hits_local + counters.hits_shared;
    let mut helpers: Vec<String> =
        tally.helpers.iter().map(|(name, tasks)| format!("{name} {tasks}")).collect();
    if helpers.len() > 6 {
        let rest = helpers.len() - 5;
        helpers.truncate(5);
        helpers.push(format!("{rest} more"));
    }
    let on = if helpers.is_empty() { String::new() } else { format!(" ({})", helpers.join(", ")) };
    let fell_back = counters.fallbacks + alone.len() as u64;
    let mut text = format!(
        "dbuild: {} tasks: {hits} from cache ({} of the pool's), {} on helpers{on}, {} here, {fell_back} fell back; {:.1} s\n",
        counters.tasks + alone.len() as u64,
        counters.hits_shared,
        counters.remote,
        counters.local + alone.len() as u64,
        elapsed.as_secs_f64(),
    );
    let mut faults: std::collections::BTreeMap<&str, u64> =
        tally.faults.iter().map(|(fault, tasks)| (fault.as_str(), *tasks)).collect();
    for reason in alone {
        *faults.entry(reason).or_default() += 1;
    }
    let mut faults: Vec<_> = faults.into_iter().collect();
    faults.sort_by_key(|(_, tasks)| std::cmp::Reverse(*tasks));
    let rest = faults.split_off(faults.len().min(MAX_FAULTS));
    for (fault, tasks) in faults {
        text += &format!("dbuild: {tasks} ran here because of a fault: {fault}\n");
    }
    if !rest.is_empty() {
        let (kinds, tasks) = (rest.len(), rest.iter().map(|(_, tasks)| tasks).sum::<u64>());
        text += &format!(
            "dbuild: {tasks} ran here because of {kinds} other faults, which `dbuild stats` lists\n"
        );
    }
    for (notice, tasks) in &tally.notices {
        text += &format!("dbuild: {tasks} took longer: {notice}\n");
    }
    text
}
