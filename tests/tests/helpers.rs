//! Helpers as machines have them: workers die and hang, supervisors die, owners want their machine back.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dbuild_tests::disturbed::pool;
use dbuild_tests::{HelperPlan, Process, Skips, TestCluster, dbuild, processes_of, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// A user's job on the pool, running. Its first line says that it began.
struct Job {
    home: tempfile::TempDir,
    child: Child,
}

impl Job {
    /// Runs `script` on the pool.
    fn start(cluster: &TestCluster, script: &str) -> Job {
        let home = tempfile::Builder::new().prefix("dbuild-user-").tempdir().unwrap();
        let mut command = Command::new(dbuild());
        command.args(["submit", "--no-cache", "--", "sh", "-c", script]).env_clear().current_dir(home.path());
        command.env("HOME", home.path()).env("DBUILD_DATA_DIR", home.path().join("data"));
        command.env("DBUILD_COORDINATOR", cluster.url()).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Job { home, child: command.spawn().unwrap() }
    }

    /// What it printed, and what dbuild said of it; it must have succeeded.
    fn end(mut self) -> (String, String) {
        wait_until("the job ends", || self.child.try_wait().unwrap().is_some());
        let read = |from: &mut dyn std::io::Read| {
            let mut text = String::new();
            from.read_to_string(&mut text).unwrap();
            text
        };
        let out = read(&mut self.child.stdout.take().unwrap());
        let said = read(&mut self.child.stderr.take().unwrap());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        (out, said)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        processes_of(self.home.path()).iter().for_each(Process::kill);
    }
}

/// One more helper, online; gives its index.
fn add(cluster: &mut TestCluster, options: &[&'static str]) -> usize {
    let index = cluster.add_helper(HelperPlan { options: options.to_vec(), ..HelperPlan::default() });
    cluster.wait_until_online(index + 1);
    index
}

fn wait_for_standing(cluster: &TestCluster, index: usize, standing: &str) {
    wait_until(&format!("helper {index} is {standing}"), || {
        cluster.helper(index).is_some_and(|line| line.standing == standing)
    });
}

/// Whether helper `index`, which gives way to others, is in this standing within two minutes.
fn comes_to_be(cluster: &TestCluster, index: usize, standing: &str) -> bool {
    (0..1200).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        cluster.helper(index).is_some_and(|line| line.standing == standing)
    })
}

/// The worker is ended in the middle of a job by `signal`; another comes, and the job is done.
fn worker_lost(cluster: &TestCluster, signal: Signal) {
    let job = Job::start(cluster, "sleep 2; echo done");
    wait_until("the job runs", || cluster.helper(0).is_some_and(|line| line.running == 1));
    let first = cluster.worker_of(0).unwrap();
    kill_process(first.pid, signal).unwrap();
    let (out, said) = job.end();
    assert_eq!(out, "done\n", "{said}");
    let second = cluster.worker_of(0).expect("another worker");
    assert_ne!(first.pid, second.pid);
    wait_until("it is said that there was another", || {
        cluster.helper(0).is_some_and(|line| line.restarts == 1)
    });
    assert!(!processes_of(cluster.root()).iter().any(|process| process.pid == first.pid));
}

#[test]
fn a_worker_that_dies_is_replaced() {
    let skips = Skips::new("worker killed");
    if pool(&skips) {
        worker_lost(&TestCluster::start(1), Signal::KILL);
    }
    skips.done();
}

/// With a second connection for state, which goes on while the worker says nothing.
#[test]
fn a_worker_that_hangs_is_replaced() {
    let skips = Skips::new("worker frozen");
    if pool(&skips) {
        let mut cluster = TestCluster::start(0);
        add(&mut cluster, &["--state", "separate"]);
        wait_until("state comes", || cluster.helper(0).is_some_and(|line| line.memory_total > 0));
        worker_lost(&cluster, Signal::STOP);
    }
    skips.done();
}

#[test]
fn with_its_supervisor_everything_of_a_helper_goes() {
    let skips = Skips::new("supervisor killed");
    if pool(&skips) {
        let mut cluster = TestCluster::start(2);
        let job = Job::start(&cluster, "sleep 2; echo done");
        let busy = || (0..2).find(|index| cluster.helper(*index).is_some_and(|line| line.running == 1));
        wait_until("the job runs", || busy().is_some());
        let busy = busy().unwrap();
        let data = cluster.data_of(busy);
        cluster.kill_helper(busy);
        wait_until("nothing of it is left", || processes_of(&data).is_empty());
        let left: Vec<_> = std::fs::read_dir(data.join("run-v1")).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == "probe"), "{left:?}");
        assert_eq!(job.end().0, "done\n");
    }
    skips.done();
}

#[test]
fn paused_and_drained_helpers_take_no_more_work() {
    let skips = Skips::new("paused and drained");
    if pool(&skips) {
        let cluster = TestCluster::start(2);
        let data = cluster.data_of(0);
        let data = data.to_str().unwrap();
        let paused = cluster.dbuild(&["helper", "pause", "--data", data]);
        assert!(paused.status.success(), "{paused:?}");
        wait_for_standing(&cluster, 0, "paused");
        for _ in 0..3 {
            let (_, said) = Job::start(&cluster, "true").end();
            assert!(said.contains("helper-1"), "{said}");
        }
        let drained = cluster.dbuild(&["helpers", "drain", "helper-1"]);
        assert!(drained.status.success(), "{drained:?}");
        wait_for_standing(&cluster, 1, "drained");
        // Nobody takes work: it is done here, and why is said.
        let (out, said) = Job::start(&cluster, "echo here").end();
        assert_eq!(out, "here\n");
        assert!(said.contains("no helper takes work") && said.contains("paused by its owner"), "{said}");
        assert!(cluster.dbuild(&["helper", "resume", "--data", data]).status.success());
        wait_for_standing(&cluster, 0, "online");
        let (_, said) = Job::start(&cluster, "true").end();
        assert!(said.contains("helper-0"), "{said}");
        let unknown = cluster.dbuild(&["helpers", "drain", "pluto"]);
        assert_eq!(unknown.status.code(), Some(125));
        let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
        assert!(said.contains("no helper named \"pluto\""), "{said}");
    }
    skips.done();
}

/// Processes that use all processors until they are dropped.
struct Burners(Vec<Child>);

impl Burners {
    fn start() -> Burners {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let burn =
            |_| Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Burners((0..count).map(burn).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = kill_process(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

#[test]
fn an_idle_helper_hands_back_what_it_runs_when_its_machine_is_needed() {
    let skips = Skips::new("machine needed");
    if pool(&skips) {
        let mut cluster = TestCluster::start(0);
        let idle = add(&mut cluster, &["--mode", "idle", "--grace", "1", "--cool-off", "1"]);
        if !comes_to_be(&cluster, idle, "online") {
            return skips.skip("all of it", "others use this machine all the time");
        }
        let job = Job::start(&cluster, "sleep 3; echo done");
        wait_until("the job runs", || cluster.helper(idle).is_some_and(|line| line.running == 1));
        let burners = Burners::start();
        wait_for_standing(&cluster, idle, "yielding");
        let other = add(&mut cluster, &[]);
        let (out, said) = job.end();
        assert_eq!(out, "done\n");
        assert!(said.contains(&format!("helper-{other}")), "{said}");
        drop(burners);
        if !comes_to_be(&cluster, idle, "online") {
            return skips.skip("that it comes back", "others use this machine all the time");
        }
    }
    skips.done();
}
