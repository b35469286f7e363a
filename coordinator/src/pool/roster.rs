//! The helpers of a pool: what each is, what it last said, which leases it holds, and the choice among
//! them. It does not know the tasks behind the leases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::queue::Class;
use super::{HelperId, LeaseId, Properties, Time};

/// Helpers that left are remembered for this long, and this many of them, for `dbuild helpers`.
const REMEMBERED: (Duration, usize) = (Duration::from_secs(3600), 256);

/// A helper's sample of its machine, as it reported it. Shares are 0..100, memory and disk bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    pub cpu_percent: f64,
    pub load1: f64,
    pub memory_total: u64,
    pub memory_available: u64,
    pub disk_available: u64,
    pub io_pressure: f64,
    pub running: u32,
    pub tasks_done: u64,
    pub tasks_failed: u64,
}

/// One helper as others may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct HelperView {
    pub name: Arc<str>,
    pub online: bool,
    pub slots: u32,
    /// Leases that it holds now.
    pub leases: u32,
    pub report: Option<Report>,
    /// How long ago it was last heard.
    pub silent_for: Duration,
}

pub(super) struct Helper {
    pub name: Arc<str>,
    pub leases: BTreeSet<LeaseId>,
    slots: u32,
    properties: Properties,
    report: Option<Report>,
    heard: Time,
}

impl Helper {
    fn free(&self) -> usize {
        (self.slots as usize).saturating_sub(self.leases.len())
    }

    /// Share of its slots in use, in a form that compares exactly: leases per slot, times 2^32.
    fn fill(&self) -> u64 {
        ((self.leases.len() as u64) << 32) / u64::from(self.slots.max(1))
    }

    fn view(&self, now: Time, online: bool) -> HelperView {
        HelperView {
            name: self.name.clone(),
            online,
            slots: self.slots,
            leases: if online { self.leases.len() as u32 } else { 0 },
            report: self.report,
            silent_for: now.saturating_sub(self.heard),
        }
    }
}

#[derive(Default)]
pub(super) struct Roster {
    helpers: BTreeMap<HelperId, Helper>,
    names: HashMap<Arc<str>, HelperId>,
    /// Those that left, by name; never one that is connected.
    departed: BTreeMap<Arc<str>, Helper>,
    /// Free slots of all helpers, so that a full pool costs nothing to look at.
    free_slots: usize,
}

/// True if a helper that is `has` may run what asks for `wants`. dbuild's own properties (`dbuild-…`) say
/// how to run an action, not where.
pub(super) fn matches(wants: &Properties, has: &Properties) -> bool {
    first_mismatch(wants, has).is_none()
}

fn first_mismatch<'a>(wants: &'a Properties, has: &Properties) -> Option<(&'a str, &'a str)> {
    let asked = wants.iter().filter(|(name, _)| !name.starts_with("dbuild-"));
    asked
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .find(|(name, value)| has.get(*name).is_none_or(|held| held != value))
}

impl Roster {
    pub fn len(&self) -> usize {
        self.helpers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.helpers.is_empty()
    }

    pub fn by_name(&self, name: &str) -> Option<HelperId> {
        self.names.get(name).copied()
    }

    /// The helper's name, or a word for one that is unknown.
    pub fn name(&self, helper: HelperId) -> Arc<str> {
        self.helpers.get(&helper).map_or_else(|| "(gone)".into(), |helper| helper.name.clone())
    }

    pub fn heard(&self, helper: HelperId) -> Option<Time> {
        self.helpers.get(&helper).map(|helper| helper.heard)
    }

    pub fn add(&mut self, now: Time, id: HelperId, name: Arc<str>, slots: u32, properties: Properties) {
        self.departed.remove(&name);
        self.names.insert(name.clone(), id);
        self.free_slots += slots as usize;
        let helper = Helper { name, leases: BTreeSet::new(), slots, properties, report: None, heard: now };
        self.helpers.insert(id, helper);
    }

    pub fn report(&mut self, now: Time, id: HelperId, report: Report) {
        if let Some(helper) = self.helpers.get_mut(&id) {
            helper.heard = now;
            helper.report = Some(report);
        }
    }

    /// Takes a helper out and gives its leases.
    pub fn remove(&mut self, now: Time, id: HelperId) -> Option<Gone> {
        let mut helper = self.helpers.remove(&id)?;
        self.names.remove(&helper.name);
        self.free_slots -= helper.free();
        let gone = Gone { name: helper.name.clone(), leases: std::mem::take(&mut helper.leases) };
        self.departed.retain(|_, old| now.saturating_sub(old.heard) < REMEMBERED.0);
        if self.departed.len() < REMEMBERED.1 {
            self.departed.insert(helper.name.clone(), helper);
        }
        Some(gone)
    }

    pub fn take(&mut self, id: HelperId, lease: LeaseId) {
        if let Some(helper) = self.helpers.get_mut(&id)
            && helper.leases.insert(lease)
        {
            self.free_slots -= 1;
        }
    }

    pub fn free(&mut self, id: HelperId, lease: LeaseId) {
        if let Some(helper) = self.helpers.get_mut(&id)
            && helper.leases.remove(&lease)
        {
            self.free_slots += 1;
        }
    }

    pub fn has_free_slot(&self) -> bool {
        self.free_slots > 0
    }

    pub fn any_matches(&self, wants: &Properties) -> bool {
        self.helpers.values().any(|helper| matches(wants, &helper.properties))
    }

    /// The least filled helper that may take a task of the class. A helper that failed the task before is
    /// chosen only when no other could run it at all, not when the others are merely busy.
    pub fn choose(&self, class: &Class) -> Option<HelperId> {
        let able =
            || self.helpers.iter().filter(|(_, helper)| matches(&class.properties, &helper.properties));
        let fresh = |helper: &Helper| !class.tried.contains(&helper.name);
        let only_fresh = able().any(|(_, helper)| fresh(helper));
        able()
            .filter(|(_, helper)| helper.free() > 0 && (!only_fresh || fresh(helper)))
            .min_by_key(|(id, helper)| (helper.fill(), **id))
            .map(|(id, _)| *id)
    }

    /// Why no connected helper may run what asks for `wants`, as a sentence.
    pub fn mismatch(&self, wants: &Properties) -> String {
        let missing = |helper: &Helper| {
            let (name, value) = first_mismatch(wants, &helper.properties)?;
            let has = match helper.properties.get(name) {
                Some(held) => format!("has {name}={held}"),
                None => format!("has no {name}"),
            };
            Some(format!("the action asks for {name}={value}, but helper {} {has}", helper.name))
        };
        let first = self.helpers.values().find_map(missing).unwrap_or_default();
        format!("none of the pool's {} helpers can run it: {first}", self.helpers.len())
    }

    pub fn views(&self, now: Time) -> Vec<HelperView> {
        let online = self.helpers.values().map(|helper| helper.view(now, true));
        let offline = self.departed.values().map(|helper| helper.view(now, false));
        let mut all: Vec<_> = online.chain(offline).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// What is left of a helper that was removed.
pub(super) struct Gone {
    pub name: Arc<str>,
    pub leases: BTreeSet<LeaseId>,
}
