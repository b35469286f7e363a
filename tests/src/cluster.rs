//! A coordinator and helpers: real processes, on a free port, with an environment in which no compiler is to be found.
//! What may befall them is in `befall.rs`.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::{Net, Process, dbuild, processes_of, wait_until};

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
    pub tasks_done: u64,
    /// It gets no work for so long.
    pub set_aside_ms: u64,
    pub on_trial: bool,
}

#[derive(Deserialize)]
struct HelperLines {
    helpers: Vec<HelperLine>,
}

/// Where a cluster runs and how large its coordinator's store is.
#[derive(Debug, Default, Clone, Copy)]
pub struct Site<'a> {
    /// The coordinator is on its near host, helpers on its far one; `None`: all are on this host's loopback.
    pub net: Option<&'a Net>,
    /// `--max-size` of the coordinator.
    pub store: Option<&'a str>,
}

/// How one helper runs; the default asks the coordinator directly and keeps its data with the cluster's.
#[derive(Debug, Default, Clone)]
pub struct HelperPlan {
    /// The URL that it is told, if that is not the coordinator's own.
    pub coordinator: Option<String>,
    pub data: Option<PathBuf>,
    /// Its name, if that is not `helper-N`; the data directory goes by the name.
    pub name: Option<String>,
    /// Words before the command, for example `unshare --time`.
    pub within: Vec<OsString>,
    /// Options after all others.
    pub options: Vec<&'static str>,
}

#[derive(Debug)]
pub struct TestCluster {
    root: tempfile::TempDir,
    address: String,
    /// Words before whatever runs on the coordinator's host, and on that of helpers.
    near: Vec<OsString>,
    far: Vec<OsString>,
    store: Option<String>,
    pub(crate) coordinator: Option<Child>,
    pub(crate) helpers: Vec<Option<Child>>,
}

impl TestCluster {
    /// A coordinator and `helpers` helpers of two slots each, all of them online.
    pub fn start(helpers: usize) -> TestCluster {
        TestCluster::start_in(helpers, &[])
    }

    /// As [`TestCluster::start`]; helper `i` keeps its data in `data[i]` if that is given.
    pub fn start_in(helpers: usize, data: &[&Path]) -> TestCluster {
        let mut cluster = TestCluster::start_at(Site::default());
        for index in 0..helpers {
            let data = data.get(index).map(|dir| dir.to_path_buf());
            cluster.add_helper(HelperPlan { data, ..HelperPlan::default() });
        }
        cluster.wait_until_online(helpers);
        cluster
    }

    /// A coordinator without helpers.
    pub fn start_at(site: Site<'_>) -> TestCluster {
        let root = tempfile::Builder::new().prefix("dbuild-cluster-").tempdir().unwrap();
        std::fs::create_dir(root.path().join("no-compilers")).unwrap();
        // The port is free now; that nobody takes it in between is as good as it gets for a process of its own.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("{}:{port}", site.net.map_or("127.0.0.1", |net| net.near_address()));
        let (near, far) = site.net.map(|net| (net.near(), net.far())).unwrap_or_default();
        let store = site.store.map(str::to_owned);
        let mut cluster =
            TestCluster { root, address, near, far, store, coordinator: None, helpers: Vec::new() };
        cluster.start_coordinator();
        cluster
    }

    /// Starts the coordinator, or starts it again on the same port and data directory.
    pub fn start_coordinator(&mut self) {
        let own = self.coordinator_data();
        let listen = self.address.clone();
        let mut args = vec!["coordinator".into(), "--listen".into(), listen.into(), "--data".into(), own];
        if let Some(size) = &self.store {
            args.extend(["--max-size".into(), size.into()]);
        }
        self.coordinator = Some(self.spawn("coordinator", &self.near, &args));
        wait_until("the coordinator answers", || self.list().is_some());
    }

