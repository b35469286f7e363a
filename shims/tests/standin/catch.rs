//! Calls by absolute path, caught by the interceptor in whatever program makes them.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use dbuild_shims::vars;

use crate::artefacts::artefacts;
use crate::bench::{Bench, has, stdout_of};

/// Checks that `command`, run once, calls the compiler at `bin/gcc` once, through the stand-in.
fn is_caught(bench: &Bench, command: &mut Command) {
    let initiator = bench.catcher();
    let printed = stdout_of(command);
    let calls = initiator.calls();
    assert_eq!(calls.len(), 1, "{command:?} printed {printed}");
    assert!(printed.contains("caught"), "{command:?} printed {printed}");
    assert_eq!(calls[0].compiler_path, bench.path("bin/gcc"));
    drop(initiator);
    fs::remove_file(bench.path("socket/initiator.sock")).unwrap();
}

#[test]
fn every_function_of_the_family() {
    let bench = Bench::new();
    let path = bench.path("bin/gcc");
    for how in ["execv", "execve", "execvp", "execvpe", "execveat", "vfork", "posix_spawn", "posix_spawnp"] {
        is_caught(&bench, bench.command(&artefacts().starter).arg(how).arg(&path).arg("-c"));
    }
    // those that search PATH, with a bare name
    for how in ["execvp", "execvpe", "vfork", "posix_spawnp"] {
        is_caught(&bench, bench.command(&artefacts().starter).args([how, "gcc", "-c"]));
    }
}

#[test]
fn failures_are_those_of_the_real_functions() {
    let bench = Bench::new();
    let _initiator = bench.catcher();
    let nothing = bench.text("bin/nothing-gcc");
    bench.write("bin/plain-gcc", "not executable");
    let plain = bench.text("bin/plain-gcc");
    for how in ["execv", "execvp", "vfork", "posix_spawn"] {
        for program in [&nothing, &plain] {
            let run = |command: &mut Command| command.args([how, program]).output().unwrap();
            let with = run(&mut bench.command(&artefacts().starter));
            let without = run(&mut Command::new(&artefacts().starter));
            assert_eq!(with, without, "{how} {program}");
        }
    }
}

#[test]
fn a_shell() {
    let bench = Bench::new();
    let path = bench.text("bin/gcc");
    is_caught(&bench, bench.command("sh").args(["-c", &format!("{path} -c x.c; true")]));
    is_caught(&bench, bench.command("sh").args(["-c", &format!("exec {path} -c x.c")]));
    is_caught(&bench, bench.command("sh").args(["-c", "gcc -c x.c"]));
}

#[test]
fn make() {
    if has("make") {
        let bench = Bench::new();
        let path = bench.text("bin/gcc");
        // directly, and through its shell
        bench.write(
            "work/Makefile",
            &format!("direct:\n\t@{path} -c x.c\nshell:\n\t@{path} -c x.c && true\n"),
        );
        is_caught(&bench, bench.command("make").arg("direct"));
        is_caught(&bench, bench.command("make").arg("shell"));
    }
}

#[test]
fn python() {
    if has("python3") {
        let bench = Bench::new();
        let path = bench.text("bin/gcc");
        for code in [
            "import subprocess, sys; subprocess.check_call(sys.argv[1:])",
            "import subprocess, sys; subprocess.check_call(sys.argv[1:], close_fds=False)",
            "import os, sys; os.waitpid(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)",
            "import os, sys; os.waitpid(os.posix_spawnp('gcc', sys.argv[1:], os.environ), 0)",
            "import os, sys; os.execv(sys.argv[1], sys.argv[1:])",
        ] {
            is_caught(&bench, bench.command("python3").args(["-c", code, &path, "-c"]));
        }
    }
}

#[test]
fn ninja() {
    if has("ninja") {
        let bench = Bench::new();
        let rule = format!("rule cc\n  command = {} -c x.c\nbuild x: cc\n", bench.text("bin/gcc"));
        bench.write("work/build.ninja", &rule);
        is_caught(&bench, &mut bench.command("ninja"));
    }
}

