//! Scenes of one or two events each: what the pool does in every situation that it has a rule for.

use std::time::Duration;

use dbuild_proto::DigestFunction;

use super::*;
use dbuild_proto::pool::State;

type TestPool = Pool<&'static str>;

fn limits() -> Limits {
    Limits {
        tasks: 4,
        helpers: 3,
        attempts: 3,
        helper_wait: Duration::from_secs(5),
        silence: Duration::from_secs(9),
        abandon: Duration::from_secs(10),
        lease_slack: Duration::from_secs(60),
        cancel_wait: Duration::from_secs(10),
    }
}

fn at(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn properties(pairs: &[(&str, &str)]) -> Properties {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn request(content: &str) -> Request {
    let function = DigestFunction::Blake3;
    let digest = function.digest(content.as_bytes());
    Request {
        action: ActionId { instance: String::new(), function, digest },
        merge: true,
        owner: Owner::default(),
        priority: 0,
        expected: None,
        properties: properties(&[("OSFamily", "linux"), ("dbuild-anything", "ignored")]),
        timeout: at(100),
    }
}

fn attach(helper: u64, name: &str, slots: u32) -> Event<&'static str> {
    let properties = properties(&[("OSFamily", "linux")]);
    Event::Attach { helper: HelperId(helper), name: name.into(), slots, properties }
}

fn lease(helper: u64, lease: u64, task: u64) -> Effect<&'static str> {
    Effect::Lease { helper: HelperId(helper), lease: LeaseId(lease), task: TaskId(task), timeout: at(100) }
}

fn accepted(task: u64) -> Effect<&'static str> {
    Effect::Accepted { task: TaskId(task), merged: false }
}

fn finish(helper: u64, lease: u64, verdict: Verdict<&'static str>) -> Event<&'static str> {
    Event::Finish { helper: HelperId(helper), lease: LeaseId(lease), verdict }
}

fn answer(task: u64, outcome: Outcome<&'static str>) -> Effect<&'static str> {
    Effect::Answer { task: TaskId(task), outcome }
}

fn pool() -> TestPool {
    Pool::new(limits())
}

#[test]
fn a_task_runs_and_is_answered() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    assert_eq!(pool.step(at(0), Event::Submit(request("a"))), [accepted(1), lease(1, 1, 1)]);
    let effects = pool.step(at(1), finish(1, 1, Verdict::Answer("ok")));
    assert_eq!(effects, [answer(1, Outcome::Answered("ok"))]);
    assert_eq!(pool.live_tasks(), 0);
}

#[test]
fn equal_actions_in_flight_are_one_task_unless_they_must_not_be() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 2));
    pool.step(at(0), Event::Submit(request("a")));
    let again = pool.step(at(0), Event::Submit(request("a")));
    assert_eq!(again, [Effect::Accepted { task: TaskId(1), merged: true }]);
    let alone = pool.step(at(0), Event::Submit(Request { merge: false, ..request("a") }));
    assert_eq!(alone, [accepted(2), lease(1, 2, 2)]);
    let mut elsewhere = request("a");
    elsewhere.action.instance = "other".into();
    assert_eq!(pool.step(at(0), Event::Submit(elsewhere)), [accepted(3)]);
}

#[test]
fn the_queue_serves_by_priority_then_arrival() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    for (content, priority) in [("a", 0), ("b", 1), ("c", 1), ("d", -1)] {
        pool.step(at(0), Event::Submit(Request { priority, ..request(content) }));
    }
    // A merged request of a better priority hastens the task that is waiting.
    pool.step(at(0), Event::Submit(Request { priority: -2, ..request("c") }));
    let mut order = Vec::new();
    for held in 1..=4 {
        for effect in pool.step(at(0), finish(1, held, Verdict::Answer("ok"))) {
            if let Effect::Lease { task, .. } = effect {
                order.push(task.0);
            }
        }
    }
    assert_eq!(order, [3, 4, 2]);
}

#[test]
fn a_task_that_is_hastened_is_told_as_well_that_there_is_no_helper() {
    let mut pool = pool();
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(1), Event::Submit(Request { priority: -1, ..request("a") }));
    assert_eq!(pool.step(at(5), Event::Tick), [answer(1, Outcome::NoHelper)]);
}

