//! Machines of the pool that freeze, crawl, run out of memory, or have another clock: right bytes, bounded waits, and
//! the helper is back when it is well.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio as To};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbuild_tests::disturbed::{
    build_disturbed, build_disturbed_at, build_paused, build_with_hook, complaints, plain_build, pool,
    said_once, until_remote,
};
use dbuild_tests::{HelperPlan, Sandbox, Site, Skips, Slow, TestCluster, Twice, counted, wait_until};

/// What a frozen helper ran is run by another; when it thaws it belongs to the pool again.
#[test]
fn a_frozen_helper_s_task_goes_to_another() {
    let skips = Skips::new("helper frozen, another is there");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let mut frozen = 0;
    let ran = build_disturbed(&user, || {
        frozen = cluster.busy_helper();
        cluster.freeze_helper(frozen);
    });
    said_once(&ran, &["helper"]);
    counted(user.counters().remote >= 1, "the other helper did it");
    cluster.wait_until_helper(frozen, false);
    cluster.thaw_helper(frozen);
    cluster.wait_until_helper(frozen, true);
    until_remote(&user);
    skips.done();
}

/// With nobody else in the pool the task runs here.
#[test]
fn the_only_helper_freezes_and_thaws() {
    let skips = Skips::new("only helper frozen");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(1);
    let user = Sandbox::of(&cluster);
    let ran = build_disturbed(&user, || cluster.freeze_helper(0));
    said_once(&ran, &["helper"]);
    cluster.thaw_helper(0);
    cluster.wait_until_helper(0, true);
    until_remote(&user);
    skips.done();
}

/// A helper that gets a ninth of its time: stopped most of the time, never long enough to be lost.
#[test]
fn a_helper_as_slow_as_a_snail() {
    let skips = Skips::new("slow helper");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(1);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let done = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cluster.freeze_helper(0);
                std::thread::sleep(Duration::from_millis(200));
                cluster.thaw_helper(0);
                std::thread::sleep(Duration::from_millis(25));
            }
        });
        let _done = Done(&done);
        build_with_hook(&build, &user, "true")
    });
    counted(complaints(&ran).is_empty(), format!("slow is not wrong: {:?}", ran.own));
    counted(user.counters().remote >= 4, "the snail did it all");
    skips.done();
}

/// Says so also when the build's comparison panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whose compile needs a quarter of a gigabyte.
const GREEDY: &str = "struct Big { int cells[1000000]; };\n\
    constexpr Big make() { Big b{}; for (int i = 0; i < 1000000; i++) b.cells[i] = i; return b; }\n\
    constexpr int last(const Big &b) { return b.cells[999999]; }\n\
    int value = last(make());\nstatic_assert(last(make()) == 999999);\n";
const COMPILE_GREEDY: &str = "g++ -fconstexpr-loop-limit=2147483647 -fconstexpr-ops-limit=9223372036854775807 \
    -c greedy.cc && gcc -c a.c";

/// The compiler says that memory is short and ends with 1, as it does for an error in the source.
#[test]
fn a_helper_without_memory() {
    let skips = Skips::new("helper out of memory");
    if !pool(&skips) || !skips.need("prlimit", "all of it") {
        return;
    }
    let mut cluster = TestCluster::start_at(Site::default());
    let within = ["/usr/bin/prlimit", "--data=160000000", "--"].map(Into::into).to_vec();
    cluster.add_helper(HelperPlan { within, ..HelperPlan::default() });
    cluster.wait_until_online(1);
    let user = Sandbox::of(&cluster);
    let mut build = Twice::new(&user, "greedy", |dir| std::fs::write(dir.join("greedy.cc"), GREEDY).unwrap());
    build.plain(&["sh", "-c", COMPILE_GREEDY]);
    build.wrapped(&user, &["sh", "-c", COMPILE_GREEDY]);
    let seen = user.counters();
    counted(seen.remote == 1 && seen.local == 1, format!("the small one was compiled there: {seen}"));
    skips.done();
}

/// Somebody on the helper's machine ends the compiler proper: its driver reports that like an error in the source.
#[test]
fn a_compiler_killed_on_a_helper() {
    let skips = Skips::new("compiler killed on a helper");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(1);
    let user = Sandbox::of(&cluster);
    let ran = build_disturbed_at(&user, Slow::kill_compiler);
    counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
    skips.done();
}

/// No deadline of the pool's is by anybody's clock but its own, and no clock runs from the same moment as another's.
#[test]
fn a_helper_with_another_clock() {
    let skips = Skips::new("skewed clock");
    if !pool(&skips) {
        return;
    }
    let skew: Vec<String> =
        ["/usr/bin/unshare", "--time", "--boottime", "1000000", "--monotonic", "1000000", "--"]
            .map(Into::into)
            .to_vec();
    let mut probe = Command::new(&skew[0]);
    if !probe
        .args(&skew[1..])
        .arg("/bin/true")
        .stderr(To::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        skips.skip("monotonic clock", "this process may not make time namespaces");
        return;
    }
    let mut cluster = TestCluster::start_at(Site::default());
    let within = skew.iter().map(Into::into).collect();
    cluster.add_helper(HelperPlan { within, ..HelperPlan::default() });
    cluster.wait_until_online(1);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let ran = build_with_hook(&build, &user, "true");
    counted(complaints(&ran).is_empty(), format!("nothing is wrong: {:?}", ran.own));
    counted(user.counters().remote >= 4, "the helper did it");
    skips.skip("time of day", "no namespace has its own, so it is the same for all of them here");
    skips.done();
}

/// A helper that ends between two tasks and comes back with the same name.
#[test]
fn a_helper_restarts_between_tasks() {
    let skips = Skips::new("helper restarted");
    if !pool(&skips) {
        return;
    }
    let mut cluster = TestCluster::start(1);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let ran = build_paused(&build, &user, || {
        cluster.kill_helper(0);
        cluster.wait_until_helper(0, false);
        let plan = HelperPlan { name: Some("helper-0".into()), ..HelperPlan::default() };
        cluster.add_helper(plan);
        cluster.wait_until_helper(0, true);
    });
    counted(complaints(&ran).is_empty(), format!("nobody noticed: {:?}", ran.own));
    wait_until("its end is seen", || cluster.list().is_some_and(|lines| lines.len() == 1));
    skips.done();
}
