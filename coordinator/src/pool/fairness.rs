//! Whose turn it is: users, builds, weights, long and old tasks, slow helpers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dbuild_proto::DigestFunction;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    tasks: 10_000,
    helpers: 10,
    attempts: 3,
    helper_wait: Duration::from_secs(5),
    silence: Duration::from_secs(1_000_000),
    abandon: Duration::from_secs(10),
    lease_slack: Duration::from_secs(1_000_000),
    cancel_wait: Duration::from_secs(10),
};

/// A pool whose tasks take what they are expected to, unless a test says otherwise.
struct Bench {
    pool: Pool<()>,
    now: Time,
    submitted: u64,
    /// By task: what it was submitted as.
    names: HashMap<TaskId, &'static str>,
    running: BTreeMap<LeaseId, (HelperId, TaskId)>,
    /// Names in the order of their leases.
    order: Vec<&'static str>,
    /// What the next task asks of its helper.
    properties: Properties,
}

impl Bench {
    fn with(helpers: &[(u64, u32)]) -> Bench {
        let (names, running, order) = (HashMap::new(), BTreeMap::new(), Vec::new());
        let (pool, properties) = (Pool::new(LIMITS), Properties::new());
        let mut bench = Bench { pool, now: Time::ZERO, submitted: 0, names, running, order, properties };
        for (helper, slots) in helpers {
            let (helper, name) = (HelperId(*helper), format!("h{helper}").into());
            bench.step("", Event::Attach { helper, name, slots: *slots, properties: Properties::new() });
        }
        bench
    }

    fn step(&mut self, name: &'static str, event: Event<()>) {
        for effect in self.pool.step(self.now, event) {
            match effect {
                Effect::Accepted { task, .. } => drop(self.names.insert(task, name)),
                Effect::Lease { helper, lease, task, .. } => {
                    self.running.insert(lease, (helper, task));
                    self.order.push(self.names[&task]);
                }
                _ => {}
            }
        }
    }

    fn submit(&mut self, name: &'static str, owner: (&str, &str), priority: i32, expected_ms: u64) {
        self.submitted += 1;
        let function = DigestFunction::Blake3;
        let digest = function.digest(&self.submitted.to_le_bytes());
        self.step(
            name,
            Event::Submit(Request {
                action: ActionId { instance: String::new(), function, digest },
                merge: true,
                owner: Owner { user: owner.0.into(), build: owner.1.into() },
                priority,
                expected: (expected_ms > 0).then(|| Duration::from_millis(expected_ms)),
                properties: self.properties.clone(),
                timeout: Duration::from_secs(1),
            }),
        );
    }

    /// The oldest lease ends after so long; the next one begins.
    fn finish(&mut self, after_ms: u64) {
        self.now += Duration::from_millis(after_ms);
        let Some((lease, (helper, _))) = self.running.pop_first() else { return };
        self.step("", Event::Finish { helper, lease, verdict: Verdict::Answer(()) });
    }

    fn run(&mut self, leases: usize, each_ms: u64) -> Vec<&'static str> {
        self.order.clear();
        while self.order.len() < leases {
            assert!(!self.running.is_empty(), "nothing runs any more");
            self.finish(each_ms);
        }
        std::mem::take(&mut self.order)
    }
}

#[test]
fn who_comes_later_does_not_wait_for_all_who_came_before() {
    let mut bench = Bench::with(&[(1, 1)]);
    for _ in 0..50 {
        bench.submit("early", ("ann", "1"), 0, 100);
    }
    bench.run(10, 100);
    for _ in 0..10 {
        bench.submit("late", ("bob", "1"), 0, 100);
    }
    let served = bench.run(10, 100);
    let late = served.iter().filter(|name| **name == "late").count();
    assert!((5..=6).contains(&late), "{served:?}");
}

#[test]
fn two_builds_of_one_user_share_what_is_that_users() {
    let mut bench = Bench::with(&[(1, 1)]);
    for _ in 0..50 {
        bench.submit("ann 1", ("ann", "1"), 0, 100);
        bench.submit("ann 2", ("ann", "2"), 0, 100);
        bench.submit("bob", ("bob", "1"), 0, 100);
    }
    let served = bench.run(40, 100);
    let count = |name| served.iter().filter(|served| **served == name).count();
    assert_eq!((count("ann 1"), count("ann 2"), count("bob")), (10, 10, 20), "{served:?}");
}

