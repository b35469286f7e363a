//! Networks that lose packets, are slow, are cut without a word, or close what is idle. Hosts are network namespaces where
//! the test may make them; else a proxy on loopback does what it can, and the test says so.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use dbuild_tests::disturbed::{
    build_disturbed, build_paused, build_with_hook, complaints, plain_build, pool, said_once, until_remote,
};
use dbuild_tests::{HelperPlan, Line, Net, Proxy, Sandbox, Site, Skips, TestCluster, counted, wait_until};

/// The coordinator and its users on one host, one helper on another.
fn two_hosts(net: &Net) -> TestCluster {
    let mut cluster = TestCluster::start_at(Site { net: Some(net), ..Site::default() });
    cluster.add_helper(HelperPlan::default());
    cluster.wait_until_online(1);
    cluster
}

/// All on loopback, with proxies before the coordinator: one for its helper, one for its users.
fn behind_proxies(line: Line) -> (TestCluster, Proxy, Proxy, Sandbox) {
    let mut cluster = TestCluster::start_at(Site::default());
    let (helpers, users) = (Proxy::start(cluster.address(), line), Proxy::start(cluster.address(), line));
    cluster.add_helper(HelperPlan { coordinator: Some(helpers.url()), ..HelperPlan::default() });
    cluster.wait_until_online(1);
    let mut user = Sandbox::of(&cluster);
    user.set("DBUILD_COORDINATOR", users.url());
    (cluster, helpers, users, user)
}

/// No packet arrives and nobody is told: both sides are half open. The task runs here; with the cable back the helper is.
#[test]
fn the_helper_s_cable_is_cut_and_mended() {
    let skips = Skips::new("helper's cable cut");
    if !pool(&skips) {
        return;
    }
    let Some(net) = Net::connect(&skips, "a real cable; a proxy stands for it elsewhere") else { return };
    let cluster = two_hosts(&net);
    let user = Sandbox::of(&cluster);
    let ran = build_disturbed(&user, || net.cut());
    said_once(&ran, &["helper"]);
    cluster.wait_until_helper(0, false);
    net.mend();
    cluster.wait_until_helper(0, true);
    until_remote(&user);
    skips.done();
}

/// The same with a proxy that goes quiet, which any user can make.
#[test]
fn the_helper_s_connection_is_half_open() {
    let skips = Skips::new("helper half open");
    if !pool(&skips) {
        return;
    }
    let (cluster, helpers, _users, user) = behind_proxies(Line::default());
    let ran = build_disturbed(&user, || helpers.cut());
    said_once(&ran, &["helper"]);
    cluster.wait_until_helper(0, false);
    helpers.mend();
    cluster.wait_until_helper(0, true);
    until_remote(&user);
    skips.done();
}

/// The initiator waits for an answer that never comes: keep-alive finds out, and the task runs here.
#[test]
fn the_user_s_connection_is_half_open() {
    let skips = Skips::new("user half open");
    if !pool(&skips) {
        return;
    }
    let (_cluster, _helpers, users, user) = behind_proxies(Line::default());
    let ran = build_disturbed(&user, || users.cut());
    said_once(&ran, &["coordinator"]);
    users.mend();
    until_remote(&user);
    skips.done();
}

/// Every connection breaks in the middle of the build, while nothing compiles and while something does.
#[test]
fn connections_that_break() {
    let skips = Skips::new("broken connections");
    if !pool(&skips) {
        return;
    }
    let (cluster, helpers, users, user) = behind_proxies(Line::default());
    let break_all = || {
        helpers.break_all();
        users.break_all();
    };
    let build = plain_build(&user);
    let ran = build_paused(&build, &user, break_all);
    counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
    cluster.wait_until_online(1);
    let ran = build_disturbed(&user, break_all);
    counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
    until_remote(&user);
    skips.done();
}

/// A proxy that thinks two quiet seconds are the end, before helpers and users.
#[test]
fn a_proxy_that_closes_idle_connections() {
    let skips = Skips::new("idle connections closed");
    if !pool(&skips) {
        return;
    }
    let line = Line { idle: Some(Duration::from_secs(2)), ..Line::default() };
    let (cluster, helpers, users, user) = behind_proxies(line);
    let build = plain_build(&user);
    let ran = build_paused(&build, &user, || {
        wait_until("the proxies close something", || helpers.closed_idle() + users.closed_idle() >= 2);
        cluster.wait_until_online(1);
    });
    counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
    counted(user.counters().remote >= 2, format!("the pool is of use all the same: {}", user.counters()));
    skips.done();
}

/// 50 ms later and with 1 Mbit a second; the compiler itself is sent before.
#[test]
fn a_slow_line() {
    let skips = Skips::new("slow line");
    if !pool(&skips) {
        return;
    }
    let (_cluster, helpers, users, user) = behind_proxies(Line::default());
    until_remote(&user);
    let slow = Line { delay: Duration::from_millis(50), rate: 125_000, ..Line::default() };
    helpers.set(slow);
    users.set(slow);
    let build = plain_build(&user);
    let ran = build_with_hook(&build, &user, "true");
    counted(complaints(&ran).is_empty(), format!("slow is not wrong: {:?}", ran.own));
    counted(user.counters().remote >= 5, format!("helpers did it: {}", user.counters()));
    skips.done();
}

/// The same with the kernel's own means, which also lose packets.
#[test]
fn a_bad_line() {
    let skips = Skips::new("bad line");
    if !pool(&skips) || !skips.need("tc", "all of it") {
        return;
    }
    for (what, discipline) in [
        ("1 Mbit/s", &["tbf", "rate", "1mbit", "burst", "16kb", "latency", "400ms"][..]),
        ("2 % loss, 50 ms delay", &["netem", "delay", "50ms", "loss", "2%"]),
        ("loss, delay and 1 Mbit/s", &["netem", "delay", "50ms", "loss", "2%", "rate", "1mbit"]),
    ] {
        let Some(net) = Net::connect(&skips, what) else { continue };
        let cluster = two_hosts(&net);
        let user = Sandbox::of(&cluster);
        until_remote(&user);
        if !net.shape(discipline) {
            skips.skip(what, &format!("the kernel has no queueing discipline {}", discipline[0]));
            continue;
        }
        let build = plain_build(&user);
        let ran = build_with_hook(&build, &user, "true");
        counted(complaints(&ran).is_empty(), format!("slow is not wrong: {:?}", ran.own));
        counted(user.counters().remote >= 5, format!("the helper did it: {}", user.counters()));
        skips.done();
    }
}
