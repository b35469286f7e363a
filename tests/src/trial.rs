//! One row of the table through all passes: plain twice, then cold, warm and remote, each in the same directory with
//! the same files, each step compared with the plain one.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::case::{Family, Row, Step};
use crate::expect::{Pass, misplaced};
use crate::{Counters, Ran, Sandbox, Skips, Snapshot, TestCluster, can_mount, have, namespaces_work};

/// What kind of promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Something came out other than from the plain command.
    Equality,
    /// It came out right, but from the wrong place.
    Counters,
    /// The row itself is wrong: the plain compiler does not do what it says.
    Table,
}

#[derive(Debug)]
pub struct Failure {
    pub class: Class,
    pub text: String,
}

/// One compiler family's users: without and with a pool.
#[derive(Debug)]
pub struct Bench {
    family: Family,
    alone: User,
    pooled: Option<User>,
    // After its user, so that it is dropped after it.
    _cluster: Option<TestCluster>,
}

#[derive(Debug)]
struct User {
    sandbox: Sandbox,
    /// After the last run.
    counted: Counters,
}

/// What one step left behind.
struct Seen {
    ran: Ran,
    files: Snapshot,
}

impl Bench {
    pub fn new(family: Family, skips: &Skips) -> Bench {
        let user = |sandbox: Sandbox| {
            let counted = sandbox.counters();
            User { sandbox, counted }
        };
        let mut bench = Bench { family, alone: user(Sandbox::new()), pooled: None, _cluster: None };
        if namespaces_work() {
            let cluster = TestCluster::start(2);
            bench.pooled = Some(user(Sandbox::of(&cluster)));
            bench._cluster = Some(cluster);
        } else {
            skips.skip("every remote pass", "the kernel refuses user namespaces");
        }
        bench
    }

    /// Runs a row; `index` makes its directory its own.
    pub fn row(&mut self, row: &Row, index: usize, skips: &Skips) -> Vec<Failure> {
        if let Some(missing) = missing_need(row, self.family) {
            skips.skip(&row.name, missing);
            return Vec::new();
        }
        skips.done();
        let dir = self.alone.sandbox.root().join(format!("rows/{index}"));
        let (family, mut failures) = (self.family, Vec::new());
        let plain = pass(&self.alone.sandbox, row, family, &dir, false, |_, _, _| {});
        let mut check = |class, step: usize, pass: &str, text: Option<String>| {
            if let Some(text) = text {
                let text = format!("{} [{family:?}, {pass}, step {}]: {text}", row.name, step + 1);
                failures.push(Failure { class, text });
            }
        };
        for (step, (seen, expected)) in plain.iter().zip(row.steps()).enumerate() {
            let code = expected.code.unwrap_or(0);
            let wrong = (seen.ran.code != code)
                .then(|| format!("the plain command should give code {code}: {}", seen.ran));
            check(Class::Table, step, "plain", wrong);
        }
        let again = pass(&self.alone.sandbox, row, family, &dir, false, |_, _, _| {});
        for (step, (first, second)) in plain.iter().zip(&again).enumerate() {
            check(Class::Table, step, "plain, again", difference(row, first, second));
        }
        let mut runs = vec![(Pass::Cold, &mut self.alone)];
        runs.extend(self.pooled.iter_mut().map(|user| (Pass::Remote, user)));
        for (which, user) in runs {
            let passes: &[Pass] =
                if which == Pass::Cold { &[Pass::Cold, Pass::Warm] } else { &[Pass::Remote] };
            for &which in passes {
                let name = format!("{which:?}").to_lowercase();
                let User { sandbox, counted } = &mut *user;
                let mut counts = Vec::new();
                let seen = pass(sandbox, row, family, &dir, true, |step, stale, sandbox| {
                    let now = sandbox.counters();
                    let (kind, tasks) = (step.kind.unwrap_or_default(), step.tasks.unwrap_or(1));
                    let seen = now.since(counted);
                    *counted = now;
                    counts.push((misplaced(kind, which, tasks, step.reason.as_deref(), &seen), stale));
                });
                for (step, (seen, plain)) in seen.iter().zip(&plain).enumerate() {
                    check(Class::Equality, step, &name, difference(row, plain, seen));
                }
                for (step, (misplaced, stale)) in counts.into_iter().enumerate() {
                    check(Class::Counters, step, &name, misplaced);
                    check(Class::Equality, step, &name, stale);
                }
            }
        }
        failures
    }
}

