//! The scheduler and the pool protocol in simulated time and network: helpers, clients and a coordinator around the real
//! pool live through random histories of faults, and after every step the promises of `invariants.rs` must hold.
//!
//! `SIM_SEED=n cargo test -p dbuild-tests --test sim -- --nocapture` replays one history and prints its log;
//! `SIM_HISTORIES=n` runs so many instead of a thousand. What is simulated and what is not is told in
//! `docs/design/2026-11-23-pool.md`.

mod bounds;
mod calls;
mod chaos;
mod client;
mod clock;
mod coordinator;
mod fairness;
mod helper;
mod invariants;
mod leases;
mod network;
mod stage;
mod trust;
mod wire;
mod words;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use wire::Counts;
use world::World;

/// Histories of one run.
const HISTORIES: u64 = 1000;

/// Seeds that once found something.
const FOUND: [u64; 2] = [
    // A task that waited where a lost helper's task came to wait was never told that there was no helper.
    1795471436898334295,
    // A helper whose Hello was late.
    1795471436898335017,
];

/// What every run has to have seen: a history in which nothing happens proves nothing.
const MUST_HAPPEN: [&str; 46] = [
    // What clients do.
    "actions",
    "cancellations",
    "clients lost",
    "jobs left for a while",
    "tries again",
    "calls that broke",
    "calls that came back to their task",
    "operations that were not known any more",
    "updates that crossed with a cancellation",
    // What becomes of it.
    "tasks",
    "merges",
    "answered",
    "answers from the action cache",
    "attempts after a failed one",
    "exhausted",
    "unmatched",
    "without any helper",
    "without a helper that takes work",
    "declined by a full pool",
    "attempts after one was handed back",
    "tasks handed back too often",
    "helpers set aside",
    "helpers trusted again",
    "tasks that nobody waited for",
    // Faults.
    "helpers started",
    "busy helpers lost",
    "idle helpers lost",
    "helpers that became slow or fast",
    "hosts frozen",
    "helpers that offer less or yield",
    "helpers that yield",
    "busy helpers that yield",
    "helpers drained",
    "helpers resumed",
    "supervisors that say that a worker is gone",
    "helpers refused",
    "names taken twice",
    "coordinator restarts",
    "partitions",
    "partitions one way",
    "connections broken",
    "connections given up by keep-alive",
    "streams without Hello",
    // Races, and what could go unseen.
    "cancels that crossed with a result",
    "leases refused for want of a slot",
    "steps in which unfairness would show",
];

/// Lets one history happen; gives what was counted in it.
fn history(seed: u64, loud: bool) -> Result<Counts, String> {
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, loud);
        world.run().map(|()| world.stage.counts)
    }));
    run.unwrap_or_else(|_| Err("it panicked".into()))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|word| word.parse().expect("SIM_SEED and SIM_HISTORIES are numbers"))
}

fn run(seeds: impl Iterator<Item = u64>) -> Counts {
    let (mut counts, mut failed, mut histories) = (Counts::new(), Vec::new(), 0);
    for seed in seeds {
        histories += 1;
        match history(seed, false) {
            Ok(seen) => seen.into_iter().for_each(|(what, times)| *counts.entry(what).or_default() += times),
            Err(broken) => failed.push((seed, broken)),
        }
    }
    // A few of each kind: messages that differ only in their numbers are of one.
    let mut kinds = BTreeMap::<String, usize>::new();
    for (seed, broken) in &failed {
        let kind = broken.chars().filter(|letter| !letter.is_ascii_digit()).take(40).collect();
        let times = kinds.entry(kind).or_default();
        *times += 1;
        if *times <= 3 {
            println!("seed {seed}: {broken}");
            println!("  replay: SIM_SEED={seed} cargo test -p dbuild-tests --test sim -- --nocapture");
        }
    }
    assert!(failed.is_empty(), "{} of {histories} histories broke a promise: {kinds:?}", failed.len());
    counts
}

#[test]
fn promises_hold_in_a_thousand_histories() {
    if let Some(seed) = number("SIM_SEED") {
        let counts = history(seed, true).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        return println!("{counts:#?}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let first = now.as_nanos() as u64 / 1000 * 1000;
    let histories = number("SIM_HISTORIES").unwrap_or(HISTORIES);
    println!("{histories} histories from seed {first} on");
    let counts = run((0..histories).map(|index| first.wrapping_add(index)));
    for (what, times) in &counts {
        println!("{times:>10} {what}");
    }
    let never: Vec<_> = MUST_HAPPEN.iter().filter(|what| !counts.contains_key(*what)).collect();
    assert!(never.is_empty(), "these never happened: {never:?}");
}

#[test]
fn a_seed_makes_the_same_history_again() {
    for seed in 0..20 {
        assert_eq!(history(seed, false), history(seed, false), "seed {seed}");
    }
}

#[test]
fn promises_hold_where_they_once_did_not() {
    run(FOUND.into_iter());
}
