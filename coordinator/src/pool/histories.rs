//! Random histories of the pool against a model that sees only events and effects: what the module's text
//! promises must hold after each step, and when all faults stop everything accepted must end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use dbuild_proto::DigestFunction;
use dbuild_proto::pool::State;
use proptest::prelude::*;

use super::*;

/// What a history consists of. Numbers choose among what exists at that moment.
#[derive(Clone, Debug)]
enum Move {
    Attach { name: u8, slots: u32, system: bool },
    Detach { which: usize },
    Report { which: usize, offered: Option<u32> },
    Said { name: u8, offered: Option<u32>, up: bool },
    Drain { name: u8, drained: bool },
    Finish { which: usize, verdict: u8 },
    Forge { helper: u64, lease: u64 },
    Submit { content: u8, priority: i32, merge: bool, system: bool },
    Join { which: usize },
    Leave { which: usize },
    Wait { ms: u64 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        2 => (0..4u8, 1..4u32, any::<bool>())
            .prop_map(|(name, slots, system)| Move::Attach { name, slots, system }),
        1 => any::<usize>().prop_map(|which| Move::Detach { which }),
        4 => (any::<usize>(), offers()).prop_map(|(which, offered)| Move::Report { which, offered }),
        1 => (0..4u8, offers(), any::<bool>()).prop_map(|(name, offered, up)| Move::Said { name, offered, up }),
        1 => (0..4u8, any::<bool>()).prop_map(|(name, drained)| Move::Drain { name, drained }),
        7 => (any::<usize>(), 0..5u8).prop_map(|(which, verdict)| Move::Finish { which, verdict }),
        1 => (0..9u64, 0..40u64).prop_map(|(helper, lease)| Move::Forge { helper, lease }),
        8 => (0..12u8, -2..3i32, any::<bool>(), any::<bool>()).prop_map(|(content, priority, merge, system)| {
            Move::Submit { content, priority, merge, system }
        }),
        1 => any::<usize>().prop_map(|which| Move::Join { which }),
        2 => any::<usize>().prop_map(|which| Move::Leave { which }),
        3 => (0..4000u64).prop_map(|ms| Move::Wait { ms }),
    ];
    prop::collection::vec(one, 0..120)
}

fn offers() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![2 => Just(None), 1 => (0..3u32).prop_map(Some)]
}

fn report(offered: Option<u32>) -> Report {
    Report(State { offered, ..State::default() }.into())
}

const LIMITS: Limits = Limits {
    tasks: 10,
    helpers: 3,
    attempts: 3,
    helper_wait: Duration::from_secs(2),
    silence: Duration::from_secs(6),
    abandon: Duration::from_secs(3),
    lease_slack: Duration::from_secs(4),
    cancel_wait: Duration::from_secs(5),
};

fn system(linux: bool) -> Properties {
    Properties::from([("OSFamily".into(), if linux { "linux" } else { "plan9" }.into())])
}

#[derive(Default)]
struct Model {
    now: Time,
    next_helper: u64,
    /// Slots that connected helpers offer (of those that they have, see `slots`), and the leases that each holds: uncancelled ones and those whose
    /// cancellation was neither confirmed nor waited for.
    helpers: HashMap<HelperId, (u32, HashMap<LeaseId, Held>)>,
    slots: HashMap<HelperId, u32>,
    names: HashMap<HelperId, Arc<str>>,
    drained: HashSet<Arc<str>>,
    /// Until when helpers of these names get nothing.
    aside: HashMap<Arc<str>, Time>,
    live: HashMap<TaskId, Live>,
    ended: HashSet<TaskId>,
}

#[derive(Default)]
struct Live {
    watchers: u32,
    /// Not counting those that were handed back.
    leases: u32,
    returns: u32,
    running: Option<LeaseId>,
}

enum Held {
    Running(TaskId),
    Cancelled { until: Time },
}