#[test]
fn a_full_pool_declines() {
    let mut pool = pool();
    for content in ["a", "b", "c", "d"] {
        pool.step(at(0), Event::Submit(request(content)));
    }
    let effects = pool.step(at(0), Event::Submit(request("e")));
    assert_eq!(effects, [Effect::Declined(Outcome::Full { limit: 4 })]);
}

#[test]
fn a_lost_helper_s_task_goes_to_another() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), attach(2, "venus", 1));
    pool.step(at(0), Event::Submit(request("a")));
    let effects = pool.step(at(1), Event::Detach { helper: HelperId(1), reason: "gone".into() });
    assert_eq!(effects, [Effect::Requeued { task: TaskId(1) }, lease(2, 2, 1)]);
}

#[test]
fn a_retry_waits_for_an_untried_helper_but_takes_the_tried_one_when_alone() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(0), attach(2, "venus", 1));
    pool.step(at(0), Event::Submit(request("b")));
    // Venus is busy with b; mars failed a and must not get it back while venus is there.
    let effects = pool.step(at(1), finish(1, 1, Verdict::Retry("disk full".into())));
    assert_eq!(effects, [Effect::Requeued { task: TaskId(1) }]);
    let effects = pool.step(at(1), Event::Detach { helper: HelperId(2), reason: "gone".into() });
    // Both have failed one task now; a has mars left, b may have mars too, after a.
    assert_eq!(effects, [Effect::Requeued { task: TaskId(2) }, lease(1, 3, 1)]);
}

#[test]
fn attempts_end() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(0), finish(1, 1, Verdict::Retry("x".into())));
    pool.step(at(0), finish(1, 2, Verdict::Retry("x".into())));
    let last = "helper mars: x".to_string();
    let effects = pool.step(at(0), finish(1, 3, Verdict::Retry("x".into())));
    assert_eq!(effects, [answer(1, Outcome::Exhausted { attempts: 3, last })]);
}

#[test]
fn without_any_helper_a_task_waits_a_little() {
    let mut pool = pool();
    assert_eq!(pool.step(at(0), Event::Submit(request("a"))), [accepted(1)]);
    assert_eq!(pool.next_deadline(), Some(at(5)));
    assert_eq!(pool.step(at(5), Event::Tick), [answer(1, Outcome::NoHelper)]);
    pool.step(at(6), Event::Submit(request("a")));
    assert_eq!(pool.step(at(10), attach(1, "mars", 1)), [lease(1, 1, 2)]);
}

#[test]
fn a_task_that_no_helper_can_run_fails_at_once_with_the_reason() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    let windows = Request { properties: properties(&[("OSFamily", "windows")]), ..request("a") };
    let effects = pool.step(at(0), Event::Submit(windows));
    let [Effect::Declined(Outcome::Unmatched(why))] = &effects[..] else { panic!("{effects:?}") };
    assert!(why.contains("OSFamily=windows") && why.contains("mars has OSFamily=linux"), "{why}");
}

#[test]
fn a_task_whose_only_helper_left_waits_then_says_why() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    let sun = Event::Attach {
        helper: HelperId(2),
        name: "sun".into(),
        slots: 1,
        properties: properties(&[("OSFamily", "solaris")]),
    };
    pool.step(at(0), sun);
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(1), Event::Detach { helper: HelperId(1), reason: "gone".into() });
    pool.step(at(4), Event::Report { helper: HelperId(2), report: Report::default() });
    let effects = pool.step(at(6), Event::Tick);
    assert!(matches!(&effects[..], [Effect::Answer { outcome: Outcome::Unmatched(_), .. }]), "{effects:?}");
}

