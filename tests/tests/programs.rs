//! Real Rust programs, byte for byte: each is built plain, through dbuild with an empty and with a full cache, at a
//! second place, and with a pool there; every library, program and depfile must be the plain one.

// A test that cannot set up its world ends there; the message of the panic is the report.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use dbuild_tests::{
    Counters, Sandbox, Skips, Snapshot, TestCluster, namespaces_work, project::unpack_program,
};

/// Cargo's own files that have another order in each build, and what build scripts say that compile several files at a time.
const RANDOM: [&str; 4] = [
    ".rustc_info.json",
    "*/.fingerprint/*/dep-*",
    "*/build/libgit2-sys-*/output",
    "*/build/onig_sys-*/output",
];

/// A workspace of ten crates and some thirty from the registry.
#[test]
fn ripgrep() {
    build("ripgrep", &["rg", "--version"], 70, 33);
}

/// A server on tokio, with procedural macros.
#[test]
fn mini_redis() {
    build("mini-redis", &[], 70, 75);
}

/// 120 libraries, macros, code made by build scripts, and two libraries in C, whose debug information names `OUT_DIR`.
#[test]
#[ignore = "takes ten minutes"]
fn bat() {
    build("bat", &["bat", "--version"], 40, 350);
}

/// `elsewhere`: how many of a hundred compiles need no compiler at a second place, where promise 1 holds to the letter.
/// `remote`: how many helpers do at least.
fn build(program: &str, run: &[&str], elsewhere: u64, remote: u64) {
    let skips = Skips::new(program);
    let mut sandbox = Sandbox::new();
    let cargo = Path::new(env!("CARGO")).parent().unwrap();
    sandbox.set("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", cargo.display()));
    sandbox.set("CARGO_HOME", cargo_home());
    sandbox.set("CARGO_INCREMENTAL", "0");

    let here = sandbox.root().join("here");
    unpack_program(program, &here);
    let plain = Built::of(&sandbox, &here, false);
    let cold = Built::of(&sandbox, &here, true);
    assert_eq!(plain.files.difference(&cold.files, &[]), None, "cold");
    let warm = Built::of(&sandbox, &here, true);
    assert_eq!(plain.files.difference(&warm.files, &[]), None, "warm");
    warm.answers(85);
    runs(&sandbox, &here, run);

    let there = sandbox.root().join("another/place");
    unpack_program(program, &there);
    let second = Built::of(&sandbox, &there, true);
    let plain = Built::of(&sandbox, &there, false);
    assert_eq!(plain.files.difference(&second.files, &[]), None, "elsewhere");
    second.answers(elsewhere);

    sandbox.set("DBUILD_SHARE", "any-path");
    Built::of(&sandbox, &here, true);
    let anywhere = Built::of(&sandbox, &there, true);
    anywhere.answers(85);
    runs(&sandbox, &there, run);
    skips.done();

    if !namespaces_work() {
        skips.skip("with a pool", "user namespaces do not work here");
        return;
    }
    let cluster = TestCluster::start(2);
    let mut pooled = Sandbox::of(&cluster);
    pooled.set("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", cargo.display()));
    pooled.set("CARGO_HOME", cargo_home());
    pooled.set("CARGO_INCREMENTAL", "0");
    pooled.set("DBUILD_LOCAL_SLOTS", "0");
    let with_pool = Built::of(&pooled, &there, true);
    assert_eq!(plain.files.difference(&with_pool.files, &[]), None, "with a pool");
    // All but the first links; on the helpers there is no rustc, and no linker.
    let Counters { errors, reasons, .. } = &with_pool.counted;
    assert!(with_pool.counted.remote >= remote, "{:?}", with_pool.counted);
    // What a build script tries in vain fails there, and then here; and what reads files that nobody guessed is made here.
    assert!(*errors <= reasons.get("compiler failed on a helper").copied().unwrap_or(0), "{reasons:?}");
    own_tests_pass(&pooled, &there);
    skips.done();
}

/// The program's own tests, built with the pool: plain cargo has nothing to build any more, and they pass.
fn own_tests_pass(sandbox: &Sandbox, place: &Path) {
    let before = sandbox.counters();
    sandbox.dbuild(place, &["cargo", "test", "--quiet", "--no-run"]).ok();
    let counted = sandbox.counters().since(&before);
    assert!(counted.remote > 0, "{counted:?}");
    let ran = sandbox.plain(place, &["cargo", "test", "-v"]).ok();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(said.contains("Fresh ") && !said.contains("rustc --crate-name"), "cargo builds: {said}");
    assert!(String::from_utf8_lossy(&ran.stdout).contains("test result: ok"), "{ran}");
}

/// Where the registry's crates are: fetching them again for each test would take its time.
fn cargo_home() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cargo"))
}

struct Built {
    files: Snapshot,
    counted: Counters,
}

impl Built {
    fn of(sandbox: &Sandbox, place: &Path, through_dbuild: bool) -> Built {
        let _ = std::fs::remove_dir_all(place.join("target"));
        let before = sandbox.counters();
        let words = ["cargo", "build", "--quiet"];
        match through_dbuild {
            true => sandbox.dbuild(place, &words).ok(),
            false => sandbox.plain(place, &words).ok(),
        };
        let counted = sandbox.counters().since(&before);
        Built { files: Snapshot::take(&place.join("target"), &RANDOM), counted }
    }

    /// At least so many of a hundred compiles were answered from the cache; what asks rustc about itself, and what
    /// build scripts try in vain, is no compile.
    fn answers(&self, percent: u64) {
        let Counters { tasks, hits_local, reasons, errors, .. } = &self.counted;
        let queries: u64 = ["asks the compiler about itself", "reads stdin"]
            .iter()
            .filter_map(|reason| reasons.get(*reason))
            .sum();
        let compiles = tasks - queries - errors;
        assert!(hits_local * 100 >= compiles * percent, "{:?}", self.counted);
    }
}

fn runs(sandbox: &Sandbox, place: &Path, run: &[&str]) {
    let Some((program, args)) = run.split_first() else { return };
    let mut words = vec![place.join("target/debug").join(program).into_os_string()];
    words.extend(args.iter().map(Into::into));
    assert!(!sandbox.plain(place, &words).ok().stdout.is_empty());
}
