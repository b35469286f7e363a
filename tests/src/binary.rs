//! Which `dbuild` is tested: the one in `DBUILD_BIN`, else one that cargo builds now, once per test process.
//!
//! `DBUILD_BIN` may name a stand-in (`fixtures/stand-in.sh`) that runs its arguments and counts nothing: with it every
//! comparison with the plain run must pass and every counter must be found wrong.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// The path of the `dbuild` under test, absolute.
pub fn dbuild() -> &'static Path {
    BINARY.get_or_init(|| match std::env::var_os("DBUILD_BIN") {
        Some(path) => std::path::absolute(path).unwrap(),
        None => build(),
    })
}

/// Makes this test process run the script `fixtures/NAME` as dbuild. Must come before anything asks for dbuild.
pub fn stand_in(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    assert_eq!(BINARY.get_or_init(|| path.clone()), &path, "another dbuild is in use already");
}

/// Whether the tests run with the stand-in instead of dbuild.
pub fn is_stand_in() -> bool {
    dbuild().file_name().is_some_and(|name| name == "stand-in.sh" || name == "spoiler.sh")
}

/// Builds package `dbuild` in the profile and target directory that cargo chooses by itself.
fn build() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "-p", "dbuild", "--bin", "dbuild", "--message-format=json-render-diagnostics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo could not build dbuild");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "dbuild")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable it built")
}
