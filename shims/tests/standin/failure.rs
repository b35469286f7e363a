//! When dbuild cannot help: the compiler runs all the same, and the reason is noted.

use std::fs;
use std::io::Write;
use std::process::Command as Process;

use dbuild_shims::frame::{Command, Run, ToShim};
use dbuild_shims::vars;

use crate::bench::{Bench, Initiator, stdout_of};

#[test]
fn an_initiator_that_closes_costs_nothing_but_the_help() {
    let bench = Bench::new();
    let _initiator = bench.initiator(|_, _| {});
    let output = bench.gcc().args(["a b", "exit=5"]).output().unwrap();
    assert_eq!(output.stdout, b"real gcc a b exit=5\n");
    assert!(output.stderr.is_empty());
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(bench.fallbacks(), "the initiator closed the connection\n");
}

#[test]
fn an_answer_that_is_no_frame_is_not_obeyed() {
    let bench = Bench::new();
    let _initiator = bench.initiator(|talk, _| {
        talk.stream.write_all(&[2, 0, 0, 0, 99, 1]).unwrap();
    });
    assert_eq!(stdout_of(&mut bench.gcc()), "real gcc\n");
    assert_eq!(bench.fallbacks(), "failed to decode a frame of unknown kind 99\n");
}

#[test]
fn a_result_that_is_there_is_not_computed_again() {
    let bench = Bench::new();
    let _initiator = bench.initiator(|talk, call| {
        let command = Command {
            program: call.compiler_path.clone(),
            argv: call.argv.clone(),
            env: call.env.clone(),
            cwd: call.cwd.clone(),
            trace: None,
            pass_on: false,
        };
        talk.send(&ToShim::Run(Run { runs: vec![command], parallel: 1 }));
        talk.ran();
        // and dies
    });
    let log = bench.path("log");
    let argument = format!("log={}", log.display());
    let output = bench.gcc().args([&argument[..], "exit=6"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("real gcc {argument} exit=6\n"));
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(fs::read_to_string(log).unwrap(), "ran\n");
    assert_eq!(bench.fallbacks(), "the initiator closed the connection\n");
}

#[test]
fn a_program_that_cannot_be_executed_is_replaced_by_the_compiler() {
    let bench = Bench::new();
    let program = bench.path("nothing");
    let _initiator = bench.initiator(move |talk, _| {
        let exec = dbuild_shims::frame::Exec { program: program.clone(), argv: Vec::new(), env: Vec::new() };
        talk.send(&ToShim::Exec(exec));
        assert_eq!(talk.hear(), None);
    });
    assert_eq!(stdout_of(&mut bench.gcc()), "real gcc\n");
    assert!(bench.fallbacks().contains("could not be executed"));
}

#[test]
fn an_initiator_is_started_and_waited_for() {
    let bench = Bench::new();
    let pipe = bench.path("pipe");
    assert!(Process::new("mkfifo").arg(&pipe).status().unwrap().success());
    // what is started says so and what it was called with; then the test itself becomes the initiator
    let exe = bench.script(
        "dbuild",
        &format!("#!/bin/sh\necho \"$1 $DBUILD_SOCKET $LD_PRELOAD$DBUILD_SHIMS\" > {}\n", pipe.display()),
    );
    let mut child = bench.gcc().env(vars::EXE, exe).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let told = fs::read_to_string(&pipe).unwrap();
    assert_eq!(told, format!("initiator {} \n", bench.text("socket")));
    let _initiator = Initiator::start(bench.listen(), |talk, _| talk.done("caught\n", 0));
    assert!(child.wait().unwrap().success());
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut child.stdout.unwrap(), &mut printed).unwrap();
    assert_eq!(printed, "caught\n");
    assert_eq!(bench.fallbacks(), "");
}

#[test]
fn a_start_that_failed_is_not_tried_by_every_compile() {
    let bench = Bench::new();
    let exe = bench.script("dbuild", &format!("#!/bin/sh\necho started >> {}\n", bench.text("log")));
    for _ in 0..3 {
        assert_eq!(stdout_of(bench.gcc().env(vars::EXE, &exe)), "real gcc\n");
    }
    assert_eq!(fs::read_to_string(bench.path("log")).unwrap(), "started\n");
    let reasons = bench.fallbacks();
    assert_eq!(reasons.lines().count(), 3);
    assert!(reasons.starts_with("no initiator answers"));
    assert!(reasons.ends_with("the initiator could not be started a moment ago\n"));
}

#[test]
fn without_a_way_to_start_one_nobody_waits() {
    let bench = Bench::new();
    assert_eq!(stdout_of(&mut bench.gcc()), "real gcc\n");
    assert!(bench.fallbacks().starts_with("no initiator answers"));
    let missing = bench.path("no/such/directory");
    assert_eq!(stdout_of(bench.gcc().env(vars::SOCKET, missing)), "real gcc\n");
    assert!(bench.fallbacks().contains("no initiator can be started"));
}

#[test]
fn a_socket_with_a_long_path_is_reached() {
    let bench = Bench::new();
    let deep = bench.path(&format!("socket/{}", "long".repeat(40)));
    fs::create_dir(&deep).unwrap();
    let _initiator = bench.catcher();
    fs::rename(bench.path("socket/initiator.sock"), deep.join("initiator.sock")).unwrap();
    assert_eq!(stdout_of(bench.gcc().env(vars::SOCKET, &deep)), "caught\n");
    // back, so that the initiator can be told to end
    fs::rename(deep.join("initiator.sock"), bench.path("socket/initiator.sock")).unwrap();
}
