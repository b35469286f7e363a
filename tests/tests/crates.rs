//! The table of changes to a Rust workspace (`crates/changes.toml`): none of them may be missed by the cache.
//!
//! Every state of the tree is built through dbuild twice, the second time with everything in the cache, and once plain,
//! always at the same place and from an empty target directory. `DBUILD_ROWS=word` runs the rows whose name has the word.

// A test that cannot set up its world ends there; the message of the panic is the report.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dbuild_tests::{Counters, Ran, Sandbox, Skips, Snapshot, TestCluster, have, namespaces_work};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Table {
    row: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default)]
    write: BTreeMap<String, String>,
    #[serde(default)]
    replace: BTreeMap<String, [String; 2]>,
    /// A second replacement.
    #[serde(default)]
    also: BTreeMap<String, [String; 2]>,
    #[serde(default)]
    rename: BTreeMap<String, String>,
    #[serde(default)]
    link: BTreeMap<String, String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default = "build")]
    cargo: Vec<String>,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    unseen: bool,
    #[serde(default)]
    fails: bool,
    /// Names that are other ones in every plain build.
    #[serde(default)]
    loose: Vec<String>,
}

fn build() -> Vec<String> {
    vec!["build".to_owned()]
}

/// Cargo's own files that have another order in each build.
const RANDOM: [&str; 2] = [".rustc_info.json", "*/.fingerprint/*/dep-*"];

/// A user with a workspace.
struct Bench {
    sandbox: Sandbox,
    root: PathBuf,
}

/// What a build left and said.
struct Built {
    ran: Ran,
    files: Snapshot,
    /// What the program prints, if there is one.
    program: Option<Vec<u8>>,
}

impl Bench {
    fn new() -> Bench {
        Bench::of(Sandbox::new())
    }

    fn of(mut sandbox: Sandbox) -> Bench {
        let cargo = Path::new(env!("CARGO")).parent().unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", cargo.display());
        sandbox.set("PATH", path);
        sandbox.set("CARGO_INCREMENTAL", "0");
        sandbox.set("CARGO_NET_OFFLINE", "true");
        let root = sandbox.root().join("work");
        Bench { sandbox, root }
    }

    /// The same user with the workspace at another place.
    fn moves_to(&mut self, place: &str) {
        self.root = self.sandbox.root().join(place);
    }

    /// The workspace as it is in the table's directory.
    fn lay_out(&self) {
        let _ = std::fs::remove_dir_all(&self.root);
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/workspace");
        for entry in walkdir::WalkDir::new(&from) {
            let entry = entry.unwrap();
            let to = self.root.join(entry.path().strip_prefix(&from).unwrap());
            match entry.file_type().is_dir() {
                true => std::fs::create_dir_all(&to).unwrap(),
                false => drop(std::fs::copy(entry.path(), &to).unwrap()),
            }
        }
    }

    /// Builds from an empty target directory.
    fn build(&self, row: &Row, through_dbuild: bool) -> Built {
        let _ = std::fs::remove_dir_all(self.root.join("target"));
        let ran = self.cargo(row, "-q", through_dbuild);
        let mut exclude: Vec<&str> = RANDOM.to_vec();
        exclude.extend(row.loose.iter().map(String::as_str));
        let files = Snapshot::take(&self.root.join("target"), &exclude);
        let program = ["debug/app", "release/app"].map(|name| self.root.join("target").join(name));
        let program = program.into_iter().find(|path| path.is_file());
        let program = program.map(|path| self.sandbox.plain(&self.root, &[path]).ok().stdout);
        Built { ran, files, program }
    }

    fn cargo(&self, row: &Row, option: &str, through_dbuild: bool) -> Ran {
        let mut words = vec!["cargo", &row.cargo[0], option];
        words.extend(row.cargo[1..].iter().map(String::as_str));
        let mut command = match through_dbuild {
            true => self.sandbox.dbuild_command(&self.root, &words),
            false => self.sandbox.command(&self.root, &words),
        };
        for (name, value) in &row.env {
            command.env(name, value.replace("{root}", self.root.to_str().unwrap()));
        }
        dbuild_tests::run_bounded(&mut command, dbuild_tests::Stdio::Files)
    }

