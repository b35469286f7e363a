//! Frames that the stand-in sends and obeys.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::mpsc;

use dbuild_shims::frame::{Command, Done, Exec, Part, Ran, Run, ToShim};
use dbuild_shims::vars;

use crate::bench::{Bench, shown, stdout_of, variable};

/// A shell command as the initiator would order it.
fn shell(script: &str, cwd: &Path) -> Command {
    Command {
        program: "/bin/sh".into(),
        argv: ["sh", "-c", script].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
        cwd: cwd.into(),
        trace: None,
        pass_on: false,
    }
}

/// Lets a stand-in run `runs`; what it reported, in order, and what it printed itself.
fn run(bench: &Bench, runs: Vec<Command>, parallel: u32) -> (Vec<Ran>, Vec<u8>) {
    let (sender, reports) = mpsc::channel();
    let initiator = bench.initiator(move |talk, _| {
        talk.send(&ToShim::Run(Run { runs: runs.clone(), parallel }));
        for _ in &runs {
            sender.send(talk.ran()).unwrap();
        }
        talk.done("", 0);
    });
    let output = bench.gcc().output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    drop(initiator);
    (reports.try_iter().collect(), output.stdout)
}

#[test]
fn the_call_arrives_as_it_was_made_and_without_anything_of_ours() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    let odd = OsStr::from_bytes(b"-DX=\xff\xfe\n");
    let mut path = bench.path("shims").into_os_string();
    path.push(":");
    path.push(bench.search_path());
    let preload = format!("{}:libm.so.6", bench.path("shims").join(vars::INTERCEPT_FILE).display());
    let script = "umask 027; exec gcc \"$@\"";
    let mut command = bench.command("/bin/sh");
    command.env("LD_PRELOAD", &preload).env("PATH", path).env("DBUILD_COORDINATOR", "http://c");
    assert_eq!(stdout_of(command.args(["-c", script, "sh", "-c"]).arg(odd).arg("")), "caught\n");
    let call = initiator.call();
    assert_eq!(call.argv, [OsStr::new("gcc"), OsStr::new("-c"), odd, OsStr::new("")]);
    assert_eq!(call.compiler_path, bench.path("bin/gcc"));
    assert_eq!(call.cwd, bench.path("work").canonicalize().unwrap());
    assert_eq!((call.session.to_str(), call.umask), (Some("session 1"), 0o027));
    assert!(!call.stderr_tty && !call.stdout_tty && call.streams_usable);
    for ours in vars::OURS {
        assert_eq!(variable(&call.env, ours), None, "{ours}");
    }
    assert_eq!(variable(&call.env, "LD_PRELOAD"), Some(&b"libm.so.6"[..]));
    assert_eq!(variable(&call.env, "PATH"), Some(bench.search_path().as_bytes()));
    assert_eq!(variable(&call.env, "DBUILD_COORDINATOR"), Some(&b"http://c"[..]));
}