#[test]
fn those_who_wait_where_a_lost_helper_s_task_comes_to_wait_are_told_as_well() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(0), Event::Submit(Request { priority: -1, ..request("b") }));
    let effects = pool.step(at(0), finish(1, 1, Verdict::Retry("disk full".into())));
    assert_eq!(effects, [Effect::Requeued { task: TaskId(1) }, lease(1, 2, 2)]);
    // Now mars has failed both, and both wait for the same helpers.
    pool.step(at(1), Event::Detach { helper: HelperId(1), reason: "gone".into() });
    let effects = pool.step(at(6), Event::Tick);
    assert_eq!(effects, [answer(1, Outcome::NoHelper), answer(2, Outcome::NoHelper)]);
}

#[test]
fn a_silent_helper_is_lost_and_a_heard_one_is_not() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(8), Event::Report { helper: HelperId(1), report: Report::default() });
    assert_eq!(pool.step(at(10), Event::Tick), []);
    let effects = pool.step(at(17), Event::Tick);
    let reason = "not heard for 9000 ms".to_string();
    assert_eq!(
        effects,
        [
            Effect::Close { helper: HelperId(1), reason, for_good: false },
            Effect::Requeued { task: TaskId(1) }
        ]
    );
    let views = pool.helpers(at(17));
    assert_eq!((views.len(), views[0].online, views[0].silent_for), (1, false, at(9)));
}

fn offers(helper: u64, offered: u32) -> Event<&'static str> {
    let state =
        State { offered: Some(offered), mood: dbuild_proto::pool::Mood::Full.into(), ..State::default() };
    Event::Report { helper: HelperId(helper), report: Report(Arc::new(state)) }
}

#[test]
fn a_helper_gets_no_more_than_it_offers() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 4));
    pool.step(at(0), offers(1, 1));
    assert_eq!(pool.step(at(0), Event::Submit(request("a"))), [accepted(1), lease(1, 1, 1)]);
    assert_eq!(pool.step(at(0), Event::Submit(request("b"))), [accepted(2)]);
    // Less than it runs: nothing is taken from it.
    assert_eq!(pool.step(at(1), offers(1, 0)), []);
    assert_eq!(pool.step(at(2), offers(1, 9)), [lease(1, 2, 2)]);
}

#[test]
fn a_task_that_no_helper_takes_is_answered_in_the_end() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    for task in 1..=3 {
        pool.step(at(0), Event::Submit(request(["1", "2", "3"][task - 1])));
    }
    // What waits goes on waiting for a while, in case it takes work again.
    pool.step(at(0), offers(1, 0));
    let done = Verdict::Answer("done");
    assert_eq!(pool.step(at(1), finish(1, 1, done)), [answer(1, Outcome::Answered("done"))]);
    assert_eq!(pool.step(at(4), offers(1, 1)), [lease(1, 2, 2)]);
    pool.step(at(5), offers(1, 0));
    let effects = pool.step(at(10), Event::Tick);
    let closed = Outcome::Closed("no helper takes work at the moment: mars is needed by others".to_owned());
    assert_eq!(effects, [answer(3, closed.clone())]);
    // What comes now is told at once.
    assert_eq!(pool.step(at(11), Event::Submit(request("4"))), [Effect::Declined(closed)]);
}

#[test]
fn a_drained_helper_finishes_what_it_runs_and_stays_drained_when_it_comes_back() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    assert_eq!(pool.step(at(0), Event::Submit(request("b"))), [accepted(2)]);
    let drain = |drained| Event::Drain { name: "mars".into(), drained };
    assert_eq!(pool.step(at(0), drain(true)), []);
    assert_eq!(
        pool.step(at(1), finish(1, 1, Verdict::Answer("done"))),
        [answer(1, Outcome::Answered("done"))]
    );
    pool.step(at(1), Event::Detach { helper: HelperId(1), reason: "gone".into() });
    assert_eq!(pool.step(at(2), attach(2, "mars", 2)), []);
    assert!(pool.helpers(at(2))[0].drained && pool.knows("mars") && !pool.knows("venus"));
    assert_eq!(pool.step(at(3), drain(false)), [lease(2, 2, 2)]);
}

