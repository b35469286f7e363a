//! A source file whose compile takes as long as wanted, and whose compiler can be found among all processes.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{processes_saying, wait_until};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A C++ source with a name that no other process on this machine says.
#[derive(Debug)]
pub struct Slow {
    name: String,
    rounds: u64,
}

impl Slow {
    /// Some seconds on an ordinary machine: long enough to be met at work.
    pub fn seconds() -> Slow {
        Slow::rounds(1_000_000)
    }

    /// For ever, as far as a test is concerned.
    pub fn endless() -> Slow {
        Slow::rounds(1_000_000_000)
    }

    fn rounds(rounds: u64) -> Slow {
        let name = format!("slow-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Slow { name, rounds }
    }

    /// Writes the source into `dir`.
    pub fn write(&self, dir: &Path) {
        let text = format!(
            "constexpr long slow() {{ long sum = 0; for (long i = 0; i < {}; i++) sum += i % 7; return sum; }}\n\
             static_assert(slow() > 0);\nlong value = 5;\n",
            self.rounds
        );
        std::fs::write(dir.join(format!("{}.cc", self.name)), text).unwrap();
    }

    /// The shell command that compiles it with g++.
    pub fn command(&self) -> String {
        let limits = "-fconstexpr-loop-limit=2147483647 -fconstexpr-ops-limit=9223372036854775807";
        format!("g++ {limits} -c {}.cc -o slow.o", self.name)
    }

    /// Whether the compiler proper is at work on it, here or in a helper's sandbox; a run with `-M` does not count.
    pub fn is_running(&self) -> bool {
        let compilers = processes_saying(&self.name);
        compilers.iter().any(|found| found.command.contains("cc1plus") && !found.command.contains(" -M"))
    }

    /// Ends the compiler proper, and nobody else's: the source's name is this test's alone.
    pub fn kill_compiler(&self) {
        let source = format!("{}.cc", self.name);
        let found = processes_saying(&source).into_iter();
        found.filter(|found| found.command.contains("cc1plus")).for_each(|found| found.kill());
    }

    pub fn wait_until_running(&self) {
        wait_until("the slow compile runs", || self.is_running());
    }

    /// Until no process has anything to do with it.
    pub fn wait_until_gone(&self) {
        wait_until("every process of the slow compile is gone", || processes_saying(&self.name).is_empty());
    }
}
