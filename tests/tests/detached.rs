//! `dbuild submit --detach`, `dbuild wait` and `dbuild fetch`: work that goes on while nobody waits for it.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use dbuild_tests::{Desk, Said, TestCluster, processes_saying, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// What a job waits at until the test opens it: a `sleep` that no other has, and whose end is no fault.
struct Gate(String);

impl Gate {
    fn new() -> Gate {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Gate(format!("sleep 1000.{}{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A shell's words that wait, then do `words`.
    fn then(&self, words: &str) -> String {
        format!("{}; {words}", self.0)
    }

    fn is_waited_at(&self) -> bool {
        processes_saying(&self.0).iter().any(|process| process.command == self.0)
    }

    fn wait_until_reached(&self) {
        wait_until("the job runs", || self.is_waited_at());
    }

    fn open(&self) {
        for process in processes_saying(&self.0).iter().filter(|process| process.command == self.0) {
            // It may be gone already. Of a child's end by this signal a shell says nothing.
            let _ = kill_process(process.pid, Signal::PIPE);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Detaches a job; its id.
fn detach(desk: &Desk, args: &[&str], words: &str) -> String {
    let said = desk.run(&[&["submit", "--detach"], args, &["--", "sh", "-c", words]].concat());
    assert_eq!((said.code, said.err.as_str(), said.own.as_str()), (0, "", ""));
    let id = said.out.strip_suffix('\n').unwrap().to_owned();
    assert!(!id.contains(char::is_whitespace) && !id.is_empty(), "{id:?}");
    id
}

/// What is in a user's directory, dbuild's own data aside.
fn entries(desk: &Desk) -> Vec<String> {
    let entries = std::fs::read_dir(desk.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != ".data");
    names.sort();
    names
}

/// A dbuild that is started and not waited for; it heeds SIGINT when this returns.
fn start(desk: &Desk, args: &[&str]) -> Child {
    let mut command = desk.command(args);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it heeds signals", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        // Bit n-1 is signal n's (proc(5)).
        caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 0b10 != 0)
    });
    child
}

/// Whether a process has a TCP connection (proc(5), `/proc/net/tcp`: the fourth field is the state, the tenth the inode).
fn is_connected(child: &Child) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().flatten();
    let links: Vec<_> = descriptors.flat_map(|entry| std::fs::read_link(entry.path())).collect();
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    connections.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields[3] == "01" && links.iter().any(|link| *link == Path::new(&format!("socket:[{}]", fields[9])))
    })
}

#[test]
fn a_detached_job_goes_on_and_is_collected_from_elsewhere() {
    let cluster = TestCluster::start(1);
    let (desk, elsewhere, gate) = (Desk::new(Some(&cluster)), Desk::new(Some(&cluster)), Gate::new());
    desk.write("in/a", "one\n");
    let args = ["--input", "in", "--output", "out/b", "--output", "tree", "--env", "NAME=v"];
    let words =
        "cp in/a out/b; mkdir -p tree/d; ln -s d tree/link; echo $NAME > tree/d/f; echo done; echo word >&2";
    let id = detach(&desk, &args, &gate.then(words));
    gate.wait_until_reached();
    assert_eq!(entries(&desk), ["in"]);
    // The same again is the same job, on its way already.
    assert_eq!(detach(&desk, &args, &gate.then(words)), id);
    let waiting = start(&elsewhere, &["wait", &id]);
    gate.open();
    let said = Said::of(waiting);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "done\n", "word\n"), "{}", said.own);
    assert_eq!(
        said.own,
        "dbuild: 1 job: 0 from the pool's cache, 1 on helpers (helper-0 1), 0 here; 0 failed\n"
    );
    assert_eq!(entries(&elsewhere), Vec::<String>::new());

    elsewhere.write("tree/old", "stays");
    let said = elsewhere.run(&["fetch", &id]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "done\n", "word\n"), "{}", said.own);
    assert_eq!(said.own, "dbuild: 1 job: 1 from the pool's cache, 0 on helpers, 0 here; 0 failed\n");
    assert_eq!(entries(&elsewhere), ["out", "tree"]);
    assert_eq!((elsewhere.read("out/b"), elsewhere.read("tree/link/f")), ("one\n".into(), "v\n".into()));
    assert_eq!(elsewhere.read("tree/old"), "stays");
    // It is a job like any other: attached, it is answered from the cache.
    let words = gate.then(words);
    let said = desk.run(&[&["submit"], &args[..], &["--", "sh", "-c", &words]].concat());
    assert!(said.code == 0 && said.own.contains("1 from the pool's cache"), "{}", said.own);
    assert_eq!(detach(&desk, &args, &words), id);
}

