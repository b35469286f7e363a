//! The network: every host has one link to the coordinator, and connections on it that keep order, as TCP does. What is on
//! its way over a link that is cut waits until the link is whole again; an end whose other end is silently gone finds out
//! by keep-alive, so that for a while one side may take a connection for open that the other has long forgotten.
//!
//! It does not know what messages say, and loses and doubles none: the transport below the protocol does neither.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::clock::{Time, ms};
use super::stage::{Happening, Stage};
use super::wire::Message;

/// A machine that talks to the coordinator.
pub type Host = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Peer,
    Coordinator,
}

pub const ENDS: [End; 2] = [End::Peer, End::Coordinator];

impl End {
    pub fn other(self) -> End {
        if self == End::Peer { End::Coordinator } else { End::Peer }
    }
}

/// Keep-alive of HTTP/2, in ms: interval and timeout of `helper/src/remote.rs` (10 s, 20 s) and
/// `coordinator/src/service/mod.rs` (20 s, 20 s); a fault is noticed between the timeout and their sum.
const NOTICED: [Range<u64>; 2] = [20_000..30_000, 20_000..40_000];

#[derive(Debug)]
enum Packet {
    Open,
    Opened,
    Message(Message),
    /// The sender's end is closed, or never was open.
    End,
}

#[derive(Debug, Default)]
struct Pipe {
    packets: VecDeque<Packet>,
    /// Packets whose time of arrival has passed, which wait for the link.
    stalled: usize,
    last_arrival: Time,
}

#[derive(Debug)]
struct Connection {
    host: Host,
    open: [bool; 2],
    /// Towards the peer, towards the coordinator.
    pipes: [Pipe; 2],
}

#[derive(Debug)]
struct Link {
    /// Towards the peer, towards the coordinator: nothing passes.
    cut: [bool; 2],
    /// The peer's machine takes nothing in (and is not asked whether it lives).
    frozen: bool,
    delay: Range<u64>,
    /// Grows when the link is whole again: what was noticed of an older trouble is void.
    epoch: u64,
}

/// What an end learns from a packet.
#[derive(Debug)]
pub enum Arrival {
    /// At the coordinator a new connection; at the peer the word that it stands.
    Open,
    Message(Message),
    Lost,
}

#[derive(Debug, Default)]
pub struct Network {
    links: Vec<Link>,
    connections: BTreeMap<ConnId, Connection>,
    last: u64,
    /// No process listens at the coordinator's address.
    pub deaf: bool,
}

impl Network {
    /// A new host; its link takes so many ms.
    pub fn join(&mut self, delay: Range<u64>) -> Host {
        self.links.push(Link { cut: [false; 2], frozen: false, delay, epoch: 0 });
        self.links.len() - 1
    }

    pub fn host(&self, id: ConnId) -> Option<Host> {
        self.connections.get(&id).map(|connection| connection.host)
    }

    pub fn hosts(&self) -> usize {
        self.links.len()
    }

    pub fn is_frozen(&self, host: Host) -> bool {
        self.links[host].frozen
    }

    /// Whether a word of the host, beside its connections, arrives.
    pub fn hears(&self, host: Host) -> bool {
        !self.links[host].frozen && !self.links[host].cut[End::Coordinator as usize]
    }

    /// Packets that are under way to the peer: what the coordinator's outbox and the transport's windows hold.
    pub fn under_way(&self, id: ConnId) -> usize {
        self.connections.get(&id).map_or(0, |connection| connection.pipes[End::Peer as usize].packets.len())
    }

    pub fn open_connections(&self) -> Vec<ConnId> {
        self.connections.keys().copied().collect()
    }
}

impl Stage {
    /// The peer connects: it gets [`Arrival::Open`] or [`Arrival::Lost`], or nothing for as long as the link is cut.
    pub fn connect(&mut self, host: Host) -> ConnId {
        self.net.last += 1;
        let id = ConnId(self.net.last);
        let connection = Connection { host, open: [true, false], pipes: Default::default() };
        self.net.connections.insert(id, connection);
        self.pass(id, End::Coordinator, Packet::Open);
        id
    }

    pub fn send(&mut self, id: ConnId, from: End, message: Message) {
        if self.net.connections.get(&id).is_some_and(|connection| connection.open[from as usize]) {
            self.pass(id, from.other(), Packet::Message(message));
        }
    }

    /// Closes one end. `tell`: the other end hears of it, as it does unless the machine lost its power.
    pub fn close(&mut self, id: ConnId, end: End, tell: bool) {
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        if !std::mem::replace(&mut connection.open[end as usize], false) {
            return;
        }
        if tell {
            self.pass(id, end.other(), Packet::End);
        } else {
            self.suspect(id, end.other());
        }
        self.forget(id);
    }

