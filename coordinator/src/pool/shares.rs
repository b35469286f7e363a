//! Whose turn it is: start-time fair queueing (Goyal, Vin and Cheng, 1996), first between users, then between the builds
//! of one user.
//!
//! Everybody has a *tag*, in microseconds of helper time: what they were served, weighted. The lowest tag is served next. Who has
//! nothing waiting for some kind of helper collects no claims on it: they come back at the level of those that are being served.
//! When nobody waits, all are even. A task is charged when it is leased, with what it is expected to take, and corrected when its lease ends.
//!
//! The bound: of two users who both always have something waiting, neither was served more than the other by more than
//! the pool's slots and one, times the longest lease or what may be charged for one at first (weights taken into account). It
//! knows no tasks. Who asks under ever new names is served as ever new users: names are not proven.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::event::Owner;

/// What a task of unknown length is charged with at first, and the most that one is: nobody proves what is expected.
const UNKNOWN: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);

/// Above normal, normal, below normal: a task's charge is divided by it. REAPI's smaller priorities are the sooner ones.
fn weight(priority: i32) -> (u64, u64) {
    match priority {
        ..0 => (1, 4),
        0 => (1, 1),
        1.. => (4, 1),
    }
}

/// What was taken for a lease, and from which accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    time: u64,
    priority: i32,
    users: Epoch,
    builds: Epoch,
}

/// One life of a level, from when somebody waits until nobody does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Epoch(u64);

/// One level of it: users, or the builds of one user.
#[derive(Debug)]
struct Level {
    epoch: Epoch,
    members: HashMap<Arc<str>, Member>,
    /// Tasks of all members that wait.
    waiting: usize,
    /// The tag of who was served last.
    now: u64,
    /// With more members than this, those that have nothing are looked for.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Member {
    tag: u64,
    /// Tasks that wait.
    waiting: usize,
}

impl Level {
    fn new(epoch: Epoch) -> Level {
        Level { epoch, members: HashMap::new(), waiting: 0, now: 0, sweep_at: MANY }
    }

    fn enter(&mut self, name: &Arc<str>, first: bool) {
        let now = self.now;
        let member = self.members.entry(name.clone()).or_default();
        if first || member.waiting == 0 {
            member.tag = member.tag.max(now);
        }
        member.waiting += 1;
        self.waiting += 1;
    }

    /// Who has nothing waiting is forgotten some time, unless they are ahead of others who wait.
    fn exit(&mut self, name: &Arc<str>) {
        if let Some(member) = self.members.get_mut(name)
            && member.waiting > 0
        {
            member.waiting -= 1;
            self.waiting -= 1;
        }
        if self.members.len() > self.sweep_at {
            let now = self.now;
            // Beyond the bound nobody's debt is remembered.
            let debts = self.members.len() <= BOUND;
            self.members.retain(|_, member| member.waiting > 0 || (debts && member.tag > now));
            self.sweep_at = MANY.max(self.members.len() * 2);
        }
    }

    fn tag(&self, name: &Arc<str>) -> u64 {
        self.members.get(name).map_or(self.now, |member| member.tag)
    }

    fn charge(&mut self, name: &Arc<str>, time: u64) {
        if let Some(member) = self.members.get_mut(name) {
            self.now = self.now.max(member.tag);
            member.tag = member.tag.saturating_add(time);
        }
    }

    fn correct(&mut self, name: &Arc<str>, was: u64, is: u64) {
        if let Some(member) = self.members.get_mut(name) {
            member.tag = member.tag.saturating_sub(was).saturating_add(is);
        }
    }
}

/// Members that have nothing are first looked for when there are more than this.
const MANY: usize = 64;
/// Members that have nothing waiting and are remembered, at most.
const BOUND: usize = 4096;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shares {
    users: Level,
    /// Of users who wait for something.
    builds: HashMap<Arc<str>, Level>,
    epochs: u64,
}

impl Default for Shares {
    fn default() -> Self {
        Shares { users: Level::new(Epoch(0)), builds: HashMap::new(), epochs: 0 }
    }
}

impl Shares {
    fn epoch(&mut self) -> Epoch {
        self.epochs += 1;
        Epoch(self.epochs)
    }

    /// A task of the owner's waits; `first`: none of them waited for such a helper.
    pub fn enter(&mut self, owner: &Owner, first: bool) {
        self.users.enter(&owner.user, first);
        if !self.builds.contains_key(&owner.user) {
            let epoch = self.epoch();
            self.builds.insert(owner.user.clone(), Level::new(epoch));
        }
        if let Some(builds) = self.builds.get_mut(&owner.user) {
            builds.enter(&owner.build, first);
        }
    }

    /// It does no longer.
    pub fn exit(&mut self, owner: &Owner) {
        self.users.exit(&owner.user);
        if self.users.waiting == 0 {
            self.users = Level::new(self.epoch());
        }
        if let Some(builds) = self.builds.get_mut(&owner.user) {
            builds.exit(&owner.build);
            if builds.waiting == 0 {
                self.builds.remove(&owner.user);
            }
        }
    }

    /// The lower, the sooner.
    pub fn turn(&self, owner: &Owner) -> (u64, u64) {
        let build = self.builds.get(&owner.user).map_or(0, |builds| builds.tag(&owner.build));
        (self.users.tag(&owner.user), build)
    }

    /// A slot is given to a task of the owner's, which waits until now.
    pub fn charge(&mut self, owner: &Owner, priority: i32, expected: Option<Duration>) -> Charge {
        let time = weighted(expected.unwrap_or(UNKNOWN).min(MOST), priority);
        self.users.charge(&owner.user, time);
        let builds = self.builds.get_mut(&owner.user).map(|builds| {
            builds.charge(&owner.build, time);
            builds.epoch
        });
        Charge { time, priority, users: self.users.epoch, builds: builds.unwrap_or_default() }
    }

    /// The slot was held for this long.
    pub fn correct(&mut self, owner: &Owner, charged: Charge, took: Duration) {
        let is = weighted(took, charged.priority);
        if self.users.epoch == charged.users {
            self.users.correct(&owner.user, charged.time, is);
        }
        let builds = self.builds.get_mut(&owner.user).filter(|builds| builds.epoch == charged.builds);
        if let Some(builds) = builds {
            builds.correct(&owner.build, charged.time, is);
        }
    }

    /// Users that it remembers.
    #[cfg(test)]
    pub fn users(&self) -> usize {
        self.users.members.len()
    }
}

/// Never nothing: a thousand tasks that take no time are not free.
fn weighted(time: Duration, priority: i32) -> u64 {
    let (times, by) = weight(priority);
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1000);
    micros.saturating_mul(times) / by
}
