//! Execution without faults: what runs, what is answered from the cache, what is merged, cancelled,
//! refused.

use std::time::Duration;

use dbuild_coordinator::service::PreconditionFailure;
use dbuild_proto::pool as wire;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::protobuf;
use dbuild_proto::{EXPECTED_MS, REQUEST_METADATA, TOOL_NAME};
use prost::Message;
use re::execution_stage::Value as Stage;
use tonic::Code;
use tonic::metadata::MetadataValue;

use crate::harness::{
    F, Helper, Site, code, draft, execute_request, last, message, next, result, soon, stage,
};

#[tokio::test]
async fn an_action_runs_on_a_helper_and_then_comes_from_the_cache() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let action = site.action(|_, _| {}).await;
    let object = site.put(b"object").await;
    let mut operations = site.execute(action).await;
    let lease = helper.lease().await;
    assert_eq!((lease.action_hash.as_str(), lease.action_size), (action.hex().as_str(), action.size as i64));
    assert_eq!((lease.digest_function, lease.timeout_ms), (F.to_wire(), 3_600_000));
    let running = loop {
        let operation = next(&mut operations).await;
        if stage(&operation) == Stage::Executing {
            break operation;
        }
        assert_eq!(stage(&operation), Stage::Queued);
    };
    assert!(!running.done && running.name.starts_with("operations/"));
    helper.finish(&lease, &result(object)).await;
    let response = last(&mut operations).await;
    assert_eq!((code(&response), response.cached_result), (Code::Ok, false));
    let given = response.result.unwrap();
    assert_eq!(given.output_files, result(object).output_files);
    let metadata = given.execution_metadata.clone().unwrap();
    assert!(metadata.worker == "mars" && metadata.queued_timestamp.is_some());
    let again = site.run(action).await;
    assert_eq!((again.cached_result, again.result), (true, Some(given)));
    // Unless the client wants it to run.
    let request = re::ExecuteRequest { skip_cache_lookup: true, ..execute_request(action) };
    let mut operations = site.execution().execute(request).await.unwrap().into_inner();
    let lease = helper.lease().await;
    helper.finish(&lease, &result(object)).await;
    assert!(!last(&mut operations).await.cached_result);
    site.stop().await;
}

async fn announce(helper: &Helper, lease: &wire::Lease, ready: &re::ActionResult) {
    let (lease_id, action_result) = (lease.lease_id, ready.encode_to_vec());
    let announcement = wire::Announcement { lease_id, action_result };
    helper.say(wire::from_helper::Message::Announcement(announcement)).await;
}

/// Checked like a result, and once.
#[tokio::test]
async fn what_is_ready_is_passed_on_before_the_end() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 2).await;
    let object = site.put(b"object").await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    let lease = helper.lease().await;
    let ready = re::ActionResult { stderr_raw: b"word".to_vec(), ..result(object) };
    announce(&helper, &lease, &ready).await;
    announce(&helper, &lease, &result(F.digest(b"other"))).await;
    let passed_on = loop {
        let operation = next(&mut operations).await;
        assert!(!operation.done);
        let metadata = operation.metadata.unwrap();
        let metadata = re::ExecuteOperationMetadata::decode(metadata.value.as_slice()).unwrap();
        if let Some(partial) = metadata.partial_execution_metadata {
            break partial.auxiliary_metadata;
        }
    };
    assert_eq!(passed_on[0].type_url, dbuild_proto::ACTION_RESULT);
    assert_eq!(re::ActionResult::decode(passed_on[0].value.as_slice()).unwrap(), ready);
    helper.finish(&lease, &result(object)).await;
    assert_eq!(code(&last(&mut operations).await), Code::Ok);

    // What is not in the store, or was not declared, is nobody's.
    for (number, bad) in [result(F.digest(b"nowhere")), {
        let mut undeclared = result(object);
        undeclared.output_files[0].path = "b.o".into();
        undeclared
    }]
    .iter()
    .enumerate()
    {
        let name = format!("-D{number}");
        let mut operations = site.execute(site.action(|_, command| command.arguments.push(name)).await).await;
        let lease = helper.lease().await;
        announce(&helper, &lease, bad).await;
        helper.finish(&lease, &result(object)).await;
        loop {
            let operation = next(&mut operations).await;
            let metadata = operation.metadata.unwrap();
            let metadata = re::ExecuteOperationMetadata::decode(metadata.value.as_slice()).unwrap();
            assert_eq!(metadata.partial_execution_metadata, None);
            if operation.done {
                break;
            }
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn outputs_may_come_inside_the_result_and_go_inside_the_answer() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let action = site.action(|_, _| {}).await;
    let request = re::ExecuteRequest { inline_output_files: vec!["a.o".into()], ..execute_request(action) };
    let mut operations = site.execution().execute(request).await.unwrap().into_inner();
    let lease = helper.lease().await;
    let mut brought = result(F.digest(b"object"));
    brought.output_files[0].contents = b"object".to_vec();
    helper.finish(&lease, &brought).await;
    let response = last(&mut operations).await;
    assert_eq!(response.result.unwrap().output_files[0].contents, b"object");
    let known = site.run(action).await.result.unwrap();
    assert!(known.output_files[0].contents.is_empty());
    site.stop().await;
}

#[tokio::test]
async fn a_long_output_stays_out_of_the_answer() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let mut operations = site.execute(site.action(|_, _| {}).await).await;
    let lease = helper.lease().await;
    let long = vec![b'x'; 5 << 20];
    let brought =
        re::ActionResult { stdout_raw: long.clone(), stderr_raw: b"y".to_vec(), ..Default::default() };
    helper.finish(&lease, &brought).await;
    let given = last(&mut operations).await.result.unwrap();
    assert_eq!((given.stdout_raw.len(), given.stderr_raw.as_slice()), (0, &b"y"[..]));
    assert_eq!(given.stdout_digest, Some(F.digest(&long).to_wire()));
    site.stop().await;
}

