//! `dbuild COMMAND`: the command must not be able to tell. Exit codes, streams, and every way in which a build comes
//! to call a compiler.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dbuild_tests::{Sandbox, Skips, Stdio, Twice, counted, dbuild, is_stand_in, run_bounded};

#[test]
fn exit_codes_pass_through() {
    let user = Sandbox::new();
    let here = user.root();
    for script in ["exit 0", "exit 1", "exit 7", "exit 255", "kill -TERM $$", "kill -KILL $$", "kill -INT $$"]
    {
        let (plain, wrapped) = (user.plain_sh(here, script), user.dbuild_sh(here, script));
        assert_eq!(plain.code, wrapped.code, "{script}: {wrapped}");
    }
    std::fs::write(here.join("not-executable"), "").unwrap();
    assert_eq!(user.dbuild(here, &["no-such-command-at-all"]).code, 127);
    assert_eq!(user.dbuild(here, &["./not-executable"]).code, 126);
    assert_eq!(user.dbuild(here, &["run", "--", "sh", "-c", "exit 3"]).code, 3);
    if !is_stand_in() {
        assert_eq!(user.dbuild(here, &["run"]).code, 125);
        assert_eq!(user.dbuild(here, &["stats", "--no-such-flag"]).code, 125);
    }
}

#[test]
fn streams_and_environment_are_the_commands_own() {
    let user = Sandbox::new();
    let input = user.root().join("input");
    std::fs::write(&input, b"one\n\xff\0two").unwrap();
    let mut command = user.dbuild_command(user.root(), &["sh", "-c", "cat; echo problem >&2"]);
    command.stdin(std::fs::File::open(&input).unwrap());
    let ran = run_bounded(&mut command, Stdio::Pipes).ok();
    assert_eq!(ran.stdout, b"one\n\xff\0two");
    assert_eq!(ran.stderr, b"problem\n");
}

#[test]
fn a_compiler_sees_nothing_of_dbuild() {
    let user = Sandbox::new();
    let dir = user.fresh_dir("spy");
    // A compiler that is a script: it is run as it is, and tells its environment.
    let spy = "#!/bin/sh\nenv | grep -E '^(DBUILD_(SHIMS|SOCKET|SESSION|EXEC_PATH|TRACE)|LD_PRELOAD)=' >\"$SPY\"\nexec /usr/bin/gcc \"$@\"\n";
    executable(&dir.join("bin/gcc"), spy);
    let mut build = Twice::new(&user, "project", |_| {});
    let script = "PATH=../spy/bin:$PATH SPY=../spy/seen gcc -c a.c";
    build.both(&["sh", "-c", script]);
}

