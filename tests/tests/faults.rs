//! Faults of dbuild's own cost time, never a build: in each the build ends with the right bytes, and one line says why
//! it was slower.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use dbuild_tests::disturbed::{
    BUILD, build_disturbed, build_with_hook, complaints, plain_build, pool, said_once,
};
use dbuild_tests::{
    Mount, Sandbox, Skips, Slow, Stdio, TestCluster, can_mount, counted, run_bounded, wait_until,
};

/// Ends this user's initiator in the hardest way, from within a build.
const KILL_INITIATOR: &str = "for p in /proc/[0-9]*; do \
    if tr '\\0' ' ' <$p/cmdline | grep -q ' initiator ' && tr '\\0' '\\n' <$p/environ | grep -qxF \"DBUILD_DATA_DIR=$DBUILD_DATA_DIR\"; \
    then kill -9 ${p#/proc/}; touch \"$KILLED\"; fi; done 2>/dev/null";

fn mounts(skips: &Skips) -> bool {
    let can = can_mount();
    if !can {
        skips.skip("all of it", "this process may not mount");
    }
    can
}

#[test]
fn coordinator_not_there() {
    for slots in ["2", "0"] {
        let mut user = Sandbox::new();
        // Port 9 (discard) is closed on any machine that runs tests.
        user.set("DBUILD_COORDINATOR", "http://127.0.0.1:9");
        user.set("DBUILD_LOCAL_SLOTS", slots);
        let build = plain_build(&user);
        said_once(&build_with_hook(&build, &user, "true"), &["coordinator"]);
    }
}

/// A port that takes connections and says nothing: found out once, and not by each task.
#[test]
fn coordinator_that_never_answers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let mut user = Sandbox::new();
    user.set("DBUILD_COORDINATOR", url);
    let build = plain_build(&user);
    let began = std::time::Instant::now();
    said_once(&build_with_hook(&build, &user, "sleep 6"), &["coordinator"]);
    // Keep-alive would notice after 20 s or more, once and again. The build itself takes about one beside its sleep.
    assert!(began.elapsed() < std::time::Duration::from_secs(26), "{:?}", began.elapsed());
}

#[test]
fn coordinator_gone_between_tasks() {
    let skips = Skips::new("coordinator gone between tasks");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let build = plain_build(&user);
    let ran = build_with_hook(&build, &user, &format!("kill -9 {}", cluster.coordinator_pid()));
    said_once(&ran, &["coordinator"]);
    skips.done();
}

#[test]
fn coordinator_gone_in_the_middle_of_a_task() {
    let skips = Skips::new("coordinator gone mid-task");
    if !pool(&skips) {
        return;
    }
    let mut cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let ran = build_disturbed(&user, || cluster.kill_coordinator());
    said_once(&ran, &["coordinator"]);
    skips.done();
}

#[test]
fn helper_killed_in_the_middle_of_a_task() {
    let skips = Skips::new("helper killed mid-task");
    if !pool(&skips) {
        return;
    }
    let mut cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let ran = build_disturbed(&user, || {
        let busy = cluster.list().unwrap().into_iter().find(|helper| helper.running > 0);
        let name = busy.map_or("helper-0".to_owned(), |helper| helper.name);
        cluster.kill_helper(name.trim_start_matches("helper-").parse().unwrap());
    });
    said_once(&ran, &["helper"]);
    skips.done();
}

#[test]
fn the_only_helper_killed_in_the_middle_of_a_task() {
    let skips = Skips::new("only helper killed mid-task");
    if !pool(&skips) {
        return;
    }
    let mut cluster = TestCluster::start(1);
    let user = Sandbox::of(&cluster);
    let ran = build_disturbed(&user, || cluster.kill_helper(0));
    said_once(&ran, &["helper"]);
    skips.done();
}

#[test]
fn initiator_killed_between_tasks() {
    let user = Sandbox::new();
    let build = plain_build(&user);
    let ran = build_with_hook(&build, &user, KILL_INITIATOR);
    counted(user.root().join("killed").exists(), "an initiator was there to be killed");
    // A new one may have taken over without loss; if not, a line says so. The socket of the dead one is in the way.
    counted(complaints(&ran).len() <= 1, format!("{:?}", ran.own));
    let again = build_with_hook(&build, &user, "true");
    counted(complaints(&again).is_empty(), format!("{:?}", again.own));
    counted(user.initiators().len() == 1, "one initiator again");
}