#[test]
fn cmake() {
    if has("cmake") {
        let bench = Bench::new();
        let script = format!("execute_process(COMMAND {} -c x.c)\n", bench.text("bin/gcc"));
        bench.write("work/run.cmake", &script);
        is_caught(&bench, bench.command("cmake").args(["-P", "run.cmake"]));
    }
}

#[test]
fn variables_that_a_build_drops_come_back() {
    let bench = Bench::new();
    let path = bench.text("bin/gcc");
    let script = format!("{path} -c x.c; true");
    is_caught(&bench, bench.command("env").args(["-u", "LD_PRELOAD", "sh", "-c", &script]));
    is_caught(&bench, bench.command("env").args(["-u", vars::SHIMS, "sh", "-c", &script]));
    is_caught(&bench, bench.command("env").args(["-i", "PATH=/bin:/usr/bin", "sh", "-c", &script]));
    // a script keeps it as well as a program does
    let tool = bench.script("work/tool", &format!("#!/bin/sh\n{script}\n"));
    is_caught(&bench, bench.command("env").args(["-u", "LD_PRELOAD"]).arg(tool));
}

#[test]
fn a_library_that_the_user_preloads_stays() {
    let bench = Bench::new();
    let print = "import os; print(os.environ['LD_PRELOAD'])";
    if has("python3") {
        let intercept = bench.text("shims/libdbuild_intercept.so");
        let mut command = bench.command("env");
        command.args(["LD_PRELOAD=libm.so.6", "python3", "-c", print]);
        assert_eq!(stdout_of(&mut command), format!("{intercept}:libm.so.6\n"));
    }
}

#[test]
fn disabled_means_nothing_is_caught() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    let path = bench.text("bin/gcc");
    let disabled = stdout_of(bench.command("sh").args(["-c", &format!("{path} 1")]).env(vars::DISABLE, "1"));
    assert_eq!(disabled, format!("real {path} 1\n"));
    let script = format!("DBUILD_DISABLE=1 {path} 1");
    assert_eq!(stdout_of(bench.command("sh").args(["-c", &script])), format!("real {path} 1\n"));
    // no dbuild around: the library is just there
    let unset = stdout_of(bench.command("sh").args(["-c", &format!("{path} 1")]).env_remove(vars::SHIMS));
    assert_eq!(unset, format!("real {path} 1\n"));
    assert!(initiator.calls().is_empty());
}

#[test]
fn a_shim_that_is_gone_is_not_missed() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    fs::remove_file(bench.path("shims/dbuild-shim")).unwrap();
    for how in ["execvp", "posix_spawnp", "vfork"] {
        let printed = stdout_of(bench.command(&artefacts().starter).args([how, "gcc", "1"]));
        assert_eq!(printed, "real gcc 1\n", "{how}");
    }
    assert!(initiator.calls().is_empty());
}

#[test]
fn a_static_program_finds_the_shims_on_path() {
    let bench = Bench::new();
    let Some(starter) = &artefacts().static_starter else {
        return eprintln!("SKIPPED: no static C library");
    };
    // the interceptor in sh puts them there for the static child alone
    let script = format!("{} execvp gcc -c", starter.display());
    is_caught(&bench, bench.command("sh").args(["-c", &format!("{script}; true")]));
}

#[test]
fn a_dynamic_program_never_sees_the_shims_on_path() {
    let bench = Bench::new();
    let expected = format!("{}\n", bench.search_path().to_str().unwrap());
    let print = ["sh", "-c", "echo $PATH"];
    assert_eq!(stdout_of(bench.command("sh").args(&print[1..])), expected);
    assert_eq!(stdout_of(bench.command("env").args(print)), expected);
    // not even if it comes from where there is no interceptor
    let mut path = bench.path("shims").into_os_string();
    path.push(":");
    path.push(bench.search_path());
    assert_eq!(stdout_of(bench.command("sh").args(&print[1..]).env("PATH", &path)), expected);
    if let Some(starter) = &artefacts().static_starter {
        let mut args: Vec<&OsStr> = vec![starter.as_os_str(), OsStr::new("execvp")];
        args.extend(print.iter().map(OsStr::new));
        assert_eq!(stdout_of(bench.command("env").args(args)), expected);
    }
}