    /// Starts one helper of two slots more, named `helper-N`; gives N. It need not be online yet.
    pub fn add_helper(&mut self, plan: HelperPlan) -> usize {
        let index = self.helpers.len();
        let name = plan.name.unwrap_or_else(|| format!("helper-{index}"));
        let url = plan.coordinator.unwrap_or_else(|| self.url());
        let args = ["helper", "--coordinator", &url, "--slots", "2", "--name", &name, "--data"];
        let mut args: Vec<PathBuf> = args.iter().map(PathBuf::from).collect();
        args.push(plan.data.unwrap_or_else(|| self.root.path().join(&name)));
        args.extend(plan.options.iter().map(PathBuf::from));
        let within: Vec<OsString> = self.far.iter().chain(&plan.within).cloned().collect();
        let child = self.spawn(&name, &within, &args);
        self.helpers.push(Some(child));
        index
    }

    /// Until this many helpers are online.
    pub fn wait_until_online(&self, helpers: usize) {
        let online =
            || self.list().is_some_and(|lines| lines.iter().filter(|line| line.online).count() >= helpers);
        wait_until("the helpers are online", online);
    }

    /// Where the coordinator keeps its store.
    pub fn coordinator_data(&self) -> PathBuf {
        self.root.path().join("coordinator")
    }

    /// Words before a command that is to run where the coordinator runs.
    pub fn near(&self) -> &[OsString] {
        &self.near
    }

    /// Where helper `index` keeps its data, unless it was told another place.
    pub fn data_of(&self, index: usize) -> PathBuf {
        self.root.path().join(format!("helper-{index}"))
    }

    /// The process of helper `index` that runs actions.
    pub fn worker_of(&self, index: usize) -> Option<Process> {
        let name = format!(" --name helper-{index} ");
        let of_worker = |process: &Process| {
            process.command.split(' ').nth(1) == Some("helper-worker") && process.command.contains(&name)
        };
        processes_of(self.root()).into_iter().find(of_worker)
    }

    /// Runs `dbuild` with these arguments where the coordinator runs, with this pool as its own.
    pub fn dbuild(&self, args: &[&str]) -> std::process::Output {
        let args: Vec<PathBuf> = args.iter().map(PathBuf::from).collect();
        self.command(&self.near, &args).env("DBUILD_COORDINATOR", self.url()).output().unwrap()
    }

    /// Another coordinator, with the same address and disk, in the place of one that was killed.
    pub fn replace_coordinator(&mut self) {
        self.start_coordinator();
        self.wait_until_online(self.helpers.iter().flatten().count());
    }

    /// Where coordinator and helpers keep their data.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `HOST:PORT` of the coordinator.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What `dbuild helpers --json` says, if it can say anything.
    pub fn list(&self) -> Option<Vec<HelperLine>> {
        let mut command = self.command(&self.near, &["helpers".into(), "--json".into()]);
        let output = command.env("DBUILD_COORDINATOR", self.url()).stderr(Stdio::null()).output().unwrap();
        let lines: HelperLines = serde_json::from_slice(&output.stdout).ok()?;
        Some(lines.helpers)
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

    /// `WITHIN… dbuild ARGS…`; every word of `within` that is a program is an absolute path.
    fn command(&self, within: &[OsString], args: &[PathBuf]) -> Command {
        let mut words = within.iter().map(OsString::as_os_str).chain([dbuild().as_os_str()]);
        let mut command = Command::new(words.next().expect("dbuild at least"));
        let root = self.root.path();
        command.args(words).args(args).env_clear().current_dir(root).stdin(Stdio::null());
        command
            .env("PATH", root.join("no-compilers"))
            .env("HOME", root)
            .env("DBUILD_DATA_DIR", root.join("data"));
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC0");
        command
    }

    /// In a process group of its own. What it says is added to its log.
    fn spawn(&self, name: &str, within: &[OsString], args: &[PathBuf]) -> Child {
        let path = self.root.path().join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(path).unwrap();
        let mut command = self.command(within, args);
        command.process_group(0).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let mut children: Vec<Child> = self.helpers.drain(..).flatten().collect();
        children.extend(self.coordinator.take());
        // What is frozen would not hear of its end.
        for process in processes_of(self.root.path()) {
            let _ = kill_process(process.pid, Signal::CONT);
        }
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