#[test]
fn what_is_handed_back_is_no_attempt_but_not_for_ever() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    let back = |lease| finish(1, lease, Verdict::Return("others need it".into()));
    for number in 1..=RETURNS {
        let effects = pool.step(at(0), back(number.into()));
        // Not to the same helper before it says that it takes work.
        assert_eq!(effects, [Effect::Requeued { task: TaskId(1) }]);
        assert_eq!(pool.step(at(0), offers(1, 1)), [lease(1, u64::from(number) + 1, 1)]);
    }
    // Now they count, and end.
    let mut number = u64::from(RETURNS) + 1;
    let outcome = loop {
        let effects = pool.step(at(0), back(number));
        if let [Effect::Answer { outcome, .. }] = &effects[..] {
            break outcome.clone();
        }
        assert_eq!(pool.step(at(0), offers(1, 1)), [lease(1, number + 1, 1)]);
        number += 1;
    };
    assert!(
        matches!(&outcome, Outcome::Exhausted { last, .. } if last.contains("handed it back")),
        "{outcome:?}"
    );
    assert_eq!(number, u64::from(RETURNS) + 3);
}

#[test]
fn a_supervisor_that_says_its_worker_is_gone_is_believed_at_once() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    let said = |up| Event::Said { name: "mars".into(), report: Report::default(), up };
    // It is heard by its supervisor as well.
    assert_eq!(pool.step(at(8), said(true)), []);
    assert_eq!(pool.step(at(16), Event::Tick), []);
    let effects = pool.step(at(16), said(false));
    let close =
        matches!(&effects[..], [Effect::Close { for_good: false, .. }, Effect::Requeued { task: TaskId(1) }]);
    assert!(close, "{effects:?}");
    assert_eq!(pool.step(at(16), said(false)), []);
    // Its next worker is another one: what is still said of the last is too late.
    pool.step(at(17), attach(2, "mars", 1));
    let second = State { restarts: 1, ..State::default() };
    pool.step(at(17), Event::Report { helper: HelperId(2), report: Report(Arc::new(second)) });
    assert_eq!(pool.step(at(18), said(false)), []);
    assert!(pool.helpers(at(18))[0].online);
}

fn set_aside() -> Outcome<&'static str> {
    Outcome::Closed("every helper that could run it failed repeatedly and is set aside for a while".into())
}

/// Three tasks, each of which mars fails in its three attempts.
fn mars_is_set_aside(pool: &mut TestPool) {
    pool.step(at(0), attach(1, "mars", 2));
    for (number, content) in ["a", "b", "c"].iter().enumerate() {
        pool.step(at(0), Event::Submit(request(content)));
        for attempt in 1..=3 {
            let lease = number as u64 * 3 + attempt;
            let effects = pool.step(at(0), finish(1, lease, Verdict::Retry("disk full".into())));
            if lease == 7 {
                let (helper, wait, why) = ("mars".into(), at(10), "disk full".into());
                let aside = Effect::SetAside { helper, wait, why };
                assert_eq!(effects, [aside, Effect::Requeued { task: TaskId(3) }]);
                return;
            }
        }
    }
}

#[test]
fn a_helper_that_fails_again_and_again_is_set_aside_and_comes_back_on_trial() {
    let mut pool = pool();
    mars_is_set_aside(&mut pool);
    // Who comes now hears at once that nobody takes it; who waits already does so no longer than for a first helper.
    let declined = Effect::Declined(set_aside());
    assert_eq!(pool.step(at(4), Event::Submit(request("d"))), [declined]);
    assert_eq!(pool.helpers(at(4))[0].standing, HelperStanding::SetAside(at(6)));
    assert_eq!(pool.step(at(5), Event::Tick), [answer(3, set_aside())]);
    pool.step(at(5), Event::Report { helper: HelperId(1), report: Report::default() });
    pool.step(at(10), Event::Report { helper: HelperId(1), report: Report::default() });
    // On trial it has one slot.
    assert_eq!(pool.step(at(10), Event::Submit(request("d"))), [accepted(4), lease(1, 8, 4)]);
    assert_eq!(pool.step(at(10), Event::Submit(request("e"))), [accepted(5)]);
    assert_eq!(pool.step(at(11), Event::Submit(request("f"))), [accepted(6)]);
    let effects = pool.step(at(12), finish(1, 8, Verdict::Answer("ok")));
    assert_eq!(effects, [answer(4, Outcome::Answered("ok")), lease(1, 9, 5), lease(1, 10, 6)]);
    assert_eq!(pool.helpers(at(12))[0].standing, HelperStanding::Trusted);
}