#[tokio::test]
async fn failures_and_do_not_cache_are_not_remembered() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let failing = site.action(|action, _| action.salt = b"1".to_vec()).await;
    let fleeting = site.action(|action, _| action.do_not_cache = true).await;
    let bad = re::ActionResult { exit_code: 1, stderr_raw: b"error".to_vec(), ..Default::default() };
    for (action, brought) in [(failing, bad), (fleeting, re::ActionResult::default())] {
        for _ in 0..2 {
            let mut operations = site.execute(action).await;
            let lease = helper.lease().await;
            helper.finish(&lease, &brought).await;
            let response = last(&mut operations).await;
            assert_eq!((code(&response), response.cached_result), (Code::Ok, false));
            assert_eq!(response.result.unwrap().exit_code, brought.exit_code);
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn equal_actions_in_flight_run_once() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 4).await;
    let action = site.action(|_, _| {}).await;
    let object = site.put(b"object").await;
    let mut first = site.execute(action).await;
    let name = next(&mut first).await.name;
    let mut second = site.execute(action).await;
    assert_eq!(next(&mut second).await.name, name);
    let waiting = re::WaitExecutionRequest { name: name.clone() };
    let mut third = soon(site.execution().wait_execution(waiting.clone())).await.unwrap().into_inner();
    // One client's end does not end the others.
    drop(first);
    let lease = helper.lease().await;
    helper.finish(&lease, &result(object)).await;
    assert_eq!(code(&last(&mut second).await), Code::Ok);
    assert_eq!(code(&last(&mut third).await), Code::Ok);
    // A client that lost its connection still gets the answer for a while.
    let mut late = soon(site.execution().wait_execution(waiting)).await.unwrap().into_inner();
    assert_eq!(code(&last(&mut late).await), Code::Ok);
    // Not merged where each execution counts: two leases are out at a time.
    let alone = site.action(|action, _| action.do_not_cache = true).await;
    let _both = (site.execute(alone).await, site.execute(alone).await);
    let (a, b) = (helper.lease().await, helper.lease().await);
    assert_eq!(a.action_hash, b.action_hash);
    assert_ne!(a.lease_id, b.lease_id);
    site.stop().await;
}

