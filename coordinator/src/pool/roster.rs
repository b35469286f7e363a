//! The helpers of a pool: what each is, what it last said, which leases it holds, and the choice among
//! them. It does not know the tasks behind the leases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::pool::{Mood, State};

use super::queue::Class;
use super::trust::Standing;
use super::{HelperId, LeaseId, Properties, Time};

/// Helpers that left are remembered for this long, and this many of them, for `dbuild helpers`.
const REMEMBERED: (Duration, usize) = (Duration::from_secs(3600), 256);

/// A helper's state as it was reported. The pool looks at nothing in it but what is offered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report(pub Arc<State>);

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
    /// It gets no more work.
    pub drained: bool,
    pub properties: Arc<Properties>,
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
    /// How many of its slots it offers now.
    offered: u32,
    drained: bool,
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
    /// Slots in which it would begin something.
    fn open(&self) -> u32 {
        if self.drained { 0 } else { self.slots.min(self.offered).min(self.allowed) }
    }

    fn free(&self) -> usize {
        (self.open() as usize).saturating_sub(self.leases.len())
    }

    /// Why it is not open. The same words for all that goes on that long, so that a build says it once.
    fn why_closed(&self) -> &'static str {
        let mood = self.report.as_ref().map_or(Mood::Working, |report| report.0.mood());
        match mood {
            _ if self.drained => "is drained",
            _ if self.allowed == 0 => "failed repeatedly",
            Mood::Paused => "is paused by its owner",
            Mood::Down => "has no worker",
            Mood::Full | Mood::Yielding | Mood::Cooling => "is needed by others",
            Mood::Working => "offers no slot",
        }
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
            report: self.report.clone(),
            drained: self.drained,
            properties: self.properties.clone(),
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
    /// How many of them take work, when they have a free slot.
    open: usize,
}

#[derive(Default)]
pub(super) struct Roster {
    helpers: BTreeMap<HelperId, Helper>,
    /// None of them is empty.
    kinds: BTreeMap<Arc<Properties>, Kind>,
    names: HashMap<Arc<str>, HelperId>,
    /// Those that left, by name; never one that is connected.
    departed: BTreeMap<Arc<str>, Helper>,
    /// Names of those that get no more work, also while they are away.
    drained: BTreeSet<Arc<str>>,
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
        let properties = Arc::new(properties);
        self.kinds.entry(properties.clone()).or_default().helpers.insert(id);
        let (leases, pace, drained) = (BTreeSet::new(), Pace(1.0), self.drained.contains(&name));
        // It offers nothing yet, and then everything: the one way in which its place is found.
        let (report, offered, allowed) = (None, 0, u32::MAX);
        let helper =
            Helper { name, leases, slots, properties, pace, report, heard: now, offered, allowed, drained };
        self.helpers.insert(id, helper);
        self.change(id, |helper| helper.offered = slots);
    }

    /// Changes a helper and its place among those with free slots.
    fn change<T>(&mut self, id: HelperId, change: impl FnOnce(&mut Helper) -> T) -> Option<T> {
        let helper = self.helpers.get_mut(&id)?;
        let (before, free_before, open_before) = (helper.finish(), helper.free(), helper.open() > 0);
        let changed = change(helper);
        let (after, free_after, open_after) = (helper.finish(), helper.free(), helper.open() > 0);
        self.free_slots = self.free_slots + free_after - free_before;
        if let Some(kind) = self.kinds.get_mut(&helper.properties) {
            if free_before > 0 {
                kind.free.remove(&(before, id));
            }
            if free_after > 0 {
                kind.free.insert((after, id));
            }
            kind.open = kind.open + usize::from(open_after) - usize::from(open_before);
        }
        Some(changed)
    }

    /// Lets so many of the helper's slots be used, whatever it offers.
    pub fn allow(&mut self, id: HelperId, allowed: u32) {
        self.change(id, |helper| helper.allowed = allowed);
    }

    /// Takes in what a helper says of itself; true if it takes work now and did not before, or the other way round.
    pub fn report(&mut self, now: Time, id: HelperId, report: Report) -> bool {
        let changed = self.change(id, |helper| {
            let before = helper.open() > 0;
            helper.heard = now;
            helper.offered = report.0.offered.unwrap_or(u32::MAX);
            helper.report = Some(report);
            before != (helper.open() > 0)
        });
        changed.unwrap_or(false)
    }

    /// How often its worker was started again, as it said last.
    pub fn restarts(&self, id: HelperId) -> u32 {
        let report = self.helpers.get(&id).and_then(|helper| helper.report.as_ref());
        report.map_or(0, |report| report.0.restarts)
    }

    /// The helper gets nothing until it says again what it offers.
    pub fn close(&mut self, id: HelperId) {
        self.change(id, |helper| helper.offered = 0);
    }

    pub fn knows(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.departed.contains_key(name) || self.drained.contains(name)
    }

    /// Gives a helper that is known no more work, or work again.
    pub fn drain(&mut self, name: &Arc<str>, drained: bool) {
        if !self.knows(name) {
            return;
        }
        if drained {
            self.drained.insert(name.clone());
        } else {
            self.drained.remove(name);
        }
        if let Some(id) = self.by_name(name) {
            self.change(id, |helper| helper.drained = drained);
        }
        if let Some(helper) = self.departed.get_mut(name) {
            helper.drained = drained;
        }
    }

    /// Takes a helper out and gives its leases.
    pub fn remove(&mut self, now: Time, id: HelperId) -> Option<Gone> {
        let mut helper = self.helpers.remove(&id)?;
        self.names.remove(&helper.name);
        self.free_slots -= helper.free();
        let open = helper.open() > 0;
        if let Some(kind) = self.kinds.get_mut(&helper.properties) {
            kind.free.remove(&(helper.finish(), id));
            kind.helpers.remove(&id);
            kind.open -= usize::from(open);
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

    /// Whether some helper that could run it takes work, when it has a free slot.
    pub fn any_open(&self, wants: &Properties) -> bool {
        self.able(wants).any(|kind| kind.open > 0)
    }

    fn able(&self, wants: &Properties) -> impl Iterator<Item = &Kind> {
        self.kinds.iter().filter(|(has, _)| matches(wants, has)).map(|(_, kind)| kind)
    }

    /// The helper that would be done the soonest with a task of the class. One that failed the task before is chosen only
    /// when no other could run it at all, not when the others are merely busy.
    pub fn choose(&self, class: &Class) -> Option<HelperId> {
        let fresh = |id: &HelperId| {
            self.helpers
                .get(id)
                .is_some_and(|helper| helper.open() > 0 && !class.tried.contains(&helper.name))
        };
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

    /// Why those helpers take no work that could run it, as a sentence.
    pub fn closed(&self, wants: &Properties) -> String {
        let able = self.able(wants).flat_map(|kind| &kind.helpers).filter_map(|id| self.helpers.get(id));
        let able: Vec<&Helper> = able.collect();
        if able.iter().all(|helper| helper.allowed == 0) {
            return "every helper that could run it failed repeatedly and is set aside for a while"
                .to_owned();
        }
        let each: Vec<String> =
            able.iter().take(3).map(|helper| format!("{} {}", helper.name, helper.why_closed())).collect();
        format!("no helper takes work at the moment: {}", each.join(", "))
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
