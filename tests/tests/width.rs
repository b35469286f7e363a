//! A build that says nothing of how many jobs it wants gets the pool's width; whoever says something is obeyed.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use dbuild_tests::{Sandbox, Skips, TestCluster, counted, is_stand_in, namespaces_work};

/// Says what make was told; `own.mk` and `serial.mk` are makefiles that decide by themselves, `outer.mk` one that
/// starts another make.
fn makefiles(dir: &Path) {
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write("Makefile", "all:\n\t@echo \"[$(filter -j%,$(MAKEFLAGS))]\"\n");
    write("own.mk", "MAKEFLAGS += -j1\ninclude Makefile\n");
    write("outer.mk", "all:\n\t@$(MAKE) --no-print-directory -f Makefile\n");
    // Each waits for the other: serially they would do so for ever.
    write("pair.mk", "all: a b\na: ; @echo through >pipe\nb: ; @cat pipe\n");
    write("serial.mk", ".NOTPARALLEL:\nall: a b c\na b c: ; @echo begin $@; sleep 0.1; echo end $@\n");
    // What stands for ninja and cmake says what it was told.
    for name in ["ninja", "cmake", "cargo"] {
        write(name, "#!/bin/sh\necho \"$@ [$CMAKE_BUILD_PARALLEL_LEVEL$CARGO_BUILD_JOBS]\"\n");
        std::fs::set_permissions(dir.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
}

#[track_caller]
fn says(user: &Sandbox, dir: &Path, script: &[&str], expected: &str) {
    let ran = user.dbuild(dir, script).ok();
    counted(ran.stdout == expected.as_bytes(), format!("{script:?} should say {expected:?}: {ran}"));
}

#[test]
fn silence_is_filled_in_with_the_pools_width() {
    let skips = Skips::new("width by itself");
    if is_stand_in() || !namespaces_work() {
        return skips.skip("all of it", "it needs a pool");
    }
    let cluster = TestCluster::start(2);
    let mut user = Sandbox::of(&cluster);
    let dir = user.fresh_dir("project");
    makefiles(&dir);
    // Two helpers with two slots each.
    says(&user, &dir, &["make"], "[-j4]\n");
    says(&user, &dir, &["sh", "-c", "make"], "[-j4]\n");
    says(&user, &dir, &["make", "-f", "outer.mk"], "[-j4]\n");
    user.plain_sh(&dir, "mkfifo pipe").ok();
    says(&user, &dir, &["make", "-f", "pair.mk"], "through\n");
    says(&user, &dir, &["./cmake", "--build", "b"], "--build b [4]\n");
    let told = String::from_utf8(user.dbuild(&dir, &["./ninja", "all"]).ok().stdout).unwrap();
    let jobs: u32 = told.strip_prefix("-j").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(jobs >= 4 && told.ends_with(" all []\n"), "{told}");
    says(&user, &dir, &["./cargo", "build"], "build [4]\n");
    // Who says something is obeyed.
    says(&user, &dir, &["./cargo", "build", "-j3"], "build -j3 []\n");
    std::fs::create_dir(dir.join(".cargo")).unwrap();
    std::fs::write(dir.join(".cargo/config.toml"), "[build]\njobs = 1\n").unwrap();
    says(&user, &dir, &["./cargo", "build"], "build []\n");
    says(&user, &dir, &["make", "-j2"], "[-j2]\n");
    says(&user, &dir, &["sh", "-c", "make -j1; make -j3 -f outer.mk"], "[-j1]\n[-j3]\n");
    says(&user, &dir, &["sh", "-c", "MAKEFLAGS= make"], "[]\n");
    says(&user, &dir, &["./ninja", "-k0", "-j1"], "-k0 -j1 []\n");
    says(&user, &dir, &["./cmake", "--build", "b", "--parallel", "3"], "--build b --parallel 3 []\n");
    let serial = user.plain(&dir, &["make", "-f", "serial.mk"]).ok();
    assert_eq!(serial.difference(&user.dbuild(&dir, &["make", "-f", "serial.mk"])), None);
    user.set("MAKEFLAGS", "-k -j3");
    says(&user, &dir, &["make"], "[-j3]\n");
    user.set("MAKEFLAGS", "");
    user.set("DBUILD_LOCAL_SLOTS", "3");
    says(&user, &dir, &["make"], "[-j7]\n");
    user.set("DBUILD_WIDEN", "0");
    says(&user, &dir, &["make"], "[]\n");
    skips.done();
}

#[test]
fn without_a_pool_nothing_is_filled_in() {
    let mut user = Sandbox::new();
    let dir = user.fresh_dir("project");
    makefiles(&dir);
    says(&user, &dir, &["make"], "[]\n");
    says(&user, &dir, &["./ninja", "all"], "all []\n");
    // Port 9 (discard) is closed on any machine that runs tests.
    user.set("DBUILD_COORDINATOR", "http://127.0.0.1:9");
    says(&user, &dir, &["make"], "[]\n");
}

/// With every slot of the pool taken, free slots here are used; what comes out is the same.
#[test]
fn the_client_helps_out_when_the_pool_is_full() {
    let skips = Skips::new("helping out");
    if !namespaces_work() {
        skips.skip("all of it", "the kernel refuses user namespaces");
        return;
    }
    const UNITS: usize = 40;
    let cluster = TestCluster::start(1);
    let mut user = Sandbox::of(&cluster);
    let dir = user.fresh_dir("project");
    for n in 0..UNITS {
        std::fs::write(dir.join(format!("u{n}.c")), format!("int u{n}(int x) {{ return x + {n}; }}\n"))
            .unwrap();
    }
    let objects: Vec<String> = (0..UNITS).map(|n| format!("u{n}.o")).collect();
    let script = format!("make -s -j8 CC=gcc CFLAGS='-O2 -g' {}", objects.join(" "));
    let read = || objects.iter().map(|object| std::fs::read(dir.join(object)).unwrap()).collect::<Vec<_>>();
    user.plain_sh(&dir, &script).ok();
    let plain = read();
    user.set("DBUILD_LOCAL_SLOTS", "1");
    user.plain_sh(&dir, "rm *.o").ok();
    user.dbuild_sh(&dir, &script).ok();
    assert!(read() == plain, "an object differs");
    let counters = user.counters();
    assert!(counters.local > 0 && counters.gave_reason("helpers are busy"), "{counters}");
    assert!(counters.remote > 0, "{counters}");
    assert_eq!((counters.remote + counters.local, counters.fallbacks), (UNITS as u64, 0), "{counters}");
    skips.done();
}