#[test]
fn initiator_killed_in_the_middle_of_a_task() {
    let user = Sandbox::new();
    let ran = build_disturbed(&user, || user.initiators().iter().for_each(|initiator| initiator.kill()));
    said_once(&ran, &["initiator"]);
}

#[test]
fn initiator_killed_in_the_middle_of_a_remote_task() {
    let skips = Skips::new("initiator killed mid remote task");
    if !pool(&skips) {
        return;
    }
    let cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let ran = build_disturbed(&user, || user.initiators().iter().for_each(|initiator| initiator.kill()));
    said_once(&ran, &["initiator"]);
    skips.done();
}

/// A socket that nobody listens on, one that is no socket, and a file where a directory should be.
#[test]
fn rubbish_where_the_sockets_are() {
    let user = Sandbox::new();
    let build = plain_build(&user);
    build_with_hook(&build, &user, "true");
    user.initiators().iter().for_each(|initiator| initiator.kill());
    build_with_hook(&build, &user, "true");
    user.stop();
    for entry in walkdir::WalkDir::new(user.data_dir()).into_iter().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "sock") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    for name in ["initiator.sock", "control.sock"] {
        for dir in std::fs::read_dir(user.data_dir().join("run")).into_iter().flatten().flatten() {
            std::fs::write(dir.path().join(name), "not a socket").unwrap();
        }
    }
    build_with_hook(&build, &user, "true");
}

#[test]
fn cache_directory_read_only() {
    let skips = Skips::new("read-only cache");
    if !mounts(&skips) {
        return;
    }
    for part in ["data/cache", "data"] {
        let user = Sandbox::new();
        let build = plain_build(&user);
        let dir = user.root().join(part);
        std::fs::create_dir_all(&dir).unwrap();
        let mount = Mount::read_only(&dir);
        said_once(&build_with_hook(&build, &user, "true"), &["read-only", "cache", "data directory"]);
        drop(mount);
        skips.done();
    }
}

#[test]
fn cache_becomes_read_only_with_answers_in_it() {
    let skips = Skips::new("read-only warm cache");
    if !mounts(&skips) {
        return;
    }
    let user = Sandbox::new();
    let build = plain_build(&user);
    build_with_hook(&build, &user, "true");
    user.stop();
    let mount = Mount::read_only(&user.data_dir().join("cache"));
    build_with_hook(&build, &user, "true");
    user.stop();
    drop(mount);
    skips.done();
}