#[tokio::test]
async fn unknown_operations_are_not_found() {
    let site = Site::start().await;
    for name in ["", "operations/", "operations/0000000000000000-1", "operations/zz-1", "x"] {
        let request = re::WaitExecutionRequest { name: name.into() };
        let refused = site.execution().wait_execution(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{name}");
    }
    site.stop().await;
}

#[tokio::test]
async fn an_action_that_nobody_waits_for_is_cancelled() {
    let site = Site::with(|config| config.abandon_after = Duration::from_millis(1)).await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let action = site.action(|_, _| {}).await;
    let operations = site.execute(action).await;
    let lease = helper.lease().await;
    drop(operations);
    match helper.hear().await {
        Some(wire::to_helper::Message::Cancel(cancel)) => assert_eq!(cancel.lease_id, lease.lease_id),
        other => panic!("not a cancel: {other:?}"),
    }
    // The helper confirms, and its slot is free for the next.
    helper.fault(&lease, wire::fault::Kind::Cancelled, Vec::new()).await;
    let _operations = site.execute(action).await;
    assert_ne!(helper.lease().await.lease_id, lease.lease_id);
    site.stop().await;
}

#[tokio::test]
async fn waiting_clients_hear_something_now_and_then() {
    let site = Site::with(|config| {
        config.update_interval = Duration::from_millis(5);
        config.helper_wait = Duration::from_secs(600);
    })
    .await;
    let action = site.action(|_, _| {}).await;
    let mut operations = site.execute(action).await;
    for _ in 0..3 {
        let operation = next(&mut operations).await;
        assert_eq!((stage(&operation), operation.done), (Stage::Queued, false));
    }
    site.stop().await;
}

#[tokio::test]
async fn priorities_decide_who_runs_first() {
    let site = Site::with(|config| config.helper_wait = Duration::from_secs(600)).await;
    let mut operations = Vec::new();
    let mut actions = Vec::new();
    for priority in [5, -5, 0] {
        let action = site.action(|action, _| action.salt = vec![priority as u8]).await;
        let request = re::ExecuteRequest {
            execution_policy: Some(re::ExecutionPolicy { priority }),
            ..execute_request(action)
        };
        operations.push(site.execution().execute(request).await.unwrap().into_inner());
        actions.push(action.hex());
    }
    let mut helper = Helper::attach(&site, "mars", 1).await;
    for expected in [1, 2, 0] {
        let lease = helper.lease().await;
        assert_eq!(lease.action_hash, actions[expected]);
        helper.finish(&lease, &re::ActionResult::default()).await;
    }
    site.stop().await;
}

/// The blobs that an answer says are missing.
fn violations(response: &re::ExecuteResponse) -> Vec<String> {
    assert_eq!(code(response), Code::FailedPrecondition);
    let detail = &response.status.as_ref().unwrap().details[0];
    assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
    let failure = PreconditionFailure::decode(detail.value.as_slice()).unwrap();
    assert!(failure.violations.iter().all(|violation| violation.r#type == "MISSING"));
    failure.violations.into_iter().map(|violation| violation.subject).collect()
}

/// The pool is divided between those who ask, and of one build the longest goes first.
#[tokio::test]
async fn who_asks_and_how_long_it_takes_decide_who_runs_first() {
    let site = Site::start().await;
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let asks = [
        ("ann", "busy", ""),
        ("ann", "short", "100"),
        ("ann", "long", "30000"),
        ("bob", "first", "100"),
        ("bob", "second", "100"),
    ];
    let mut open = Vec::new();
    for (user, name, expected) in asks {
        let action = site.action(|action, _| action.salt = name.into()).await;
        let said = re::RequestMetadata {
            tool_details: Some(re::ToolDetails { tool_name: TOOL_NAME.into(), ..Default::default() }),
            correlated_invocations_id: user.into(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(execute_request(action));
        let headers = request.metadata_mut();
        headers.insert_bin(REQUEST_METADATA, MetadataValue::from_bytes(&said.encode_to_vec()));
        if !expected.is_empty() {
            headers.insert(EXPECTED_MS, expected.parse().unwrap());
        }
        let mut operations = soon(site.execution().execute(request)).await.unwrap().into_inner();
        next(&mut operations).await;
        open.push((name, action, operations));
    }
    let object = site.put(b"object").await;
    let mut order = Vec::new();
    for _ in asks {
        let lease = helper.lease().await;
        let (name, ..) = open.iter().find(|(_, action, _)| action.hex() == lease.action_hash).unwrap();
        order.push(*name);
        helper.finish(&lease, &result(object)).await;
    }
    // When Ann's first began nobody waited, so all are even; then it is her turn, then Bob's, although all of hers were there before.
    assert_eq!(order[..3], ["busy", "long", "first"]);
    let place = |name| order.iter().position(|other| *other == name);
    assert!(place("long") < place("short") && place("first") < place("second"), "{order:?}");
    site.stop().await;
}

#[tokio::test]
async fn whatever_is_missing_is_named() {
    let site = Site::start().await;
    let gone = F.digest(b"gone");
    let file = re::FileNode { name: "a.c".into(), digest: Some(gone.to_wire()), ..Default::default() };
    let inner = re::Directory { files: vec![file], ..Default::default() };
    let inner_digest = F.digest(&inner.encode_to_vec());
    let node = re::DirectoryNode { name: "src".into(), digest: Some(inner_digest.to_wire()) };
    let root = re::Directory { directories: vec![node], ..Default::default() };
    let (action, command) =
        draft(|action, _| action.input_root_digest = Some(F.digest(&root.encode_to_vec()).to_wire()));
    let digest = F.digest(&action.encode_to_vec());
    let blob = |digest| format!("blobs/blake3/{digest}");
    let command_digest = F.digest(&command.encode_to_vec());
    let root_digest = F.digest(&root.encode_to_vec());
    assert_eq!(violations(&site.run(digest).await), [blob(digest)]);
    site.put_message(&action).await;
    assert_eq!(violations(&site.run(digest).await), [blob(command_digest), blob(root_digest)]);
    site.put_message(&command).await;
    site.put_message(&root).await;
    assert_eq!(violations(&site.run(digest).await), [blob(inner_digest)]);
    site.put_message(&inner).await;
    assert_eq!(violations(&site.run(digest).await), [blob(gone)]);
    site.put(b"gone").await;
    let _helper = Helper::attach(&site, "mars", 1).await;
    let mut operations = site.execute(digest).await;
    assert!(!next(&mut operations).await.done);
    site.stop().await;
}

#[tokio::test]
async fn actions_that_make_no_sense_are_refused() {
    let site = Site::with(|config| config.max_timeout = Duration::from_secs(100)).await;
    let seconds = |seconds, nanos| Some(protobuf::Duration { seconds, nanos });
    let mut rows = Vec::new();
    rows.push((site.action(|_, command| command.arguments.clear()).await, "no program"));
    rows.push((site.action(|_, command| command.output_paths = vec!["/etc/x".into()]).await, "leaves"));
    rows.push((site.action(|_, command| command.output_paths = vec!["../x".into()]).await, "leaves"));
    rows.push((site.action(|_, command| command.working_directory = "../x".into()).await, "leaves"));
    rows.push((site.action(|action, _| action.timeout = seconds(101, 0)).await, "limit of 100 s"));
    rows.push((site.action(|action, _| action.timeout = seconds(-1, 0)).await, "positive"));
    rows.push((site.action(|action, _| action.timeout = seconds(1, -1)).await, "positive"));
    rows.push((site.action(|action, _| action.input_root_digest = None).await, "input_root_digest"));
    rows.push((site.put(b"\xff\xff no action").await, "not a REAPI action"));
    for (action, part) in rows {
        let refused = site.execution().execute(execute_request(action)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    let action = site.action(|_, _| {}).await;
    for request in [
        re::ExecuteRequest { digest_function: 2, ..execute_request(action) },
        re::ExecuteRequest { instance_name: "a/operations".into(), ..execute_request(action) },
        re::ExecuteRequest { action_digest: None, ..execute_request(action) },
    ] {
        assert_eq!(site.execution().execute(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    site.stop().await;
}

#[tokio::test]
async fn without_a_fitting_helper_the_reason_is_told() {
    let site = Site::with(|config| config.helper_wait = Duration::from_millis(1)).await;
    let platform = |name: &str, value: &str| {
        let property = re::platform::Property { name: name.into(), value: value.into() };
        Some(re::Platform { properties: vec![property] })
    };
    let action = site.action(|_, _| {}).await;
    let response = site.run(action).await;
    assert_eq!((code(&response), message(&response)), (Code::Unavailable, "no helper is connected"));
    let mut helper = Helper::attach(&site, "mars", 1).await;
    let windows = site.action(|action, _| action.platform = platform("OSFamily", "windows")).await;
    let response = site.run(windows).await;
    assert_eq!(code(&response), Code::FailedPrecondition);
    assert!(message(&response).contains("OSFamily=windows"), "{}", message(&response));
    // Equal properties fit, dbuild's own do not matter, and the command's count where the action has none.
    let ours = dbuild_proto::PROPERTY_INPUT_ROOT;
    for (action, command) in [
        (platform("OSFamily", "linux"), platform("OSFamily", "windows")),
        (platform(ours, "true"), None),
        (None, platform("OSFamily", "linux")),
    ] {
        let fits = site.action(|a, c| set_platforms(a, c, action, command)).await;
        let _operations = site.execute(fits).await;
        let lease = helper.lease().await;
        assert_eq!(lease.action_hash, fits.hex());
        helper.finish(&lease, &re::ActionResult::default()).await;
    }
    site.stop().await;
}

#[expect(deprecated, reason = "clients before API 2.2 say it in the command only")]
fn set_platforms(
    action: &mut re::Action,
    command: &mut re::Command,
    of_action: Option<re::Platform>,
    of_command: Option<re::Platform>,
) {
    action.platform = of_action;
    command.platform = of_command;
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let site = Site::with(|config| {
        config.max_queue = 1;
        config.helper_wait = Duration::from_secs(600);
    })
    .await;
    let _first = site.execute(site.action(|_, _| {}).await).await;
    let second = site.action(|action, _| action.salt = b"2".to_vec()).await;
    let response = site.run(second).await;
    assert_eq!(code(&response), Code::ResourceExhausted);
    assert!(message(&response).contains("queue is full"), "{}", message(&response));
    site.stop().await;
}