    /// Closes every connection of a host at its end, or, without one, all at the coordinator's.
    pub fn close_all(&mut self, host: Option<Host>, tell: bool) {
        let end = if host.is_some() { End::Peer } else { End::Coordinator };
        for id in self.net.open_connections() {
            if host.is_none() || self.net.host(id) == host {
                self.close(id, end, tell);
            }
        }
    }

    /// Cuts a link in one direction or both. Both ends of its connections come to suspect it.
    pub fn cut(&mut self, host: Host, to: &[End]) {
        for end in to {
            self.net.links[host].cut[*end as usize] = true;
        }
        self.suspect_all(host);
    }

    /// The peer's machine stops (a suspended laptop, a stopped process): it says nothing and closes nothing.
    pub fn freeze(&mut self, host: Host) {
        self.net.links[host].frozen = true;
        self.suspect_all(host);
    }

    /// The link is whole and the peer's machine goes on; what waited arrives.
    pub fn mend(&mut self, host: Host) {
        let link = &mut self.net.links[host];
        (link.cut, link.frozen) = ([false; 2], false);
        link.epoch += 1;
        for id in self.net.open_connections() {
            for to in ENDS {
                let Some(connection) = self.net.connections.get_mut(&id) else { continue };
                if connection.host != host {
                    continue;
                }
                for _ in 0..std::mem::take(&mut connection.pipes[to as usize].stalled) {
                    self.schedule(id, to);
                }
            }
        }
    }

    /// Breaks one connection at both ends, as a proxy does.
    pub fn snap(&mut self, id: ConnId) {
        self.pass(id, End::Peer, Packet::End);
        self.pass(id, End::Coordinator, Packet::End);
    }

    fn suspect_all(&mut self, host: Host) {
        for id in self.net.open_connections() {
            if self.net.host(id) == Some(host) {
                ENDS.into_iter().for_each(|end| self.suspect(id, end));
            }
        }
    }

    fn suspect(&mut self, id: ConnId, end: End) {
        let Some(host) = self.net.host(id) else { return };
        let noticed = NOTICED[end as usize].clone();
        let at = self.now + self.rng.wait(noticed.start, noticed.end);
        let epoch = self.net.links[host].epoch;
        self.agenda.put(at, Happening::Suspect { id, end, epoch });
    }

    /// Keep-alive had no answer: true if this end gives the connection up.
    pub fn gives_up(&mut self, id: ConnId, end: End, epoch: u64) -> bool {
        let Some(connection) = self.net.connections.get_mut(&id) else { return false };
        let link = &self.net.links[connection.host];
        if link.frozen && end == End::Peer {
            // It looks when it goes on.
            self.agenda.put(self.now + ms(1000), Happening::Suspect { id, end, epoch });
            return false;
        }
        let gone = !connection.open[end.other() as usize];
        if !connection.open[end as usize] || !(link.epoch == epoch || gone) {
            return false;
        }
        connection.open[end as usize] = false;
        self.pass(id, end.other(), Packet::End);
        self.forget(id);
        true
    }

    fn pass(&mut self, id: ConnId, to: End, packet: Packet) {
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        connection.pipes[to as usize].packets.push_back(packet);
        self.schedule(id, to);
    }

    fn schedule(&mut self, id: ConnId, to: End) {
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        let delay = self.net.links[connection.host].delay.clone();
        let pipe = &mut connection.pipes[to as usize];
        pipe.last_arrival = pipe.last_arrival.max(self.now + self.rng.wait(delay.start, delay.end));
        self.agenda.put(pipe.last_arrival, Happening::Arrive { id, to });
    }

    /// The next packet of a connection arrives, unless the link is cut.
    pub fn arrive(&mut self, id: ConnId, to: End) -> Option<Arrival> {
        let connection = self.net.connections.get_mut(&id)?;
        let link = &self.net.links[connection.host];
        let pipe = &mut connection.pipes[to as usize];
        if link.cut[to as usize] || (link.frozen && to == End::Peer) {
            pipe.stalled += 1;
            return None;
        }
        let packet = pipe.packets.pop_front()?;
        if matches!(packet, Packet::Open) && !self.net.deaf {
            connection.open[to as usize] = true;
            self.pass(id, End::Peer, Packet::Opened);
            return Some(Arrival::Open);
        }
        if !connection.open[to as usize] {
            // Nobody is there: the other end is told, once.
            if connection.open[to.other() as usize] && !matches!(packet, Packet::End) {
                self.pass(id, to.other(), Packet::End);
            }
            self.forget(id);
            return None;
        }
        match packet {
            Packet::Open => None,
            Packet::Opened => Some(Arrival::Open),
            Packet::Message(message) => Some(Arrival::Message(message)),
            Packet::End => {
                connection.open[to as usize] = false;
                self.forget(id);
                Some(Arrival::Lost)
            }
        }
    }

    /// Lets go of a connection that is closed at both ends.
    fn forget(&mut self, id: ConnId) {
        if self.net.connections.get(&id).is_some_and(|connection| connection.open == [false; 2]) {
            self.net.connections.remove(&id);
        }
    }
}