#[test]
fn a_signal_to_dbuild_reaches_the_command() {
    let user = Sandbox::new();
    let script = "trap 'exit 9' TERM; echo ready >\"$READY\"; while :; do sleep 0.05; done";
    let ready = user.root().join("ready");
    let mut command = user.dbuild_command(user.root(), &["sh", "-c", script]);
    let mut child = command.env("READY", &ready).spawn().unwrap();
    dbuild_tests::wait_until("the command is ready", || ready.exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn dbuild_inside_dbuild_is_one() {
    let user = Sandbox::new();
    let mut build = Twice::new(&user, "project", |_| {});
    let inner = dbuild().to_str().unwrap();
    build.plain(&["sh", "-c", "gcc -c a.c && gcc -c b.c && gcc -c m.c"]);
    let before = user.counters();
    let script = format!("gcc -c a.c && {inner} gcc -c b.c && {inner} run -- {inner} sh -c 'gcc -c m.c'");
    build.wrapped(&user, &["sh", "-c", &script]);
    let seen = user.counters().since(&before);
    counted(seen.tasks == 3, format!("three tasks, each counted once: {seen}"));
    counted(user.initiators().len() == 1, "one initiator");
}

#[test]
fn disabled_is_disabled() {
    let user = Sandbox::new();
    let mut build = Twice::new(&user, "project", |_| {});
    let (_, seen) = build.both(&["sh", "-c", "DBUILD_DISABLE=1 gcc -c a.c"]);
    assert_eq!(seen.tasks, 0, "{seen}");
    let mut user = Sandbox::new();
    user.set("DBUILD_DISABLE", "1");
    let mut build = Twice::new(&user, "project", |_| {});
    let (_, seen) = build.both(&["sh", "-c", "gcc -c a.c && /usr/bin/gcc -c b.c"]);
    assert_eq!(seen.tasks, 0, "{seen}");
}

/// An absolute path, as in an already configured tree, from everything that starts programs.
#[test]
fn compilers_are_caught_by_absolute_path() {
    let skips = Skips::new("compilers by absolute path");
    let user = Sandbox::new();
    let doors = compile_doors(&user, &[]).expect("gcc can compile");
    let python = "import os, subprocess, sys\n\
                  way, args = sys.argv[1], sys.argv[2:]\n\
                  if way == 'subprocess': sys.exit(subprocess.call(args))\n\
                  if way == 'execv': os.execv(args[0], args)\n\
                  if way == 'spawn': sys.exit(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(args[0], args, os.environ), 0)[1]))\n";
    let prepare = |dir: &Path| {
        std::fs::write(dir.join("Makefile"), "a.o: a.c\n\t/usr/bin/gcc -c a.c\n").unwrap();
        std::fs::write(dir.join("build.ninja"), NINJA.replace("COMPILER", "/usr/bin/gcc")).unwrap();
        std::fs::write(dir.join("run.py"), python).unwrap();
    };
    let doors = doors.to_str().unwrap();
    let mut ways: Vec<(String, &str, String)> = vec![
        ("make".into(), "make", "make".into()),
        ("make-j".into(), "make", "make -j4".into()),
        ("ninja".into(), "ninja", "ninja a.o".into()),
        ("sh".into(), "sh", "/usr/bin/gcc -c a.c".into()),
        ("sh-child".into(), "sh", "/usr/bin/gcc -c a.c; true".into()),
        ("bash".into(), "bash", "bash -c '/usr/bin/gcc -c a.c; true'".into()),
        ("env".into(), "env", "env X=1 /usr/bin/gcc -c a.c".into()),
        ("xargs".into(), "xargs", "echo a.c | xargs /usr/bin/gcc -c".into()),
        ("find".into(), "find", "find . -name a.c -exec /usr/bin/gcc -c {} ';'".into()),
        ("nice".into(), "nice", "nice timeout 500 /usr/bin/gcc -c a.c".into()),
        ("perl".into(), "perl", "perl -e 'system(\"/usr/bin/gcc\", \"-c\", \"a.c\")'".into()),
    ];
    for way in ["subprocess", "execv", "spawn"] {
        ways.push((
            format!("python-{way}"),
            "/usr/bin/python3",
            format!("/usr/bin/python3 run.py {way} /usr/bin/gcc -c a.c"),
        ));
    }
    for way in
        ["execve", "execv", "execvp", "execvpe", "execveat", "vfork", "posix_spawn", "posix_spawnp", "system"]
    {
        ways.push((way.into(), "sh", format!("{doors} {way} /usr/bin/gcc -c a.c")));
    }
    for (name, tool, script) in ways {
        if !skips.need(tool, &name) {
            continue;
        }
        let mut build =
            Twice::new(&user, &format!("way-{name}"), prepare).without(&[".ninja_log", ".ninja_deps"]);
        let (_, seen) = build.both(&["sh", "-c", &script]);
        counted(seen.tasks == 1, format!("{name}: one task: {seen}"));
        skips.done();
    }
    // Caught or not, the result counts: a descriptor's name says nothing, and these three take arguments without a
    // given number, which a library that stands before the C library cannot pass on.
    for way in ["fexecve", "execl", "execlp", "execle"] {
        let script = format!("{doors} {way} /usr/bin/gcc -c a.c");
        Twice::new(&user, &format!("way-{way}"), prepare).both(&["sh", "-c", &script]);
    }
}

#[test]
fn an_already_configured_cmake_tree_is_caught() {
    let skips = Skips::new("configured CMake tree");
    if !skips.need("cmake", "all of it") || !skips.need("ninja", "all of it") {
        return;
    }
    let user = Sandbox::new();
    for generator in ["Ninja", "Unix Makefiles"] {
        let prepare = |dir: &Path| {
            let lists = "cmake_minimum_required(VERSION 3.10)\nproject(p C CXX)\nadd_executable(p m.c a.c b.c)\nadd_library(x x.cc)\n";
            std::fs::write(dir.join("CMakeLists.txt"), lists).unwrap();
            user.plain(dir, &["cmake", "-S", ".", "-B", "b", "-G", generator]).ok();
        };
        let logs = [
            ".ninja_log",
            ".ninja_deps",
            "CMakeOutput.log",
            "CMakeError.log",
            "CMakeConfigureLog.yaml",
            "progress.marks",
        ];
        let mut build = Twice::new(&user, "tree", prepare).without(&logs);
        let (_, seen) = build.both(&["cmake", "--build", "b", "-j1"]);
        let caught = seen.hits() + seen.local >= 4;
        counted(caught, format!("{generator}: four compiles: {seen}"));
        skips.done();
    }
}

#[test]
fn launchers_on_the_path_are_looked_through() {
    for launcher in ["ccache", "distcc", "icecc"] {
        let mut user = Sandbox::new();
        let marker = user.root().join("launched");
        let bin = user.fresh_dir("bin");
        compile_fixture(&user, "launcher.c", &bin.join(launcher), &[]).expect("gcc can compile");
        let farm = user.fresh_dir("farm");
        for name in ["gcc", "cc", "g++", "c++"] {
            symlink(bin.join(launcher), farm.join(name)).unwrap();
        }
        let path = format!("{}:{}:/usr/bin:/bin", farm.display(), bin.display());
        user.set("PATH", path);
        user.set("MARKER", &marker);
        user.set("LAUNCHER", launcher);
        let mut build = Twice::new(&user, "project", |_| {});
        build.plain(&["sh", "-c", "gcc -c a.c && g++ -c x.cc"]);
        assert!(marker.exists(), "the plain build goes through the launcher");
        std::fs::remove_file(&marker).unwrap();
        let before = user.counters();
        build.wrapped(&user, &["sh", "-c", "gcc -c a.c && g++ -c x.cc"]);
        let seen = user.counters().since(&before);
        counted(seen.tasks == 2, format!("{launcher}: two tasks: {seen}"));
        counted(!marker.exists(), format!("{launcher} must not run"));
        // As a prefix it is a program like others, and what it starts is caught.
        let mut build = Twice::new(&user, "prefix", |_| {});
        build.both(&["sh", "-c", &format!("{launcher} /usr/bin/gcc -c a.c")]);
    }
}

#[test]
fn an_empty_environment_is_no_way_out() {
    let user = Sandbox::new();
    let mut build = Twice::new(&user, "project", |dir| {
        std::fs::write(
            dir.join("Makefile"),
            "all:\n\t/usr/bin/env -i /usr/bin/gcc -c b.c\n\t/usr/bin/env -i PATH=/usr/bin:/bin gcc -c m.c\n",
        )
        .unwrap();
    });
    let (_, seen) = build.both(&["sh", "-c", "env -i /usr/bin/gcc -c a.c && env -i /usr/bin/make"]);
    counted(seen.tasks == 3, format!("three tasks: {seen}"));
    // And dbuild itself with next to nothing.
    let mut build = Twice::new(&user, "bare", |_| {});
    build.plain(&["/usr/bin/gcc", "-c", "a.c"]);
    let mut command = user.dbuild_command(build.dir(), &["/usr/bin/gcc", "-c", "a.c"]);
    command.env_clear().env("DBUILD_DATA_DIR", user.data_dir());
    build.run(&mut command, Stdio::Files);
}

#[test]
fn static_parents_are_never_an_error() {
    let skips = Skips::new("static parents");
    let user = Sandbox::new();
    let Some(doors) = compile_doors(&user, &["-static"]) else {
        return skips.skip("all of it", "no static C library");
    };
    let doors = doors.to_str().unwrap();
    for way in ["execvp", "posix_spawnp"] {
        let mut build = Twice::new(&user, way, |_| {});
        let (_, seen) = build.both(&[doors, way, "gcc", "-c", "a.c"]);
        counted(seen.tasks == 1, format!("{way} by PATH: one task: {seen}"));
        // By absolute path there is no door; only the result counts.
        let mut build = Twice::new(&user, &format!("{way}-absolute"), |_| {});
        build.both(&[doors, way, "/usr/bin/gcc", "-c", "a.c"]);
        skips.done();
    }
}

#[test]
fn set_uid_parents_are_never_an_error() {
    let skips = Skips::new("set-uid parents");
    if !rustix::process::geteuid().is_root() {
        return skips.skip("all of it", "only root can make a program of another user");
    }
    let user = Sandbox::new();
    let doors = compile_doors(&user, &[]).expect("gcc can compile");
    let nobody = Some(65534);
    std::os::unix::fs::chown(&doors, nobody, nobody).unwrap();
    std::fs::set_permissions(&doors, PermissionsExt::from_mode(0o6755)).unwrap();
    for dir in [user.root(), &user.root().join("tmp")] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let mut build = Twice::new(&user, "project", |dir| {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
    });
    build.both(&[doors.to_str().unwrap(), "execvp", "gcc", "-c", "a.c"]);
    skips.done();
}

#[test]
fn builds_at_the_same_time_share_one_initiator() {
    let user = Sandbox::new();
    let makefile = "all: a.o b.o m.o x.o\n%.o: %.c\n\tgcc -c $<\n%.o: %.cc\n\tg++ -c $<\n";
    let prepare = |dir: &Path| std::fs::write(dir.join("Makefile"), makefile).unwrap();
    let mut builds: Vec<Twice> = (0..4).map(|i| Twice::new(&user, &format!("p{i}"), prepare)).collect();
    builds.iter_mut().for_each(|build| build.plain(&["make"]));
    let running: Vec<_> = builds
        .iter()
        .map(|build| {
            build.fresh();
            let mut command = user.dbuild_command(build.dir(), &["make"]);
            std::thread::spawn(move || run_bounded(&mut command, Stdio::Files))
        })
        .collect();
    for (build, running) in builds.iter().zip(running) {
        build.compare(&running.join().unwrap());
    }
    counted(user.initiators().len() == 1, "one initiator");
}

/// What a compiler does when its streams are closed, full or without a reader is its own affair: fail, be killed,
/// remove the object, go on. Each compiler is asked, with nothing to say, a warning and an error.
#[test]
fn streams_that_take_nothing_end_a_compiler_as_they_do_plainly() {
    let skips = Skips::new("streams that take nothing");
    const SCRIPT: &str = "ulimit -c 0; mkfifo p; exec 4<>p 5>p 4<&-; rm p\n\
        for s in quiet warns fails; do\n\
        for how in '<&-' '2>&-' '>&-' '>&- 2>&- <&-' '2>/dev/full' '2>&5' '>&5' '2</dev/null'; do\n\
        rm -f $s.o; eval \"$CC -Wall -c $s.c $how\"; echo \"$s $how: $? $(ls $s.o 2>/dev/null)\"; done\n\
        (trap '' PIPE; rm -f $s.o; $CC -Wall -c $s.c 2>&5; echo \"$s, no signal: $? $(ls $s.o 2>/dev/null)\")\n\
        done 2>/dev/null";
    let prepare = |dir: &Path| {
        std::fs::write(dir.join("quiet.c"), "int quiet;\n").unwrap();
        std::fs::write(dir.join("warns.c"), "int warns(void) { int spare; return 0; }\n").unwrap();
        std::fs::write(dir.join("fails.c"), "int fails(void) { return absent; }\n").unwrap();
    };
    let cluster = dbuild_tests::namespaces_work().then(|| dbuild_tests::TestCluster::start(1));
    for compiler in ["gcc", "clang"] {
        if !skips.need(compiler, compiler) {
            continue;
        }
        let set = |mut user: Sandbox| {
            user.set("CC", compiler);
            user
        };
        let user = set(Sandbox::new());
        let mut build = Twice::new(&user, "project", prepare);
        build.plain(&["sh", "-c", SCRIPT]);
        build.wrapped(&user, &["sh", "-c", SCRIPT]);
        // Now with answers in the cache.
        build.wrapped(&user, &["sh", "-c", SCRIPT]);
        if let Some(cluster) = &cluster {
            let pooled = set(Sandbox::of(cluster));
            build.wrapped(&pooled, &["sh", "-c", SCRIPT]);
            counted(pooled.counters().remote > 0, "helpers were asked");
        }
        skips.done();
    }
}

const NINJA: &str = "rule cc\n  command = COMPILER -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n\
                     build a.o: cc a.c\nbuild b.o: cc b.c\n";

/// ninja waits until every copy of a command's output pipe is closed: an initiator that a shim started must not hold one.
#[test]
fn ninja_does_not_wait_for_the_initiator() {
    let skips = Skips::new("ninja and the initiator");
    if !skips.need("ninja", "all of it") {
        return;
    }
    let user = Sandbox::new();
    let stop = format!("{} stop >/dev/null; gcc", dbuild().display());
    for (name, compiler) in [("first", "gcc"), ("restart", stop.as_str())] {
        let prepare = |dir: &Path| {
            std::fs::write(dir.join("build.ninja"), NINJA.replace("COMPILER", compiler)).unwrap()
        };
        let mut build = Twice::new(&user, name, prepare).without(&[".ninja_log", ".ninja_deps"]);
        build.plain(&["ninja", "-j1"]);
        build.run(&mut user.dbuild_command(build.dir(), &["ninja", "-j1"]), Stdio::Pipes);
        skips.done();
    }
}

/// `fixtures/doors.c`, compiled by the plain compiler.
fn compile_doors(user: &Sandbox, flags: &[&str]) -> Option<PathBuf> {
    compile_fixture(user, "doors.c", &user.root().join("doors"), flags)
}

fn compile_fixture(user: &Sandbox, name: &str, to: &Path, flags: &[&str]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let mut words = vec!["/usr/bin/gcc", source.to_str().unwrap(), "-o", to.to_str().unwrap()];
    words.extend(flags);
    (user.plain(user.root(), &words).code == 0).then(|| to.to_owned())
}

/// Made by another process: a file that this one had open for writing just now could be "busy" because of a fork in
/// another test.
fn executable(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    let installed = std::process::Command::new("install").args(["-m", "755"]).arg(&draft).arg(path).status();
    assert!(installed.unwrap().success());
}

/// In a mount namespace of its own a path means another file: nothing may be answered, or remembered, by paths there.
#[test]
fn compilers_with_another_view_of_the_file_system_are_left_alone() {
    let skips = Skips::new("another view");
    let user = Sandbox::new();
    if user.plain(user.root(), &["unshare", "-rm", "true"]).code != 0 {
        skips.skip("all of it", "this kernel or user has no mount namespaces");
        return;
    }
    let mut build = Twice::new(&user, "project", |dir| {
        for (place, value) in [("seen", 1), ("hidden", 2)] {
            std::fs::create_dir(dir.join(place)).unwrap();
            std::fs::write(dir.join(place).join("v.h"), format!("#define V {value}\n")).unwrap();
        }
        std::fs::write(dir.join("v.c"), "#include \"v.h\"\nint v = V;\n").unwrap();
    });
    let compile = "gcc -Iseen -c v.c";
    let elsewhere = format!("mount --bind hidden seen && {compile}");
    let outside: &[&str] = &["sh", "-c", compile];
    let inside: &[&str] = &["unshare", "-rm", "sh", "-c", &elsewhere];
    for (command, hits) in [(inside, 0), (outside, 0), (outside, 1), (inside, 0), (outside, 1)] {
        let (_, seen) = build.both(command);
        counted(seen.hits_local == hits, format!("{command:?}: {hits} hits, and not {seen}"));
    }
    skips.done();
}
