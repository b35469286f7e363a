//! A whole history: the parties, the weather that they live in, and the loop that lets things happen one after the other.

use std::time::Duration;

use dbuild_coordinator::pool::Limits;

use super::chaos::Fault;
use super::client::{Client, Habits};
use super::clock::{Agenda, Rng, Time, ms};
use super::coordinator::Coordinator;
use super::helper::Helper;
use super::invariants::Audit;
use super::network::{Arrival, ConnId, End, Network};
use super::stage::{Happening, Stage};
use super::wire::Counts;

/// How a history is: drawn once, at its beginning.
pub struct Weather {
    /// How long faults may happen.
    pub lasts: Duration,
    /// Waits between two faults, in ms at most.
    pub calm_for: u64,
    pub restarts: bool,
    pub double_names: bool,
}

pub struct World {
    pub stage: Stage,
    pub weather: Weather,
    pub coordinator: Coordinator,
    pub helpers: Vec<Helper>,
    pub clients: Vec<Client>,
    /// What frozen hosts will do when they go on.
    pub late: Vec<Happening>,
}

/// After the last fault: keep-alive (40 s), a helper's and a client's waits (10 s each), a silent helper (9 s), a stubborn
/// process (15 s), a task's wait for its class of helpers, and what is left of the faults that were under way.
const SETTLES: Duration = ms(120_000);

/// The longest time that a helper is set aside (`WAITS` of the pool's `trust.rs`).
const ASIDE: Duration = ms(300_000);

impl World {
    pub fn new(seed: u64, loud: bool) -> World {
        let mut rng = Rng::new(seed);
        // Two kinds of histories: a crowd that wants more than there is, and all the rest.
        let crowded = rng.chance(30);
        let state_interval = ms(3_000);
        let limits = Limits {
            tasks: if rng.chance(30) { rng.between(4, 12) } else { 200 } as usize,
            helpers: if rng.chance(15) { rng.between(2, 4) } else { 10 } as usize,
            attempts: rng.between(1, 5) as u32,
            helper_wait: ms(5_000),
            silence: state_interval * 3,
            abandon: ms(2_000),
            lease_slack: rng.wait(2_000, 20_000),
            cancel_wait: ms(10_000),
        };
        let weather = Weather {
            lasts: ms(rng.between(20_000, if crowded { 150_000 } else { 90_000 })),
            calm_for: if crowded { 20_000 } else { rng.between(500, 10_000) },
            restarts: !crowded && rng.chance(40),
            double_names: !crowded && rng.chance(15),
        };
        let outbox = if rng.chance(20) { 4 } else { 128 };
        let coordinator = Coordinator::new(limits, state_interval, outbox);
        let stage = Stage {
            now: Time::ZERO,
            rng,
            agenda: Agenda::new(),
            net: Network::default(),
            audit: Audit::starts(coordinator.run),
            counts: Counts::new(),
            rough: true,
            loud,
        };
        let (helpers, clients, late) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = World { stage, weather, coordinator, helpers, clients, late };
        world.people(crowded);
        world
    }

    fn people(&mut self, crowded: bool) {
        let (helpers, clients) =
            (self.stage.rng.between(1, if crowded { 3 } else { 6 }), self.stage.rng.between(2, 5));
        for name in 0..helpers {
            let system = if crowded || self.stage.rng.chance(70) { "linux" } else { "plan9" };
            self.add_helper(name, system);
        }
        if crowded {
            // Few and quick: the bound of fairness is a number of leases.
            for helper in &mut self.helpers {
                (helper.slots, helper.slowness, helper.stubborn) = (helper.slots.min(2), 100, 300);
            }
        }
        if !crowded && self.stage.rng.chance(5) {
            // All hand back what they offer to take: that must not go on for ever.
            for helper in &mut self.helpers {
                helper.offer(&mut self.stage, None, Some(ms(5_000)));
            }
        }
        let contents = self.stage.rng.between(10, 2000);
        for which in 0..clients as usize {
            let rng = &mut self.stage.rng;
            let habits = Habits {
                user: if crowded { which as u64 } else { rng.between(0, 3) },
                pause: if crowded { 200 } else { rng.between(100, 3_000) },
                length: if crowded { 600 } else { rng.between(100, 12_000) },
                width: rng.between(if crowded { 8 } else { 1 }, 20) as usize,
                guess: [10, 100, 100, 400][rng.between(0, 4) as usize],
                contents: if crowded { 1_000_000 } else { contents },
                alone: 20,
                picky: if crowded { 0 } else { 30 },
                urgent: if crowded { 0 } else { 20 },
                fickle: if crowded { 2 } else { 20 },
            };
            let client = Client::new(&mut self.stage, which, habits);
            self.clients.push(client);
        }
        self.stage.agenda.put(ms(500), Happening::Chaos(Fault::Next));
    }

    pub fn add_helper(&mut self, name: u64, system: &'static str) {
        let which = self.helpers.len();
        let mut helper = Helper::new(&mut self.stage, which, name, system);
        helper.start(&mut self.stage);
        self.helpers.push(helper);
    }

