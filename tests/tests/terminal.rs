//! A terminal is where compilers ask how wide it is.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use dbuild_tests::{Sandbox, Skips, TestCluster, counted, namespaces_work, run_on_terminal};

const LONG: &str = "int long_line(void) { int spare;                                                          int other; return 0; }\n";

/// gcc asks `COLUMNS`, then the terminal on its stdin; clang asks `COLUMNS` alone; both take a flag instead.
#[test]
fn diagnostics_are_as_wide_as_the_terminal() {
    let skips = Skips::new("width of a terminal");
    let cluster = namespaces_work().then(|| TestCluster::start(1));
    for compiler in ["gcc", "clang"] {
        if !skips.need(compiler, compiler) {
            continue;
        }
        let quiet = |mut user: Sandbox| {
            user.set("DBUILD_QUIET", "1");
            user
        };
        let mut users = vec![quiet(Sandbox::new())];
        users.extend(cluster.as_ref().map(|cluster| quiet(Sandbox::of(cluster))));
        let dir = users[0].fresh_dir("project");
        std::fs::write(dir.join("long.c"), LONG).unwrap();
        std::fs::write(dir.join("short.c"), "int short_line(void) { int spare; return 0; }\n").unwrap();
        let before = users[0].counters();
        for script in [
            "stty cols 200; $CC -Wall -c long.c",
            "stty cols 60; $CC -Wall -c long.c",
            "stty cols 60; $CC -Wall -c long.c </dev/null",
            "stty cols 60; COLUMNS=150 $CC -Wall -c long.c",
            "stty cols 200; COLUMNS=' +60 or so' $CC -Wall -c long.c",
            "stty cols 200; COLUMNS=50 $CC -Wall -fmessage-length=90 -c long.c",
            "stty cols 200; COLUMNS=-1 $CC -Wall -c long.c short.c",
            "stty cols 60; COLUMNS=x $CC -Wall -c long.c short.c",
            "stty cols 100; $CC -Wall -c short.c",
        ] {
            let script = script.replace("$CC", compiler);
            let plain = run_on_terminal(users[0].command(&dir, &["sh", "-c", &script]));
            assert!(plain.contains("spare"), "{plain}");
            for user in &users {
                for pass in ["first", "again"] {
                    let shown = run_on_terminal(user.dbuild_command(&dir, &["sh", "-c", &script]));
                    assert!(shown == plain, "{script}, {pass}:\n--- plain\n{plain}--- here\n{shown}---");
                }
            }
        }
        let seen = users[0].counters().since(&before);
        counted(seen.hits() >= 4, format!("what fits is answered from the cache: {seen}"));
        if let Some(pooled) = users.get(1) {
            counted(pooled.counters().remote > 0, "helpers were asked");
        }
        skips.done();
    }
}
