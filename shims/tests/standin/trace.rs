//! Compiles in trace mode: what a compiler and its parts looked at is in the trace.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use dbuild_shims::frame::{Command, Ran, Run, ToShim};
use dbuild_shims::trace::{self, Kind, Outcome, Trace};

use crate::artefacts::artefacts;
use crate::bench::{Bench, has, shown};

/// A record without its lifetime.
type Seen = (Kind, Outcome, PathBuf);

/// Runs `argv` under a trace through the stand-in.
fn traced(bench: &Bench, argv: &[&str], capacity: u64) -> (Ran, Trace) {
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|dir| dir.join(argv[0]))
        .find(|path| path.is_file())
        .unwrap();
    let file = bench.path("trace");
    trace::create(&file, capacity).unwrap();
    let command = Command {
        program,
        argv: argv.iter().map(OsString::from).collect(),
        env: vec![("PATH".into(), std::env::var_os("PATH").unwrap()), ("LC_ALL".into(), "C".into())],
        cwd: bench.path("work"),
        trace: Some(file.clone()),
        pass_on: false,
    };
    let (sender, reports) = mpsc::channel();
    let initiator = bench.initiator(move |talk, _| {
        talk.send(&ToShim::Run(Run { runs: vec![command.clone()], parallel: 1 }));
        sender.send(talk.ran()).unwrap();
        talk.done("", 0);
    });
    let output = bench.gcc().output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    drop(initiator);
    fs::remove_file(bench.path("socket/initiator.sock")).unwrap();
    let trace = Trace::read(&file).unwrap();
    fs::remove_file(file).unwrap();
    (reports.recv().unwrap(), trace)
}

fn seen(trace: &Trace) -> HashSet<Seen> {
    let records = trace.records().map(Result::unwrap);
    records.map(|record| (record.kind, record.outcome, record.path.to_owned())).collect()
}

/// The source of a compile with an absent header, a found one, and a file for the assembler.
fn sources(bench: &Bench) {
    let work = bench.path("work");
    fs::create_dir(work.join("first")).unwrap();
    fs::create_dir(work.join("second")).unwrap();
    bench.write("work/second/found.h", "#define FOUND 1\n");
    bench.write("work/blob.bin", "some bytes");
    let source = "#include <found.h>\n#if __has_include(<optional.h>)\n#error\n#endif\n\
                  __asm__(\".section .rodata\\n.incbin \\\"blob.bin\\\"\\n.text\");\nint x = FOUND;\n";
    bench.write("work/x.c", source);
}

fn compiles_and_shows_everything(compiler: &str) {
    let bench = Bench::new();
    sources(&bench);
    let argv = [compiler, "-c", "-Ifirst", "-Isecond", "x.c", "-o", "x.o"];
    let (ran, trace) = traced(&bench, &argv, trace::DEFAULT_CAPACITY);
    assert_eq!((ran.status, &ran.stderr[..]), (0, &b""[..]), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(trace.complete(), "overflowed {} blind {}", trace.overflowed(), trace.blind());
    let seen = seen(&trace);
    let work = bench.path("work");
    let has = |kind, outcome, path: &Path| seen.contains(&(kind, outcome, path.to_owned()));
    for name in ["x.c", "second/found.h", "blob.bin"] {
        assert!(has(Kind::OpenRead, Outcome::Found, &work.join(name)), "{compiler} {name}: {seen:#?}");
    }
    for name in ["first/found.h", "first/optional.h", "second/optional.h"] {
        let path = work.join(name);
        let absent = seen.iter().any(|(_, outcome, other)| *other == path && *outcome == Outcome::Absent);
        // clang remembers a directory that is not there or lists it, but asks for each name in one that is
        assert!(absent, "{compiler} {name}: {seen:#?}");
    }
    let wrote = seen.iter().any(|(kind, outcome, path)| {
        matches!(kind, Kind::OpenWrite | Kind::Rename)
            && *outcome == Outcome::Found
            && path.starts_with(&work)
    });
    assert!(wrote, "{seen:#?}");
    assert!(work.join("x.o").is_file());
}

#[test]
fn gcc() {
    if has("gcc") {
        compiles_and_shows_everything("gcc");
    }
}

#[test]
fn clang() {
    if has("clang") {
        compiles_and_shows_everything("clang");
    }
}

#[test]
fn the_parts_of_the_compiler_and_their_temporary_files_show() {
    if !has("gcc") {
        return;
    }
    let bench = Bench::new();
    sources(&bench);
    let (_, trace) = traced(&bench, &["gcc", "-c", "-Isecond", "x.c"], trace::DEFAULT_CAPACITY);
    let seen = seen(&trace);
    let executed = |name: &str| {
        seen.iter().any(|(kind, _, path)| *kind == Kind::Exec && path.file_name().unwrap() == name)
    };
    assert!(executed("cc1") && executed("as"), "{seen:#?}");
    let temporary = |kind| {
        seen.iter()
            .filter(|(other, _, path)| *other == kind && path.extension().is_some_and(|e| e == "s"))
            .map(|(_, _, path)| path.clone())
            .collect::<HashSet<_>>()
    };
    let written = temporary(Kind::OpenWrite);
    assert!(!written.is_empty() && written.is_subset(&temporary(Kind::Unlink)), "{seen:#?}");
}

#[test]
fn nothing_is_rerouted_in_a_trace() {
    let bench = Bench::new();
    let path = bench.text("bin/gcc");
    let (ran, trace) = traced(&bench, &["sh", "-c", &format!("{path} 1")], trace::DEFAULT_CAPACITY);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), format!("real {path} 1\n"));
    assert!(seen(&trace).contains(&(Kind::Exec, Outcome::Found, path.into())));
}

