//! A helper: what `helper/src/agent.rs` does with its stream, in the same order, and a worker that takes time.

use std::collections::BTreeMap;
use std::time::Duration;

use dbuild_coordinator::pool::LeaseId;

use super::clock::{Time, ms};
use super::network::{ConnId, End, Host};
use super::stage::{Happening, Stage};
use super::wire::{Action, Message, Outcome, Word};

/// `FIRST_WAIT`, `LAST_WAIT` and `STATE_MS` of the agent, and the connect timeout of `helper/src/remote.rs`.
const FIRST_WAIT: Duration = ms(200);
const LAST_WAIT: Duration = ms(10_000);
const STATE: Duration = ms(5_000);
const CONNECT: Duration = ms(10_000);

#[derive(Clone, Copy, Debug)]
pub enum Timer {
    Connect,
    ConnectTimeout(ConnId),
    State {
        generation: u64,
    },
    /// The lease's process ended by itself.
    Ends {
        lease: LeaseId,
        serial: u64,
    },
    /// Its owner waited long enough for the machine.
    Yield {
        spell: u64,
    },
    /// It looks whether something runs that is to be handed back.
    HandBack,
    /// It ended because it was told to.
    Stopped {
        lease: LeaseId,
        serial: u64,
    },
}

#[derive(Debug)]
struct Running {
    /// Another run of the coordinator gives out the same leases again.
    serial: u64,
    outcome: Outcome,
    cancelled: bool,
}

/// Who speaks for a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervisor {
    None,
    /// The worker reports, the supervisor says when it is gone.
    Beside,
    /// The worker's stream carries no reports.
    Instead,
}

pub struct Helper {
    pub which: usize,
    pub host: Host,
    pub name: u64,
    pub slots: u32,
    pub system: &'static str,
    /// An action takes so many times its length here, in percent.
    pub slowness: u64,
    /// How long, in ms at most, a process takes to die.
    pub stubborn: u64,
    /// Leases in a hundred that fail for reasons of this helper.
    pub faulty: u64,
    /// Grows with each start of the process; timers of older ones are void.
    pub life: u32,
    pub up: bool,
    /// Set when the coordinator sent it away for good, with the reason.
    pub refused: Option<String>,
    pub supervisor: Supervisor,
    /// How many of its slots it offers; None: all.
    offered: Option<u32>,
    /// Somebody else needs the machine at once: what runs is handed back.
    yielding: bool,
    /// Grows when what it offers changes.
    spell: u64,
    /// It does not come back.
    pub retired: bool,
    connection: Option<ConnId>,
    running: BTreeMap<LeaseId, Running>,
    wait: Duration,
    serial: u64,
    generation: u64,
    state_every: Duration,
    /// The stream is lost, and what runs is being ended.
    abandoning: bool,
}

impl Helper {
    pub fn new(stage: &mut Stage, which: usize, name: u64, system: &'static str) -> Helper {
        let (rng, least) = (&mut stage.rng, stage.net.hosts() as u64 % 3);
        let slow = if rng.chance(25) { rng.between(200, 800) } else { rng.between(80, 130) };
        let stubborn = if rng.chance(15) { 15_000 } else { 500 };
        let faulty = if rng.chance(20) { 30 } else { 1 };
        let slots = rng.between(1, 5) as u32;
        let delay = if rng.chance(20) { 50..300 } else { 0..least + 2 };
        let supervisor = match rng.between(0, 4) {
            0 => Supervisor::Beside,
            1 => Supervisor::Instead,
            _ => Supervisor::None,
        };
        Helper {
            which,
            host: stage.net.join(delay),
            name,
            slots,
            system,
            slowness: slow,
            stubborn,
            faulty,
            life: 0,
            supervisor,
            offered: None,
            yielding: false,
            spell: 0,
            up: false,
            refused: None,
            retired: false,
            connection: None,
            running: BTreeMap::new(),
            wait: FIRST_WAIT,
            serial: 0,
            generation: 0,
            state_every: STATE,
            abandoning: false,
        }
    }

    fn put(&self, stage: &mut Stage, after: Duration, timer: Timer) {
        let event = Happening::Helper { which: self.which, life: self.life, timer };
        stage.agenda.put(stage.now + after, event);
    }

