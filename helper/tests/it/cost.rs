//! What an action costs beyond its program: the same command as a plain process and as an action of a helper, in
//! turn. `cargo test -p dbuild-helper --release --test it -- --ignored --nocapture cost`; `COST_ROUNDS` says how often.
//! Processor time is that of the helper, its launcher and all of the action's processes, not the stand-in
//! coordinator's. Prints, asserts nothing about time.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

use dbuild_helper::HelperConfig;
use dbuild_proto::Digest;
use dbuild_proto::pool::lease_result::Outcome;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::protobuf::Timestamp;
use prost::Message;
use tokio::sync::oneshot;

use crate::bench::{self, Order};
use crate::compile::program_of;
use crate::pool;
use crate::roots::{Root, which};
use crate::store::Blobs;

/// Own headers of the generated project, and how many of them each unit includes.
const HEADERS: usize = 400;
const INCLUDED: usize = 250;
const SYSTEM: [&str; 24] = [
    "stdio.h",
    "stdlib.h",
    "string.h",
    "unistd.h",
    "errno.h",
    "fcntl.h",
    "signal.h",
    "time.h",
    "math.h",
    "ctype.h",
    "pthread.h",
    "sched.h",
    "poll.h",
    "dirent.h",
    "sys/stat.h",
    "sys/socket.h",
    "netinet/in.h",
    "arpa/inet.h",
    "netdb.h",
    "sys/mman.h",
    "sys/wait.h",
    "locale.h",
    "wchar.h",
    "setjmp.h",
];

/// Processor time of the thread that opens it and of every thread and process that descends from it.
struct Meter(File);

impl Meter {
    fn open() -> Meter {
        // perf_event_attr of version 0: type SOFTWARE (1), size, config TASK_CLOCK (1), …, flags: bit 1 is inherit.
        let mut attr = [0u64; 8];
        attr[0] = 1 | 64 << 32;
        attr[1] = 1;
        attr[5] = 1 << 1;
        // SAFETY: the structure has the size that it says, and a new descriptor belongs to nobody else.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, 8) };
        assert!(fd >= 0, "perf_event_open: {} (see perf_event_paranoid)", std::io::Error::last_os_error());
        // SAFETY: as above.
        Meter(unsafe { File::from_raw_fd(fd as i32) })
    }

    fn ms(&self) -> f64 {
        let mut bytes = [0; 8];
        (&self.0).read_exact(&mut bytes).unwrap();
        u64::from_ne_bytes(bytes) as f64 / 1e6
    }
}

/// A helper in threads of its own, and the stand-in in others.
struct Lab {
    runtime: tokio::runtime::Runtime,
    blobs: Blobs,
    helper: pool::Attached,
    meter: Meter,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    sent: HashSet<Digest>,
    _home: tempfile::TempDir,
}

