//! Every target under a fixed set of damaged seeds: the same inputs on every run and every machine.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use dbuild_fuzz::{TARGETS, Target};

/// Microseconds for one target, by its own estimate of what an input costs.
const BUDGET_US: u32 = 1_200_000;
const MAX_INPUTS: u32 = 20_000;
/// Whatever the machine: an input that takes as long is one that the parser choked on.
const CHOKED: Duration = Duration::from_secs(20);

#[test]
fn every_seed_is_taken() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (i, seed) in seeds.iter().enumerate() {
            assert!(
                (target.run)(seed),
                "{} refuses its seed {i}: {:?}",
                target.name,
                seed.escape_ascii().to_string()
            );
        }
    }
}

macro_rules! damaged {
    ($($name:ident)*) => {
        $(#[test] fn $name() { damage(stringify!($name)); })*

        #[test]
        fn every_target_is_tried() {
            let tried = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|target| target.name), tried);
        }
    };
}

damaged! {
    frame_from_shim frame_to_shim trace observation response_file call depfile manifest digest resource_name
    directory input_tree stored_tree outputs zstd_blob request scan
}

fn damage(name: &str) {
    let target =
        TARGETS.into_iter().find(|target| target.name == name).expect("the list above is the table's");
    let seeds = (target.seeds)();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ name.len() as u64);
    let mut taken = 0;
    let inputs = (BUDGET_US / target.cost_us).min(MAX_INPUTS);
    for round in 0..inputs {
        let mut input = seeds[chance.below(seeds.len())].clone();
        for _ in 0..=chance.below(4) {
            mutate(&mut input, &seeds, &mut chance);
        }
        taken += u32::from(tried(&target, round, &input));
    }
    assert!(
        taken > inputs / 1000,
        "{name}: of {inputs} inputs {taken} were taken: they are damaged too much"
    );
}

fn tried(target: &Target, round: u32, input: &[u8]) -> bool {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if result.is_err() || start.elapsed() > CHOKED {
        let mut hex = String::new();
        for byte in input {
            write!(hex, "{byte:02x}").expect("a String takes everything");
        }
        eprintln!("{}, round {round}, {:?}, input {hex}", target.name, start.elapsed());
    }
    match result {
        Ok(taken) => {
            assert!(start.elapsed() < CHOKED, "{} choked", target.name);
            taken
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// One step of what libFuzzer does.
fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], chance: &mut Chance) {
    const BYTES: [u8; 16] = *b"\0\x01\x7f\x80\xff\n \\/.:@-='\"";
    const WORDS: [&[u8]; 8] =
        [b"..", b"../", b"/", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"@r0", b"-o", b"\xc3\xa9"];
    let at = chance.below(input.len() + 1);
    let end = (at + 1 + chance.below(8)).min(input.len());
    match chance.below(8) {
        0 if at < input.len() => input[at] ^= 1 << chance.below(8),
        1 if at < input.len() => input[at] = BYTES[chance.below(BYTES.len())],
        2 if at < input.len() => input[at] = chance.next() as u8,
        3 => drop(input.drain(at..end)),
        4 => drop(input.splice(at..at, WORDS[chance.below(WORDS.len())].iter().copied())),
        5 => drop(input.splice(at..at, input[at..end].to_vec())),
        6 => input.truncate(at),
        _ => {
            let other = &seeds[chance.below(seeds.len())];
            let from = chance.below(other.len() + 1);
            let to = (from + chance.below(24)).min(other.len());
            drop(input.splice(at..end, other[from..to].iter().copied()));
        }
    }
}

/// Marsaglia's xorshift64: a fixed sequence is all that is asked of it.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
