//! Compares the directive scanner with `cc -M` over whole projects.
//!
//! `scan_against_m [--add FLAG]... [--compiler FROM=TO]... [--limit N] [--rounds N] [--list] [--watched] FILE...`: each
//! FILE is a `compile_commands.json`, or lines of `directory<TAB>command` with words as a shell would write them. Prints
//! units, files missing and surplus, what was unsure and why, and the CPU time of both. `--watched`: files and
//! directories are watched, as an initiator does it, in place of a `stat` for each.

#![allow(clippy::unwrap_used)] // a tool for developers: what fails ends it

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dbuild_compilers::{Call, Depfile, Plan, Task, analyse};
use dbuild_intake::recall::Earlier;
use dbuild_intake::{
    DirTable, FileTable, FindRequest, InputFinder, OnDisk, ScanLimits, ScannedInputs, Toolchain,
    ToolchainRequest, Toolchains, TracedDepends, Watch,
};

struct Unit {
    cwd: PathBuf,
    argv: Vec<OsString>,
    task: Task,
    toolchain: Arc<Toolchain>,
}

impl Unit {
    fn request<'u>(&'u self, env: &'u [(OsString, OsString)]) -> FindRequest<'u> {
        FindRequest {
            toolchain: &self.toolchain,
            argv0: &self.argv[0],
            task: &self.task,
            cwd: &self.cwd,
            env,
            earlier: None,
        }
    }
}

#[derive(Default)]
struct Options {
    add: Vec<String>,
    compilers: Vec<(String, String)>,
    limit: usize,
    list: bool,
    rounds: usize,
    watched: bool,
    files: Vec<PathBuf>,
}

fn options() -> Options {
    let mut options = Options { limit: usize::MAX, ..Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--add" => options.add.extend(words.next()),
            "--compiler" => {
                let pair = words.next().unwrap();
                let (from, to) = pair.split_once('=').unwrap();
                options.compilers.push((from.into(), to.into()));
            }
            "--limit" => options.limit = words.next().unwrap().parse().unwrap(),
            "--rounds" => options.rounds = words.next().unwrap().parse().unwrap(),
            "--list" => options.list = true,
            "--watched" => options.watched = true,
            _ => options.files.push(word.into()),
        }
    }
    options
}

