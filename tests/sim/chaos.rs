//! What goes wrong, and when: faults of machines, links and processes, and their ends.

use super::clock::ms;
use super::helper::Supervisor;
use super::network::{End, Host};
use super::stage::Happening;
use super::world::World;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Something goes wrong now, and again after a while.
    Next,
    /// A host's link is whole and its machine goes on.
    Mended(Host),
    HelperReturns(usize),
    CoordinatorReturns,
    /// A helper offers all its slots again.
    Unoccupied(usize),
    /// Operators let a helper have work again.
    Resumed(usize),
}

impl World {
    /// One fault of those that may happen here, and the time of the next.
    pub fn on_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Next if self.stage.rough => {
                self.strike();
                let pause = self.stage.rng.wait(50, self.weather.calm_for);
                self.put_fault(pause, Fault::Next);
            }
            Fault::Next => {}
            Fault::Mended(host) => self.mend(host),
            Fault::HelperReturns(which) => {
                let helper = &mut self.helpers[which];
                if !helper.up && !helper.retired {
                    helper.start(&mut self.stage);
                }
            }
            Fault::Unoccupied(which) => self.helpers[which].offer(&mut self.stage, None, None),
            Fault::Resumed(which) => self.drain(which, false),
            Fault::CoordinatorReturns => {
                if !self.coordinator.up {
                    self.coordinator.restart(&mut self.stage);
                }
            }
        }
    }

    pub fn put_fault(&mut self, after: std::time::Duration, fault: Fault) {
        self.stage.agenda.put(self.stage.now + after, Happening::Chaos(fault));
    }

    fn strike(&mut self) {
        let (helpers, hosts) = (self.helpers.len() as u64, self.stage.net.hosts() as u64);
        let which = self.stage.rng.between(0, helpers) as usize;
        let host = self.stage.rng.between(0, hosts) as usize;
        let dice = self.stage.rng.between(0, 130);
        match dice {
            0..25 => self.cut(host, dice),
            25..35 => {
                let open = self.stage.net.open_connections();
                if let Some(id) = self.stage.rng.pick(&open) {
                    self.stage.log(|| format!("{id:?} breaks"));
                    self.stage.count("connections broken");
                    self.stage.snap(id);
                }
            }
            35..50 => {
                let host = self.helpers[which].host;
                self.stage.log(|| format!("host {host} freezes"));
                self.stage.count("hosts frozen");
                self.stage.freeze(host);
                self.mend_within(host, 30_000);
            }
            50..75 => {
                if self.helpers[which].up {
                    let (tell, killed) = (dice < 65, self.helpers[which].is_running() > 0);
                    self.stage.count(if killed { "busy helpers lost" } else { "idle helpers lost" });
                    self.helpers[which].stop(&mut self.stage, tell);
                    let supervised = self.helpers[which].supervisor != Supervisor::None;
                    if supervised && (tell || self.stage.rng.chance(50)) {
                        self.stage.count("supervisors that say that a worker is gone");
                        self.helpers[which].word(&mut self.stage, false);
                    }
                    let away = self.stage.rng.wait(0, 15_000);
                    self.put_fault(away, Fault::HelperReturns(which));
                }
            }
            75..85 => {
                let slowness = self.stage.rng.between(50, 1000);
                self.stage.log(|| format!("helper {which} takes {slowness} % from now on"));
                self.stage.count("helpers that became slow or fast");
                self.helpers[which].slowness = slowness;
            }
            85..88 => {
                let client = self.stage.rng.between(0, self.clients.len() as u64) as usize;
                if self.clients[client].up && self.clients.iter().filter(|client| client.up).count() > 1 {
                    let tell = self.stage.rng.chance(50);
                    self.clients[client].stop(&mut self.stage, tell);
                }
            }
            88..91 => {
                if self.coordinator.up && self.weather.restarts {
                    let tell = self.stage.rng.chance(70);
                    self.coordinator.crash(&mut self.stage, tell);
                    let away = self.stage.rng.wait(100, 8_000);
                    self.put_fault(away, Fault::CoordinatorReturns);
                }
            }
            100..120 => self.occupy(which, dice),
            120.. => self.drain(which, true),
            _ => {
                // Somebody gave a second machine the name of the first.
                if !self.weather.double_names {
                    return;
                }
                self.stage.count("names taken twice");
                let (name, system) = (self.helpers[which].name, self.helpers[which].system);
                self.add_helper(name, system);
            }
        }
    }

    /// A helper's owner needs a part of it, or all, now or within a while.
    fn occupy(&mut self, which: usize, dice: u64) {
        let grace = self.stage.rng.wait(0, 5_000);
        let (offered, grace, longest) = match dice {
            ..110 => (Some(self.stage.rng.between(0, 4) as u32), None, 20_000),
            110..115 => (Some(0), Some(grace), 20_000),
            // What it offers and what it does are two things.
            _ => (None, Some(grace), 500_000),
        };
        self.stage.count("helpers that offer less or yield");
        self.helpers[which].offer(&mut self.stage, offered, grace);
        let lasts = self.stage.rng.wait(50, longest);
        self.put_fault(lasts, Fault::Unoccupied(which));
    }

    /// An operator drains a helper for a while, or resumes it.
    fn drain(&mut self, which: usize, drained: bool) {
        let name = self.helpers[which].name;
        if !self.coordinator.up || !self.coordinator.drain(&mut self.stage, name, drained) {
            return;
        }
        self.stage.count(if drained { "helpers drained" } else { "helpers resumed" });
        if drained {
            let lasts = self.stage.rng.wait(50, 20_000);
            self.put_fault(lasts, Fault::Resumed(which));
        }
    }

    /// Nothing passes in one direction or both, for up to 25 s.
    fn cut(&mut self, host: Host, dice: u64) {
        let to: &[End] = match dice % 4 {
            0 => &[End::Peer],
            1 => &[End::Coordinator],
            _ => &[End::Peer, End::Coordinator],
        };
        self.stage.log(|| format!("the link of host {host} is cut towards {to:?}"));
        self.stage.count(if to.len() == 2 { "partitions" } else { "partitions one way" });
        self.stage.cut(host, to);
        self.mend_within(host, if dice < 15 { 25_000 } else { 70_000 });
    }

    fn mend_within(&mut self, host: Host, longest: u64) {
        let lasts = self.stage.rng.wait(50, longest);
        self.put_fault(lasts, Fault::Mended(host));
    }

    fn mend(&mut self, host: Host) {
        self.stage.log(|| format!("host {host} is well again"));
        self.stage.mend(host);
        for event in std::mem::take(&mut self.late) {
            // Those of other hosts that are frozen are late again.
            self.stage.agenda.put(self.stage.now, event);
        }
    }

    /// No more faults: links heal, helpers and the coordinator are back, nobody bears another's name.
    pub fn calm(&mut self) {
        self.stage.log(|| "calm".into());
        self.stage.rough = false;
        for host in 0..self.stage.net.hosts() {
            self.mend(host);
        }
        self.on_fault(Fault::CoordinatorReturns);
        let mut names = Vec::new();
        for which in 0..self.helpers.len() {
            self.on_fault(Fault::Unoccupied(which));
            self.on_fault(Fault::Resumed(which));
            if names.contains(&self.helpers[which].name) {
                self.helpers[which].stop(&mut self.stage, true);
                self.helpers[which].retired = true;
                continue;
            }
            names.push(self.helpers[which].name);
            self.put_fault(ms(100), Fault::HelperReturns(which));
        }
    }
}