/// Every file of the cache, blobs and answers alike.
fn cached_files(user: &Sandbox) -> Vec<std::path::PathBuf> {
    let files = walkdir::WalkDir::new(user.data_dir().join("cache")).into_iter().flatten();
    files.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

fn damaged_cache(damage: impl Fn(&Path)) {
    let user = Sandbox::new();
    let build = plain_build(&user);
    build_with_hook(&build, &user, "true");
    user.stop();
    // Its temporary files go with its process.
    wait_until("the initiator is gone", || user.initiators().is_empty());
    let files = cached_files(&user);
    counted(!files.is_empty(), "the cache is in `cache/` of the data directory");
    for file in &files {
        // Blobs are read-only files; whoever is not root must first be able to write.
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        damage(file);
    }
    said_once(&build_with_hook(&build, &user, "true"), &["damaged"]);
    let healed = build_with_hook(&build, &user, "true");
    counted(complaints(&healed).is_empty(), format!("nothing is wrong any more: {:?}", healed.own));
}

#[test]
fn cache_with_flipped_bits() {
    damaged_cache(|file| {
        let mut bytes = std::fs::read(file).unwrap();
        if let Some(middle) = bytes.len().checked_sub(1).map(|last| last / 2) {
            bytes[middle] ^= 0x10;
        }
        std::fs::write(file, bytes).unwrap();
    });
}

#[test]
fn cache_cut_short() {
    damaged_cache(|file| {
        let length = std::fs::metadata(file).unwrap().len();
        std::fs::File::options().write(true).open(file).unwrap().set_len(length / 2).unwrap();
    });
}

#[test]
fn disk_full_in_the_cache() {
    let skips = Skips::new("full cache");
    if !mounts(&skips) {
        return;
    }
    let user = Sandbox::new();
    let build = plain_build(&user);
    let dir = user.data_dir().join("cache");
    std::fs::create_dir_all(&dir).unwrap();
    let mount = Mount::small(&dir, 256, true);
    said_once(&build_with_hook(&build, &user, "true"), &["cache", "space", "full"]);
    user.stop();
    drop(mount);
    skips.done();
}

#[test]
fn disk_full_for_traces() {
    let skips = Skips::new("no space for traces");
    if !mounts(&skips) {
        return;
    }
    let user = Sandbox::new();
    let build = plain_build(&user);
    counted(complaints(&build_with_hook(&build, &user, "true")).is_empty(), "nothing is wrong");
    let runs = std::fs::read_dir(user.data_dir().join("run")).unwrap().flatten();
    let scratch: Vec<_> = runs.map(|run| run.path().join("scratch")).filter(|dir| dir.is_dir()).collect();
    let mounts: Vec<_> = scratch.iter().map(|dir| Mount::small(dir, 64, true)).collect();
    assert!(!mounts.is_empty());
    let mut command = user.dbuild_command(build.dir(), &["sh", "-c", BUILD]);
    // Nothing of it was made before.
    command.env("HOOK", "true").env("CPATH", user.root().join("none"));
    said_once(&build.run(&mut command, Stdio::Files), &["cache", "space", "full"]);
    user.stop();
    skips.done();
}

#[test]
fn disk_full_in_helpers() {
    let skips = Skips::new("full helpers");
    if !mounts(&skips) || !pool(&skips) {
        return;
    }
    // With one helper of two, another can do the work; with both, this machine must.
    for full in [1, 2] {
        let dirs: Vec<_> = (0..full).map(|_| tempfile::tempdir().unwrap()).collect();
        let mounts: Vec<_> = dirs.iter().map(|dir| Mount::small(dir.path(), 2048, false)).collect();
        let paths: Vec<&Path> = dirs.iter().map(|dir| dir.path()).collect();
        let cluster = TestCluster::start_in(2, &paths);
        let user = Sandbox::of(&cluster);
        let build = plain_build(&user);
        let ran = build_with_hook(&build, &user, "true");
        // The full one of two need not have been given anything: then nothing was slower.
        if full == 2 || !complaints(&ran).is_empty() {
            // With both full, a second line may say that they are set aside.
            said_once(&ran, if full == 2 { &["space"] } else { &["helper"] });
        }
        drop((user.stop(), build, cluster, mounts));
        skips.done();
    }
}

/// Everything that was laid out for the build is gone, the library that its programs preload among it.
#[test]
fn data_directory_removed_during_the_build() {
    let user = Sandbox::new();
    let build = plain_build(&user);
    let ran = build_with_hook(&build, &user, "rm -rf \"$DBUILD_DATA_DIR\"");
    said_once(&ran, &["data directory"]);
    let again = build_with_hook(&build, &user, "true");
    counted(complaints(&again).is_empty(), format!("{:?}", again.own));
}

/// The compiler may have read the source before it went, or not: both are what it would do by itself. That the old
/// answer is not given when another source comes is what counts.
#[test]
fn source_deleted_during_the_build() {
    let user = Sandbox::new();
    let dir = user.fresh_dir("project");
    let slow = Slow::seconds();
    slow.write(&dir);
    let source = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let mut command = user.dbuild_command(&dir, &["sh", "-c", &slow.command()]);
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| run_bounded(&mut command, Stdio::Files));
        slow.wait_until_running();
        std::fs::remove_file(&source).unwrap();
        running.join().unwrap()
    });
    let told = String::from_utf8_lossy(&ran.stderr).contains("No such file");
    assert!(ran.code == 0 || (ran.code == 1 && told), "{ran}");
    std::fs::write(&source, "long value = 6;\n").unwrap();
    user.plain_sh(&dir, &slow.command()).ok();
    let plain = std::fs::read(dir.join("slow.o")).unwrap();
    user.dbuild_sh(&dir, &slow.command()).ok();
    assert_eq!(plain, std::fs::read(dir.join("slow.o")).unwrap());
}
