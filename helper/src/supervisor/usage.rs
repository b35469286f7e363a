//! What a helper's own processes use of the processors, from `/proc` (proc(5)): the worker, its launcher, and every action.

use std::collections::HashMap;

/// Fields of `/proc/PID/stat` that count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    /// utime, stime, cutime and cstime, in clock ticks.
    ticks: u64,
}

/// Processor time, in clock ticks, of all processes that descend from `root` and live, with what their children that they
/// waited for used.
pub fn ticks_of_tree(root: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let stats = entries.flatten().filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        parse_stat(&std::fs::read_to_string(entry.path().join("stat")).ok()?)
    });
    sum(root, &stats.collect::<Vec<_>>())
}

fn sum(root: u32, stats: &[Stat]) -> u64 {
    let mut children: HashMap<u32, Vec<&Stat>> = HashMap::new();
    for stat in stats {
        children.entry(stat.parent).or_default().push(stat);
    }
    let own = stats.iter().find(|stat| stat.pid == root).map_or(0, |stat| stat.ticks);
    let mut total = own;
    let mut open = vec![root];
    // Each process is taken out with its parent's list, so that no circle in what was read is walked twice.
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            total += child.ticks;
            open.push(child.pid);
        }
    }
    total
}

/// `PID (NAME) STATE PPID …`; the name may hold anything, even parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Some(Stat { pid, parent, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_form() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 4 20 0 1 0 99 1 1";
        assert_eq!(parse_stat(text), Some(Stat { pid: 42, parent: 7, ticks: 127 }));
        assert_eq!(parse_stat("42 (short) S 7"), None);
    }

    #[test]
    fn a_tree_is_summed_once_and_circles_end() {
        let stat = |pid, parent, ticks| Stat { pid, parent, ticks };
        let stats = [stat(1, 0, 1000), stat(2, 1, 10), stat(3, 2, 5), stat(4, 3, 2), stat(9, 1, 50)];
        assert_eq!(sum(2, &stats), 17);
        assert_eq!(sum(5, &[stat(6, 5, 1), stat(7, 6, 1), stat(5, 7, 1)]), 4);
    }

    #[test]
    fn this_process_used_something() {
        let mut x = 1u64;
        while ticks_of_tree(std::process::id()) == 0 {
            for _ in 0..1_000_000 {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_stat(&text);
        }
    }
}