#[test]
fn what_a_set_aside_helper_would_run_goes_to_others_meanwhile() {
    let mut pool = pool();
    mars_is_set_aside(&mut pool);
    assert_eq!(pool.step(at(1), attach(2, "venus", 1)), [lease(2, 8, 3)]);
    assert_eq!(pool.step(at(1), Event::Submit(request("d"))), [accepted(4)]);
    assert_eq!(pool.step(at(2), finish(2, 8, Verdict::Answer("ok"))).last(), Some(&lease(2, 9, 4)));
    pool.step(at(8), Event::Report { helper: HelperId(1), report: Report::default() });
    pool.step(at(8), Event::Report { helper: HelperId(2), report: Report::default() });
    // Its time is over: it takes what waits.
    assert_eq!(pool.step(at(9), Event::Submit(request("e"))), [accepted(5)]);
    assert_eq!(pool.step(at(10), Event::Tick), [lease(1, 10, 5)]);
    let effects = pool.step(at(11), finish(1, 10, Verdict::Retry("disk full".into())));
    let aside = Effect::SetAside { helper: "mars".into(), wait: at(20), why: "disk full".into() };
    assert_eq!(effects, [aside, Effect::Requeued { task: TaskId(5) }]);
}

#[test]
fn a_new_connection_does_not_make_a_helper_trusted() {
    let mut pool = pool();
    mars_is_set_aside(&mut pool);
    pool.step(at(1), Event::Detach { helper: HelperId(1), reason: "restarted".into() });
    assert_eq!(pool.step(at(2), attach(2, "mars", 2)), []);
    assert_eq!(pool.helpers(at(2))[0].standing, HelperStanding::SetAside(at(8)));
}

#[test]
fn a_helper_that_is_set_aside_has_one_deadline_more_however_often_it_comes_back() {
    let mut pool = pool();
    mars_is_set_aside(&mut pool);
    let before = pool.sizes().deadlines;
    for n in 1..9 {
        pool.step(at(0), Event::Detach { helper: HelperId(n), reason: "restarted".into() });
        pool.step(at(0), attach(n + 1, "mars", 2));
    }
    // One for each helper that may be silent.
    assert_eq!(pool.sizes().deadlines, before + 8);
}

#[test]
fn two_tasks_that_nobody_can_run_set_no_helper_aside() {
    let mut pool: TestPool = Pool::new(Limits { attempts: 9, ..limits() });
    pool.step(at(0), attach(1, "mars", 2));
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(0), Event::Submit(request("b")));
    for lease in 1..=6 {
        pool.step(at(0), finish(1, lease, Verdict::Retry("disk full".into())));
    }
    assert_eq!(pool.helpers(at(0))[0].standing, HelperStanding::Trusted);
}

#[test]
fn a_helper_that_is_lost_with_what_it_holds_again_and_again_is_set_aside() {
    let mut pool = pool();
    for round in 1..=3 {
        pool.step(at(round), attach(round, "mars", 4));
        pool.step(at(round), Event::Submit(request(&round.to_string())));
        pool.step(at(round), Event::Detach { helper: HelperId(round), reason: "died".into() });
    }
    assert_eq!(pool.step(at(4), attach(4, "mars", 4)), []);
    assert!(matches!(pool.helpers(at(4))[0].standing, HelperStanding::SetAside(_)));
}

#[test]
fn an_expired_lease_holds_its_slot_until_the_helper_confirms() {
    let mut limits = limits();
    limits.silence = at(1000);
    let mut pool: TestPool = Pool::new(limits);
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    let cancel = Effect::Cancel { helper: HelperId(1), lease: LeaseId(1) };
    let effects = pool.step(at(160), Event::Tick);
    assert_eq!(effects, [cancel, Effect::Requeued { task: TaskId(1) }]);
    let effects = pool.step(at(161), finish(1, 1, Verdict::Answer("too late")));
    assert_eq!(effects, [lease(1, 2, 1)]);
}