    /// Lets the history happen; the first promise that is broken is the error.
    pub fn run(&mut self) -> Result<(), String> {
        let mut calm = None;
        while let Some((at, event)) = self.stage.agenda.pop() {
            if calm.is_none() && at >= self.weather.lasts {
                self.stage.now = self.weather.lasts;
                self.calm();
                calm = Some(self.stage.now + SETTLES + ASIDE + self.left_to_do());
                self.stage.agenda.put(at, event);
                continue;
            }
            self.stage.now = at;
            self.happens(event);
            if let Some(broken) = self.stage.audit.failure() {
                return Err(broken);
            }
            let waiting: usize = self.clients.iter().map(Client::waiting).sum();
            match calm {
                Some(_) if waiting == 0 && self.coordinator.pool.live_tasks() == 0 => break,
                Some(until) if self.stage.now > until => {
                    let left: Vec<_> = self.clients.iter().flat_map(Client::describe).collect();
                    return Err(format!("{waiting} actions were lost: {left:?}"));
                }
                _ => {}
            }
        }
        self.settle()
    }

    /// One slot does all that is left, one after the other, on the slowest helper.
    fn left_to_do(&self) -> Duration {
        let slowest = self.helpers.iter().map(|helper| helper.slowness.max(100)).max().unwrap_or(100);
        self.clients.iter().map(Client::left_to_do).sum::<Duration>() * slowest as u32 / 100
    }

    /// All is done; what is only waited out ends too, and then nothing is left anywhere.
    fn settle(&mut self) -> Result<(), String> {
        let until = self.stage.now + SETTLES;
        while self.stage.now < until {
            let Some((at, event)) = self.stage.agenda.pop() else { break };
            self.stage.now = at;
            self.happens(event);
        }
        self.stage.audit.check_empty(&self.coordinator.pool);
        self.coordinator.is_idle()?;
        self.stage.audit.failure().map_or(Ok(()), Err)
    }

    fn happens(&mut self, event: Happening) {
        match event {
            Happening::Arrive { id, to } => self.arrives(id, to),
            Happening::Suspect { id, end, epoch } => {
                let host = self.stage.net.host(id);
                if self.stage.gives_up(id, end, epoch) {
                    self.stage.count("connections given up by keep-alive");
                    self.lost(id, end, host);
                }
            }
            Happening::Helper { which, life, timer } => {
                let helper = &mut self.helpers[which];
                if helper.life != life {
                    return;
                }
                if self.stage.net.is_frozen(helper.host) {
                    return self.late.push(Happening::Helper { which, life, timer });
                }
                helper.on_timer(&mut self.stage, timer);
            }
            Happening::Client { which, timer } => {
                let client = &mut self.clients[which];
                if self.stage.net.is_frozen(client.host) {
                    return self.late.push(Happening::Client { which, timer });
                }
                if client.up {
                    client.on_timer(&mut self.stage, timer);
                }
            }
            Happening::Said(word) => {
                if self.coordinator.up {
                    self.coordinator.said(&mut self.stage, word);
                }
            }
            Happening::Coordinator { run, timer } => {
                if self.coordinator.up && self.coordinator.run == run {
                    self.coordinator.on_timer(&mut self.stage, timer);
                }
            }
            Happening::Chaos(fault) => self.on_fault(fault),
        }
    }

    fn arrives(&mut self, id: ConnId, to: End) {
        let Some(host) = self.stage.net.host(id) else { return };
        let arrival = self.stage.arrive(id, to);
        match (arrival, to) {
            (Some(Arrival::Open), End::Coordinator) => {
                let helper = self.helpers.iter().any(|helper| helper.host == host);
                self.coordinator.opened(&mut self.stage, id, helper);
            }
            (Some(Arrival::Message(message)), End::Coordinator) => {
                self.coordinator.hear(&mut self.stage, id, message);
            }
            (Some(Arrival::Open), End::Peer) => {
                self.helpers.iter_mut().filter(|helper| helper.host == host).for_each(|helper| {
                    helper.opened(&mut self.stage, id);
                });
                self.clients
                    .iter_mut()
                    .filter(|client| client.host == host)
                    .for_each(|client| client.opened(id));
            }
            (Some(Arrival::Message(message)), End::Peer) => {
                if let Some(helper) = self.helpers.iter_mut().find(|helper| helper.host == host) {
                    helper.hear(&mut self.stage, id, message);
                    if helper.refused.take().is_some() {
                        // Whatever supervises it starts it again.
                        let (which, after) = (helper.which, self.stage.rng.wait(3_000, 10_000));
                        self.put_fault(after, Fault::HelperReturns(which));
                    }
                } else if let Some(client) = self.clients.iter_mut().find(|client| client.host == host) {
                    client.hear(&mut self.stage, id, message);
                }
            }
            (Some(Arrival::Lost), end) => self.lost(id, end, Some(host)),
            (None, _) => {}
        }
        if to == End::Peer && self.coordinator.up {
            self.coordinator.pump(&mut self.stage, id);
        }
    }

    fn lost(&mut self, id: ConnId, end: End, host: Option<usize>) {
        if end == End::Coordinator {
            return self.coordinator.lost(&mut self.stage, id);
        }
        if let Some(helper) = self.helpers.iter_mut().find(|helper| Some(helper.host) == host) {
            helper.lost_connection(&mut self.stage, id);
        } else if let Some(client) = self.clients.iter_mut().find(|client| Some(client.host) == host) {
            client.lost(&mut self.stage, id);
        }
    }
}