#[test]
fn a_trace_that_is_too_small_says_so() {
    let bench = Bench::new();
    let (ran, trace) = traced(&bench, &["sh", "-c", "for i in $(seq 99); do test -e no-$i; done"], 0);
    // the shell's status is that of its last test
    assert_eq!(ran.status, 1 << 8);
    assert!(trace.overflowed() && !trace.blind());
    let good = trace.records().filter_map(Result::ok).count();
    assert!(good > 10 && good < 99, "{good}");
}

#[test]
fn a_trace_that_cannot_follow_says_so() {
    let bench = Bench::new();
    for script in ["env -u LD_PRELOAD true", "env -u DBUILD_TRACE true", "env -i true"] {
        let (_, trace) = traced(&bench, &["sh", "-c", script], trace::DEFAULT_CAPACITY);
        assert!(trace.blind() && !trace.overflowed(), "{script}");
    }
    if let Some(starter) = &artefacts().static_starter {
        let script = format!("{} execvp true", starter.display());
        let (_, trace) = traced(&bench, &["sh", "-c", &script], trace::DEFAULT_CAPACITY);
        assert!(trace.blind());
    }
}

#[test]
fn variables_and_directories_are_in_the_trace() {
    if !has("python3") {
        return;
    }
    let bench = Bench::new();
    let code = "import ctypes, os\n\
                libc = ctypes.CDLL(None)\n\
                libc.getenv.restype = ctypes.c_char_p\n\
                assert libc.getenv(b'LC_ALL') == b'C'\n\
                assert libc.getenv(b'ABSENT') is None and libc.getenv(b'') is None\n\
                os.mkdir('made'); os.rmdir('made'); os.makedirs('kept', exist_ok=True)\n\
                os.link('kept/../one', 'two') if os.path.exists('one') else None\n";
    bench.write("work/one", "1");
    let (ran, trace) = traced(&bench, &["python3", "-c", code], trace::DEFAULT_CAPACITY);
    assert_eq!(ran.status, 0, "{}", String::from_utf8_lossy(&ran.stderr));
    let seen = seen(&trace);
    let work = bench.path("work");
    for name in ["LC_ALL", "ABSENT"] {
        assert!(seen.contains(&(Kind::Variable, Outcome::Found, name.into())), "{name}: {seen:#?}");
    }
    for wanted in [
        (Kind::MakeDirectory, Outcome::Found, work.join("made")),
        (Kind::Unlink, Outcome::Found, work.join("made")),
        (Kind::MakeDirectory, Outcome::Found, work.join("kept")),
        (Kind::OpenWrite, Outcome::Found, work.join("two")),
    ] {
        assert!(seen.contains(&wanted), "{wanted:?}");
    }
}

#[test]
fn paths_become_absolute() {
    if !has("python3") {
        return;
    }
    let bench = Bench::new();
    fs::create_dir(bench.path("work/sub")).unwrap();
    let code = "import os\n\
                fd = os.open('sub', os.O_RDONLY)\n\
                os.close(os.open('made', os.O_WRONLY | os.O_CREAT, dir_fd=fd))\n\
                os.chdir('sub')\n\
                os.rename('made', '../moved')\n\
                os.path.exists('/absent/\\udcff')\n";
    let (ran, trace) = traced(&bench, &["python3", "-c", code], trace::DEFAULT_CAPACITY);
    assert_eq!(ran.status, 0, "{}", String::from_utf8_lossy(&ran.stderr));
    let seen = seen(&trace);
    let work = bench.path("work");
    assert!(seen.contains(&(Kind::OpenWrite, Outcome::Found, work.join("sub/made"))), "{seen:#?}");
    let odd = std::os::unix::ffi::OsStringExt::from_vec(b"/absent/\xff".to_vec());
    let odd: OsString = odd;
    assert!(seen.contains(&(Kind::Stat, Outcome::Absent, odd.into())));
    let moved = trace.records().map(Result::unwrap).find(|record| record.kind == Kind::Rename).unwrap();
    assert_eq!((moved.path, moved.second), (&*work.join("sub/made"), &*work.join("sub/../moved")));
}

/// As on helpers: nobody could make the file, nor is the stand-in there.
#[test]
fn the_first_process_makes_the_trace() {
    let bench = Bench::new();
    let file = bench.path("made");
    bench.write("work/read", "text");
    let run = |script: &str| {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", script]).env_clear().env("PATH", "/usr/bin:/bin").current_dir(bench.path("work"));
        shell.env("LD_PRELOAD", &artefacts().intercept).env("DBUILD_TRACE", format!("+{}", file.display()));
        assert!(shell.status().unwrap().success());
    };
    // The second process finds it made, and each child is one more.
    run("cat read > first; cat first > second");
    run("exec cat second");
    let trace = Trace::read(&file).unwrap();
    assert!(trace.complete());
    let seen = seen(&trace);
    for name in ["read", "first", "second"] {
        let read = (Kind::OpenRead, Outcome::Found, bench.path("work").join(name));
        assert!(seen.contains(&read), "{name}: {seen:?}");
    }
}
