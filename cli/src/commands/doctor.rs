//! `dbuild doctor`: checks what builds and helpers need on this machine, and says what to mend.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use dbuild_cache::{Store, StoreConfig};
use dbuild_shims::vars;

use crate::config::Config;
use crate::door::{Door, door_of, resolve};
use crate::error::Result;
use crate::initiator::{Client, SCAN_DIFFERS};
use crate::paths::BUILD_ID;
use crate::record::Counters;

/// One line of the report.
enum Finding {
    Good(String),
    /// Worth knowing; nothing is broken.
    Note(String),
    /// Something is broken: what, and what to do.
    Bad(String, &'static str),
}
use Finding::{Bad, Good, Note};

pub fn run(config: &Config) -> Result<ExitCode> {
    let mut findings = vec![Good(format!("dbuild {} (build {BUILD_ID})", env!("CARGO_PKG_VERSION")))];
    findings.push(data_dir(config));
    findings.push(interceptor(config));
    findings.extend(compilers());
    findings.push(initiator(config));
    findings.push(coordinator(config));
    findings.extend(scans(config));
    findings.push(namespaces());

    let mut text = String::new();
    let mut broken = 0;
    for finding in &findings {
        // Writing to a String cannot fail.
        let _ = match finding {
            Good(what) => writeln!(text, "ok    {what}"),
            Note(what) => writeln!(text, "note  {what}"),
            Bad(what, hint) => {
                broken += 1;
                writeln!(text, "BAD   {what}\n      {hint}")
            }
        };
    }
    super::print(&text)?;
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn data_dir(config: &Config) -> Finding {
    let root = config.data_dir.root().display();
    match Store::open(StoreConfig { dir: config.data_dir.cache(), max_bytes: config.cache_max_bytes }) {
        Ok(_) => Good(format!("the cache in {root} can be used")),
        Err(error) => Bad(
            format!("the cache in {root} cannot be used: {error}"),
            "Builds work, but nothing is reused. Set DBUILD_DATA_DIR to a directory that you can write to.",
        ),
    }
}

/// Runs a program under the interceptor: the loader says on stderr what it cannot load.
fn interceptor(config: &Config) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let shims = match crate::embedded::lay_out(&config.data_dir, &path) {
        Ok(shims) => shims,
        Err(error) => {
            return Bad(
                format!("the shims cannot be laid out: {error}"),
                "Builds run without dbuild until this is mended.",
            );
        }
    };
    let library = shims.join(vars::INTERCEPT_FILE);
    match Command::new("/bin/sh")
        .args(["-c", ":"])
        .env(vars::LD_PRELOAD, &library)
        .stdin(Stdio::null())
        .output()
    {
        Ok(out) if out.status.success() && out.stderr.is_empty() => {
            Good("compilers can be caught by LD_PRELOAD".into())
        }
        Ok(out) => Bad(
            format!("the interceptor does not load: {}", String::from_utf8_lossy(&out.stderr).trim()),
            "Is the data directory on a file system that is mounted noexec? Choose another with DBUILD_DATA_DIR.",
        ),
        Err(error) => Bad(format!("/bin/sh does not start: {error}"), "dbuild needs a POSIX shell there."),
    }
}

fn compilers() -> Vec<Finding> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut findings = Vec::new();
    for name in ["cc", "c++", "gcc", "g++", "clang", "clang++"] {
        let Ok(found) = resolve(OsStr::new(name), &path) else { continue };
        let shown = found.display();
        findings.push(match door_of(Path::new(&found)) {
            Door::Preload => Good(format!("{name} is {shown}")),
            Door::Path => Note(format!("{name} ({shown}) is statically linked: it runs here, uncached")),
        });
    }
    if findings.is_empty() {
        findings.push(Note("no C or C++ compiler is on PATH (a helper needs none)".into()));
    }
    findings
}

fn initiator(config: &Config) -> Finding {
    let Ok(runtime) = super::small_runtime() else { return Note("no runtime could be started".into()) };
    match runtime.block_on(Client::connect(&config.data_dir)) {
        Ok(Some(_)) => Good("an initiator is running".into()),
        Ok(None) => Note("no initiator is running; the next build starts one".into()),
        Err(error) => Bad(
            format!("the initiator cannot be reached: {error}"),
            "`dbuild stop` and the next build start it anew; its log is under the data directory in run/.",
        ),
    }
}

fn coordinator(config: &Config) -> Finding {
    let url = match super::up::coordinator_to_ask(config) {
        Ok(url) => url,
        Err(error) => return Bad(error.to_string(), "Builds run on this machine alone until one leads."),
    };
    let Some(url) = url else {
        return Note("no coordinator is configured: this machine alone".into());
    };
    let listed = super::small_runtime().and_then(|runtime| runtime.block_on(super::helpers::list(&url)));
    match listed {
        Ok(helpers) => {
            let online = helpers.iter().filter(|helper| helper.online);
            let (count, slots) =
                online.fold((0, 0), |(n, slots), helper| (n + 1, slots + helper.open_slots()));
            Good(format!("the coordinator at {url} has {count} helpers with {slots} slots"))
        }
        Err(error) => Bad(error.to_string(), "Builds run on this machine alone until it answers."),
    }
}

/// Whether scans of directives have been wrong.
fn scans(config: &Config) -> Option<Finding> {
    let counters = Counters::load(&config.data_dir.records());
    let wrong = counters.reasons.get(SCAN_DIFFERS)?;
    Some(Bad(
        format!("for {wrong} of {} tasks {SCAN_DIFFERS}", counters.tasks),
        "They were compiled again on this machine, so their objects are right. Please report it, with the lines of the \
         initiator's log that say \"a scan was wrong\"; `dbuild stats --zero` clears the count.",
    ))
}

/// What a helper's sandbox needs.
fn namespaces() -> Finding {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let forbidden = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    let root = rustix::process::geteuid().is_root();
    let closed = forbidden
        .iter()
        .find(|(file, value)| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *value));
    match closed {
        _ if limit.trim() == "0" => {
            Note("user namespaces are off (user.max_user_namespaces=0): no helper can run here".into())
        }
        Some((file, _)) if !root => Note(format!("{file} forbids user namespaces: a helper needs root here")),
        _ => Good("user namespaces are there for a helper's sandbox".into()),
    }
}
