//! Skips that nobody can overlook: each prints a line past the test runner's capture, and the test's last line counts
//! them.

use std::cell::Cell;
use std::io::Write;
use std::process::{Command, Stdio};

/// Counts what one test did and what it could not do. Prints its totals when dropped.
#[derive(Debug)]
pub struct Skips {
    test: String,
    done: Cell<u32>,
    skipped: Cell<u32>,
}

impl Skips {
    pub fn new(test: &str) -> Skips {
        Skips { test: test.to_owned(), done: Cell::new(0), skipped: Cell::new(0) }
    }

    /// Says what is not tested on this machine, and why.
    pub fn skip(&self, what: &str, why: &str) {
        self.skipped.set(self.skipped.get() + 1);
        say(&format!("SKIPPED: {}: {what}: {why}", self.test));
    }

    pub fn done(&self) {
        self.done.set(self.done.get() + 1);
    }

    /// `true` if the tool is there; else a skip.
    pub fn need(&self, tool: &str, what: &str) -> bool {
        let there = have(tool);
        if !there {
            self.skip(what, &format!("{tool} is not installed (tests/install-tools.sh installs it)"));
        }
        there
    }
}

impl Drop for Skips {
    fn drop(&mut self) {
        say(&format!("{}: {} done, {} skipped", self.test, self.done.get(), self.skipped.get()));
    }
}

/// Whether a program of this name is on the fixed `PATH` of the tests.
pub fn have(tool: &str) -> bool {
    Command::new("sh")
        .args(["-c", "command -v \"$0\"", tool])
        .env("PATH", crate::sandbox::PATH)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Straight to stderr: `eprintln!` would be captured and shown only for tests that fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
