//! Coordinators that end and come back, with what they had or without, and stores that lose blobs between the question
//! and the use: right bytes, and the pool is of use again.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbuild_tests::disturbed::{
    build_disturbed, build_paused, build_with_hook, complaints, plain_build, pool, said_once, until_remote,
};
use dbuild_tests::{HelperPlan, Sandbox, Site, Skips, TestCluster, counted};

/// Between two tasks: the helpers are back before the next one, so nobody need notice.
#[test]
fn coordinator_restarts_between_tasks() {
    let skips = Skips::new("coordinator restarted");
    if !pool(&skips) {
        return;
    }
    for keeps_disk in [true, false] {
        let mut cluster = TestCluster::start(2);
        let user = Sandbox::of(&cluster);
        let build = plain_build(&user);
        let mut before = 0;
        let ran = build_paused(&build, &user, || {
            before = user.counters().remote;
            restart(&mut cluster, keeps_disk);
            until_remote(&user);
        });
        // A connection that has just been lost may cost a task its helper; there is one reason for it.
        counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
        counted(user.counters().remote > before + 1, "what came later was compiled by helpers");
        skips.done();
    }
}

/// In the middle of a task: it runs here, and later ones go to helpers again.
#[test]
fn coordinator_restarts_in_the_middle_of_a_task() {
    let skips = Skips::new("coordinator restarted mid-task");
    if !pool(&skips) {
        return;
    }
    for keeps_disk in [true, false] {
        let mut cluster = TestCluster::start(2);
        let user = Sandbox::of(&cluster);
        let ran = build_disturbed(&user, || restart(&mut cluster, keeps_disk));
        said_once(&ran, &["coordinator"]);
        until_remote(&user);
        skips.done();
    }
}

fn restart(cluster: &mut TestCluster, keeps_disk: bool) {
    cluster.kill_coordinator();
    if !keeps_disk {
        cluster.remove_coordinator_data();
    }
    cluster.start_coordinator();
    // They come by themselves: a wait of theirs doubles up to 10 s.
    cluster.wait_until_online(2);
}

/// A store so small that it throws things away all the time, the compiler itself among them.
#[test]
fn store_that_is_too_small() {
    let skips = Skips::new("tiny store");
    if !pool(&skips) {
        return;
    }
    for size in ["100K", "30M"] {
        let mut cluster = TestCluster::start_at(Site { store: Some(size), ..Site::default() });
        cluster.add_helper(HelperPlan::default());
        cluster.wait_until_online(1);
        let user = Sandbox::of(&cluster);
        let build = plain_build(&user);
        let ran = build_with_hook(&build, &user, "true");
        counted(complaints(&ran).len() <= 2, format!("few words for one reason: {:?}", ran.own));
        skips.done();
    }
}

/// Blobs vanish from the coordinator's disk while it says, and believes, that it has them.
#[test]
fn store_that_loses_blobs_between_tasks() {
    let skips = Skips::new("lost blobs");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(1);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let mut before = 0;
    let ran = build_paused(&build, &user, || {
        before = user.counters().remote;
        assert!(lose(&cluster.coordinator_data()) > 0, "blobs are files of its data directory");
    });
    counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
    counted(user.counters().remote > before, "they were sent again, and the work went on");
    skips.done();
}

/// The same all the time, also between a blob's check and its use.
#[test]
fn store_that_loses_blobs_all_the_time() {
    let skips = Skips::new("blobs lost all the time");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let done = AtomicBool::new(false);
    for _ in 0..2 {
        let ran = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    lose(&cluster.coordinator_data());
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let _done = Done(&done);
            build_with_hook(&build, &user, "true")
        });
        counted(complaints(&ran).len() <= 3, format!("few words for one reason: {:?}", ran.own));
        done.store(false, Ordering::Relaxed);
        user.dbuild(user.root(), &["cache", "clear"]).ok();
    }
    until_remote(&user);
    skips.done();
}

/// Says so also when the build's comparison panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Removes every blob of a store; gives how many there were.
fn lose(data: &Path) -> usize {
    let files = walkdir::WalkDir::new(data).into_iter().flatten();
    let blobs = files.filter(|entry| {
        entry.file_type().is_file() && entry.path().components().any(|part| part.as_os_str() == "cas-v1")
    });
    blobs.filter(|blob| std::fs::remove_file(blob.path()).is_ok()).count()
}