#[test]
fn a_cancelled_lease_frees_its_slot_in_the_end() {
    let mut limits = limits();
    limits.silence = at(1000);
    let mut pool: TestPool = Pool::new(limits);
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(0), Event::Leave { task: TaskId(1) });
    let cancel = Effect::Cancel { helper: HelperId(1), lease: LeaseId(1) };
    assert_eq!(pool.step(at(10), Event::Tick), [cancel, Effect::Forgotten { task: TaskId(1) }]);
    assert_eq!(pool.step(at(11), Event::Submit(request("b"))), [accepted(2)]);
    assert_eq!(pool.step(at(20), Event::Tick), [lease(1, 2, 2)]);
}

#[test]
fn a_watcher_that_comes_back_in_time_keeps_the_task() {
    let mut pool = pool();
    pool.step(at(0), Event::Submit(request("a")));
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(1), Event::Leave { task: TaskId(1) });
    pool.step(at(8), Event::Report { helper: HelperId(1), report: Report::default() });
    pool.step(at(8), Event::Join { task: TaskId(1) });
    assert_eq!(pool.step(at(12), Event::Tick), []);
    assert_eq!(pool.live_tasks(), 1);
}

#[test]
fn a_task_has_two_deadlines_however_often_its_watchers_and_helpers_come_and_go() {
    let mut pool: TestPool = Pool::new(Limits { attempts: 100, ..limits() });
    pool.step(at(0), Event::Submit(request("a")));
    for n in 0..9 {
        let now = Duration::from_millis(n * 100);
        pool.step(now, Event::Leave { task: TaskId(1) });
        pool.step(now, Event::Join { task: TaskId(1) });
        pool.step(now, attach(n, "mars", 1));
        pool.step(now, Event::Detach { helper: HelperId(n), reason: "gone".into() });
    }
    // One for each helper that may be silent, one should nobody watch, one should nobody be able to run it.
    assert_eq!(pool.sizes().deadlines, 9 + 2);
    // They are still told in time, from when it happened last.
    assert_eq!(pool.step(at(5), Event::Tick), []);
    assert_eq!(pool.step(Duration::from_millis(5800), Event::Tick), [answer(1, Outcome::NoHelper)]);
}

#[test]
fn answers_to_leases_of_others_are_ignored() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), attach(2, "venus", 1));
    pool.step(at(0), Event::Submit(request("a")));
    assert_eq!(pool.step(at(0), finish(2, 1, Verdict::Answer("forged"))), []);
    assert_eq!(pool.step(at(0), finish(1, 77, Verdict::Answer("forged"))), []);
    assert_eq!(pool.live_tasks(), 1);
}

#[test]
fn a_second_helper_of_a_name_replaces_the_first() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "mars", 1));
    pool.step(at(0), Event::Submit(request("a")));
    let effects = pool.step(at(0), attach(2, "mars", 1));
    let reason = "another helper named mars took its place".to_string();
    assert_eq!(
        effects,
        [
            Effect::Close { helper: HelperId(1), reason, for_good: true },
            Effect::Requeued { task: TaskId(1) },
            lease(2, 2, 1)
        ]
    );
}

#[test]
fn helpers_beyond_the_limit_are_closed() {
    let mut pool = pool();
    for id in 1..=3 {
        assert_eq!(pool.step(at(0), attach(id, &format!("h{id}"), 1)), []);
    }
    assert!(matches!(pool.step(at(0), attach(4, "h4", 1))[..], [Effect::Close { helper: HelperId(4), .. }]));
}

#[test]
fn work_spreads_over_helpers_by_their_size() {
    let mut pool = pool();
    pool.step(at(0), attach(1, "big", 3));
    pool.step(at(0), attach(2, "small", 1));
    let mut placed = Vec::new();
    for content in ["a", "b", "c", "d"] {
        for effect in pool.step(at(0), Event::Submit(request(content))) {
            if let Effect::Lease { helper, .. } = effect {
                placed.push(helper.0);
            }
        }
    }
    assert_eq!(placed, [1, 2, 1, 1]);
}
