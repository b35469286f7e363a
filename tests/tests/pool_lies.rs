//! Helpers that lie. What can be detected is, and leads to the right bytes: outputs that are missing, not stored, of another
//! digest or size, in other places, too many, empty; answers that are none; failures that a compiler does not have.
//!
//! What cannot be detected by looking is trust: a well-formed object with other code in it under its right digest, and an
//! error in words that the compiler could have used. The former is why only helpers (and clients that were given the right)
//! write shared results; the latter is not remembered, so it ends with the helper.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use dbuild_tests::disturbed::{build_with_hook, complaints, plain_build, pool, said_once, until_remote};
use dbuild_tests::{
    HelperPlan, Liar, Lie, Sandbox, Site, Skips, Stdio, TestCluster, Twice, counted, run_bounded, wait_until,
};

const COMPILE: &str = "gcc -g -c a.c && gcc -MMD -c b.c";

/// Each lie from the only helper there is; `kept` says that the pool keeps it, so that others meet it.
fn told_by_the_only_helper(lies: &[Lie], kept: bool) {
    for (number, &lie) in lies.iter().enumerate() {
        let cluster = TestCluster::start_at(Site::default());
        let liar = Liar::join(&cluster.url(), &format!("liar-{number}"), lie);
        cluster.wait_until_online(1);
        let user = Sandbox::of(&cluster);
        let mut build = Twice::new(&user, "project", |_| {});
        build.plain(&["sh", "-c", COMPILE]);
        let ran = build.wrapped(&user, &["sh", "-c", COMPILE]);
        said_once(&ran, &["helper"]);
        let seen = user.counters();
        counted(seen.local == 2, format!("{lie:?}: all was compiled here: {seen}"));
        // Three attempts for each of two tasks; fewer where one answer is final.
        let told = liar.leave();
        counted((2..=6).contains(&told), format!("{lie:?} was told {told} times"));
        if kept {
            let another = Sandbox::of(&cluster);
            build.wrapped(&another, &["sh", "-c", COMPILE]);
        }
    }
}

#[test]
fn lies_that_the_coordinator_finds_out() {
    use Lie::{
        Absolute, Broken, ClimbsOut, Flood, Garbage, NoOutcome, NotStored, OtherBytes, Twice, WrongSize,
    };
    let lies =
        [NotStored, WrongSize, OtherBytes, Absolute, ClimbsOut, Twice, Flood, Garbage, NoOutcome, Broken];
    told_by_the_only_helper(&lies, false);
}

#[test]
fn lies_that_the_initiator_finds_out() {
    told_by_the_only_helper(&[Lie::NoOutputs, Lie::Empty], true);
}

#[test]
fn a_helper_that_misses_what_is_there_or_leaves_with_every_lease() {
    told_by_the_only_helper(&[Lie::MissesInputs, Lie::Leaves], false);
}

/// A failure that no compiler has is confirmed here. Nothing is wrong with dbuild, so the summary has no line about it.
#[test]
fn failures_that_are_not_the_source_s() {
    for lie in [Lie::Silent, Lie::Killed] {
        let cluster = TestCluster::start_at(Site::default());
        let liar = Liar::join(&cluster.url(), "liar", lie);
        cluster.wait_until_online(1);
        let user = Sandbox::of(&cluster);
        let mut build = Twice::new(&user, "project", |_| {});
        let (_, seen) = build.both(&["sh", "-c", COMPILE]);
        counted(seen.local == 2 && seen.gave_reason("failed"), format!("confirmed here: {seen}"));
        counted(liar.leave() == 2, "each was asked of it once");
    }
}

