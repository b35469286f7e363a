//! `dbuild submit` and `dbuild map`: any command on real helpers, and here where there are none.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;

use dbuild_tests::{Desk, TestCluster, wait_until};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_job_reads_what_it_is_given_and_its_result_is_kept() {
    let cluster = TestCluster::start(2);
    let desk = Desk::new(Some(&cluster));
    desk.write("in/a", "one\ntwo\n");
    desk.write("other", "not given");
    let words = "cat in/a; echo \"$NAME\"; echo problem >&2; cat other 2>/dev/null; echo \"[$SECRET]\"; pwd; \
                 date +%N > out/time; cp in/a out/b; chmod +x out/b; exit 3";
    let args = |words: &'static str| {
        vec![
            "submit", "--input", "in", "--output", "out/b", "--output", "out/time", "--env", "NAME=v", "--",
            "sh", "-c", words,
        ]
    };
    let said = desk.run(&args(words));
    assert_eq!(said.code, 3, "{}", said.err);
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines[..4], ["one", "two", "v", "[]"], "{}", said.out);
    assert_ne!(Path::new(lines[4]), desk.path(), "it ran somewhere else");
    assert_eq!(said.err, "problem\n");
    assert_eq!(desk.read("out/b"), "one\ntwo\n");
    assert!(
        std::os::unix::fs::PermissionsExt::mode(&desk.path().join("out/b").metadata().unwrap().permissions())
            & 0o100
            != 0
    );

    // What fails runs again; what succeeds does not.
    let (first, _) = (desk.read("out/time"), desk.run(&args(words)));
    assert_ne!(desk.read("out/time"), first);
    let good = "date +%N > out/time; cp in/a out/b; date +%N";
    let first = (desk.run(&args(good)).out, desk.read("out/time"));
    std::fs::remove_dir_all(desk.path().join("out")).unwrap();
    let said = desk.run(&args(good));
    assert_eq!((said.out, desk.read("out/time")), first);
    assert_eq!(said.own, "dbuild: 1 job: 1 from the pool's cache, 0 on helpers, 0 here; 0 failed\n");
    let mut again = args(good);
    again.insert(1, "--no-cache");
    assert_ne!(desk.run(&again).out, first.0);
    // Another input is another job.
    desk.write("in/a", "three\n");
    assert_ne!(desk.run(&args(good)).out, first.0);
    assert_eq!(desk.read("out/b"), "three\n");
}