impl Lab {
    fn start() -> Lab {
        let home = tempfile::Builder::new().prefix("dbuild-cost-").tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let blobs = Blobs::default();
        let (address, mut arrivals) = runtime.block_on(async { pool::start(&blobs).await });
        let mut config = HelperConfig::new(format!("http://{address}"), "cost", home.path().join("data"));
        let launcher = std::env::var_os("DBUILD_TEST_LAUNCHER");
        config.launcher = vec![launcher.unwrap_or_else(|| env!("CARGO_BIN_EXE_dbuild-sandbox-exec").into())];
        config.slots = 2;
        let (stop, stopped) = oneshot::channel::<()>();
        let (meters, met) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            meters.send(Meter::open()).unwrap();
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).thread_name("helper").enable_all().build().unwrap();
            let ran = runtime.block_on(dbuild_helper::run(config, async {
                let _ = stopped.await;
            }));
            ran.unwrap();
        });
        let helper = runtime.block_on(arrivals.recv()).unwrap();
        Lab {
            runtime,
            blobs,
            helper,
            meter: met.recv().unwrap(),
            stop,
            thread,
            sent: HashSet::new(),
            _home: home,
        }
    }

    fn run(&mut self, order: &Order) -> (Measured, re::ActionResult) {
        let action = order.put(&self.blobs);
        let messages = bench::messages(&self.blobs, action, &mut self.sent);
        let cpu = self.meter.ms();
        let begun = Instant::now();
        let outcome = self.runtime.block_on(self.helper.run_with(action, 60_000, messages));
        let wall = begun.elapsed().as_secs_f64() * 1e3;
        // The root is still being removed.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let cpu = self.meter.ms() - cpu;
        let Outcome::ActionResult(bytes) = outcome else { panic!("{outcome:?}") };
        let result = re::ActionResult::decode(bytes.as_slice()).unwrap();
        assert_eq!(result.exit_code, 0, "{}", String::from_utf8_lossy(&result.stderr_raw));
        let times = result.execution_metadata.as_ref().unwrap();
        let span = |from: &Option<Timestamp>, to: &Option<Timestamp>| {
            let at =
                |time: &Option<Timestamp>| time.map(|t| t.seconds as f64 * 1e3 + f64::from(t.nanos) / 1e6);
            at(to).unwrap() - at(from).unwrap()
        };
        let phases = [
            span(&times.worker_start_timestamp, &times.input_fetch_start_timestamp),
            span(&times.input_fetch_start_timestamp, &times.input_fetch_completed_timestamp),
            span(&times.execution_start_timestamp, &times.execution_completed_timestamp),
            span(&times.output_upload_start_timestamp, &times.output_upload_completed_timestamp),
        ];
        (Measured { wall, cpu, phases }, result)
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[derive(Clone, Debug)]
struct Measured {
    wall: f64,
    cpu: f64,
    /// Reading the action, fetching and staging, executing, collecting and uploading.
    phases: [f64; 4],
}

/// A plain process, the same way.
fn plain(dir: &Path, argv: &[&str]) -> Measured {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let meter = Meter::open();
            let begun = Instant::now();
            let output = Command::new(which(argv[0])).args(&argv[1..]).current_dir(dir).output().unwrap();
            let wall = begun.elapsed().as_secs_f64() * 1e3;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Measured { wall, cpu: meter.ms(), phases: [0.0; 4] }
        });
        run.join().unwrap()
    })
}

/// A small generator (splitmix64), so that every run measures the same project.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// `count` of `0..of`, in order.
    fn pick(&mut self, count: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<(u64, usize)> = (0..of).map(|n| (self.next(), n)).collect();
        all.sort_unstable();
        let mut picked: Vec<usize> = all.into_iter().take(count).map(|(_, n)| n).collect();
        picked.sort_unstable();
        picked
    }
}

/// A project on disk: headers in 20 directories, units beside them.
struct Project {
    dir: PathBuf,
    dice: Dice,
    toolchain: Root,
    compiler: &'static str,
    suffix: &'static str,
    heads: &'static str,
    body: usize,
    units: usize,
}

impl Project {
    fn new(blobs: &Blobs, home: &Path, cpp: bool) -> Project {
        let (compiler, suffix, proper) = if cpp { ("g++", "cc", "cc1plus") } else { ("gcc", "c", "cc1") };
        let dir = std::fs::canonicalize(home).unwrap().join(compiler);
        std::fs::create_dir_all(dir.join("build/obj")).unwrap();
        for n in 0..HEADERS {
            let own = dir.join(format!("include/part{}", n / 20));
            std::fs::create_dir_all(&own).unwrap();
            let lines: String = (0..40)
                .map(|i| format!("int declared_{n}_{i}(int a, const char *b, unsigned long c);\n"))
                .collect();
            std::fs::write(own.join(format!("h{n}.h")), format!("#pragma once\n{lines}")).unwrap();
        }
        let mut toolchain = Root::new(blobs).program(which(compiler)).program(which("cp"));
        for name in [proper, "as"] {
            toolchain = toolchain.program(program_of(name));
        }
        let heads = if cpp {
            "#include <map>\n#include <string>\n#include <vector>\n#include <algorithm>\n"
        } else {
            ""
        };
        Project {
            dir,
            dice: Dice(7),
            toolchain,
            compiler,
            suffix,
            heads,
            body: if cpp { 2 } else { 40 },
            units: 0,
        }
    }

