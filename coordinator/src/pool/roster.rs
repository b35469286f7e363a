//! The helpers of a pool: what each is, what it last said, which leases it holds, and the choice among
//! them. It does not know the tasks behind the leases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::queue::Class;
use super::trust::Standing;
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
    pub standing: Standing,
}

pub(super) struct Helper {
    pub name: Arc<str>,
    pub leases: BTreeSet<LeaseId>,
    slots: u32,
    /// How many of its slots may be used, as far as it is trusted.
    allowed: u32,
    properties: Arc<Properties>,
    /// How long actions take on it, compared with what was expected of them.
    pace: Pace,
    report: Option<Report>,
    heard: Time,
}

/// How slow a helper is: a moving average of what actions took on it to what they were expected to take. Kept in steps, so
/// that noise does not make one of two equal helpers the better one.
#[derive(Clone, Copy, Debug)]
struct Pace(f64);

impl Pace {
    /// What one more action counts.
    const WEIGHT: f64 = 0.1;
    /// No single action is believed to be further off.
    const BOUNDS: (f64, f64) = (1.0 / 16.0, 16.0);
    /// The factor from one step to the next.
    const STEP: f64 = 1.5;

    fn note(&mut self, expected: Duration, took: Duration) {
        let ratio = took.as_secs_f64() / expected.as_secs_f64().max(0.001);
        // In logarithms, so that twice as slow and twice as fast cancel out.
        let (was, is) = (self.0.ln(), ratio.clamp(Self::BOUNDS.0, Self::BOUNDS.1).ln());
        self.0 = (was + (is - was) * Self::WEIGHT).exp();
    }

    fn rounded(self) -> f64 {
        Self::STEP.powf((self.0.ln() / Self::STEP.ln()).round())
    }
}

impl Helper {
    fn free(&self) -> usize {
        (self.slots.min(self.allowed) as usize).saturating_sub(self.leases.len())
    }

    /// When it would be done with one action more, in a measure that only compares: its pace, and up to twice that where its
    /// slots fill up and share its machine. In 1/2^16.
    fn finish(&self) -> u64 {
        let fill = self.leases.len() as f64 / f64::from(self.slots.max(1));
        (self.pace.rounded() * (1.0 + fill) * 65536.0) as u64
    }

    fn view(&self, now: Time, online: bool) -> HelperView {
        HelperView {
            name: self.name.clone(),
            online,
            slots: self.slots,
            leases: if online { self.leases.len() as u32 } else { 0 },
            report: self.report,
            silent_for: now.saturating_sub(self.heard),
            standing: Standing::default(),
        }
    }
}

/// Helpers with the same properties that may be given work.
#[derive(Default)]
struct Kind {
    helpers: BTreeSet<HelperId>,
    /// Those with a free slot, the soonest first (see [`Helper::finish`]).
    free: BTreeSet<(u64, HelperId)>,
}

#[derive(Default)]
pub(super) struct Roster {
    helpers: BTreeMap<HelperId, Helper>,
    /// None of them is empty.
    kinds: BTreeMap<Arc<Properties>, Kind>,
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
        let properties = Arc::new(properties);
        let kind = self.kinds.entry(properties.clone()).or_default();
        kind.helpers.insert(id);
        let (leases, pace) = (BTreeSet::new(), Pace(1.0));
        let allowed = slots;
        let helper = Helper { name, leases, slots, allowed, properties, pace, report: None, heard: now };
        if slots > 0 {
            kind.free.insert((helper.finish(), id));
        }
        self.helpers.insert(id, helper);
    }

    /// Changes a helper and its place among those with free slots.
    fn change<T>(&mut self, id: HelperId, change: impl FnOnce(&mut Helper) -> T) -> Option<T> {
        let helper = self.helpers.get_mut(&id)?;
        let (before, free_before) = (helper.finish(), helper.free());
        let changed = change(helper);
        let (after, free_after) = (helper.finish(), helper.free());
        self.free_slots = self.free_slots + free_after - free_before;
        if let Some(kind) = self.kinds.get_mut(&helper.properties) {
            if free_before > 0 {
                kind.free.remove(&(before, id));
            }
            if free_after > 0 {
                kind.free.insert((after, id));
            }
        }
        Some(changed)
    }

    /// Lets so many of the helper's slots be used; with none of them it is as if it could run nothing.
    pub fn allow(&mut self, id: HelperId, allowed: u32) {
        let Some(properties) = self.helpers.get(&id).map(|helper| helper.properties.clone()) else { return };
        self.kinds.entry(properties.clone()).or_default().helpers.insert(id);
        self.change(id, |helper| helper.allowed = allowed);
        if allowed == 0
            && let Some(kind) = self.kinds.get_mut(&properties)
        {
            kind.helpers.remove(&id);
            if kind.helpers.is_empty() {
                self.kinds.remove(&properties);
            }
        }
    }

    pub fn properties(&self, id: HelperId) -> Option<Arc<Properties>> {
        self.helpers.get(&id).map(|helper| helper.properties.clone())
    }

    /// Whether a helper could run what asks for `wants`, but may not be given anything.
    pub fn any_set_aside(&self, wants: &Properties) -> bool {
        self.helpers.values().any(|helper| helper.allowed == 0 && matches(wants, &helper.properties))
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
        if let Some(kind) = self.kinds.get_mut(&helper.properties) {
            kind.free.remove(&(helper.finish(), id));
            kind.helpers.remove(&id);
            if kind.helpers.is_empty() {
                self.kinds.remove(&helper.properties);
            }
        }
        let gone = Gone { name: helper.name.clone(), leases: std::mem::take(&mut helper.leases) };
        self.departed.retain(|_, old| now.saturating_sub(old.heard) < REMEMBERED.0);
        if self.departed.len() < REMEMBERED.1 {
            self.departed.insert(helper.name.clone(), helper);
        }
        Some(gone)
    }

    pub fn take(&mut self, id: HelperId, lease: LeaseId) {
        self.change(id, |helper| helper.leases.insert(lease));
    }

    pub fn free(&mut self, id: HelperId, lease: LeaseId) {
        self.change(id, |helper| helper.leases.remove(&lease));
    }

    /// An action that was expected to take so long took so long on the helper.
    pub fn note_pace(&mut self, id: HelperId, expected: Duration, took: Duration) {
        self.change(id, |helper| helper.pace.note(expected, took));
    }

    pub fn has_free_slot(&self) -> bool {
        self.free_slots > 0
    }

    pub fn any_matches(&self, wants: &Properties) -> bool {
        self.able(wants).next().is_some()
    }

    fn able(&self, wants: &Properties) -> impl Iterator<Item = &Kind> {
        self.kinds.iter().filter(|(has, _)| matches(wants, has)).map(|(_, kind)| kind)
    }

    /// The helper that would be done the soonest with a task of the class. One that failed the task before is chosen only
    /// when no other could run it at all, not when the others are merely busy.
    pub fn choose(&self, class: &Class) -> Option<HelperId> {
        let fresh =
            |id: &HelperId| self.helpers.get(id).is_some_and(|helper| !class.tried.contains(&helper.name));
        let able = || self.able(&class.properties);
        let only_fresh = class.tried.is_empty() || able().any(|kind| kind.helpers.iter().any(fresh));
        let soonest = |kind: &Kind| {
            let mut free = kind.free.iter();
            // Looks at no more than one helper beyond those that were tried.
            free.find(|(_, id)| !only_fresh || fresh(id)).copied()
        };
        able().filter_map(soonest).min().map(|(_, id)| id)
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
