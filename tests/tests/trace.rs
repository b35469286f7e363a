//! `dbuild --trace FILE`: a build drawn in Chrome's trace format, each task on the machine where it ran.

// Panics are how tests report; clippy would allow them in test functions only.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use dbuild_tests::{Sandbox, Skips, TestCluster, is_stand_in, namespaces_work};
use serde_json::Value;

fn events(file: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Names of the drawn ones of a category, with repetitions.
fn names(events: &[Value], category: &str) -> Vec<String> {
    let drawn = events.iter().filter(|event| event["ph"] == "X" && event["cat"] == category);
    let mut names: Vec<String> = drawn.map(|event| event["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_build_is_drawn() {
    let skips = Skips::new("traces");
    if is_stand_in() || !namespaces_work() {
        return skips.skip("all of it", "it needs a pool");
    }
    let cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let dir = user.fresh_dir("project");
    for name in ["a", "b", "c"] {
        std::fs::write(dir.join(name).with_extension("c"), format!("int {name};\n")).unwrap();
    }
    let build = "for unit in a b c; do gcc -c $unit.c & done; wait";
    user.dbuild(&dir, &["--trace", "cold.json", "sh", "-c", build]).ok();
    let cold = events(&dir.join("cold.json"));
    let all = ["a.o", "b.o", "c.o"];
    assert_eq!(names(&cold, "task"), all);
    assert_eq!(names(&cold, "action"), all);
    let tasks: Vec<&Value> = cold.iter().filter(|event| event["cat"] == "task").collect();
    assert!(tasks.iter().all(|task| task["args"]["reason"] == "remote"), "{tasks:#?}");
    // Each helper that is named has a row of its own, and nothing lies outside of its task by much more than clocks differ.
    let named: BTreeSet<&str> = tasks.iter().map(|task| task["args"]["helper"].as_str().unwrap()).collect();
    let rows: BTreeSet<&str> = cold.iter().filter_map(|event| event["args"]["name"].as_str()).collect();
    assert!(named.is_subset(&rows) && rows.contains("tasks"), "{named:?} {rows:?}");
    for event in cold.iter().filter(|event| event["ph"] == "X") {
        assert!(event["ts"].is_i64() && event["dur"].as_i64().unwrap() >= 0, "{event}");
    }
    // What the cache answers is drawn as that.
    user.dbuild(&dir, &["--trace", "warm.json", "sh", "-c", build]).ok();
    let warm = events(&dir.join("warm.json"));
    assert_eq!(names(&warm, "task"), all);
    assert!(names(&warm, "action").is_empty());
    // Wrong things: a place that is none, a command that is no build.
    let ran = user.dbuild(&dir, &["--trace", "none/trace.json", "true"]);
    assert_eq!(ran.code, 125);
    assert!(
        ran.own[0].contains("failed to write the trace") && ran.own[0].contains("none/trace.json"),
        "{ran}"
    );
    let ran = user.dbuild(&dir, &["--trace", "trace.json", "stats"]);
    assert!(ran.code == 125 && ran.own[0].contains("--trace is for builds"), "{ran}");
    skips.done();
}
