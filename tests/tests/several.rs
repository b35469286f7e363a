//! State by database: helpers write it into Redis, coordinators read it there, and when the one that leads dies another takes
//! over within seconds.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dbuild_tests::{
    Process, Sandbox, Skips, Stdio as Streams, Twice, dbuild, namespaces_work, processes_of, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

/// A database, two coordinators, and helpers that know only the database.
struct Council {
    root: tempfile::TempDir,
    database: u16,
    redis: Child,
    coordinators: Vec<(u16, Child)>,
    helpers: Vec<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn command(root: &Path, name: &str, program: &Path) -> Command {
    let log = std::fs::File::create(root.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", root).current_dir(root);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command
}

fn spawn(root: &Path, name: &str, args: &[&str]) -> Child {
    command(root, name, dbuild()).args(args).spawn().unwrap()
}

impl Council {
    fn start() -> Council {
        let root = tempfile::Builder::new().prefix("dbuild-council-").tempdir().unwrap();
        let database = free_port();
        let redis = start_redis(root.path(), database);
        let mut council = Council { root, database, redis, coordinators: Vec::new(), helpers: Vec::new() };
        wait_until("the database answers", || std::net::TcpStream::connect(("127.0.0.1", database)).is_ok());
        for number in 0..2 {
            let port = free_port();
            let listen = format!("127.0.0.1:{port}");
            let data = format!("coordinator-{number}");
            let args = ["coordinator", "--listen", &listen, "--data", &data, "--state", &council.url()];
            let child = spawn(council.root.path(), &data, &args);
            council.coordinators.push((port, child));
        }
        for number in 0..2 {
            let name = format!("helper-{number}");
            let args =
                ["helper", "--coordinator", &council.url(), "--slots", "2", "--name", &name, "--data", &name];
            council.helpers.push(spawn(council.root.path(), &name, &args));
        }
        wait_until("the pool is there", || council.online() == 2);
        council
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.database)
    }

    /// What `dbuild helpers` says of whoever leads, or of the coordinator at `port`.
    fn list(&self, port: Option<u16>) -> Option<serde_json::Value> {
        let url = port.map_or_else(|| self.url(), |port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new(dbuild());
        command.args(["helpers", "--json"]).env_clear().env("HOME", self.root.path());
        command.env("DBUILD_COORDINATOR", url).stdin(Stdio::null()).stderr(Stdio::null());
        serde_json::from_slice(&command.output().unwrap().stdout).ok()
    }

    fn online(&self) -> usize {
        online(self.list(None))
    }

    /// The coordinator that leads, as its log says.
    fn leader(&self) -> usize {
        let leads = |number: &usize| {
            let (port, _) = &self.coordinators[*number];
            // Only the one that leads takes a helper's work.
            self.log("helper-0").is_some() && self.asked_leader().ends_with(&format!(":{port}"))
        };
        (0..self.coordinators.len()).find(leads).expect("a leader")
    }

    /// What stands in the database.
    fn asked_leader(&self) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.database)).unwrap();
        stream.write_all(b"GET dbuild:leader\r\nQUIT\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().nth(1).unwrap_or_default().to_owned()
    }

    fn log(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root.path().join(format!("{name}.log"))).ok()
    }

    fn kill_coordinator(&mut self, number: usize) {
        let (_, mut child) = self.coordinators.remove(number);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn online(list: Option<serde_json::Value>) -> usize {
    let helpers = list.and_then(|list| list["helpers"].as_array().cloned()).unwrap_or_default();
    helpers.iter().filter(|helper| helper["online"] == true).count()
}

/// Debian's `redis-tools` has the server under another name, and starts no service of its own when it is installed.
fn start_redis(root: &Path, port: u16) -> Child {
    let port = port.to_string();
    let mut command = command(root, "redis", Path::new("redis-check-rdb"));
    command.arg0("redis-server").args([
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    command.spawn().unwrap()
}

impl Drop for Council {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["coordinator-0", "coordinator-1", "helper-0", "helper-1"] {
                eprintln!("== {name}\n{}", self.log(name).unwrap_or_default());
            }
        }
        let coordinators = self.coordinators.drain(..).map(|(_, child)| child);
        let mut children: Vec<Child> = self.helpers.drain(..).chain(coordinators).collect();
        for child in &children {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        for child in &mut children {
            let _ = child.wait();
        }
        let _ = self.redis.kill();
        let _ = self.redis.wait();
        processes_of(self.root.path()).iter().for_each(Process::kill);
    }
}

/// A build whose second half begins when the test says so.
const BUILD: &str = "set -e; gcc -g -c a.c; touch half; while [ -n \"$GO\" ] && [ ! -e \"$GO\" ]; do sleep 0.1; done; \
                     gcc -c b.c; gcc -c m.c; gcc a.o b.o m.o -o prog; ./prog";

#[test]
fn another_coordinator_takes_over_in_the_middle_of_a_build() {
    let skips = Skips::new("several coordinators");
    if !namespaces_work() {
        return skips.skip("all of it", "the kernel refuses user namespaces");
    }
    if !skips.need("redis-check-rdb", "all of it") {
        return;
    }
    let mut council = Council::start();
    let leader = council.leader();
    // Who stands by knows the pool, too, and needs no connection to it.
    let (standby, _) = council.coordinators[1 - leader];
    wait_until("the other one knows the pool", || online(council.list(Some(standby))) == 2);

    let mut user = Sandbox::new();
    user.set("DBUILD_COORDINATOR", council.url());
    user.set("DBUILD_LOCAL_SLOTS", "0");
    let mut build = Twice::new(&user, "project", |_| {}).without(&["half"]);
    build.plain(&["sh", "-c", BUILD]);
    build.fresh();
    let go = user.root().join("go");
    let mut command = user.dbuild_command(build.dir(), &["sh", "-c", BUILD]);
    command.env("GO", &go);
    let half = build.dir().join("half");
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| dbuild_tests::run_bounded(&mut command, Streams::Files));
        wait_until("half of it is built", || half.exists());
        council.kill_coordinator(leader);
        wait_until("the other one leads", || council.asked_leader().ends_with(&format!(":{standby}")));
        wait_until("the helpers follow", || {
            council.log("helper-0").unwrap().contains("does not lead any more")
        });
        wait_until("the pool is whole again", || {
            let list = council.list(Some(standby));
            online(list.clone()) == 2 && list.is_some_and(|list| list["helpers"][0]["last_seen_ms"] != 0)
        });
        std::fs::write(&go, "").unwrap();
        running.join().unwrap()
    });
    build.compare(&ran);
    assert_eq!(user.counters().remote, 3, "{:?}", ran.own);

    // Without the database everything goes on: who led leads, and workers report by themselves.
    council.redis.kill().unwrap();
    council.redis.wait().unwrap();
    wait_until("it is noticed", || council.log("helper-1").unwrap().contains("reach the state's database"));
    std::thread::sleep(std::time::Duration::from_secs(10));
    assert_eq!(online(council.list(Some(standby))), 2);
    build.fresh();
    std::fs::write(build.dir().join("new.c"), "int new_one;\n").unwrap();
    let ran = user.dbuild_sh(build.dir(), "gcc -c new.c");
    assert_eq!((ran.code, user.counters().remote), (0, 4), "{:?}", ran.own);
    // It comes back empty, and is filled again.
    council.redis = start_redis(council.root.path(), council.database);
    wait_until("it is filled again", || online(council.list(None)) == 2);
    skips.done();
}