#[test]
fn what_failed_is_kept_also_over_a_restart() {
    let mut cluster = TestCluster::start(1);
    let words = "echo half > out; echo problem >&2; exit 3";
    let id = detach(&Desk::new(Some(&cluster)), &["--output", "out"], words);
    let check = |cluster: &TestCluster| {
        let desk = Desk::new(Some(cluster));
        for command in ["wait", "fetch"] {
            let said = desk.run(&[command, &id]);
            assert_eq!((said.code, said.err.as_str()), (3, "problem\n"), "{}", said.own);
            assert!(said.own.contains("1 on helpers (helper-0 1), 0 here; 1 failed"), "{}", said.own);
        }
        assert_eq!((entries(&desk), desk.read("out")), (vec!["out".into()], "half\n".into()));
    };
    check(&cluster);
    cluster.kill_coordinator();
    cluster.replace_coordinator();
    check(&cluster);
}

#[test]
fn a_job_outlives_its_coordinator_if_somebody_waits() {
    let mut cluster = TestCluster::start(1);
    let gate = Gate::new();
    let (id, mut waiting) = {
        let desk = Desk::new(Some(&cluster));
        let id = detach(&desk, &[], &gate.then("echo done"));
        gate.wait_until_reached();
        let waiting = start(&desk, &["wait", &id]);
        wait_until("it waits", || is_connected(&waiting));
        // What was asked before this was answered before.
        assert!(cluster.list().is_some());
        (id, waiting)
    };
    cluster.kill_coordinator();
    cluster.replace_coordinator();
    wait_until("the job is started again, and ends", || {
        gate.open();
        waiting.try_wait().unwrap().is_some()
    });
    let said = Said::of(waiting);
    assert_eq!((said.code, said.out.as_str()), (0, "done\n"), "{}", said.own);
    assert!(said.own.contains("the coordinator is lost; asking again for 60 s"), "{}", said.own);
    assert_eq!(Desk::new(Some(&cluster)).run(&["wait", &id]).out, "done\n");
}

#[test]
fn who_stops_waiting_leaves_nothing_and_the_job_goes_on() {
    let cluster = TestCluster::start(1);
    let (desk, gate) = (Desk::new(Some(&cluster)), Gate::new());
    let id = detach(&desk, &["--output", "out"], &gate.then("echo made > out"));
    gate.wait_until_reached();
    for command in ["wait", "fetch"] {
        let child = start(&desk, &[command, &id]);
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let said = Said::of(child);
        assert_eq!((said.code, said.out.as_str()), (130, ""), "{command}: {}", said.own);
        assert_eq!(entries(&desk), Vec::<String>::new());
    }
    assert!(gate.is_waited_at());
    gate.open();
    assert_eq!(desk.run(&["fetch", &id]).code, 0);
    assert_eq!((entries(&desk), desk.read("out")), (vec!["out".into()], "made\n".into()));
}

#[test]
fn what_must_run_in_any_case_has_an_id_of_its_own() {
    let cluster = TestCluster::start(1);
    let desk = Desk::new(Some(&cluster));
    let ids = [(); 2].map(|()| detach(&desk, &["--no-cache"], "date +%s.%N"));
    let said = ids.each_ref().map(|id| desk.run(&["wait", id]));
    assert!(said.iter().all(|said| said.code == 0), "{}", said[0].own);
    assert!(ids[0] != ids[1] && said[0].out != said[1].out, "{ids:?}");
    assert_eq!(desk.run(&["wait", &ids[0]]).out, said[0].out);
}

#[test]
fn what_cannot_be_collected_is_said_in_a_sentence() {
    let cluster = TestCluster::start(0);
    let (desk, alone) = (Desk::new(Some(&cluster)), Desk::new(None));
    let unknown = format!("{}/100", "0".repeat(64));
    for command in ["wait", "fetch"] {
        for (desk, id, sentence) in [
            (&desk, "nonsense", "\"nonsense\" is not a job's id"),
            (&desk, &unknown[..64], "is not a job's id"),
            (&desk, &unknown, "does not know job 0000"),
            (&alone, &unknown, "no coordinator is configured"),
        ] {
            let said = desk.run(&[command, id]);
            let all = format!("{}{}", said.own, said.err);
            assert!((said.code, said.out.as_str()) == (125, "") && all.contains(sentence), "{all}");
        }
    }
    let said = alone.run(&["submit", "--detach", "--", "true"]);
    assert!(said.code == 125 && said.own.contains("no coordinator is configured"), "{}", said.own);

    // What the pool could not run is no secret.
    let id = detach(&desk, &[], "true");
    let said = desk.run(&["wait", &id]);
    assert_eq!((said.code, said.out.as_str()), (125, ""), "{}", said.own);
    assert!(said.own.contains("has no result: no helper is connected"), "{}", said.own);

    let mut cluster = cluster;
    let url = cluster.url();
    cluster.kill_coordinator();
    let desk = Desk::new(Some(&cluster));
    for args in [&["wait", &id][..], &["submit", "--detach", "--", "true"]] {
        let said = desk.run(args);
        assert!(said.code == 125 && said.own.contains(&url), "{args:?}: {}", said.own);
    }
}
