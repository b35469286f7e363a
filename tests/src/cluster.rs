//! A coordinator and helpers: real processes, on a free port, with an environment in which no compiler is to be found.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::{Process, dbuild, processes_of, wait_until};

/// One line of `dbuild helpers --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct HelperLine {
    pub name: String,
    pub online: bool,
    pub running: u32,
    /// What it does with new work: `online`, `paused`, `drained`, `yielding`, …
    pub standing: String,
    /// How often its worker was started again.
    pub restarts: u32,
    /// Bytes; 0 as long as it has not reported.
    pub memory_total: u64,
}

#[derive(Deserialize)]
struct HelperLines {
    helpers: Vec<HelperLine>,
}

#[derive(Debug)]
pub struct TestCluster {
    root: tempfile::TempDir,
    port: u16,
    coordinator: Option<Child>,
    helpers: Vec<Option<Child>>,
}

impl TestCluster {
    /// A coordinator and `helpers` helpers of two slots each, all of them online.
    pub fn start(helpers: usize) -> TestCluster {
        TestCluster::start_in(helpers, &[])
    }

    /// As [`TestCluster::start`]; helper `i` keeps its data in `data[i]` if that is given.
    pub fn start_in(helpers: usize, data: &[&Path]) -> TestCluster {
        let root = tempfile::Builder::new().prefix("dbuild-cluster-").tempdir().unwrap();
        std::fs::create_dir(root.path().join("no-compilers")).unwrap();
        // The port is free now; that nobody takes it in between is as good as it gets for a process of its own.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut cluster = TestCluster { root, port, coordinator: None, helpers: Vec::new() };
        cluster.start_coordinator();
        for index in 0..helpers {
            cluster.spawn_helper(data.get(index).copied(), &[]);
        }
        cluster.wait_until_online();
        cluster
    }

    /// One more helper of two slots, online, with these arguments besides; gives its index.
    pub fn add_helper(&mut self, args: &[&str]) -> usize {
        self.spawn_helper(None, args);
        self.wait_until_online();
        self.helpers.len() - 1
    }

    fn spawn_helper(&mut self, data: Option<&Path>, more: &[&str]) {
        let index = self.helpers.len();
        let name = format!("helper-{index}");
        let data = data.map_or_else(|| self.data_of(index), Path::to_path_buf);
        let args = ["helper", "--coordinator", &self.url(), "--slots", "2", "--name", &name, "--data"];
        let mut args: Vec<PathBuf> = args.iter().map(PathBuf::from).collect();
        args.push(data);
        args.extend(more.iter().map(PathBuf::from));
        let child = self.spawn(&name, &args);
        self.helpers.push(Some(child));
    }

    /// Where helper `index` keeps its data, unless it was told another place.
    pub fn data_of(&self, index: usize) -> PathBuf {
        self.root.path().join(format!("helper-{index}"))
    }

    /// What the coordinator knows of helper `index`, now.
    pub fn line(&self, index: usize) -> Option<HelperLine> {
        self.list()?.into_iter().find(|line| line.name == format!("helper-{index}"))
    }

    /// The process of helper `index` that runs actions.
    pub fn worker_of(&self, index: usize) -> Option<Process> {
        let name = format!(" --name helper-{index} ");
        let of_worker = |process: &Process| {
            process.command.split(' ').nth(1) == Some("helper-worker") && process.command.contains(&name)
        };
        processes_of(self.root()).into_iter().find(of_worker)
    }

    /// Runs `dbuild` with these arguments where coordinator and helpers run, with this pool as its own.
    pub fn dbuild(&self, args: &[&str]) -> std::process::Output {
        let args: Vec<PathBuf> = args.iter().map(PathBuf::from).collect();
        self.command(&args).env("DBUILD_COORDINATOR", self.url()).output().unwrap()
    }

    /// Starts a coordinator over what an earlier one left, and waits for it.
    fn start_coordinator(&mut self) {
        let own = self.root.path().join("coordinator");
        let listen = format!("127.0.0.1:{}", self.port);
        let args = ["coordinator".into(), "--listen".into(), listen.into(), "--data".into(), own];
        self.coordinator = Some(self.spawn("coordinator", &args));
        wait_until("the coordinator answers", || self.list().is_some());
    }

    fn wait_until_online(&self) {
        let helpers = self.helpers.iter().flatten().count();
        let online =
            || self.list().is_some_and(|lines| lines.iter().filter(|line| line.online).count() >= helpers);
        wait_until("the helpers are online", online);
    }

    /// Where coordinator and helpers keep their data.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What `dbuild helpers --json` says, if it can say anything.
    pub fn list(&self) -> Option<Vec<HelperLine>> {
        let mut command = self.command(&["helpers".into(), "--json".into()]);
        let output = command.env("DBUILD_COORDINATOR", self.url()).stderr(Stdio::null()).output().unwrap();
        let lines: HelperLines = serde_json::from_slice(&output.stdout).ok()?;
        Some(lines.helpers)
    }

    /// The coordinator's process, for a build that ends it by itself.
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().expect("a coordinator").id()
    }

    /// `kill -9` of helper `index`.
    pub fn kill_helper(&mut self, index: usize) {
        let mut child = self.helpers[index].take().expect("a helper that still runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `kill -9` of the coordinator.
    pub fn kill_coordinator(&mut self) {
        let mut child = self.coordinator.take().expect("a coordinator that still runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Another coordinator, with the same address and disk, in the place of one that was killed.
    pub fn replace_coordinator(&mut self) {
        self.start_coordinator();
        self.wait_until_online();
    }

    /// What coordinator and helpers wrote to their stderr, for the report of a test that fails.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.root.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let log = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned();
                let tail: Vec<_> = log.lines().rev().take(30).collect();
                text += &format!("== {}\n", entry.file_name().display());
                tail.iter().rev().for_each(|line| text += &format!("{line}\n"));
            }
        }
        text
    }

    fn command(&self, args: &[PathBuf]) -> Command {
        let mut command = Command::new(dbuild());
        let root = self.root.path();
        command.args(args).env_clear().current_dir(root).stdin(Stdio::null());
        command
            .env("PATH", root.join("no-compilers"))
            .env("HOME", root)
            .env("DBUILD_DATA_DIR", root.join("data"));
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC0");
        command
    }

    fn spawn(&self, name: &str, args: &[PathBuf]) -> Child {
        let log = self.root.path().join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(args);
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let mut children: Vec<Child> = self.helpers.drain(..).flatten().collect();
        children.extend(self.coordinator.take());
        for child in &children {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        let root = self.root.path().to_owned();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let start = std::time::Instant::now();
            while start.elapsed() < std::time::Duration::from_secs(20) {
                children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
                if children.is_empty() && processes_of(&root).is_empty() {
                    return true;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            false
        }));
        let left = processes_of(&root);
        left.iter().for_each(|process| process.kill());
        for child in &mut children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !ended.unwrap_or(false) && !std::thread::panicking() {
            panic!("the cluster did not end when asked to: {left:#?}\n{}", self.logs());
        }
    }
}

/// Whether a helper can make its sandbox here: unprivileged user namespaces, or root's own.
pub fn namespaces_work() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--net", "--ipc", "true"]);
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}
