//! The pool protocol: who is let in, and what is known of helpers.

use dbuild_proto::PROTOCOL;
use dbuild_proto::pool as wire;
use wire::from_helper::Message as From;
use wire::to_helper::Message as To;

use crate::harness::{Helper, Site, hello};

async fn refused(site: &Site, first: From) -> String {
    let mut helper = Helper::open(site, first).await;
    let Some(To::Refused(refused)) = helper.hear().await else { panic!("not refused") };
    assert!(helper.hear().await.is_none());
    refused.reason
}

#[tokio::test]
async fn helpers_that_do_not_fit_are_refused_in_a_sentence() {
    let site = Site::start().await;
    let older = wire::Hello { protocol: PROTOCOL - 1, ..hello("mars", 1) };
    let newer = wire::Hello { protocol: PROTOCOL + 1, ..hello("mars", 1) };
    let mut wordy = hello("mars", 1);
    wordy.properties.insert("x".into(), "y".repeat(1000));
    for (first, part) in [
        (From::Hello(older), "upgrade the helper"),
        (From::Hello(newer), "upgrade the coordinator"),
        (From::Hello(hello("", 1)), "name"),
        (From::Hello(hello("a\nb", 1)), "name"),
        (From::Hello(hello("mars", 0)), "slots"),
        (From::Hello(hello("mars", 1_000_000)), "slots"),
        (From::Hello(wordy), "properties"),
        (From::State(wire::State::default()), "must be Hello"),
    ] {
        let reason = refused(&site, first).await;
        assert!(reason.contains(part), "{reason}");
    }
    site.stop().await;
}

#[tokio::test]
async fn a_second_helper_of_a_name_replaces_the_first() {
    let site = Site::start().await;
    let mut first = Helper::attach(&site, "mars", 1).await;
    let _second = Helper::attach(&site, "mars", 1).await;
    let Some(To::Refused(refused)) = first.hear().await else { panic!("not refused") };
    assert!(refused.reason.contains("took its place"), "{}", refused.reason);
    site.stop().await;
}

async fn list(site: &Site) -> Vec<wire::HelperInfo> {
    site.pool().list_helpers(wire::ListHelpersRequest {}).await.unwrap().into_inner().helpers
}

/// Asks until the answer is as expected: messages of a helper's stream and of other calls have no order.
async fn list_until(site: &Site, expected: impl Fn(&[wire::HelperInfo]) -> bool) -> Vec<wire::HelperInfo> {
    loop {
        let all = list(site).await;
        if expected(&all) {
            return all;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn helpers_are_listed_with_what_they_report_even_after_they_left() {
    let site = Site::start().await;
    assert!(list(&site).await.is_empty());
    let venus = Helper::attach(&site, "venus", 2).await;
    let _mars = Helper::attach(&site, "mars", 8).await;
    let all = list(&site).await;
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].name.as_str(), all[0].online, all[0].slots), ("mars", true, 8));
    assert!(all[1].state.is_none());
    let state = wire::State { cpu_percent: 12.5, memory_total: 1 << 34, ..Default::default() };
    venus.say(From::State(state.clone())).await;
    let all = crate::harness::soon(list_until(&site, |all| all[1].state.is_some())).await;
    assert_eq!(all[1].state.as_ref(), Some(&state));
    drop(venus);
    let all = crate::harness::soon(list_until(&site, |all| !all[1].online)).await;
    assert_eq!((all[1].name.as_str(), all[1].state.as_ref()), ("venus", Some(&state)));
    site.stop().await;
}

#[tokio::test]
async fn a_helper_never_gets_more_than_its_slots() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 2).await;
    let mut operations = Vec::new();
    for salt in 0..5u8 {
        let action = site.action(|action, _| action.salt = vec![salt]).await;
        operations.push(site.execute(action).await);
    }
    let mut held = vec![mars.lease().await, mars.lease().await];
    for _ in 0..3 {
        // The next lease comes only as the answer to a finished one.
        let done = held.remove(0);
        mars.finish(&done, &Default::default()).await;
        held.push(mars.lease().await);
    }
    site.stop().await;
}
