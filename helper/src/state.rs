//! Samples of this machine: processor, load, memory, disk and I/O pressure, as `State` of the pool protocol.
//!
//! Reads `/proc` as proc(5) and the kernel's `accounting/psi.rst` describe it. A file that is absent or reads
//! oddly (no PSI in the kernel, a container without `/proc/loadavg`) gives 0, never an error.

use std::path::{Path, PathBuf};

use dbuild_proto::pool::State;

/// Processor time since boot, in ticks over all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    pub busy: u64,
    pub total: u64,
}

/// Remembers the last processor times: a share is a difference.
#[derive(Debug)]
pub struct Sampler {
    last: CpuTimes,
    disk: PathBuf,
}

impl Sampler {
    /// `disk` is a directory on the file system whose free space counts.
    pub fn new(disk: &Path) -> Self {
        Sampler { last: read("/proc/stat", parse_stat), disk: disk.to_owned() }
    }

    /// A sample; the caller adds what it knows of actions.
    pub fn sample(&mut self) -> State {
        let now: CpuTimes = read("/proc/stat", parse_stat);
        let cpu_percent = percent(self.last, now);
        self.last = now;
        let (memory_total, memory_available) = read("/proc/meminfo", parse_meminfo);
        let disk_available =
            rustix::fs::statvfs(&self.disk).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        State {
            cpu_percent,
            load1: read("/proc/loadavg", parse_loadavg),
            memory_total,
            memory_available,
            disk_available,
            io_pressure: read("/proc/pressure/io", parse_pressure),
            ..State::default()
        }
    }
}

/// How many processes the out-of-memory killer has killed since boot (`oom_kill` of /proc/vmstat).
pub fn oom_kills() -> u64 {
    read("/proc/vmstat", |text| {
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    })
}

/// The machine's memory in bytes; 0 when unknown.
pub fn memory_total() -> u64 {
    read("/proc/meminfo", parse_meminfo).0
}

fn read<T: Default>(path: &str, parse: impl Fn(&str) -> Option<T>) -> T {
    std::fs::read_to_string(path).ok().and_then(|text| parse(&text)).unwrap_or_default()
}

/// Busy share of the time between two samples, 0..=100.
fn percent(before: CpuTimes, after: CpuTimes) -> f64 {
    let total = after.total.saturating_sub(before.total);
    let busy = after.busy.saturating_sub(before.busy).min(total);
    if total == 0 { 0.0 } else { 100.0 * busy as f64 / total as f64 }
}

/// First line of /proc/stat: `cpu user nice system idle iowait irq softirq steal guest guest_nice`. Guest time is
/// contained in user time already, so only the first eight count.
pub fn parse_stat(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut ticks = [0u64; 8];
    let mut seen = 0;
    for (slot, word) in ticks.iter_mut().zip(line.split_ascii_whitespace()) {
        *slot = word.parse().ok()?;
        seen += 1;
    }
    if seen < 4 {
        return None;
    }
    let total = ticks.iter().fold(0u64, |sum, tick| sum.saturating_add(*tick));
    let idle = ticks[3].saturating_add(ticks[4]);
    Some(CpuTimes { busy: total.saturating_sub(idle), total })
}

/// `MemTotal` and `MemAvailable` in bytes.
pub fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some((field("MemTotal")?, field("MemAvailable")?))
}

/// The one-minute load.
pub fn parse_loadavg(text: &str) -> Option<f64> {
    finite(text.split_ascii_whitespace().next()?)
}

/// `some avg10` of a PSI file.
pub fn parse_pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    finite(some.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?)
}

fn finite(word: &str) -> Option<f64> {
    word.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_forms() {
        let stat = "cpu  100 5 50 800 40 1 4 0 7 0\ncpu0 1 2 3 4\n";
        assert_eq!(parse_stat(stat), Some(CpuTimes { busy: 160, total: 1000 }));
        let meminfo = "MemTotal:       49368168 kB\nMemFree: 1 kB\nMemAvailable:   40000000 kB\n";
        assert_eq!(parse_meminfo(meminfo), Some((49368168 * 1024, 40000000 * 1024)));
        assert_eq!(parse_loadavg("0.52 0.31 0.20 1/300 1234\n"), Some(0.52));
        let psi = "some avg10=3.25 avg60=1.00 avg300=0.10 total=5\nfull avg10=9.0 avg60=0 avg300=0 total=1\n";
        assert_eq!(parse_pressure(psi), Some(3.25));
    }

    #[test]
    fn shares_are_differences_and_stay_in_range() {
        let at = |busy, total| CpuTimes { busy, total };
        assert_eq!(percent(at(10, 100), at(60, 200)), 50.0);
        assert_eq!(percent(at(10, 100), at(10, 100)), 0.0);
        assert_eq!(percent(at(10, 100), at(0, 50)), 0.0);
    }

    #[test]
    fn a_sample_of_this_machine_is_plausible() {
        let mut sampler = Sampler::new(Path::new("/"));
        let state = sampler.sample();
        assert!(state.memory_total > 0 && state.memory_available <= state.memory_total);
        assert!((0.0..=100.0).contains(&state.cpu_percent));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", head in "(cpu |MemTotal:|some avg10=)?") {
            let text = format!("{head}{text}");
            let _ = (parse_stat(&text), parse_meminfo(&text), parse_loadavg(&text), parse_pressure(&text));
        }
    }
}