impl Model {
    fn step(&mut self, pool: &mut Pool<TaskId>, event: Event<TaskId>) -> Vec<Effect<TaskId>> {
        let event_helper = match &event {
            Event::Attach { helper, slots, .. } => {
                self.slots.insert(*helper, *slots);
                self.helpers.insert(*helper, (*slots, HashMap::new()));
                None
            }
            Event::Detach { helper, .. } => Some(*helper),
            Event::Report { helper, report } => {
                self.offers(*helper, report);
                None
            }
            Event::Said { name, report, up } => {
                let named = self.helpers.keys().find(|helper| self.names[*helper] == *name).copied();
                named.into_iter().for_each(|helper| self.offers(helper, report));
                named.filter(|_| !up)
            }
            Event::Drain { name, drained } => {
                if !drained {
                    self.drained.remove(name);
                } else if pool.knows(name) {
                    self.drained.insert(name.clone());
                }
                None
            }
            Event::Finish { helper, lease, verdict } => {
                if let Some((offered, held)) = self.helpers.get_mut(helper)
                    && let Some(Held::Running(task)) = held.remove(lease)
                    && let Some(live) = self.live.get_mut(&task)
                {
                    live.running = None;
                    if matches!(verdict, Verdict::Return(_)) {
                        *offered = 0;
                        if live.returns < RETURNS {
                            (live.returns, live.leases) = (live.returns + 1, live.leases - 1);
                        }
                    }
                }
                None
            }
            _ => None,
        };
        if let Some(helper) = event_helper {
            self.drop_helper(helper);
        }
        let now = self.now;
        let submitted = matches!(event, Event::Submit(_));
        let effects = pool.step(now, event);
        for (_, held) in self.helpers.values_mut() {
            held.retain(|_, held| !matches!(held, Held::Cancelled { until } if *until <= now));
        }
        let mut replies = 0;
        for effect in &effects {
            match effect {
                Effect::Accepted { task, merged } => {
                    replies += 1;
                    assert_eq!(self.live.contains_key(task), *merged);
                    self.live.entry(*task).or_default().watchers += 1;
                }
                Effect::Declined(_) => replies += 1,
                Effect::Lease { helper, lease, task, .. } => self.leased(*helper, *lease, *task),
                Effect::Cancel { helper, lease } => {
                    let (_, held) = self.helpers.get_mut(helper).expect("cancels go to connected helpers");
                    let was = held.insert(*lease, Held::Cancelled { until: now + LIMITS.cancel_wait });
                    let Some(Held::Running(task)) = was else { panic!("cancelled what did not run") };
                    if let Some(live) = self.live.get_mut(&task) {
                        live.running = None;
                    }
                }
                Effect::SetAside { helper, wait, .. } => {
                    assert!(*wait > Duration::ZERO);
                    self.aside.insert(helper.clone(), now + *wait);
                }
                Effect::Requeued { task } => assert!(self.live.contains_key(task)),
                Effect::Answer { task, outcome } => {
                    let live = self.live.remove(task).expect("answered only what lives");
                    assert!(live.running.is_none(), "answered while it runs");
                    assert!(self.ended.insert(*task), "answered twice");
                    if let Outcome::Answered(by) = outcome {
                        assert_eq!(by, task, "answered with the answer of another");
                    }
                }
                Effect::Forgotten { task } => {
                    let live = self.live.remove(task).expect("forgot only what lives");
                    assert_eq!(live.watchers, 0, "forgot what is watched");
                    assert!(self.ended.insert(*task), "forgotten after its end");
                }
                Effect::Close { helper, .. } => self.drop_helper(*helper),
            }
        }
        assert_eq!(replies, usize::from(submitted));
        assert!(self.live.len() <= LIMITS.tasks);
        assert_eq!(self.live.len(), pool.live_tasks());
        effects
    }

    fn leased(&mut self, helper: HelperId, lease: LeaseId, task: TaskId) {
        let (slots, held) = self.helpers.get_mut(&helper).expect("leases go to connected helpers");
        let aside = self.aside.get(&self.names[&helper]).copied().unwrap_or_default();
        assert!(aside <= self.now, "leased to a helper that is set aside");
        assert!(held.insert(lease, Held::Running(task)).is_none(), "lease ids are new");
        assert!(held.len() <= *slots as usize, "slots oversold");
        assert!(!self.drained.contains(&self.names[&helper]), "leased to a helper that is drained");
        let live = self.live.get_mut(&task).expect("only what lives is leased");
        live.leases += 1;
        assert!(live.leases <= LIMITS.attempts, "too many attempts");
        assert!(live.running.replace(lease).is_none(), "runs twice at a time");
    }

    fn offers(&mut self, helper: HelperId, report: &Report) {
        if let Some((offered, _)) = self.helpers.get_mut(&helper) {
            *offered = self.slots[&helper].min(report.0.offered.unwrap_or(u32::MAX));
        }
    }

    fn drop_helper(&mut self, helper: HelperId) {
        let Some((_, held)) = self.helpers.remove(&helper) else { return };
        for held in held.into_values() {
            if let Held::Running(task) = held
                && let Some(live) = self.live.get_mut(&task)
            {
                live.running = None;
            }
        }
    }

    fn attach(&mut self, name: u8, slots: u32, linux: bool) -> Event<TaskId> {
        self.next_helper += 1;
        let helper = HelperId(self.next_helper);
        self.names.insert(helper, format!("h{name}").into());
        Event::Attach { helper, name: format!("h{name}").into(), slots, properties: system(linux) }
    }

    fn helper(&self, which: usize) -> Option<HelperId> {
        pick(self.helpers.keys().copied().collect(), which)
    }

    fn task(&self, which: usize, watched: bool) -> Option<TaskId> {
        let fits = self.live.iter().filter(|(_, live)| !watched || live.watchers > 0);
        pick(fits.map(|(task, _)| *task).collect(), which)
    }