    fn change(&self, row: &Row) {
        let at = |name: &String| self.root.join(name);
        for (name, [before, after]) in row.replace.iter().chain(&row.also) {
            let text = std::fs::read_to_string(at(name)).unwrap();
            assert!(text.contains(before), "{}: {name} has no {before:?}", row.name);
            std::fs::write(at(name), text.replacen(before, after, 1)).unwrap();
        }
        let parent = |path: &Path| std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for (from, to) in &row.rename {
            parent(&at(to));
            std::fs::rename(at(from), at(to)).unwrap();
        }
        for (name, text) in &row.write {
            parent(&at(name));
            std::fs::write(at(name), text).unwrap();
            if name.ends_with(".sh") {
                std::fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))
                    .unwrap();
            }
        }
        for (name, target) in &row.link {
            std::fs::remove_file(at(name)).unwrap();
            std::os::unix::fs::symlink(target, at(name)).unwrap();
        }
    }

    /// The first thing that is wrong with the builds of a row.
    fn wrong(&self, row: &Row, base: &Built) -> Option<String> {
        self.lay_out();
        self.change(row);
        let first = self.build(row, true);
        let fresh = self.cargo(row, "-v", false);
        let second = self.build(row, true);
        let plain = self.build(row, false);
        if row.fails == (plain.ran.code == 0) {
            return Some(format!("the row is wrong: cargo itself ends with {}", plain.ran));
        }
        if !row.unseen && !row.fails && plain.files.difference(&base.files, &[]).is_none() {
            return Some("the row is wrong: it changes nothing".to_owned());
        }
        let said = String::from_utf8_lossy(&fresh.stderr);
        let busy = said.lines().any(|line| line.contains("Running `") || line.contains("Dirty"));
        if !row.fails && (busy || !said.contains("Fresh")) {
            return Some(format!("cargo without dbuild finds something to do: {fresh}"));
        }
        [("new", first), ("cached", second)].iter().find_map(|(which, built)| {
            let files = plain.files.difference(&built.files, &[]);
            let said = plain.ran.difference_unordered(&built.ran);
            let program =
                (plain.program != built.program).then(|| "the program prints other things".to_owned());
            files.or(said).or(program).map(|what| format!("{which}: {what}"))
        })
    }
}

fn rows() -> Vec<Row> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/changes.toml")).unwrap();
    let table: Table = toml::from_str(&text).unwrap();
    table.row
}

fn nothing_changed() -> Row {
    Row { unseen: true, ..toml::from_str("name = \"nothing changed\"").unwrap() }
}

/// Tasks of one build of the unchanged tree: eight crates and a C file.
const TASKS: u64 = 9;

#[test]
fn no_change_is_missed() {
    check_rows(&Bench::new(), &Skips::new("changes to crates"));
}

/// Everything that may leave this machine is compiled by helpers, on which there is no rustc.
#[test]
fn no_change_is_missed_by_helpers() {
    let skips = Skips::new("changes to crates, with helpers");
    if !namespaces_work() {
        skips.skip("all", "user namespaces do not work here");
        return;
    }
    let cluster = TestCluster::start(2);
    let mut bench = Bench::of(Sandbox::of(&cluster));
    bench.sandbox.set("DBUILD_LOCAL_SLOTS", "0");
    check_rows(&bench, &skips);
    let counted = bench.sandbox.counters();
    // Three libraries, the links of macro, build script and tool, and a C file, as far as the rows change them.
    assert!(counted.remote > 150, "{counted:?}");
}

