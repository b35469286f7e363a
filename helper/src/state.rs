//! Samples of this machine: processor, load, memory, swap, disk, pressure and network, as `State` of the pool protocol.
//!
//! Reads `/proc` as proc(5) and the kernel's `accounting/psi.rst` describe it. A file that is absent or reads
//! oddly (no PSI in the kernel, a container without `/proc/loadavg`) gives 0, never an error.

use std::path::{Path, PathBuf};
use std::time::Instant;

use dbuild_proto::pool::State;

/// Processor time since boot, in ticks over all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    pub busy: u64,
    pub total: u64,
}

/// Remembers the last counters: shares and rates are differences.
#[derive(Debug)]
pub struct Sampler {
    cpu: CpuTimes,
    /// Clock ticks of the helper's own. What an action used is forgotten between its end and the news of it, so one sample
    /// may be wrong.
    own: u64,
    network: Network,
    at: Instant,
    disk: PathBuf,
}

/// A look at the machine.
#[derive(Clone, Debug)]
pub struct Sample {
    pub state: State,
    /// Bytes of the file system on which the helper's store is.
    pub disk_total: u64,
}

/// Bytes since boot over all interfaces but the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub received: u64,
    pub sent: u64,
}

impl Sampler {
    /// `disk` is a directory on the file system whose free space counts.
    pub fn new(disk: &Path) -> Self {
        let (cpu, network) = (read("/proc/stat", parse_stat), read("/proc/net/dev", parse_network));
        Sampler { cpu, own: 0, network, at: Instant::now(), disk: disk.to_owned() }
    }

    /// A sample; `own` is what the helper's processes have used since its start, in clock ticks. The caller adds what it
    /// knows of actions.
    pub fn sample(&mut self, own: u64) -> Sample {
        let cpu: CpuTimes = read("/proc/stat", parse_stat);
        let cpu_percent = percent(self.cpu, cpu);
        let ours = |ticks: CpuTimes, own: u64| CpuTimes { busy: own, total: ticks.total };
        let own_cpu_percent = percent(ours(self.cpu, self.own), ours(cpu, own)).min(cpu_percent);
        let network: Network = read("/proc/net/dev", parse_network);
        let elapsed = self.at.elapsed().as_secs_f64().max(0.001);
        let rate = |before: u64, after: u64| (after.saturating_sub(before) as f64 / elapsed) as u64;
        let memory: Memory = read("/proc/meminfo", parse_meminfo);
        let (disk_total, disk_available) = rustix::fs::statvfs(&self.disk).map_or((0, 0), |fs| {
            let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
            (bytes(fs.f_blocks), bytes(fs.f_bavail))
        });
        let state = State {
            cpu_percent,
            own_cpu_percent,
            load1: read("/proc/loadavg", parse_loadavg),
            memory_total: memory.total,
            memory_available: memory.available,
            swap_total: memory.swap_total,
            swap_available: memory.swap_available,
            disk_available,
            io_pressure: read("/proc/pressure/io", parse_pressure),
            cpu_pressure: read("/proc/pressure/cpu", parse_pressure),
            memory_pressure: read("/proc/pressure/memory", parse_pressure),
            received_rate: rate(self.network.received, network.received),
            sent_rate: rate(self.network.sent, network.sent),
            ..State::default()
        };
        (self.cpu, self.own, self.network, self.at) = (cpu, own, network, Instant::now());
        Sample { state, disk_total }
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
    read("/proc/meminfo", parse_meminfo).total
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
/// contained in user time already, so only the first eight count. What a hypervisor stole nobody here has used.
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
    let idle = ticks[3].saturating_add(ticks[4]).saturating_add(ticks[7]);
    Some(CpuTimes { busy: total.saturating_sub(idle), total })
}

/// Sizes of `/proc/meminfo`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub available: u64,
    pub swap_total: u64,
    pub swap_available: u64,
}

/// `MemTotal` and `MemAvailable`, which must be there, and the swap's, which need not.
pub fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total: field("MemTotal")?,
        available: field("MemAvailable")?,
        swap_total: field("SwapTotal").unwrap_or(0),
        swap_available: field("SwapFree").unwrap_or(0),
    })
}

/// Lines of `/proc/net/dev` after two of heading: `NAME: received-bytes 7 fields sent-bytes …`.
pub fn parse_network(text: &str) -> Option<Network> {
    let mut sum = Network::default();
    for line in text.lines().skip(2) {
        let (name, fields) = line.split_once(':')?;
        if name.trim() == "lo" {
            continue;
        }
        let mut fields = fields.split_ascii_whitespace();
        let mut next = |skip: usize| fields.nth(skip).and_then(|field| field.parse::<u64>().ok());
        sum.received = sum.received.saturating_add(next(0)?);
        sum.sent = sum.sent.saturating_add(next(7)?);
    }
    Some(sum)
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
        let stat = "cpu  100 5 50 700 40 1 4 100 7 0\ncpu0 1 2 3 4\n";
        assert_eq!(parse_stat(stat), Some(CpuTimes { busy: 160, total: 1000 }));
        let meminfo = "MemTotal:       49368168 kB\nMemFree: 1 kB\nMemAvailable:   40000000 kB\n";
        let memory = Memory { total: 49368168 * 1024, available: 40000000 * 1024, ..Memory::default() };
        assert_eq!(parse_meminfo(meminfo), Some(memory));
        let swap = format!("{meminfo}SwapTotal: 8 kB\nSwapFree: 2 kB\n");
        let memory = Memory { swap_total: 8192, swap_available: 2048, ..memory };
        assert_eq!(parse_meminfo(&swap), Some(memory));
        let network = "Inter-| Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 30 1 0 0 0 0 0 0\n";
        assert_eq!(parse_network(network), Some(Network { received: 100, sent: 30 }));
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
        let Sample { state, disk_total } = sampler.sample(0);
        assert!(state.memory_total > 0 && state.memory_available <= state.memory_total);
        assert!((0.0..=100.0).contains(&state.cpu_percent) && state.own_cpu_percent <= state.cpu_percent);
        assert!(disk_total >= state.disk_available);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", head in "(cpu |MemTotal:|some avg10=|\\n\\n)?") {
            let text = format!("{head}{text}");
            let _ = (parse_stat(&text), parse_meminfo(&text), parse_loadavg(&text), parse_pressure(&text), parse_network(&text));
        }
    }
}