#[test]
fn directories_come_back_whole_and_what_was_not_written_is_told() {
    let cluster = TestCluster::start(1);
    let desk = Desk::new(Some(&cluster));
    desk.write("tree/old", "stays");
    desk.write("tree/d/a", "goes");
    desk.write("kept", "stays");
    let words = "mkdir -p tree/d/e; echo 1 > tree/d/a; ln -s a tree/d/link; : > tree/empty";
    let said = desk.run(&["submit", "--output", "tree", "--output", "kept", "--", "sh", "-c", words]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{}", said.err);
    assert!(said.own.contains("the command did not write kept"), "{}", said.own);
    assert!(desk.read("tree/old") == "stays" && desk.path().join("tree/d/e").is_dir());
    assert_eq!((desk.read("tree/d/link").as_str(), desk.read("tree/empty").as_str()), ("1\n", ""));
    assert_eq!(std::fs::read_link(desk.path().join("tree/d/link")).unwrap(), Path::new("a"));
    assert_eq!(desk.read("kept"), "stays");
}

#[test]
fn what_cannot_be_a_job_is_said_in_a_sentence() {
    let desk = Desk::new(None);
    let cases: [(&[&str], &str); 8] = [
        (&["--input", ""], "a value is required"),
        (&["--output", "a", "--output", "a/b"], "the outputs a and a/b overlap"),
        (&["--input", "../x"], "../x is not below the current directory"),
        (&["--output", "/etc/x"], "/etc/x is not below the current directory"),
        (&["--output", "."], "the current directory itself cannot be an output"),
        (&["--env", "NAME"], "--env NAME is not NAME=VALUE"),
        (&["--env", "=x"], "--env =x is not NAME=VALUE"),
        (&["--inptu", "x"], "--input"),
    ];
    for (args, sentence) in cases {
        let mut all = vec!["submit"];
        all.extend(args);
        all.extend(["--", "true"]);
        let said = desk.run(&all);
        let all = format!("{}{}", said.own, said.err);
        assert_eq!(said.code, 125, "{args:?}: {all}");
        assert!(all.contains(sentence), "{args:?}: {all}");
    }
    let cluster = TestCluster::start(1);
    let desk = Desk::new(Some(&cluster));
    let said = desk.run(&["submit", "--input", "none", "--", "true"]);
    assert!(
        said.code == 125 && said.own.contains("none") && said.own.contains("No such file"),
        "{}",
        said.own
    );
}

#[test]
fn without_a_pool_jobs_run_here() {
    let desk = Desk::new(None);
    desk.write("a", "x");
    let said = desk.run(&[
        "submit",
        "--input",
        "a",
        "--output",
        "b",
        "--",
        "sh",
        "-c",
        "cp a b; echo [$SECRET]; exit 4",
    ]);
    assert_eq!((said.code, said.out.as_str(), desk.read("b").as_str()), (4, "[]\n", "x"));
    let own = "dbuild: no coordinator is configured; jobs run here\n\
               dbuild: 1 job: 0 from the pool's cache, 0 on helpers, 1 here; 1 failed\n";
    assert_eq!((said.err.as_str(), said.own.as_str()), ("", own));
    assert_eq!(desk.run(&["submit", "--", "no-such-program"]).code, 127);
    assert_eq!(desk.run(&["submit", "--", "/etc"]).code, 126);
    assert_eq!(desk.run(&["submit", "--", "sh", "-c", "kill -9 $$"]).code, 137);

    // Here, too, a job has a directory of its own and changes nothing but its outputs.
    desk.write("tmp", "mine");
    let said = desk
        .run_with(&["map", "--jobs", "8", "--input", "tmp", "--", "echo {} > tmp; cat tmp"], "1\n2\n3\n4\n");
    assert_eq!((said.code, said.out.as_str(), desk.read("tmp").as_str()), (0, "1\n2\n3\n4\n", "mine"));
    let entries = std::fs::read_dir(desk.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = entries.filter(|name| name.to_string_lossy().starts_with(".dbuild")).collect();
    assert!(left.is_empty(), "{left:?}");

    let mut cluster = TestCluster::start(1);
    cluster.kill_coordinator();
    let desk = Desk::new(Some(&cluster));
    let said = desk.run_with(&["map", "--", "echo", "{}"], "1\n2\n3\n");
    assert_eq!((said.code, said.out.as_str()), (0, "1\n2\n3\n"));
    assert_eq!(said.own.matches("jobs run here").count(), 1, "{}", said.own);
}

#[test]
fn a_list_is_mapped_in_order_and_reduced() {
    let cluster = TestCluster::start(2);
    let desk = Desk::new(Some(&cluster));
    let lines: String = (1..=20).map(|n| format!("{n}\n")).collect();
    // The first ones take the longest.
    let slow = "sleep 0.$((20 - {})); echo {}; echo error {} >&2";
    let said = desk.run_with(&["map", "--jobs", "8", "--", slow], &lines);
    assert_eq!((said.code, said.out.as_str()), (0, lines.as_str()), "{}", said.err);
    assert_eq!(said.err, (1..=20).map(|n| format!("error {n}\n")).collect::<String>());

    for n in 1..=5 {
        desk.write(&format!("d/{n} x"), &format!("{n}00\n"));
    }
    let names = "1 x\n2 x\n3 x\n4 x\n5 x\n";
    let copy = ["--", "sh", "-c", "cat \"$0\" | tee \"$1\"", "d/{}", "sums/{}"];
    let sum =
        ["map", "--input", "d/{}", "--output", "sums/{}", "--reduce", "paste -sd+ | tr -d '\\n'; exit 7"];
    let said = desk.run_with(&[&sum[..], &copy[..]].concat(), names);
    assert_eq!((said.code, said.out.as_str()), (7, "100+200+300+400+500"), "{}", said.err);
    assert_eq!(desk.read("sums/3 x"), "300\n");

    // How many failed; more than a hundred are not counted; 255 is no job's.
    let said = desk.run_with(&["map", "--", "test {} -gt 3"], "1\n2\n3\n4\n5");
    assert_eq!(said.code, 3, "{}", said.err);
    let many = "x\n".repeat(150);
    assert_eq!(desk.run_with(&["map", "--", "false"], &many).code, 101);
    assert_eq!(desk.run_with(&["map", "--input", "/etc/{}", "--", "cat"], "passwd\n").code, 255);
    assert_eq!(desk.run_with(&["map", "--", "echo"], "").code, 0);
    let said = desk.run_with(&["map", "--input", "{}", "--", "cat"], "none\n");
    assert_eq!(said.code, 1);
    assert!(said.own.contains("1 job: ") && said.own.contains("1 failed"), "{}", said.own);
    let said = desk.run_with(&["map", "--input", "{}", "--", "cat"], "\n");
    assert!(said.code == 255 && said.own.contains("a path is empty"), "{}", said.own);
    let said = desk.run_with(&["map", "--output", "out", "--", "echo {} > out"], "1\n2\n");
    assert!(said.code == 255 && said.own.contains("two lines write to out"), "{}", said.own);
    // A line is a word to the shell, whatever is in it and around it.
    let lines = "$(touch pwned)\n; touch pwned\n\n  a  b\r\n";
    let said = desk.run_with(&["map", "--", "printf '<%s>' {} \"{}\" ; echo '{}'; ls"], lines);
    let want = "<$(touch pwned)><$(touch pwned)>$(touch pwned)\n<; touch pwned><; touch pwned>; touch pwned\n<><>\n<  a  b\r><  a  b\r>  a  b\r\n";
    assert_eq!((said.code, said.out.as_str()), (0, want), "{}", said.err);
}

/// What waits for its place goes with the command.
#[test]
fn an_interrupted_job_leaves_nothing() {
    let desk = Desk::new(None);
    let mut command =
        desk.command(&["submit", "--output", "out", "--", "sh", "-c", "echo $$ > out; exec sleep 1000"]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let staged = || {
        let mut entries = std::fs::read_dir(desk.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.find_map(|path| std::fs::read_to_string(path.join("out")).ok())
    };
    wait_until("the job runs", || staged().is_some_and(|text| text.ends_with('\n')));
    let job = Path::new("/proc").join(staged().unwrap().trim());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(staged().is_none() && !desk.path().join("out").exists());
    wait_until("the job's process is gone", || !job.exists());
}
