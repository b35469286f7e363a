//! Detached tasks: they go on without anybody who waits, and are waited for by the action's digest, also after a restart.

use std::time::Duration;

use dbuild_proto::pool as wire;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::longrunning::Operation;
use dbuild_proto::{DETACHED, DETACHED_OPERATIONS, Digest};
use tonic::{Code, Status, Streaming};

use crate::harness::{F, Helper, Site, code, execute_request, last, message, next, result, soon};

fn name(action: Digest) -> String {
    format!("{DETACHED_OPERATIONS}{}/{action}", F.name())
}

async fn execute(site: &Site, action: Digest) -> Streaming<Operation> {
    let mut request = tonic::Request::new(execute_request(action));
    request.metadata_mut().insert(DETACHED, "1".parse().unwrap());
    soon(site.execution().execute(request)).await.unwrap().into_inner()
}

/// Asks for the action, and leaves when it is accepted.
async fn detach(site: &Site, action: Digest) {
    assert_eq!(next(&mut execute(site, action).await).await.name, name(action));
}

async fn ask(site: &Site, name: String) -> Result<Streaming<Operation>, Status> {
    soon(site.execution().wait_execution(re::WaitExecutionRequest { name }))
        .await
        .map(tonic::Response::into_inner)
}

/// The answer at a stream's end; a task that would run again instead waits for a helper in vain, and this fails.
async fn end(operations: &mut Streaming<Operation>) -> re::ExecuteResponse {
    soon(last(operations)).await
}

async fn wait(site: &Site, action: Digest) -> re::ExecuteResponse {
    end(&mut ask(site, name(action)).await.unwrap()).await
}

/// A site that lets go at once of what nobody watches.
async fn hasty(adjust: impl FnOnce(&mut dbuild_coordinator::CoordinatorConfig)) -> Site {
    Site::with(|config| {
        config.abandon_after = Duration::from_millis(1);
        adjust(config);
    })
    .await
}

#[tokio::test]
async fn a_task_goes_on_when_its_caller_leaves() {
    let site = hasty(|_| {}).await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let object = site.put(b"object").await;
    let action = site.action(|_, _| {}).await;
    detach(&site, action).await;
    // Whoever waits joins, and may leave as well.
    drop(ask(&site, name(action)).await.unwrap());
    let lease = helper.lease().await;
    // One that nobody wants ends, and there has been time for it to: this one does not.
    let other = site.action(|action, _| action.salt = b"other".to_vec()).await;
    let mut other = site.execute(other).await;
    next(&mut other).await;
    let mut waiting = ask(&site, name(action)).await.unwrap();
    next(&mut waiting).await;
    helper.finish(&lease, &result(object)).await;
    let given = end(&mut waiting).await;
    assert_eq!((code(&given), given.cached_result), (Code::Ok, false));
    assert_eq!(given.result.unwrap().output_files, result(object).output_files);
    let again = wait(&site, action).await;
    assert_eq!((code(&again), again.cached_result), (Code::Ok, true));
    assert_eq!(helper.lease().await.lease_id, lease.lease_id + 1, "nothing was cancelled, nothing ran twice");
    site.stop().await;
}

#[tokio::test]
async fn what_fails_is_kept_over_a_restart_until_it_is_asked_for_anew() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let failing = site.action(|action, _| action.salt = b"1".to_vec()).await;
    let fleeting = site.action(|action, _| action.do_not_cache = true).await;
    let slow = site.action(|action, _| action.salt = b"2".to_vec()).await;
    let hapless = site.action(|action, _| action.salt = b"3".to_vec()).await;
    let bad = re::ActionResult { exit_code: 3, stderr_raw: b"error".to_vec(), ..Default::default() };
    let good = re::ActionResult { stdout_raw: b"word".to_vec(), ..Default::default() };
    for (action, brought) in [(failing, &bad), (fleeting, &good)] {
        detach(&site, action).await;
        let lease = helper.lease().await;
        helper.finish(&lease, brought).await;
    }
    detach(&site, slow).await;
    let lease = helper.lease().await;
    helper.fault(&lease, wire::fault::Kind::Timeout, Vec::new()).await;
    detach(&site, hapless).await;
    for _ in 0..3 {
        let lease = helper.lease().await;
        helper.fault(&lease, wire::fault::Kind::Infrastructure, Vec::new()).await;
    }
    for action in [failing, fleeting, slow, hapless] {
        wait(&site, action).await;
    }

    drop(helper);
    let site = site.restart().await;
    for (action, brought) in [(failing, &bad), (fleeting, &good)] {
        let given = wait(&site, action).await;
        assert_eq!((code(&given), given.cached_result), (Code::Ok, false));
        let given = given.result.unwrap();
        assert_eq!((given.exit_code, &given.stdout_raw), (brought.exit_code, &brought.stdout_raw));
        assert_eq!(given.stderr_raw, brought.stderr_raw);
    }
    let given = wait(&site, slow).await;
    assert_eq!(code(&given), Code::DeadlineExceeded);
    let given = wait(&site, hapless).await;
    assert!(code(&given) == Code::Internal && message(&given).contains("in 3 attempts"), "{given:?}");

    // A failure answers those who wait, nobody who asks.
    let mut helper = Helper::attach(&site, "mars", 1).await;
    detach(&site, failing).await;
    let mut waiting = ask(&site, name(failing)).await.unwrap();
    let lease = helper.lease().await;
    helper.finish(&lease, &good).await;
    assert_eq!(end(&mut waiting).await.result.unwrap().exit_code, 0);
    site.stop().await;
}