#[test]
fn done_prints_any_bytes_and_exits_with_the_code() {
    let bench = Bench::new();
    let part = Part { stdout: b"\x80o\0ut".to_vec(), stderr: b"err\xff\n".to_vec() };
    let answer = ToShim::Done(Done { parts: vec![part.clone()], code: 3 });
    let _initiator = bench.initiator(move |talk, _| talk.send(&answer));
    let output = bench.gcc().output().unwrap();
    assert_eq!((output.stdout, output.stderr), (part.stdout, part.stderr));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn done_repeats_a_death_by_signal() {
    let bench = Bench::new();
    for signal in [15, 9, 11] {
        let initiator = bench.initiator(move |talk, _| talk.done("", Done::code_of(signal)));
        let status = bench.gcc().status().unwrap();
        assert_eq!(status.signal(), Some(signal));
        drop(initiator);
        std::fs::remove_file(bench.path("socket/initiator.sock")).unwrap();
    }
}

#[test]
fn an_answer_that_cannot_be_printed_is_left_to_the_compiler() {
    let bench = Bench::new();
    let initiator = bench.catcher();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(bench.gcc().arg("exit=4").stdout(full).status().unwrap().code(), Some(4));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(bench.gcc().stdout(writer).status().unwrap().signal(), Some(13));
    for script in
        ["exec gcc exit=4 >&-", "exec gcc exit=4 >/dev/null 2>&- <&-", "exec gcc 1</dev/null exit=4"]
    {
        let status = bench.command("sh").args(["-c", script]).status().unwrap();
        let printed = script.contains(">/dev/null");
        assert_eq!(status.code(), Some(if printed { 0 } else { 4 }), "{script}");
    }
    let usable: Vec<bool> = initiator.calls().iter().map(|call| call.streams_usable).collect();
    assert_eq!(usable, [true, false, false, false, false], "a full disk is seen only by trying");
}

#[test]
fn exec_replaces_the_process_and_keeps_the_socket_open_until_the_program_ends() {
    let bench = Bench::new();
    let (told, hears) = mpsc::channel();
    let initiator = bench.initiator(move |talk, _| {
        talk.send(&ToShim::Exec(Exec {
            program: "/bin/sh".into(),
            argv: ["name", "-c", "echo $0 $A; read x; exit 3"].map(OsString::from).to_vec(),
            env: vec![("A".into(), "1".into())],
        }));
        // end of file comes with the program's end, which needs a line on its stdin
        told.send(talk.stream.try_clone().unwrap()).unwrap();
        assert_eq!(talk.hear(), None);
    });
    let mut child = bench.gcc().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = [0; 7];
    std::io::Read::read_exact(&mut stdout, &mut line).unwrap();
    assert_eq!(&line, b"name 1\n");
    // the program runs: nothing has come, and the connection is open
    let stream = hears.recv().unwrap();
    stream.set_nonblocking(true).unwrap();
    let error = std::io::Read::read(&mut &stream, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    drop(initiator);
}

#[test]
fn run_captures_output_status_and_times() {
    let bench = Bench::new();
    let script = "echo out; echo err >&2; pwd; exit 4";
    let (reports, printed) = run(&bench, vec![shell(script, &bench.path("bin"))], 1);
    let [ran] = &reports[..] else { panic!("{reports:?}") };
    let here = bench.path("bin").canonicalize().unwrap();
    assert_eq!(ran.stdout, format!("out\n{}\n", here.display()).into_bytes());
    assert_eq!((&ran.stderr[..], ran.status, ran.spawn_errno), (&b"err\n"[..], 4 << 8, 0));
    assert!(!ran.truncated && ran.wall_us > 0);
    assert!(printed.is_empty());
}

#[test]
fn run_reports_signals_and_what_could_not_be_started() {
    let bench = Bench::new();
    let mut missing = shell("", &bench.path("work"));
    missing.program = bench.path("nothing");
    let runs = vec![shell("kill -TERM $$", &bench.path("work")), missing];
    let (reports, _) = run(&bench, runs, 1);
    assert_eq!((reports[0].index, reports[0].status, reports[0].spawn_errno), (0, 15, 0));
    assert_eq!((reports[1].index, reports[1].status, reports[1].spawn_errno), (1, 127 << 8, 2));
}

#[test]
fn parallel_runs_are_alive_at_the_same_time() {
    let bench = Bench::new();
    let work = bench.path("work");
    assert!(Process::new("mkfifo").arg(work.join("pipe")).status().unwrap().success());
    // neither can end without the other
    let runs = vec![shell("cat pipe", &work), shell("echo through > pipe", &work)];
    let (mut reports, _) = run(&bench, runs, 2);
    reports.sort_by_key(|ran| ran.index);
    assert_eq!(reports[0].stdout, b"through\n");
}

#[test]
fn what_is_left_in_the_background_is_not_waited_for() {
    let bench = Bench::new();
    let work = bench.path("work");
    assert!(Process::new("mkfifo").arg(work.join("pipe")).status().unwrap().success());
    // the background process holds stdout open until somebody opens the pipe, which is after the report
    let (reports, _) = run(&bench, vec![shell("cat pipe & echo here", &work)], 1);
    assert_eq!(reports[0].stdout, b"here\n");
    std::fs::write(work.join("pipe"), "end").unwrap();
}

#[test]
fn what_is_to_be_passed_on_is_printed_before_the_end_and_captured() {
    let bench = Bench::new();
    let work = bench.path("work");
    assert!(Process::new("mkfifo").arg(work.join("pipe")).status().unwrap().success());
    // the second ends only when the first line was printed
    let mut waiting = shell("echo first; cat pipe; echo last >&2", &work);
    waiting.pass_on = true;
    let run = Run { runs: vec![waiting], parallel: 1 };
    let initiator = bench.initiator(move |talk, _| {
        talk.send(&ToShim::Run(run.clone()));
        let ran = talk.ran();
        assert!(ran.printed && !ran.truncated);
        assert_eq!((&ran.stdout[..], &ran.stderr[..]), (&b"first\nopened\n"[..], &b"last\n"[..]));
        talk.done("", 0);
    });
    let mut shim = bench.gcc().stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(shim.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "first\n");
    std::fs::write(work.join("pipe"), "opened\n").unwrap();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "first\nopened\n");
    assert!(shim.wait().unwrap().success());
    drop(initiator);
}

/// Whatever the end of the call is, what was printed before comes once.
#[test]
fn what_was_printed_before_the_end_is_not_printed_again() {
    let bench = Bench::new();
    let work = bench.path("work");
    // The source was changed in between: another line before, and the word once more, which cargo must not hear.
    let word = |name: &str| {
        format!(r#"{{"$message_type":"artifact","artifact":"{name}","emit":"metadata"}}"#) + "\n"
    };
    let (early, other) = (format!("early\n{}", word("a.rmeta")), word("b.rmeta"));
    let late = format!("new\nearly\n{other}late");
    std::fs::write(work.join("late"), &late).unwrap();
    let mut again = shell("cat late >&2", &work);
    again.pass_on = true;
    let exec = Exec { program: again.program.clone(), argv: again.argv.clone(), env: again.env.clone() };
    let run = Run { runs: vec![again], parallel: 1 };
    for end in ["done", "run", "exec"] {
        let (exec, run) = (exec.clone(), run.clone());
        let (early, late, printed) = (early.clone(), late.clone(), format!("{early}new\nlate"));
        let initiator = bench.initiator(move |talk, _| {
            talk.send(&ToShim::Print(early.clone().into()));
            match end {
                "done" => {
                    let part = Part { stdout: Vec::new(), stderr: late.clone().into() };
                    talk.send(&ToShim::Done(Done { parts: vec![part], code: 0 }));
                }
                "run" => {
                    talk.send(&ToShim::Run(run.clone()));
                    talk.ran();
                    talk.done("", 0);
                }
                _ => talk.send(&ToShim::Exec(exec.clone())),
            }
        });
        let output = bench.gcc().output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), printed, "{end}");
        assert!(output.status.success(), "{end}");
        drop(initiator);
        std::fs::remove_file(bench.path("socket/initiator.sock")).unwrap();
    }
}

#[test]
fn too_much_output_is_passed_on_and_marked() {
    let bench = Bench::new();
    let (reports, printed) = run(&bench, vec![shell("head -c 9000000 /dev/zero", &bench.path("work"))], 1);
    assert!(reports[0].truncated && reports[0].printed && reports[0].stdout.len() <= 8 << 20);
    assert_eq!(printed.len(), 9_000_000);
}