fn check_rows(bench: &Bench, skips: &Skips) {
    bench.lay_out();
    let unchanged = nothing_changed();
    let base = bench.build(&unchanged, true);
    let before = bench.sandbox.counters();
    let again = bench.build(&unchanged, true);
    let counted: Counters = bench.sandbox.counters().since(&before);
    assert_eq!(base.files.difference(&again.files, &[]), None);
    assert_eq!(counted.hits_local, TASKS, "{counted:?}");
    assert_eq!(bench.build(&unchanged, false).files.difference(&base.files, &[]), None);

    let only = std::env::var("DBUILD_ROWS").unwrap_or_default();
    let mut wrong = Vec::new();
    for row in rows().iter().filter(|row| row.name.contains(&only)) {
        let missing = row.needs.iter().find(|needed| !is_there(needed));
        if let Some(missing) = missing {
            skips.skip(&row.name, &format!("{missing} is not here"));
            continue;
        }
        skips.done();
        wrong.extend(bench.wrong(row, &base).map(|what| format!("{}: {what}", row.name)));
    }
    // What the changes left in the cache is no answer for the unchanged tree.
    bench.lay_out();
    let last = bench.build(&unchanged, true);
    wrong.extend(base.files.difference(&last.files, &[]).map(|what| format!("in the end: {what}")));
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A crate that asks for the path of its place (`env!("CARGO_MANIFEST_DIR")` in the macro) is found out, and so is one
/// that includes what the build script made; what depends on them has other inputs. The others serve anywhere.
#[test]
fn another_place_gets_what_it_would_make_itself() {
    let unchanged = nothing_changed();
    let mut bench = Bench::new();
    bench.lay_out();
    bench.build(&unchanged, true).ran.ok();
    bench.moves_to("another/place");
    bench.lay_out();
    let there = bench.build(&unchanged, true);
    let plain = bench.build(&unchanged, false);
    assert_eq!(plain.files.difference(&there.files, &[]), None, "by default, the same as plain");
    assert_eq!(plain.program, there.program);

    // The number of steps from a program to the standard library depends on the place.
    let dynamic = Row {
        env: [("RUSTFLAGS".to_owned(), "-C prefer-dynamic -C rpath".to_owned())].into(),
        ..nothing_changed()
    };
    bench.build(&dynamic, true).ran.ok();
    bench.moves_to("other");
    bench.lay_out();
    let there = bench.build(&dynamic, true);
    assert_eq!(bench.build(&dynamic, false).files.difference(&there.files, &[]), None, "with -C rpath");

    bench.sandbox.set("DBUILD_SHARE", "any-path");
    bench.moves_to("third");
    bench.lay_out();
    let first = bench.build(&unchanged, true);
    bench.moves_to("place/of/a/fourth");
    bench.lay_out();
    let before = bench.sandbox.counters();
    let second = bench.build(&unchanged, true);
    let counted = bench.sandbox.counters().since(&before);
    // left, right, plug, the build script, and the program of what has no place of its own.
    assert_eq!(counted.hits_local, 5, "{counted:?}");
    for made in ["*/deps/libleft*.rlib", "*/deps/libright*.rlib", "*/deps/libplug*.rlib", "debug/tool"] {
        let one = first.files.only(made);
        assert_eq!(one.files("*").len(), 1, "{made}");
        assert_eq!(one.difference(&second.files.only(made), &[]), None, "{made}");
    }
    let paths: Vec<&Path> = second.files.files("*.rlib");
    assert!(!paths.is_empty());
    for path in paths.iter().filter(|path| !path.to_str().unwrap().contains("native")) {
        let bytes = std::fs::read(bench.root.join("target").join(path)).unwrap();
        let named =
            bytes.windows(5).any(|window| window == b"third") || contains(&bytes, bench.root.as_path());
        assert!(!named, "{path:?} names a place of this machine");
    }
    // As a user with an empty cache makes it there.
    let mut other = Bench::new();
    other.sandbox.set("DBUILD_SHARE", "any-path");
    other.root.clone_from(&bench.root);
    let made = other.build(&unchanged, true);
    assert_eq!(made.files.difference(&second.files, &[]), None);
    assert_eq!(made.program, second.program);
}

/// `rust-toolchain.toml` switches compilers behind one name: cargo and rustc are rustup's proxies then.
#[test]
fn a_toolchain_is_chosen_by_a_file() {
    let skips = Skips::new("toolchains by file");
    let bin = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin")).unwrap_or_default();
    let listed = std::process::Command::new(bin.join("rustup")).args(["toolchain", "list", "-q"]).output();
    let listed =
        listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let nightly = listed.lines().find(|name| name.starts_with("nightly"));
    let stable = listed.lines().find(|name| name.starts_with("stable"));
    let (Some(stable), Some(nightly)) = (stable, nightly) else {
        skips.skip("stable and nightly", "rustup does not have both here");
        return;
    };
    let mut bench = Bench::new();
    bench.sandbox.set("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()));
    let homes = [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")];
    for (variable, directory) in homes {
        let home = std::env::var_os(variable).map(PathBuf::from);
        let usual = || Path::new(&std::env::var_os("HOME").unwrap()).join(directory);
        bench.sandbox.set(variable, home.unwrap_or_else(usual));
    }
    bench.lay_out();
    let unchanged = nothing_changed();
    let with = |channel: &str, through_dbuild: bool| {
        let text = format!("[toolchain]\nchannel = \"{channel}\"\n");
        std::fs::write(bench.root.join("rust-toolchain.toml"), text).unwrap();
        let built = bench.build(&unchanged, through_dbuild);
        assert_eq!(built.ran.code, 0, "{}", built.ran);
        built
    };
    let first = with(stable, true);
    let second = with(nightly, true);
    let plain = with(nightly, false);
    assert!(first.files.difference(&plain.files, &[]).is_some(), "{stable} and {nightly} are the same");
    assert_eq!(plain.files.difference(&second.files, &[]), None);
    assert_eq!(first.files.difference(&with(stable, true).files, &[]), None);
    skips.done();
}

fn contains(bytes: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    bytes.windows(path.len()).any(|window| window == path)
}

fn is_there(needed: &str) -> bool {
    match needed {
        "x86_64" => cfg!(target_arch = "x86_64"),
        "clippy-driver" => Path::new(env!("CARGO")).with_file_name("clippy-driver").is_file(),
        other => have(other),
    }
}
