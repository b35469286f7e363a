//! What all parties share: time, chance, the network, what is to come, and who watches.

use super::clock::{Agenda, Rng, Time};
use super::invariants::Audit;
use super::network::{ConnId, End, Network};
use super::wire::{Counts, Word};
use super::{client, coordinator, helper};

#[derive(Debug)]
pub enum Happening {
    Arrive {
        id: ConnId,
        to: End,
    },
    Suspect {
        id: ConnId,
        end: End,
        epoch: u64,
    },
    Helper {
        which: usize,
        life: u32,
        timer: helper::Timer,
    },
    Client {
        which: usize,
        timer: client::Timer,
    },
    /// What somebody says of a helper beside its stream arrives.
    Said(Word),
    Coordinator {
        run: u32,
        timer: coordinator::Timer,
    },
    Chaos(super::chaos::Fault),
}

pub struct Stage {
    pub now: Time,
    pub rng: Rng,
    pub agenda: Agenda<Happening>,
    pub net: Network,
    pub audit: Audit,
    pub counts: Counts,
    /// Faults may happen; false at the end, when everything must come to rest.
    pub rough: bool,
    /// Keeps the log of the history, and prints it.
    pub loud: bool,
}

impl Stage {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A line of the history, if somebody reads it.
    pub fn log(&self, line: impl FnOnce() -> String) {
        if self.loud {
            println!("{:>11.6} {}", self.now.as_secs_f64(), line());
        }
    }
}
