//! Ctrl-C: the build ends as it would without dbuild, what runs for it ends, here and on helpers, and the next build is
//! as if nothing had been.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use dbuild_tests::{
    Sandbox, Skips, Slow, TestCluster, Twice, counted, have, namespaces_work, terminal, wait_until,
};
use rustix::process::{Pid, Signal, kill_process_group};

/// Starts a build of something endless, interrupts it when its compiler runs, and gives the exit code.
fn interrupt(user: &Sandbox, wrapped: bool, builder: &str) -> i32 {
    let slow = Slow::endless();
    let dir = user.fresh_dir("endless");
    slow.write(&dir);
    std::fs::write(dir.join("Makefile"), format!("slow.o:\n\t{}\n", slow.command())).unwrap();
    std::fs::write(dir.join("build.sh"), format!("{}\necho not reached\n", slow.command())).unwrap();
    let words: Vec<&str> = builder.split(' ').collect();
    let mut command = if wrapped { user.dbuild_command(&dir, &words) } else { user.command(&dir, &words) };
    let mut child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    slow.wait_until_running();
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    let code = code_of(&mut child);
    slow.wait_until_gone();
    assert!(!dir.join("slow.o").exists());
    code
}

fn code_of(child: &mut Child) -> i32 {
    let status = child.wait().unwrap();
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

fn the_next_build_is_right(user: &Sandbox) {
    let mut build = Twice::new(user, "next", |_| {});
    let (_, seen) = build.both(&["sh", "-c", "gcc -c a.c b.c && g++ -c x.cc"]);
    counted(seen.tasks == 3 && seen.fallbacks == 0, format!("three tasks, none fell back: {seen}"));
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let user = Sandbox::new();
    // GNU make ends itself by the signal that it got, or says 2 for the command that did, whichever it sees first.
    for (builder, codes) in [("make", &[130, 2][..]), ("sh build.sh", &[130])] {
        for wrapped in [false, true] {
            let code = interrupt(&user, wrapped, builder);
            assert!(codes.contains(&code), "{builder}, with dbuild {wrapped}: code {code}");
        }
    }
    the_next_build_is_right(&user);
}

#[test]
fn an_interrupted_build_leaves_nothing_on_helpers() {
    let skips = Skips::new("interrupt with a pool");
    if !namespaces_work() {
        return skips.skip("all of it", "the kernel refuses user namespaces");
    }
    let cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    interrupt(&user, true, "make");
    wait_until("no helper runs anything", || {
        cluster.list().is_some_and(|helpers| helpers.iter().all(|helper| helper.running == 0))
    });
    the_next_build_is_right(&user);
    skips.done();
}

#[test]
fn ctrl_c_on_a_terminal() {
    let skips = Skips::new("Ctrl-C on a terminal");
    if !have("setsid") {
        return skips.skip("all of it", "setsid(1) is not installed");
    }
    let user = Sandbox::new();
    let slow = Slow::endless();
    let dir = user.fresh_dir("endless");
    slow.write(&dir);
    std::fs::write(dir.join("Makefile"), format!("slow.o:\n\t{}\n", slow.command())).unwrap();
    let (mut terminal, line) = terminal();
    // The session's leader has the terminal, and the terminal's interrupt goes to its foreground group: ours.
    let inner = user.dbuild_command(&dir, &["make"]);
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(inner.get_program()).args(inner.get_args()).current_dir(&dir).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(line.try_clone().unwrap()).stdout(line.try_clone().unwrap()).stderr(line);
    let mut child = command.spawn().unwrap();
    // Its copies of the line would keep the terminal open.
    drop(command);
    let mut shown = terminal.try_clone().unwrap();
    // Somebody must read, or the writers would wait; reading ends with an error when the last writer is gone.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = shown.read_to_end(&mut bytes);
        bytes
    });
    slow.wait_until_running();
    terminal.write_all(b"\x03").unwrap();
    let code = code_of(&mut child);
    slow.wait_until_gone();
    let shown = reader.join().unwrap();
    assert!([130, 2].contains(&code), "code {code}: {}", String::from_utf8_lossy(&shown));
    the_next_build_is_right(&user);
    skips.done();
}