#[test]
fn shares_are_of_time_and_not_of_tasks() {
    let mut bench = Bench::with(&[(1, 1)]);
    for _ in 0..100 {
        bench.submit("long", ("ann", "1"), 0, 900);
        bench.submit("short", ("bob", "1"), 0, 100);
    }
    let mut time = BTreeMap::from([("long", 0u64), ("short", 0)]);
    for _ in 0..60 {
        let task = bench.running.first_key_value().map(|(_, (_, task))| *task).expect("one runs");
        let (name, ms) = if bench.names[&task] == "long" { ("long", 900) } else { ("short", 100) };
        *time.entry(name).or_default() += ms;
        bench.finish(ms);
    }
    assert!(time["long"].abs_diff(time["short"]) <= 1800, "{time:?}");
}

#[test]
fn what_was_expected_wrongly_is_put_right() {
    let mut bench = Bench::with(&[(1, 1)]);
    // Ann says that hers take no time.
    for _ in 0..100 {
        bench.submit("ann", ("ann", "1"), 0, 1);
        bench.submit("bob", ("bob", "1"), 0, 500);
    }
    let served = bench.run(40, 500);
    assert_eq!(served.iter().filter(|name| **name == "ann").count(), 20, "{served:?}");
}

#[test]
fn priorities_between_users_are_weights() {
    let mut bench = Bench::with(&[(1, 1)]);
    for _ in 0..100 {
        bench.submit("high", ("ann", "1"), -1, 100);
        bench.submit("normal", ("bob", "1"), 0, 100);
        bench.submit("low", ("eve", "1"), 1, 100);
    }
    let served = bench.run(84, 100);
    let count = |name| served.iter().filter(|served| **served == name).count();
    assert_eq!((count("high"), count("normal"), count("low")), (64, 16, 4), "{served:?}");
}

#[test]
fn who_was_away_comes_back_at_the_level_of_the_others() {
    let mut bench = Bench::with(&[(1, 1)]);
    bench.submit("bob", ("bob", "1"), 0, 100);
    for _ in 0..200 {
        bench.submit("ann", ("ann", "1"), 0, 100);
    }
    bench.run(100, 100);
    for _ in 0..100 {
        bench.submit("bob", ("bob", "1"), 0, 100);
    }
    let served = bench.run(20, 100);
    let bobs = served.iter().filter(|name| **name == "bob").count();
    assert!((10..=11).contains(&bobs), "ten seconds of absence are no credit: {served:?}");
}

#[test]
fn who_expects_too_much_gains_nothing() {
    let mut bench = Bench::with(&[(1, 10)]);
    // Ann says a day and means a tenth of a second; Bob comes when all slots are hers.
    for _ in 0..200 {
        bench.submit("ann", ("ann", "1"), 0, 86_400_000);
    }
    for _ in 0..200 {
        bench.submit("bob", ("bob", "1"), 0, 100);
    }
    let served = bench.run(60, 10);
    let bobs = served.iter().filter(|name| **name == "bob").count();
    assert!(bobs >= 25, "{bobs}: {served:?}");
}

#[test]
fn waiting_for_one_kind_of_helper_is_no_claim_on_another() {
    let mut bench = Bench::with(&[(1, 1)]);
    let arm = Properties::from([("ISA".to_owned(), "arm".to_owned())]);
    let name = "arm".into();
    bench.step("", Event::Attach { helper: HelperId(2), name, slots: 1, properties: arm.clone() });
    let on_arm = |bench: &mut Bench| {
        bench.properties = arm.clone();
        bench.submit("bob, arm", ("bob", "1"), 0, 100);
        bench.properties = Properties::new();
    };
    // One runs there for ever, one waits.
    on_arm(&mut bench);
    on_arm(&mut bench);
    let stuck = bench.running.iter().find(|(_, (helper, _))| helper.0 == 2).map(|(lease, _)| *lease);
    bench.running.remove(&stuck.expect("it runs"));
    for _ in 0..300 {
        bench.submit("ann", ("ann", "1"), 0, 100);
    }
    bench.run(100, 100);
    for _ in 0..100 {
        bench.submit("bob", ("bob", "1"), 0, 100);
    }
    let served = bench.run(20, 100);
    let bobs = served.iter().filter(|name| **name == "bob").count();
    assert!((9..=12).contains(&bobs), "{served:?}");
}