    /// Writes another unit; its name, and the root that a compile of it needs.
    fn unit(&mut self) -> (String, Root) {
        let n = self.units;
        self.units += 1;
        let name = format!("src/u{n}.{}", self.suffix);
        let mut text: String = self.heads.to_owned();
        for n in self.dice.pick(SYSTEM.len() * 2 / 3, SYSTEM.len()) {
            text += &format!("#include <{}>\n", SYSTEM[n]);
        }
        let included = if self.heads.is_empty() { INCLUDED } else { INCLUDED / 2 };
        for n in self.dice.pick(included, HEADERS) {
            text += &format!("#include <part{}/h{n}.h>\n", n / 20);
        }
        for f in 0..self.body {
            text += &format!(
                "int work{f}(int *v, int n) {{ int s = {n}; for (int i = 0; i < n; i++) {{ \
                 for (int j = i; j < n; j += {f} + 1) {{ if (v[j] > v[i]) {{ int t = v[i]; v[i] = v[j]; v[j] = t; }} \
                 else s += v[j] * {f} ^ s >> 3; }} switch (v[i] & 7) {{ case 1: s += v[i]; break; case 2: s ^= i; break; \
                 case 5: s -= v[n - 1]; break; default: s *= 3; }} }} return s; }}\n"
            );
            if !self.heads.is_empty() {
                text += &format!(
                    "std::map<std::string, std::vector<int>> table{f}(int n) {{ std::map<std::string, std::vector<int>> m; \
                     for (int i = 0; i < n; i++) m[std::to_string(i * {f})].push_back(work{f}(&i, 1)); \
                     for (auto &p : m) std::sort(p.second.begin(), p.second.end(), [](int a, int b) {{ return (a ^ {f}) < b; }}); return m; }}\n"
                );
            }
        }
        std::fs::create_dir_all(self.dir.join("src")).unwrap();
        std::fs::write(self.dir.join(&name), text).unwrap();
        let listed = Command::new(self.compiler)
            .current_dir(&self.dir)
            .args(["-O2", "-Iinclude", "-M", &name])
            .output()
            .unwrap();
        let mut root = self.toolchain.clone();
        for word in String::from_utf8(listed.stdout).unwrap().split_ascii_whitespace() {
            if !word.ends_with(':') && word != "\\" {
                root = root.host(self.dir.join(word));
            }
        }
        (name, root)
    }
}

fn spread(mut values: Vec<f64>) -> (f64, String) {
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    (median, format!("{median:.2} ({:.2}–{:.2})", values[0], values[values.len() - 1]))
}

fn compare(title: &str, rounds: &[(Measured, Measured)]) {
    let column = |pick: &dyn Fn(&(Measured, Measured)) -> f64| spread(rounds.iter().map(pick).collect()).1;
    println!("{title}: n = {}, medians (min–max), ms", rounds.len());
    println!("  wall: plain {}, action {}", column(&|r| r.0.wall), column(&|r| r.1.wall));
    println!("  wall: more {}, ratio {}", column(&|r| r.1.wall - r.0.wall), column(&|r| r.1.wall / r.0.wall));
    println!("  CPU: plain {}, action {}", column(&|r| r.0.cpu), column(&|r| r.1.cpu));
    println!("  CPU: more {}, ratio {}", column(&|r| r.1.cpu - r.0.cpu), column(&|r| r.1.cpu / r.0.cpu));
    for (at, phase) in ["read", "fetch and stage", "execute", "collect and upload"].iter().enumerate() {
        println!("  {phase}: {}", column(&|r| r.1.phases[at]));
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_an_action() {
    let rounds = std::env::var("COST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut lab = Lab::start();
    let home = tempfile::Builder::new().prefix("dbuild-cost-project-").tempdir().unwrap();
    for cpp in [false, true] {
        let mut project = Project::new(&lab.blobs, home.path(), cpp);
        for compile in [false, true] {
            if std::env::var("COST_ONLY").is_ok_and(|only| only != format!("{}-{compile}", project.compiler))
            {
                continue;
            }
            let mut measured = Vec::new();
            for round in 0..rounds + 10 {
                let (name, root) = project.unit();
                let out = format!("build/obj/{round}.o");
                let compiles = [project.compiler, "-O2", "-Iinclude", "-c", &name, "-o", &out];
                let copies = ["cp", &name, &out];
                let argv = if compile { &compiles[..] } else { &copies[..] };
                let mut order = Order::new(&root, argv).outputs(&[&out]);
                order.cwd = project.dir.strip_prefix("/").unwrap().to_str().unwrap().to_owned();
                let plain = plain(&project.dir, argv);
                let (action, result) = lab.run(&order);
                let wire = &result.output_files[0].digest;
                assert!(
                    lab.blobs.wire(wire) == std::fs::read(project.dir.join(&out)).unwrap(),
                    "outputs differ"
                );
                // At first the store is empty and no tree is shared.
                if round >= 10 {
                    measured.push((plain, action));
                }
            }
            let what = if compile { "a compile" } else { "cp of the source (the fixed cost)" };
            compare(&format!("{}, {what}", project.compiler), &measured);
        }
    }
    lab.stop();
}
