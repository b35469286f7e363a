//! Simulated time and chance: one seed decides everything that happens in a history.

use std::collections::BTreeMap;
use std::time::Duration;

/// Time since the history began.
pub type Time = Duration;

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to choose by.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number in `from..to`; `from` if that is empty.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % to.saturating_sub(from).max(1)
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }

    /// A duration in milliseconds of `from..to`, in steps of microseconds so that few things happen at the same time.
    pub fn wait(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.between(from * 1000, to * 1000))
    }

    /// One of several things; None of none.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let which = self.between(0, all.len() as u64) as usize;
        all.get(which).copied()
    }
}

/// What is to come, the earliest first, and in the order in which it was put down where times are equal.
#[derive(Debug)]
pub struct Agenda<E> {
    entries: BTreeMap<(Time, u64), E>,
    last: u64,
}

impl<E> Agenda<E> {
    pub fn new() -> Agenda<E> {
        Agenda { entries: BTreeMap::new(), last: 0 }
    }

    pub fn put(&mut self, at: Time, event: E) {
        self.last += 1;
        self.entries.insert((at, self.last), event);
    }

    pub fn pop(&mut self) -> Option<(Time, E)> {
        self.entries.pop_first().map(|((at, _), event)| (at, event))
    }
}