#[test]
fn the_longest_goes_first_unless_another_waited_too_long() {
    let mut bench = Bench::with(&[(1, 1)]);
    bench.submit("first", ("ann", "1"), 0, 1);
    for (name, ms) in [("short", 10), ("longest", 900), ("unknown", 0), ("long", 500)] {
        bench.submit(name, ("ann", "1"), 0, ms);
    }
    assert_eq!(bench.run(2, 1), ["longest", "long"]);
    bench.now += Duration::from_secs(20);
    bench.submit("longest", ("ann", "1"), 0, 900);
    assert_eq!(bench.run(3, 1), ["short", "unknown", "longest"]);
}

#[test]
fn a_slow_helper_is_taken_when_it_would_still_be_the_sooner_one() {
    let mut bench = Bench::with(&[(1, 4), (2, 4)]);
    // Helper 1 takes what was expected, helper 2 four times as long. Both always have something.
    for _ in 0..200 {
        while bench.running.len() < 8 {
            bench.submit("a", ("ann", "1"), 0, 100);
        }
        let ends = |lease: &LeaseId, helper: HelperId| {
            bench.pool.leases[lease].begun + Duration::from_millis(if helper.0 == 1 { 100 } else { 400 })
        };
        let (end, lease, helper) = bench
            .running
            .iter()
            .map(|(lease, (helper, _))| (ends(lease, *helper), *lease, *helper))
            .min()
            .expect("eight run");
        bench.running.remove(&lease);
        bench.now = bench.now.max(end);
        bench.step("", Event::Finish { helper, lease, verdict: Verdict::Answer(()) });
    }
    while !bench.running.is_empty() {
        bench.finish(0);
    }
    for _ in 0..4 {
        bench.submit("a", ("ann", "1"), 0, 100);
    }
    let on: Vec<_> = bench.running.values().map(|(helper, _)| helper.0).collect();
    assert_eq!(on, [1, 1, 1, 1], "the fast one first, also when it fills up");
    bench.submit("a", ("ann", "1"), 0, 100);
    assert_eq!(bench.running.values().filter(|(helper, _)| helper.0 == 2).count(), 1, "a full one is no use");
}

#[test]
fn nobody_is_remembered_for_ever() {
    let mut bench = Bench::with(&[(1, 1)]);
    for user in 0..1000 {
        bench.submit("a", (&format!("u{user}"), "1"), 0, 100);
        bench.finish(100);
    }
    assert!(bench.pool.shares.users() < 100, "{}", bench.pool.shares.users());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The bound of `shares.rs`, for users who always want something.
    #[test]
    fn shares_stay_within_their_bound(
        slots in 1..4u32,
        tasks in prop::collection::vec((0..3usize, 1..2000u64, 1..2000u64), 50..200),
    ) {
        const USERS: [&str; 3] = ["ann", "bob", "eve"];
        let mut longest = 2000;
        let mut bench = Bench::with(&[(1, slots)]);
        // Far more than are served, so that nobody runs out.
        for (index, (_, expected, _)) in tasks.iter().enumerate() {
            let user = USERS[index % 3];
            bench.submit(user, (user, "1"), 0, *expected);
        }
        let mut served = BTreeMap::from(USERS.map(|user| (user, 0u64)));
        for (which, _, took) in tasks.iter().take(tasks.len() / 4) {
            // Any of the leases ends next, and they all began at some time before.
            let leases: Vec<_> = bench.running.keys().copied().collect();
            let lease = leases[which % leases.len()];
            let (helper, task) = bench.running.remove(&lease).expect("it runs");
            let begun = bench.pool.leases[&lease].begun;
            bench.now += Duration::from_millis(*took);
            let held = (bench.now - begun).as_millis() as u64;
            *served.entry(bench.names[&task]).or_default() += held;
            bench.step("", Event::Finish { helper, lease, verdict: Verdict::Answer(()) });
            longest = longest.max(held);
            let most = served.values().max().expect("three");
            let least = served.values().min().expect("three");
            prop_assert!(most - least <= longest * (u64::from(slots) + 1), "{:?}", served);
        }
    }
}
