//! Helpers that fail, vanish or lie, and what a client is told.

use std::time::Duration;

use dbuild_proto::pool as wire;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use tonic::Code;
use wire::fault::Kind;

use crate::harness::{F, Helper, Site, code, last, message, next, result, soon};

#[tokio::test]
async fn a_vanished_helper_s_action_runs_on_another() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let action = site.action(|_, _| {}).await;
    let mut operations = site.execute(action).await;
    mars.lease().await;
    let mut venus = Helper::attach(&site, "venus", 1).await;
    drop(mars);
    let lease = venus.lease().await;
    assert_eq!(lease.action_hash, action.hex());
    venus.finish(&lease, &re::ActionResult::default()).await;
    assert_eq!(code(&last(&mut operations).await), Code::Ok);
    site.stop().await;
}

#[tokio::test]
async fn a_silent_helper_s_action_runs_on_another() {
    let site = Site::with(|config| config.state_interval = Duration::from_millis(500)).await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let action = site.action(|_, _| {}).await;
    let mut operations = site.execute(action).await;
    mars.lease().await;
    // Mars keeps its connection and says nothing more.
    // It is not refused, which would end it: its link may have been cut for a while.
    let broken = soon(mars.from.message()).await.unwrap_err();
    assert!(broken.code() == Code::Unavailable && broken.message().contains("not heard"), "{broken}");
    let mut venus = Helper::attach(&site, "venus", 1).await;
    let lease = venus.lease().await;
    venus.finish(&lease, &re::ActionResult::default()).await;
    assert_eq!(code(&last(&mut operations).await), Code::Ok);
    site.stop().await;
}

#[tokio::test]
async fn infrastructure_faults_are_retried_elsewhere_and_then_told() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let mut venus = Helper::attach(&site, "venus", 1).await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    let lease = mars.lease().await;
    mars.fault(&lease, Kind::Infrastructure, Vec::new()).await;
    let lease = venus.lease().await;
    venus.fault(&lease, Kind::Unknown, Vec::new()).await;
    // Both were tried: the last attempt may be on either.
    let lease = mars.lease().await;
    mars.fault(&lease, Kind::Infrastructure, Vec::new()).await;
    let response = last(&mut operations).await;
    assert_eq!(code(&response), Code::Internal);
    let words = message(&response);
    assert!(words.contains("3 attempts") && words.contains("mars: says the test"), "{words}");
    site.stop().await;
}

#[tokio::test]
async fn final_faults_are_told_at_once() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let gone = F.digest(b"gone");
    for (kind, missing, expected) in [
        (Kind::BadAction, vec![], Code::InvalidArgument),
        (Kind::Timeout, vec![], Code::DeadlineExceeded),
        (Kind::MissingInputs, vec![gone.to_string(), "nonsense".into()], Code::FailedPrecondition),
    ] {
        let action = site.action(|action, _| action.salt = vec![kind as u8]).await;
        let mut operations = site.execute(action).await;
        let lease = mars.lease().await;
        mars.fault(&lease, kind, missing).await;
        let response = last(&mut operations).await;
        assert_eq!(code(&response), expected, "{response:?}");
        assert!(response.result.is_none());
        if kind == Kind::MissingInputs {
            assert!(message(&response).contains(&gone.to_string()), "{}", message(&response));
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn a_helper_that_misses_what_is_here_is_tried_no_more() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let mut venus = Helper::attach(&site, "venus", 1).await;
    let here = site.put(b"here").await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    let lease = mars.lease().await;
    mars.fault(&lease, Kind::MissingInputs, vec![here.to_string()]).await;
    let lease = venus.lease().await;
    venus.finish(&lease, &re::ActionResult::default()).await;
    assert_eq!(code(&last(&mut operations).await), Code::Ok);
    site.stop().await;
}

#[tokio::test]
async fn results_of_lying_helpers_are_not_taken() {
    let site = Site::start().await;
    let object = site.put(b"object").await;
    let undeclared = {
        let mut undeclared = result(object);
        undeclared.output_files[0].path = "../../home/user/.profile".into();
        undeclared
    };
    let twice = {
        let mut twice = result(object);
        twice.output_files.push(twice.output_files[0].clone());
        twice
    };
    let unsent = {
        let mut unsent = result(F.digest(b"other"));
        unsent.output_files[0].contents = b"not other".to_vec();
        unsent
    };
    for (number, lie) in [result(F.digest(b"never stored")), undeclared, twice, unsent].iter().enumerate() {
        let mut liar = Helper::attach(&site, "liar", 1).await;
        let action = site.action(|action, _| action.salt = vec![number as u8]).await;
        let mut operations = site.execute(action).await;
        let lease = liar.lease().await;
        let mut honest = Helper::attach(&site, "honest", 1).await;
        liar.finish(&lease, lie).await;
        let lease = honest.lease().await;
        // Nothing of the lie is in the action cache.
        let get = re::GetActionResultRequest {
            action_digest: Some(action.to_wire()),
            digest_function: F.to_wire(),
            ..Default::default()
        };
        assert_eq!(site.actions().get_action_result(get).await.unwrap_err().code(), Code::NotFound);
        honest.finish(&lease, &result(object)).await;
        assert_eq!(code(&last(&mut operations).await), Code::Ok);
        drop((liar, honest));
        gone(&site, &["liar", "honest"]).await;
    }
    site.stop().await;
}

/// Waits until the coordinator has heard that these left.
async fn gone(site: &Site, names: &[&str]) {
    loop {
        let all = site.pool().list_helpers(wire::ListHelpersRequest {}).await.unwrap().into_inner().helpers;
        if !all.iter().any(|helper| helper.online && names.contains(&helper.name.as_str())) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_result_are_not_taken() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    for _ in 0..3 {
        let lease = mars.lease().await;
        mars.outcome(&lease, wire::lease_result::Outcome::ActionResult(b"\xff\xff\xff".to_vec())).await;
    }
    let response = last(&mut operations).await;
    assert_eq!(code(&response), Code::Internal);
    assert!(message(&response).contains("does not parse"), "{}", message(&response));
    site.stop().await;
}

#[tokio::test]
async fn answers_to_leases_that_are_not_theirs_are_ignored() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    let lease = mars.lease().await;
    let venus = Helper::attach(&site, "venus", 1).await;
    venus.finish(&lease, &re::ActionResult { exit_code: 66, ..Default::default() }).await;
    mars.finish(&lease, &re::ActionResult::default()).await;
    // Said twice: the second time it means nothing.
    mars.finish(&lease, &re::ActionResult { exit_code: 77, ..Default::default() }).await;
    assert_eq!(last(&mut operations).await.result.unwrap().exit_code, 0);
    site.stop().await;
}

#[tokio::test]
async fn stopping_tells_everyone() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    mars.lease().await;
    site.stop().await;
    let end = loop {
        match soon(operations.message()).await {
            Ok(Some(operation)) => assert!(!operation.done),
            Ok(None) => panic!("ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    assert!(mars.from.message().await.is_ok_and(|end| end.is_none()));
}

#[tokio::test]
async fn a_restarted_coordinator_does_not_know_old_operations() {
    let site = Site::start().await;
    let mut mars = Helper::attach(&site, "mars", 1).await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    let name = next(&mut operations).await.name;
    mars.lease().await;
    let other = Site::start().await;
    let request = re::WaitExecutionRequest { name };
    assert_eq!(other.execution().wait_execution(request).await.unwrap_err().code(), Code::NotFound);
    site.stop().await;
    other.stop().await;
}