/// Words as `sh` cuts them: quotes and backslashes, no expansion.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(characters.by_ref().take_while(|&character| character != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                while let Some(character) = characters.next().filter(|&character| character != '"') {
                    match character {
                        '\\' => match characters.next().unwrap_or('\\') {
                            escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        character => word.push(character),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            character => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// (directory, words) of each call.
fn calls(path: &Path) -> Vec<(PathBuf, Vec<String>)> {
    let text = fs_err::read_to_string(path).unwrap();
    if path.extension() != Some(OsStr::new("json")) {
        let call = |line: &str| {
            let (directory, command) = line.split_once('\t')?;
            Some((directory.into(), words(command)))
        };
        return text.lines().filter_map(call).collect();
    }
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let call = |entry: &serde_json::Value| {
        let directory = entry["directory"].as_str()?.into();
        let words = match entry["arguments"].as_array() {
            Some(list) => list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect(),
            None => words(entry["command"].as_str()?),
        };
        Some((directory, words))
    };
    json.as_array().unwrap().iter().filter_map(call).collect()
}

fn interceptor(place: &Path) -> PathBuf {
    let library = place.join("libdbuild_intercept.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shims/intercept/lib.rs");
    let done = Command::new("rustc")
        .args(["--edition=2024", "--crate-type=cdylib", "--crate-name=dbuild_intercept"])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"])
        .arg("-o")
        .arg(&library)
        .arg(source)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library
}

/// User and system time of this process, and of its children that have ended.
fn cpu() -> (Duration, Duration) {
    let text = fs_err::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = text
        .rsplit_once(')')
        .unwrap()
        .1
        .split_ascii_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    // Fields 14 to 17 of proc(5), in ticks of 10 ms; what this process itself used is known better.
    let children = Duration::from_millis((fields[13] + fields[14]) * 10);
    let schedule = fs_err::read_to_string("/proc/self/schedstat").unwrap();
    let own = Duration::from_nanos(schedule.split_ascii_whitespace().next().unwrap().parse().unwrap());
    (own, children)
}

fn main() {
    let options = options();
    let place = tempfile::tempdir().unwrap();
    let scratch = place.path().join("scratch");
    fs_err::create_dir(&scratch).unwrap();
    let library = interceptor(place.path());
    let files = Arc::new(FileTable::new(1_000_000, SystemTime::now));
    let traced = |files: &Arc<FileTable>| TracedDepends {
        interceptor: library.clone(),
        scratch: scratch.clone(),
        own: Vec::new(),
        files: files.clone(),
        limit: Duration::from_secs(300),
    };
    let env: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| {
            name == "PATH" || name.to_string_lossy().ends_with("PATH") && name != "LD_LIBRARY_PATH"
        })
        .collect();
    let listings = Arc::new(DirTable::new(100_000, SystemTime::now));
    let toolchains = Toolchains::new(files.clone(), listings, SystemTime::now);

    let mut units = Vec::new();
    let mut left_out = 0;
    for file in &options.files {
        for (cwd, mut argv) in calls(file) {
            for (from, to) in &options.compilers {
                if argv[0] == *from {
                    argv[0] = to.clone();
                }
            }
            let program = argv[0].clone();
            let compiler = if program.contains('/') {
                PathBuf::from(&program)
            } else {
                std::env::split_paths(&std::env::var_os("PATH").unwrap())
                    .map(|dir| dir.join(&program))
                    .find(|path| path.exists())
                    .unwrap()
            };
            argv.splice(1..1, options.add.iter().cloned());
            let argv: Vec<OsString> = argv.into_iter().map(OsString::from).collect();
            let toolchain = toolchains.get(ToolchainRequest { compiler: &compiler, env: &env }).unwrap();
            let call = Call { argv: &argv, cwd: &cwd, env: &env, umask: 0o022, stderr_tty: false };
            match analyse(&call, &toolchain.info, &OnDisk) {
                Plan::Tasks { tasks, .. } => {
                    for task in tasks.into_iter().filter(|task| task.depend_args.is_some()) {
                        units.push(Unit {
                            cwd: cwd.clone(),
                            argv: argv.clone(),
                            task,
                            toolchain: toolchain.clone(),
                        });
                    }
                }
                Plan::Local(reason) => {
                    left_out += 1;
                    if options.list {
                        println!("left out: {reason}: {argv:?}");
                    }
                }
            }
        }
    }
    units.truncate(options.limit);

    // The reference.
    let mut listed: Vec<Option<BTreeSet<PathBuf>>> = Vec::new();
    let (_, before) = cpu();
    for unit in &units {
        let mut args = unit.task.depend_args.clone().unwrap();
        for pair in 0..args.len() - 1 {
            if args[pair] == "-MF" || args[pair] == "-o" {
                args[pair + 1] = "-".into();
            }
        }
        args.retain(|word| word != "-fpch-preprocess");
        let run = Command::new(&unit.toolchain.compiler)
            .args(&args)
            .current_dir(&unit.cwd)
            .env_clear()
            .envs(env.iter().cloned())
            .output()
            .unwrap();
        listed.push(run.status.success().then(|| {
            let depfile = Depfile::parse(&run.stdout).unwrap();
            let all = depfile.rules.iter().flat_map(|rule| rule.prerequisites.iter());
            all.map(|path| unit.cwd.join(path)).map(|path| path.canonicalize().unwrap_or(path)).collect()
        }));
    }
    let reference = cpu().1 - before;

    // A table of its own: the toolchains must not have warmed it.
    let watch = Arc::new(if options.watched { Watch::start(400_000) } else { Watch::none() });
    let cold_files = Arc::new(FileTable::new(1_000_000, SystemTime::now).watched(watch.clone()));
    let directories = Arc::new(DirTable::new(100_000, SystemTime::now).watched(watch.clone()));
    let scanner = ScannedInputs::new(traced(&cold_files), directories.clone(), ScanLimits::default());
    let judge = traced(&files);
    let mut times = Vec::new();
    let mut looks = Vec::new();
    let mut real: HashMap<PathBuf, PathBuf> = HashMap::new();
    for round in 0..options.rounds.max(3) {
        let (own, children) = cpu();
        let mut found = Vec::new();
        for unit in &units {
            let request = unit.request(&env);
            let scanned = scanner.scan(&request);
            if round == 0 {
                found.push(scanned);
            }
        }
        let (own_after, children_after) = cpu();
        times.push((own_after - own, children_after - children));
        looks.push(cold_files.counts().stats + directories.counts().stats);
        if round > 0 {
            continue;
        }
        let (mut files_total, mut missing, mut surplus, mut looked_at, mut sure, mut refused) =
            (0, 0, 0, 0, 0, 0);
        let mut unsure: BTreeMap<String, usize> = BTreeMap::new();
        for ((unit, scanned), listed) in units.iter().zip(found).zip(&listed) {
            let name = unit.task.source.display();
            let Some(listed) = listed else {
                refused += 1;
                if options.list {
                    println!(
                        "refused by the compiler: {name} ({})",
                        if scanned.is_ok() { "sure" } else { "unsure" }
                    );
                }
                continue;
            };
            let inputs = match scanned {
                Ok(inputs) => inputs,
                Err(doubt) => {
                    if options.list {
                        println!("unsure: {name}: {} {:?}", doubt.reason, doubt.at);
                    }
                    *unsure.entry(doubt.reason.to_string()).or_default() += 1;
                    continue;
                }
            };
            sure += 1;
            files_total += listed.len();
            let ours: BTreeSet<PathBuf> = inputs
                .files
                .iter()
                .map(|input| {
                    let path = &input.path;
                    real.entry(path.clone()).or_insert_with(|| path.canonicalize().unwrap()).clone()
                })
                .collect();
            for path in listed.difference(&ours) {
                missing += 1;
                println!("MISSING {name}: {}", path.display());
            }
            let more: Vec<&PathBuf> = ours.difference(listed).collect();
            if !more.is_empty() {
                let request = unit.request(&env);
                let traced: BTreeSet<PathBuf> = judge
                    .find(&request)
                    .map(|inputs| {
                        inputs.files.iter().map(|input| input.path.canonicalize().unwrap()).collect()
                    })
                    .unwrap_or_default();
                for path in more {
                    if traced.contains(path) {
                        looked_at += 1;
                    } else {
                        surplus += 1;
                        println!("surplus {name}: {}", path.display());
                    }
                }
            }
        }
        println!(
            "units {} (left out by their flags {left_out}, refused by the compiler {refused}), sure {sure}, files {files_total}, missing {missing}, surplus {surplus}, looked at but not read {looked_at}",
            units.len()
        );
        for (reason, count) in unsure {
            println!("unsure {count}: {reason}");
        }
    }
    // The same commands again, with what they read before at hand.
    let earlier: Vec<_> = units
        .iter()
        .map(|unit| Earlier::of(&scanner.scan(&unit.request(&env)).ok()?, &cold_files, &directories))
        .collect();
    let (own, _) = cpu();
    let mut stood = 0;
    for (unit, earlier) in units.iter().zip(&earlier) {
        let request = FindRequest { earlier: earlier.as_ref(), ..unit.request(&env) };
        stood += usize::from(scanner.recall(&request).is_some());
    }
    let recalled = cpu().0 - own;
    let counts = scanner.counts();
    let units = units.len().max(1) as f64;
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / units;
    println!(
        "parsed {} files, {} KiB; probes {}; memory {} KiB",
        counts.parsed,
        counts.parsed_bytes >> 10,
        counts.probes,
        counts.bytes >> 10
    );
    println!(
        "looks at files and directories, first and last round: {}, {}; {:?}",
        looks[0],
        looks[looks.len() - 1] - looks[looks.len() - 2],
        watch.counts()
    );
    println!(
        "earlier scans that stood {stood}; CPU ms per unit {:.3}, ratio {:.1}",
        each(recalled),
        reference.as_secs_f64() / recalled.as_secs_f64()
    );
    let (cold, children) = times[0];
    println!(
        "CPU ms per unit: cc -M {:.2}; scan cold {:.3} + compilers asked {:.3}; warm {:.3}, {:.3}; ratio cold {:.1}, warm {:.1}",
        each(reference),
        each(cold),
        each(children),
        each(times[1].0 + times[1].1),
        each(times[2].0 + times[2].1),
        reference.as_secs_f64() / (cold + children).as_secs_f64(),
        reference.as_secs_f64() / (times[2].0 + times[2].1).as_secs_f64()
    );
}
