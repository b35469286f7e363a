//! Figures: percentiles of what was timed, and what the kernel knows of a process.

use std::time::Duration;

/// Times of one kind. Exact: every one is kept, in microseconds.
#[derive(Debug, Default)]
pub struct Times(Vec<u32>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_micros().try_into().unwrap_or(u32::MAX));
    }

    pub fn merge(&mut self, other: Times) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// `median …, p99 …, max …` in milliseconds.
    pub fn line(mut self) -> String {
        self.0.sort_unstable();
        let at = |share: f64| {
            let index = (self.0.len().saturating_sub(1) as f64 * share).round() as usize;
            self.0.get(index).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        format!("median {:.2} ms, p99 {:.2} ms, most {:.2} ms", at(0.5), at(0.99), at(1.0))
    }
}

/// A process of this machine, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    pub fn own() -> Process {
        Process(std::process::id())
    }

    /// Processor seconds burnt so far (proc(5), `stat`: utime and stime).
    pub fn cpu(self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The second field is a name in parentheses, which may hold anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// Resident memory now, and the most it ever was, in MiB (proc(5), `status`: VmRSS, VmHWM).
    pub fn memory(self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}
