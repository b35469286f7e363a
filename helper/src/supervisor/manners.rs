//! How a helper behaves on a machine that others use, too: a state machine from looks at the machine to an offer of slots.
//! It knows no processes and no clock.
//!
//! ```text
//! working ──somebody needs it──▶ full ──grace over──▶ yielding
//!    ▲                            │                      │
//!    └──cool-off over── cooling ◀─┴──nobody needs it─────┘      paused: from and to any of them, by its owner
//! ```

use std::time::Duration;

use dbuild_proto::pool::Mood;

/// How much of the machine is the helper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is there to help: only memory and disk end that.
    Dedicated,
    /// Others first: slots shrink with what they use of the processors.
    Proportional,
    /// Only while nobody else uses it.
    Idle,
}

/// What an owner may set.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub mode: Mode,
    /// How long running actions may go on when somebody else needs the machine.
    pub grace: Duration,
    /// How long nobody must have needed it before new work is taken.
    pub cool_off: Duration,
}

impl Manners {
    /// A minute of grace, half a minute to cool off.
    pub fn new(mode: Mode) -> Self {
        Manners { mode, grace: Duration::from_secs(60), cool_off: Duration::from_secs(30) }
    }
}

/// One look at the machine. Shares are 0..=100, sizes bytes (0: unknown).
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// What others use of all processors.
    pub others_cpu: f64,
    pub memory_total: u64,
    pub memory_available: u64,
    /// PSI `some avg10`.
    pub memory_pressure: f64,
    pub disk_total: u64,
    pub disk_available: u64,
    /// The owner's wish.
    pub paused: bool,
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub slots: u32,
    /// `Yielding` asks that what runs be handed back.
    pub mood: Mood,
    /// Why it is less than all slots; empty if it is not.
    pub why: String,
}

/// Below this share of memory, or this much of it if that is less, the machine has too little.
const MEMORY: (f64, u64) = (0.04, 1 << 30);
/// As `MEMORY`, for the disk.
const DISK: (f64, u64) = (0.01, 1 << 30);
/// A machine on which processes wait for memory this much of the time has too little of it.
const MEMORY_PRESSURE: f64 = 25.0;
/// Somebody uses the processors, for mode `Idle`.
const BUSY: f64 = 20.0;
/// What the newest look counts in the average of others' use.
const WEIGHT: f64 = 0.25;

/// Where a helper stands.
#[derive(Debug)]
pub struct Keeper {
    manners: Manners,
    slots: u32,
    mood: Mood,
    since: Duration,
    others: f64,
}

impl Keeper {
    pub fn new(manners: Manners, slots: u32) -> Self {
        Keeper { manners, slots, mood: Mood::Working, since: Duration::ZERO, others: 0.0 }
    }

    /// Takes in one look; `now` is since an epoch of the caller's.
    pub fn look(&mut self, now: Duration, look: &Look) -> Offer {
        self.others += (look.others_cpu.clamp(0.0, 100.0) - self.others) * WEIGHT;
        let need = self.need(look);
        let waited = now.saturating_sub(self.since);
        let next = match (self.mood, &need) {
            _ if look.paused => Mood::Paused,
            (Mood::Working | Mood::Cooling | Mood::Paused, Some(_)) => Mood::Full,
            (Mood::Full, Some(_)) if waited >= self.manners.grace => Mood::Yielding,
            (Mood::Full | Mood::Yielding, None) => Mood::Cooling,
            (Mood::Cooling, None) if waited >= self.manners.cool_off => Mood::Working,
            (Mood::Paused, None) => Mood::Working,
            (mood, _) => mood,
        };
        if next != self.mood {
            (self.mood, self.since) = (next, now);
        }
        let slots = if self.mood == Mood::Working { self.share() } else { 0 };
        let why = match self.mood {
            Mood::Paused => "paused by its owner".to_owned(),
            Mood::Cooling => "others needed the machine a moment ago".to_owned(),
            Mood::Working if slots < self.slots => {
                format!("others use {:.0} % of the processors", self.others)
            }
            _ => need.unwrap_or_default(),
        };
        Offer { slots, mood: self.mood, why }
    }

    /// Why somebody else needs the machine.
    fn need(&self, look: &Look) -> Option<String> {
        let low = |total: u64, available: u64, (share, most): (f64, u64)| {
            total > 0 && (available as f64) < (total as f64 * share).min(most as f64)
        };
        let mib = |bytes: u64| bytes >> 20;
        if low(look.memory_total, look.memory_available, MEMORY) {
            Some(format!("only {} MiB of memory are free", mib(look.memory_available)))
        } else if look.memory_pressure > MEMORY_PRESSURE {
            Some(format!("processes wait for memory {:.0} % of the time", look.memory_pressure))
        } else if low(look.disk_total, look.disk_available, DISK) {
            Some(format!("only {} MiB of its disk are free", mib(look.disk_available)))
        } else {
            let busy = match self.manners.mode {
                Mode::Dedicated => false,
                Mode::Proportional => self.share() == 0,
                Mode::Idle => self.others > BUSY,
            };
            busy.then(|| format!("others use {:.0} % of the processors", self.others))
        }
    }

