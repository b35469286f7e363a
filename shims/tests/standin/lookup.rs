//! Which compiler the stand-in takes a call for.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;

use dbuild_shims::vars;

use crate::bench::{Bench, stdout_of, variable};

/// The shims before everything else on `PATH`.
fn shims_first(bench: &Bench) -> OsString {
    let mut path = bench.path("shims").into_os_string();
    path.push(":");
    path.push(bench.search_path());
    path
}

#[test]
fn a_launcher_is_looked_through() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    for dir in ["launchers", "lib"] {
        fs::create_dir(bench.path(dir)).unwrap();
    }
    fs::hard_link(bench.path("bin/gcc"), bench.path("lib/ccache")).unwrap();
    symlink("../lib/ccache", bench.path("launchers/gcc")).unwrap();
    let path = format!("{}:{}", bench.text("launchers"), bench.search_path().to_str().unwrap());
    // over PATH, and as the interceptor would name it
    assert_eq!(stdout_of(bench.gcc().env("PATH", &path)), "caught\n");
    let caught = stdout_of(bench.gcc().env("PATH", &path).env(vars::EXEC_PATH, bench.path("launchers/gcc")));
    assert_eq!(caught, "caught\n");
    for call in initiator.calls() {
        assert_eq!(call.compiler_path, bench.path("bin/gcc"));
    }
    // with no compiler behind it, the launcher is left to itself
    let alone = bench.path("launchers");
    assert_eq!(stdout_of(bench.gcc().env("PATH", alone)), "real gcc\n");
    assert_eq!(initiator.calls().len(), 2);
}

#[test]
fn a_compiler_that_is_a_script_runs_and_what_it_calls_is_caught() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    fs::rename(bench.path("bin/gcc"), bench.path("bin/gcc-9")).unwrap();
    bench.script("bin/gcc", "#!/bin/sh\nexec gcc-9 -first \"$@\"\n");
    for how in [bench.gcc().env("PATH", shims_first(&bench)), bench.command("gcc").arg("-c")] {
        assert_eq!(stdout_of(how), "caught\n");
    }
    let calls = initiator.calls();
    assert_eq!(calls[0].argv, ["gcc-9", "-first"]);
    assert_eq!(calls[1].argv, ["gcc-9", "-first", "-c"]);
    assert!(calls.iter().all(|call| call.compiler_path == bench.path("bin/gcc-9")));
}

#[test]
fn a_call_by_the_shims_own_path_is_one_of_the_real_compiler() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    assert_eq!(stdout_of(&mut bench.command(bench.path("shims/gcc"))), "caught\n");
    let call = initiator.call();
    assert_eq!(call.argv, [bench.path("bin/gcc")]);
    assert_eq!(call.compiler_path, bench.path("bin/gcc"));
}

#[test]
fn what_is_not_there_is_not_found() {
    let bench = Bench::new();
    let _initiator = bench.catcher();
    for mut command in [bench.gcc(), bench.command(bench.path("shims/dbuild-shim"))] {
        let output = command.env("PATH", bench.path("shims")).output().unwrap();
        assert_eq!(output.status.code(), Some(127));
        assert!(output.stderr.ends_with(b": command not found\n"));
    }
}

#[test]
fn disabled_means_the_real_compiler_and_no_call() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    assert_eq!(stdout_of(bench.gcc().env(vars::DISABLE, "1")), "real gcc\n");
    assert_eq!(stdout_of(bench.gcc().env_remove(vars::SOCKET)), "real gcc\n");
    assert!(initiator.calls().is_empty());
    assert_eq!(bench.fallbacks(), "");
}

#[test]
fn a_variable_that_is_not_text_survives() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    let odd = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff=\x01");
    stdout_of(bench.gcc().env("ODD", odd));
    assert_eq!(variable(&initiator.call().env, "ODD"), Some(&b"\xff=\x01"[..]));
}