/// All steps of a row in a fresh copy of its files. `after` gets each step, what of its files looks stale, and the
/// user.
fn pass(
    sandbox: &Sandbox,
    row: &Row,
    family: Family,
    dir: &Path,
    with_dbuild: bool,
    mut after: impl FnMut(&Step, Option<String>, &Sandbox),
) -> Vec<Seen> {
    let _ = std::fs::remove_dir_all(dir);
    let mounts = row.lay_out(dir);
    let mut seen = Vec::new();
    for (index, step) in row.steps().iter().enumerate() {
        step.change(dir, index as u64);
        if let Some(script) = &step.before {
            set_up(sandbox, step, family, dir, script);
        }
        let before = Snapshot::take(dir, &[]);
        let began = file_clock(sandbox.root());
        let words = step.words(family);
        let mut command =
            if with_dbuild { sandbox.dbuild_command(dir, &words) } else { sandbox.command(dir, &words) };
        environment(&mut command, step, family, dir);
        let ran = crate::run_bounded(&mut command, crate::Stdio::Files);
        let files = Snapshot::take(dir, &[]);
        if with_dbuild {
            after(step, files.stale(&before, began), sandbox);
        }
        seen.push(Seen { ran, files });
    }
    drop(mounts);
    std::fs::remove_dir_all(dir).unwrap();
    seen
}

fn set_up(sandbox: &Sandbox, step: &Step, family: Family, dir: &Path, script: &str) {
    let mut command = sandbox.command(dir, &["sh", "-ec", script]);
    environment(&mut command, step, family, dir);
    crate::run_bounded(&mut command, crate::Stdio::Files).ok();
}

fn environment(command: &mut std::process::Command, step: &Step, family: Family, dir: &Path) {
    let (cc, cxx) = family.compilers();
    command.env("CC", cc).env("CXX", cxx);
    for (name, value) in &step.env {
        command.env(name, value.replace("$DIR", dir.to_str().unwrap()));
    }
}

fn difference(row: &Row, plain: &Seen, here: &Seen) -> Option<String> {
    let mut unstable: Vec<&str> = row.unstable.iter().map(String::as_str).collect();
    let mut left_out = |stream: &str| {
        let before = unstable.len();
        unstable.retain(|name| *name != stream);
        unstable.len() < before
    };
    let (no_stdout, no_stderr) = (left_out("stdout"), left_out("stderr"));
    let reduced = |ran: &Ran| Ran {
        stdout: if no_stdout { Vec::new() } else { ran.stdout.clone() },
        stderr: if no_stderr { Vec::new() } else { ran.stderr.clone() },
        ..ran.clone()
    };
    let streams = reduced(&plain.ran).difference(&reduced(&here.ran));
    streams.or_else(|| plain.files.difference(&here.files, &unstable))
}

/// Now, as the file system of `dir` tells time: it may lag behind the clock by a tick.
fn file_clock(dir: &Path) -> SystemTime {
    let file: PathBuf = dir.join("clock");
    std::fs::write(&file, "").unwrap();
    std::fs::metadata(&file).unwrap().modified().unwrap()
}

fn missing_need(row: &Row, family: Family) -> Option<&str> {
    row.needs.iter().map(String::as_str).find_map(|need| match need {
        "mount" => (!can_mount()).then_some("this process may not mount"),
        "profile-runtime" => (family == Family::Clang && !has_profile_runtime())
            .then_some("clang's profile runtime is not installed"),
        "cc1obj" => (!has_cc1obj()).then_some("gcc has no Objective-C here"),
        tool => (!have(tool)).then_some("a program that it needs is not installed"),
    })
}

/// What clang links with for `--coverage`: Debian has it in a package of its own (libclang-rt-…-dev).
fn has_profile_runtime() -> bool {
    let output = std::process::Command::new("clang").arg("-print-resource-dir").output();
    let Ok(output) = output else { return false };
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("lib");
    let files = walkdir::WalkDir::new(directory).into_iter().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libclang_rt.profile"))
}

fn has_cc1obj() -> bool {
    let output = std::process::Command::new("gcc").arg("-print-prog-name=cc1obj").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"/"))
}