#[tokio::test]
async fn a_task_that_a_restart_ended_is_started_again_by_who_waits() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let action = site.action(|_, _| {}).await;
    detach(&site, action).await;
    helper.lease().await;
    drop(helper);
    let site = site.restart().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let mut waiting = ask(&site, name(action)).await.unwrap();
    assert_eq!(next(&mut waiting).await.name, name(action));
    let lease = helper.lease().await;
    // It is detached as before: another joins, nobody needs to stay.
    drop(waiting);
    let mut waiting = ask(&site, name(action)).await.unwrap();
    let object = site.put(b"object").await;
    helper.finish(&lease, &result(object)).await;
    assert_eq!(code(&end(&mut waiting).await), Code::Ok);
    // Its result is lost: it is made again.
    drop(helper);
    let site = site.restart().await;
    site.lose(object);
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let mut waiting = ask(&site, name(action)).await.unwrap();
    let lease = helper.lease().await;
    helper.finish(&lease, &result(site.put(b"object").await)).await;
    assert_eq!(code(&end(&mut waiting).await), Code::Ok);
    site.stop().await;
}

#[tokio::test]
async fn what_nobody_asked_for_is_unknown() {
    let site = hasty(|_| {}).await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let action = site.action(|_, _| {}).await;
    // Somebody's failure that was not detached is theirs.
    let mut operations = site.execute(action).await;
    let lease = helper.lease().await;
    helper.finish(&lease, &re::ActionResult { exit_code: 1, ..Default::default() }).await;
    end(&mut operations).await;
    let elsewhere = format!("elsewhere/{}", name(action));
    for name in [name(action), elsewhere, name(F.digest(b"no action")), format!("{}/x", name(action))] {
        assert_eq!(ask(&site, name.clone()).await.unwrap_err().code(), Code::NotFound, "{name}");
    }
    site.stop().await;
}

#[tokio::test]
async fn detached_tasks_count_and_end_like_others() {
    let site = hasty(|config| {
        config.max_queue = 1;
        config.helper_wait = Duration::from_millis(100);
    })
    .await;
    let action = site.action(|_, _| {}).await;
    let second = site.action(|action, _| action.salt = b"2".to_vec()).await;
    let missing = site.action(|action, _| action.input_root_digest = Some(F.digest(b"gone").to_wire())).await;
    assert_eq!(code(&end(&mut execute(&site, missing).await).await), Code::FailedPrecondition);
    detach(&site, action).await;
    let refused = end(&mut execute(&site, second).await).await;
    assert_eq!(code(&refused), Code::ResourceExhausted);
    assert_eq!(ask(&site, name(second)).await.unwrap_err().code(), Code::NotFound);
    let given = wait(&site, action).await;
    assert_eq!((code(&given), message(&given)), (Code::Unavailable, "no helper is connected"));
    // That nobody was there to run it is not its result.
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let mut waiting = ask(&site, name(action)).await.unwrap();
    let lease = helper.lease().await;
    helper.finish(&lease, &re::ActionResult { exit_code: 7, ..Default::default() }).await;
    assert_eq!(end(&mut waiting).await.result.unwrap().exit_code, 7);
    // It made room.
    detach(&site, second).await;
    site.stop().await;
}