    fn held(&self, which: usize) -> Option<(HelperId, LeaseId, Option<TaskId>)> {
        let all = self.helpers.iter().flat_map(|(helper, (_, held))| {
            held.iter().map(|(lease, held)| {
                let task = if let Held::Running(task) = held { Some(*task) } else { None };
                (*helper, *lease, task)
            })
        });
        pick(all.collect(), which)
    }

    /// The event that a move means here, if it means one.
    fn event(&mut self, chosen: Move) -> Option<Event<TaskId>> {
        Some(match chosen {
            Move::Attach { name, slots, system } => self.attach(name, slots, system),
            Move::Detach { which } => Event::Detach { helper: self.helper(which)?, reason: "test".into() },
            Move::Report { which, offered } => {
                Event::Report { helper: self.helper(which)?, report: report(offered) }
            }
            Move::Said { name, offered, up } => {
                Event::Said { name: format!("h{name}").into(), report: report(offered), up }
            }
            Move::Drain { name, drained } => Event::Drain { name: format!("h{name}").into(), drained },
            Move::Finish { which, verdict } => {
                let (helper, lease, task) = self.held(which)?;
                let verdict = match (task, verdict) {
                    (Some(task), 0..2) => Verdict::Answer(task),
                    (_, ..4) => Verdict::Retry("test".into()),
                    _ => Verdict::Return("test".into()),
                };
                Event::Finish { helper, lease, verdict }
            }
            Move::Forge { helper, lease } => {
                let (helper, lease) = (HelperId(helper), LeaseId(lease));
                if self.helpers.get(&helper).is_some_and(|(_, held)| held.contains_key(&lease)) {
                    return None;
                }
                Event::Finish { helper, lease, verdict: Verdict::Answer(TaskId(u64::MAX)) }
            }
            Move::Submit { content, priority, merge, system: linux } => {
                let function = DigestFunction::Blake3;
                let digest = function.digest(&[content, u8::from(linux)]);
                let action = ActionId { instance: String::new(), function, digest };
                let timeout = Duration::from_secs(3);
                let owner = Owner {
                    user: format!("u{}", content % 3).into(),
                    build: format!("b{}", content % 2).into(),
                };
                let expected = (content % 4 > 0).then(|| Duration::from_millis(u64::from(content) * 100));
                let properties = system(linux);
                Event::Submit(Request { action, merge, owner, priority, expected, properties, timeout })
            }
            Move::Join { which } => {
                let task = self.task(which, false)?;
                self.live.get_mut(&task)?.watchers += 1;
                Event::Join { task }
            }
            Move::Leave { which } => {
                let task = self.task(which, true)?;
                self.live.get_mut(&task)?.watchers -= 1;
                Event::Leave { task }
            }
            Move::Wait { ms } => {
                self.now += Duration::from_millis(ms);
                Event::Tick
            }
        })
    }

    /// Good helpers for everyone, every lease answered, nobody silent: all must end.
    fn calm(&mut self, pool: &mut Pool<TaskId>) {
        for helper in self.helpers.keys().copied().collect::<Vec<_>>() {
            self.step(pool, Event::Detach { helper, reason: "calm".into() });
        }
        for (name, linux) in [(100, true), (101, false)] {
            let event = self.attach(name, 2, linux);
            self.step(pool, event);
        }
        for _ in 0..200 {
            while let Some((helper, lease, task)) = self.held(0) {
                let verdict = task.map_or(Verdict::Retry("stopped".into()), Verdict::Answer);
                self.step(pool, Event::Finish { helper, lease, verdict });
            }
            for helper in self.helpers.keys().copied().collect::<Vec<_>>() {
                self.step(pool, Event::Report { helper, report: Report::default() });
            }
            if self.live.is_empty() {
                return;
            }
            self.now = pool.next_deadline().unwrap_or(self.now).max(self.now);
            self.step(pool, Event::Tick);
        }
        panic!("{} tasks never ended", self.live.len());
    }
}

fn pick<T: Ord + Copy>(mut all: Vec<T>, which: usize) -> Option<T> {
    all.sort();
    (!all.is_empty()).then(|| all[which % all.len()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_in_every_history(history in moves()) {
        let mut pool = Pool::new(LIMITS);
        let mut model = Model::default();
        for chosen in history {
            if let Some(event) = model.event(chosen) {
                model.step(&mut pool, event);
            }
        }
        model.calm(&mut pool);
        prop_assert!(pool.live_tasks() == 0);
        // Nothing is kept for tasks that ended, apart from deadlines that are still to come.
        prop_assert!(pool.tasks.is_empty() && pool.shared.is_empty() && pool.leases.is_empty());
        prop_assert!(pool.queue.lanes().next().is_none());
    }
}