/// An error in a compiler's own words is passed on: that is trust. It is remembered by nobody.
#[test]
fn an_error_that_is_a_lie_ends_with_the_liar() {
    let cluster = TestCluster::start_at(Site::default());
    let liar = Liar::join(&cluster.url(), "liar", Lie::CompileError);
    cluster.wait_until_online(1);
    let user = Sandbox::of(&cluster);
    let mut build = Twice::new(&user, "project", |_| {});
    build.plain(&["sh", "-c", COMPILE]);
    build.fresh();
    let ran = user.dbuild_sh(build.dir(), COMPILE);
    counted(ran.code == 1 && String::from_utf8_lossy(&ran.stderr).contains("a lie"), format!("{ran}"));
    liar.leave();
    build.wrapped(&user, &["sh", "-c", COMPILE]);
}

/// When every helper is set aside, the summary says so, and nobody waits for them.
#[test]
fn the_only_helper_is_set_aside() {
    let cluster = TestCluster::start_at(Site::default());
    let liar = Liar::join(&cluster.url(), "liar", Lie::Broken);
    cluster.wait_until_online(1);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let ran = build_with_hook(&build, &user, "true");
    said_once(&ran, &["failed to run it"]);
    said_once(&ran, &["set aside"]);
    // Three attempts for each of two tasks, and the third task's first.
    counted(liar.leave() == 7, "no task is done more often than the limit");
}

/// With an honest helper beside it, the liar costs attempts, then it is set aside, and the honest one does everything.
/// When it has mended its ways it proves so and is trusted again.
#[test]
fn a_helper_that_fails_again_and_again_is_set_aside_and_comes_back() {
    let skips = Skips::new("helper set aside");
    if !pool(&skips) {
        return;
    }
    let mut cluster = TestCluster::start_at(Site::default());
    // Of two equal helpers the one that came first is asked first.
    let liar = Liar::join(&cluster.url(), "helper-1", Lie::Broken);
    cluster.wait_until_online(1);
    cluster.add_helper(HelperPlan::default());
    cluster.wait_until_online(2);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let ran = build_with_hook(&build, &user, "true");
    counted(user.counters().fallbacks == 0, format!("the honest one did it: {:?}", ran.own));
    counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
    wait_until("the liar is set aside", || {
        until_remote(&user);
        cluster.helper(1).is_some_and(|line| line.set_aside_ms > 0)
    });
    let told = liar.leave();
    // Somebody mends the machine and starts its helper: the name is on trial when its time is over, and then trusted.
    cluster.add_helper(HelperPlan::default());
    cluster.wait_until_helper(1, true);
    counted(cluster.helper(1).unwrap().set_aside_ms > 0, "a new connection proves nothing");
    wait_until("its time is over", || cluster.helper(1).is_some_and(|line| line.on_trial));
    cluster.kill_helper(0);
    until_remote(&user);
    counted(!cluster.helper(1).unwrap().on_trial, "it has proved itself");
    counted((3..20).contains(&told), format!("the liar was asked {told} times"));
    skips.done();
}

/// How long the compile takes is known from before, so it is found out that its answer is late, and it is done here.
#[test]
fn a_helper_that_never_answers() {
    let cluster = TestCluster::start_at(Site::default());
    let liar = Liar::join(&cluster.url(), "liar", Lie::Never);
    cluster.wait_until_online(1);
    let mut user = Sandbox::of(&cluster);
    user.set("DBUILD_LOCAL_SLOTS", "1");
    let mut build =
        Twice::new(&user, "project", |dir| std::fs::write(dir.join("own.c"), "int own;\n").unwrap());
    build.fresh();
    let mut before = user.dbuild_command(build.dir(), &["gcc", "-g", "-c", "own.c"]);
    before.env_remove("DBUILD_COORDINATOR");
    assert_eq!(run_bounded(&mut before, Stdio::Files).code, 0);
    let edited = "echo 'int more;' >>own.c && gcc -g -c own.c";
    build.plain(&["sh", "-c", edited]);
    build.wrapped(&user, &["sh", "-c", edited]);
    let seen = user.counters();
    counted(seen.local == 2 && seen.gave_reason("a helper was late"), format!("it was done here: {seen}"));
    counted(liar.leave() == 1, "it was asked of it once");
}
