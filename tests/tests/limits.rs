//! Little of what processes need: dbuild goes out of the way before it is in it.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use dbuild_tests::{Sandbox, Stdio, Twice, counted, dbuild, run_bounded};

/// Below some limit not even the plain command can start; from there on dbuild must not need more than it.
#[test]
fn few_files_may_be_open() {
    let user = Sandbox::new();
    let limited = "ulimit -n $0; exec \"$@\"";
    for words in [&["true"][..], &["gcc", "-c", "a.c"], &["sh", "-c", "gcc -c a.c && gcc -c b.c; exit 3"]] {
        for limit in (3..=16).chain([40, 100, 120, 160]) {
            let dir = user.fresh_dir("project");
            dbuild_tests::case::standard_files(&dir);
            let number = limit.to_string();
            let shell = ["sh", "-c", limited, &number];
            let plain = user.plain(&dir, &[&shell[..], words].concat());
            let object = std::fs::read(dir.join("a.o")).ok();
            if plain.code != 0 && plain.code != 3 {
                continue;
            }
            dbuild_tests::case::standard_files(&user.fresh_dir("project"));
            let mut command =
                user.command(&dir, &[&shell[..], &[dbuild().to_str().unwrap()], words].concat());
            let ran = run_bounded(&mut command, Stdio::Files);
            assert_eq!(plain.difference(&ran), None, "{words:?} with {limit} files");
            assert_eq!(std::fs::read(dir.join("a.o")).ok(), object, "{words:?} with {limit} files");
            let said = ran.own.iter().filter(|line| line.contains("without dbuild")).count();
            counted(said == usize::from(limit < 129), format!("{limit}: {:?}", ran.own));
        }
    }
    // A build that lowers the limit itself.
    let script = "gcc -c m.c; for n in 5 6 7 8 9 10 11 12 14 16 20; do \
        (ulimit -n $n; gcc -c a.c -DN=$n; echo $n $?; gcc -c a.c b.c -DN=$n; echo $n $?) done 2>&1";
    let mut build = Twice::new(&user, "inside", |_| {});
    build.both(&["sh", "-c", script]);
    assert!(user.initiators().len() <= 1);
}