    /// Slots that others leave.
    fn share(&self) -> u32 {
        match self.manners.mode {
            Mode::Dedicated | Mode::Idle => self.slots,
            Mode::Proportional => (f64::from(self.slots) * (1.0 - self.others / 100.0) + 0.5) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn calm() -> Look {
        let (memory_total, memory_available) = (16 * GIB, 8 * GIB);
        Look {
            memory_total,
            memory_available,
            disk_total: 100 * GIB,
            disk_available: 50 * GIB,
            ..Look::default()
        }
    }

    fn busy(others_cpu: f64) -> Look {
        Look { others_cpu, ..calm() }
    }

    /// A look each second from `from` on; the last offer.
    fn through(keeper: &mut Keeper, from: u64, seconds: u64, look: &Look) -> Offer {
        let offers = (from..from + seconds).map(|second| keeper.look(Duration::from_secs(second), look));
        offers.last().expect("a look")
    }

    #[test]
    fn an_idle_helper_makes_way_hands_back_cools_and_comes_again() {
        let mut keeper = Keeper::new(Manners::new(Mode::Idle), 8);
        assert_eq!(through(&mut keeper, 0, 5, &busy(10.0)).slots, 8);
        let full = through(&mut keeper, 5, 10, &busy(80.0));
        assert_eq!((full.slots, full.mood), (0, Mood::Full));
        assert!(full.why.contains("% of the processors"), "{}", full.why);
        assert_eq!(through(&mut keeper, 15, 60, &busy(80.0)).mood, Mood::Yielding);
        let cooling = through(&mut keeper, 75, 15, &calm());
        assert_eq!((cooling.slots, cooling.mood), (0, Mood::Cooling));
        let again = through(&mut keeper, 90, 30, &calm());
        assert_eq!((again.slots, again.mood, again.why.as_str()), (8, Mood::Working, ""));
    }

    #[test]
    fn one_busy_second_changes_nothing() {
        let mut keeper = Keeper::new(Manners::new(Mode::Idle), 4);
        through(&mut keeper, 0, 5, &calm());
        assert_eq!(keeper.look(Duration::from_secs(5), &busy(70.0)).mood, Mood::Working);
    }

    #[test]
    fn a_proportional_helper_offers_what_others_leave() {
        let mut keeper = Keeper::new(Manners::new(Mode::Proportional), 8);
        let half = through(&mut keeper, 0, 60, &busy(50.0));
        assert_eq!((half.slots, half.mood), (4, Mood::Working));
        assert_eq!(through(&mut keeper, 60, 30, &busy(100.0)).mood, Mood::Full);
    }

    #[test]
    fn a_dedicated_helper_stops_for_memory_and_disk_only() {
        let mut keeper = Keeper::new(Manners::new(Mode::Dedicated), 8);
        assert_eq!(through(&mut keeper, 0, 100, &busy(100.0)).slots, 8);
        let poor = Look { memory_available: GIB / 2, ..calm() };
        let offer = keeper.look(Duration::from_secs(100), &poor);
        assert_eq!(
            (offer.slots, offer.mood, offer.why.as_str()),
            (0, Mood::Full, "only 512 MiB of memory are free")
        );
        let mut keeper = Keeper::new(Manners::new(Mode::Dedicated), 8);
        let full = Look { disk_available: GIB / 2, ..calm() };
        assert_eq!(keeper.look(Duration::ZERO, &full).mood, Mood::Full);
        // A small disk is not a full one.
        let small = Look { disk_total: GIB / 32, disk_available: GIB / 64, ..calm() };
        let mut keeper = Keeper::new(Manners::new(Mode::Dedicated), 8);
        assert_eq!(keeper.look(Duration::ZERO, &small).mood, Mood::Working);
    }

    #[test]
    fn the_owner_s_pause_goes_before_everything_and_ends_at_once() {
        let mut keeper = Keeper::new(Manners::new(Mode::Dedicated), 2);
        let paused = Look { paused: true, ..calm() };
        let offer = through(&mut keeper, 0, 100, &paused);
        assert_eq!((offer.slots, offer.mood), (0, Mood::Paused));
        assert_eq!(keeper.look(Duration::from_secs(100), &calm()).mood, Mood::Working);
    }

    proptest::proptest! {
        #[test]
        fn no_more_is_offered_than_there_is(looks in proptest::collection::vec((0u8..3, 0.0f64..200.0, 0u64..20, proptest::bool::ANY), 1..200)) {
            for mode in [Mode::Dedicated, Mode::Proportional, Mode::Idle] {
                let mut keeper = Keeper::new(Manners::new(mode), 5);
                for (second, (skip, others_cpu, memory, paused)) in looks.iter().enumerate() {
                    let look = Look { others_cpu: *others_cpu, memory_available: memory * GIB, paused: *paused, ..calm() };
                    let offer = keeper.look(Duration::from_secs(second as u64 * u64::from(*skip) * 20), &look);
                    proptest::prop_assert!(offer.slots <= 5);
                    proptest::prop_assert_eq!(offer.slots == 5, offer.why.is_empty());
                    proptest::prop_assert!(!paused || offer.slots == 0);
                }
            }
        }
    }
}