    pub fn start(&mut self, stage: &mut Stage) {
        stage.log(|| format!("helper {} starts", self.which));
        stage.count("helpers started");
        (self.up, self.refused, self.abandoning) = (true, None, false);
        (self.life, self.wait) = (self.life + 1, FIRST_WAIT);
        self.put(stage, Duration::ZERO, Timer::Connect);
    }

    /// The process ends; with `tell` its machine goes on and says so, else it lost its power.
    pub fn stop(&mut self, stage: &mut Stage, tell: bool) {
        stage.log(|| format!("helper {} stops{}", self.which, if tell { "" } else { " without a word" }));
        (self.up, self.connection, self.generation) = (false, None, 0);
        self.life += 1;
        self.running.clear();
        stage.close_all(Some(self.host), tell);
    }

    pub fn is_running(&self) -> usize {
        self.running.len()
    }

    pub fn on_timer(&mut self, stage: &mut Stage, timer: Timer) {
        match timer {
            Timer::Connect => {
                let id = stage.connect(self.host);
                self.connection = Some(id);
                self.put(stage, CONNECT, Timer::ConnectTimeout(id));
            }
            Timer::ConnectTimeout(id) => {
                if self.connection == Some(id) && self.generation == 0 {
                    stage.close(id, End::Peer, true);
                    self.lost(stage);
                }
            }
            Timer::State { generation } => {
                if generation == self.generation {
                    self.report(stage);
                    self.put(stage, self.state_every, timer);
                }
            }
            Timer::Ends { lease, serial } => {
                if self
                    .running
                    .get(&lease)
                    .is_some_and(|running| running.serial == serial && !running.cancelled)
                {
                    self.ended(stage, lease);
                }
            }
            Timer::Yield { spell } => {
                if spell == self.spell {
                    stage.count(if self.running.is_empty() {
                        "helpers that yield"
                    } else {
                        "busy helpers that yield"
                    });
                    self.yielding = true;
                    self.cancel_all(stage);
                }
            }
            Timer::HandBack => {
                if self.yielding {
                    self.cancel_all(stage);
                }
            }
            Timer::Stopped { lease, serial } => {
                if self.running.get(&lease).is_some_and(|running| running.serial == serial) {
                    self.ended(stage, lease);
                }
            }
        }
    }

    fn tell(&self, stage: &mut Stage, message: Message) {
        if let Some(id) = self.connection {
            stage.send(id, End::Peer, message);
        }
    }

    fn report(&self, stage: &mut Stage) {
        match self.supervisor {
            Supervisor::Instead => self.word(stage, true),
            _ => self.tell(stage, Message::State { offered: self.offered }),
        }
    }

    /// Its supervisor says how it is, or, not `up`, that its worker is gone.
    pub fn word(&self, stage: &mut Stage, up: bool) {
        if stage.net.hears(self.host) {
            let (name, offered) = (self.name, if up { self.offered } else { Some(0) });
            let takes = stage.rng.wait(0, 300);
            stage.agenda.put(stage.now + takes, Happening::Said(Word { name, offered, up }));
        }
    }

    /// From now on it offers so much, and says so; after `grace` it hands back what runs.
    pub fn offer(&mut self, stage: &mut Stage, offered: Option<u32>, grace: Option<Duration>) {
        stage.log(|| format!("helper {} offers {offered:?} and yields after {grace:?}", self.which));
        (self.offered, self.yielding, self.spell) = (offered, false, self.spell + 1);
        if self.generation != 0 {
            self.report(stage);
        }
        if let Some(grace) = grace {
            self.put(stage, grace, Timer::Yield { spell: self.spell });
        }
    }

    fn ended(&mut self, stage: &mut Stage, lease: LeaseId) {
        let Some(running) = self.running.remove(&lease) else { return };
        stage.log(|| format!("helper {} ends {lease:?}: {:?}", self.which, running.outcome));
        if !self.abandoning {
            self.tell(stage, Message::Result { lease, outcome: running.outcome });
        } else if self.running.is_empty() {
            self.rest(stage);
        }
    }

