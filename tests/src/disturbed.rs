//! Builds to which something happens, compared with what they are when nothing does, and what dbuild says of it.

use std::time::Duration;

use crate::{Ran, Sandbox, Skips, Slow, Stdio, Twice, counted, namespaces_work, run_bounded, wait_until};

/// Compiles, then something happens, then it compiles on. `$HOOK` is what happens.
pub const BUILD: &str = "set -e; gcc -g -c a.c; gcc -MMD -c b.c; eval \"$HOOK\"; gcc -c m.c; g++ -O1 -c x.cc; \
                     gcc a.o b.o m.o -o prog; ./prog";

/// Every line of dbuild's that is not the summary's figures.
pub fn complaints(ran: &Ran) -> Vec<&String> {
    ran.own.iter().filter(|line| !line.contains(" tasks: ")).collect()
}

/// One line (not many) says what was wrong, in one of these words.
#[track_caller]
pub fn said_once(ran: &Ran, words: &[&str]) {
    let said = complaints(ran);
    let about =
        said.iter().filter(|line| words.iter().any(|word| line.to_lowercase().contains(word))).count();
    counted(about == 1, format!("one line about one of {words:?}, in {:?}", ran.own));
}

/// The build with `HOOK` as the user, compared with the plain one.
#[track_caller]
pub fn build_with_hook(build: &Twice, user: &Sandbox, hook: &str) -> Ran {
    let mut command = user.dbuild_command(build.dir(), &["sh", "-c", BUILD]);
    command.env("HOOK", hook).env("KILLED", user.root().join("killed"));
    build.run(&mut command, Stdio::Files)
}

pub fn plain_build<'a>(user: &'a Sandbox) -> Twice<'a> {
    let mut build = Twice::new(user, "project", |_| {});
    build.plain(&["sh", "-c", BUILD]);
    build
}

/// Starts a build with a slow compile, does something to it while the compiler is at work, and compares its end.
pub fn build_disturbed(user: &Sandbox, disturb: impl FnOnce()) -> Ran {
    build_disturbed_at(user, |_| disturb())
}

/// As [`build_disturbed`], for what is done to the compile itself.
pub fn build_disturbed_at(user: &Sandbox, disturb: impl FnOnce(&Slow)) -> Ran {
    let slow = Slow::seconds();
    let mut build = Twice::new(user, "slow", |dir| slow.write(dir));
    let script = format!("{} && gcc -c a.c && gcc -c b.c", slow.command());
    build.plain(&["sh", "-c", &script]);
    build.fresh();
    let mut command = user.dbuild_command(build.dir(), &["sh", "-c", &script]);
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| run_bounded(&mut command, Stdio::Files));
        slow.wait_until_running();
        disturb(&slow);
        running.join().unwrap()
    });
    build.compare(&ran);
    ran
}

/// The build, in whose middle `between` happens while nothing compiles.
#[track_caller]
pub fn build_paused(build: &Twice<'_>, user: &Sandbox, between: impl FnOnce()) -> Ran {
    let (reached, go) = (user.root().join("reached"), user.root().join("go"));
    for old in [&reached, &go] {
        let _ = std::fs::remove_file(old);
    }
    let mut command = user.dbuild_command(build.dir(), &["sh", "-c", BUILD]);
    let pause = "touch \"$REACHED\"; until [ -e \"$GO\" ]; do sleep 0.05; done";
    command.env("HOOK", pause).env("REACHED", &reached).env("GO", &go);
    build.fresh();
    let ran = std::thread::scope(|scope| {
        // Whatever happens to `between`, the build goes on.
        let _go_on = GoOn(&go);
        let running = scope.spawn(|| run_bounded(&mut command, Stdio::Files));
        wait_until("the build's middle", || reached.exists() || running.is_finished());
        between();
        std::fs::write(&go, "").unwrap();
        running.join().unwrap()
    });
    build.compare(&ran);
    ran
}

struct GoOn<'a>(&'a std::path::Path);

impl Drop for GoOn<'_> {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0, "");
    }
}

/// Compiles one thing after the other that nobody has compiled before, until a helper takes one.
pub fn until_remote(user: &Sandbox) {
    let dir = user.fresh_dir("probe");
    std::fs::write(dir.join("probe.c"), "int probe = N;\n").unwrap();
    let before = user.counters().remote;
    let mut number = 0;
    wait_until("something is compiled by a helper again", || {
        number += 1;
        user.dbuild(&dir, &["gcc", &format!("-DN={number}"), "-c", "probe.c"]).ok();
        std::thread::sleep(Duration::from_millis(250));
        user.counters().remote > before
    });
}

/// Whether helpers can make sandboxes here; else a skip.
pub fn pool(skips: &Skips) -> bool {
    let works = namespaces_work();
    if !works {
        skips.skip("all of it", "the kernel refuses user namespaces");
    }
    works
}