    fn report_every(&mut self, stage: &mut Stage, every: Duration) {
        self.state_every = every;
        self.generation = stage.rng.between(1, u64::MAX);
        self.put(stage, Duration::ZERO, Timer::State { generation: self.generation });
    }

    pub fn opened(&mut self, stage: &mut Stage, id: ConnId) {
        if self.connection == Some(id) {
            let (name, slots, system) = (self.name, self.slots, self.system);
            self.tell(stage, Message::Hello { name, slots, system });
            self.report_every(stage, STATE);
        }
    }

    /// The stream ended: what runs is ended first, then it is opened again.
    pub fn lost(&mut self, stage: &mut Stage) {
        stage.log(|| format!("helper {} lost its stream", self.which));
        (self.connection, self.generation, self.abandoning) = (None, 0, true);
        self.cancel_all(stage);
        if self.running.is_empty() {
            self.rest(stage);
        }
    }

    fn cancel_all(&mut self, stage: &mut Stage) {
        for lease in self.running.keys().copied().collect::<Vec<_>>() {
            self.cancel(stage, lease);
        }
    }

    pub fn lost_connection(&mut self, stage: &mut Stage, id: ConnId) {
        if self.connection == Some(id) {
            self.lost(stage);
        }
    }

    fn rest(&mut self, stage: &mut Stage) {
        self.abandoning = false;
        self.put(stage, self.wait, Timer::Connect);
        self.wait = (self.wait * 2).min(LAST_WAIT);
    }

    fn cancel(&mut self, stage: &mut Stage, lease: LeaseId) {
        let Some(running) = self.running.get_mut(&lease) else { return };
        if !std::mem::replace(&mut running.cancelled, true) {
            running.outcome = Outcome::Cancelled;
            let (dies, serial) = (stage.rng.wait(0, self.stubborn), running.serial);
            self.put(stage, dies, Timer::Stopped { lease, serial });
        }
    }

    pub fn hear(&mut self, stage: &mut Stage, id: ConnId, message: Message) {
        if self.connection != Some(id) {
            return;
        }
        stage.log(|| format!("helper {} hears {message:?}", self.which));
        match message {
            Message::Welcome { state_interval } => {
                self.wait = FIRST_WAIT;
                self.report_every(stage, state_interval);
            }
            Message::Refused { reason } => {
                stage.count("helpers refused");
                stage.audit.refused(&reason);
                self.stop(stage, true);
                self.refused = Some(reason);
            }
            Message::Lease { lease, action, issued } => self.take(stage, lease, action, issued),
            Message::Cancel { lease } => {
                if self.running.contains_key(&lease) {
                    stage.count("cancels that met a running lease");
                } else {
                    stage.count("cancels that crossed with a result");
                }
                self.cancel(stage, lease);
            }
            other => stage.audit.broken(format!("a helper heard {other:?}")),
        }
    }

    fn take(&mut self, stage: &mut Stage, lease: LeaseId, action: Action, issued: (u32, Time)) {
        if self.running.contains_key(&lease) {
            return stage.audit.broken(format!("{lease:?} came twice over one connection"));
        }
        if self.running.len() >= self.slots as usize {
            stage.count("leases refused for want of a slot");
            let running: Vec<_> = self.running.keys().copied().collect();
            stage.audit.given_back(issued, &running);
            return self.tell(stage, Message::Result { lease, outcome: Outcome::Full });
        }
        let length = action.length * self.slowness as u32 / 100;
        let broken = stage.rough && stage.rng.chance(self.faulty);
        let (takes, outcome) = if broken {
            (length.mul_f64(0.5), Outcome::Broken)
        } else if length > action.timeout {
            (action.timeout, Outcome::TimedOut)
        } else {
            (length, Outcome::Ran(action.content))
        };
        self.serial += 1;
        let serial = self.serial;
        self.running.insert(lease, Running { serial, outcome, cancelled: false });
        self.put(stage, takes, Timer::Ends { lease, serial });
        if self.yielding {
            // It is looked at once a second.
            let looks = stage.rng.wait(0, 1_000);
            self.put(stage, looks, Timer::HandBack);
        }
    }
}
