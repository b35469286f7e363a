//! ActionCache: who may write it, and when it answers.

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;
use tonic::{Code, Status};

use crate::harness::{F, Site, result};

fn get(action: Digest, instance: &str) -> re::GetActionResultRequest {
    re::GetActionResultRequest {
        instance_name: instance.into(),
        action_digest: Some(action.to_wire()),
        digest_function: F.to_wire(),
        ..Default::default()
    }
}

fn update(action: Digest, result: re::ActionResult) -> re::UpdateActionResultRequest {
    re::UpdateActionResultRequest {
        action_digest: Some(action.to_wire()),
        action_result: Some(result),
        digest_function: F.to_wire(),
        ..Default::default()
    }
}

async fn open() -> Site {
    Site::with(|config| config.client_updates = true).await
}

async fn lookup(site: &Site, action: Digest) -> Result<re::ActionResult, Status> {
    Ok(site.actions().get_action_result(get(action, "")).await?.into_inner())
}

#[tokio::test]
async fn clients_write_only_where_they_may() {
    let site = Site::start().await;
    let action = F.digest(b"action");
    let object = site.put(b"object").await;
    let refused = site.actions().update_action_result(update(action, result(object))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    site.stop().await;

    let site = open().await;
    let object = site.put(b"object").await;
    site.actions().update_action_result(update(action, result(object))).await.unwrap();
    assert_eq!(lookup(&site, action).await.unwrap(), result(object));
    site.stop().await;
}

#[tokio::test]
async fn results_are_kept_by_instance_and_by_function() {
    let site = open().await;
    let action = F.digest(b"action");
    let object = site.put(b"object").await;
    site.actions().update_action_result(update(action, result(object))).await.unwrap();
    let other = site.actions().get_action_result(get(action, "other/instance")).await.unwrap_err();
    assert_eq!(other.code(), Code::NotFound);
    let sha =
        re::GetActionResultRequest { digest_function: DigestFunction::Sha256.to_wire(), ..get(action, "") };
    assert_eq!(site.actions().get_action_result(sha).await.unwrap_err().code(), Code::NotFound);
    let bad = re::GetActionResultRequest { instance_name: "a/uploads".into(), ..get(action, "") };
    assert_eq!(site.actions().get_action_result(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let none = re::GetActionResultRequest { action_digest: None, ..get(action, "") };
    assert_eq!(site.actions().get_action_result(none).await.unwrap_err().code(), Code::InvalidArgument);
    site.stop().await;
}

#[tokio::test]
async fn results_that_name_what_is_not_there_are_refused() {
    let site = open().await;
    let action = F.digest(b"action");
    let gone = F.digest(b"gone");
    let empty = re::Directory::default();
    let file = re::FileNode { name: "f".into(), digest: Some(gone.to_wire()), ..Default::default() };
    let lacking = re::Directory { files: vec![file], ..Default::default() };
    let child = |digest: Digest| re::DirectoryNode { name: "d".into(), digest: Some(digest.to_wire()) };
    let hollow = re::Directory { directories: vec![child(F.digest(b"nobody"))], ..Default::default() };
    let climbing = re::Directory {
        directories: vec![re::DirectoryNode { name: "..".into(), ..child(F.digest(b"")) }],
        ..Default::default()
    };
    let mut rows = vec![
        (result(gone), Code::FailedPrecondition),
        (
            re::ActionResult { stdout_digest: Some(gone.to_wire()), ..Default::default() },
            Code::FailedPrecondition,
        ),
    ];
    for (root, children, code) in [
        (lacking.clone(), vec![], Code::FailedPrecondition),
        (empty.clone(), vec![lacking], Code::FailedPrecondition),
        (hollow, vec![], Code::InvalidArgument),
        (climbing, vec![empty.clone()], Code::InvalidArgument),
    ] {
        let tree = re::Tree { root: Some(root), children };
        let digest = site.put_message(&tree).await;
        rows.push((directory(digest), code));
    }
    let no_tree = site.put(b"\xff\xff").await;
    rows.push((directory(no_tree), Code::InvalidArgument));
    rows.push((directory(gone), Code::FailedPrecondition));
    let malformed = re::Digest { hash: "zz".into(), size_bytes: 1 };
    rows.push((
        re::ActionResult { stderr_digest: Some(malformed), ..Default::default() },
        Code::InvalidArgument,
    ));
    for (result, code) in rows {
        let refused = site.actions().update_action_result(update(action, result)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    assert_eq!(lookup(&site, action).await.unwrap_err().code(), Code::NotFound);
    site.stop().await;
}

fn directory(tree: Digest) -> re::ActionResult {
    let directory =
        re::OutputDirectory { path: "d".into(), tree_digest: Some(tree.to_wire()), ..Default::default() };
    re::ActionResult { output_directories: vec![directory], ..Default::default() }
}

#[tokio::test]
async fn an_answer_that_lost_a_blob_is_not_given() {
    let site = open().await;
    let action = F.digest(b"action");
    let inner = site.put(b"inside a directory").await;
    let file = re::FileNode { name: "f".into(), digest: Some(inner.to_wire()), ..Default::default() };
    let tree = re::Tree {
        root: Some(re::Directory { files: vec![file], ..Default::default() }),
        children: Vec::new(),
    };
    let tree = site.put_message(&tree).await;
    site.actions().update_action_result(update(action, directory(tree))).await.unwrap();
    assert_eq!(lookup(&site, action).await.unwrap(), directory(tree));
    site.lose(inner);
    assert_eq!(lookup(&site, action).await.unwrap_err().code(), Code::NotFound);
    site.put(b"inside a directory").await;
    assert_eq!(lookup(&site, action).await.unwrap(), directory(tree));
    site.stop().await;
}

#[tokio::test]
async fn small_contents_travel_inside_when_asked_for() {
    let site = open().await;
    let action = F.digest(b"action");
    let (object, words) = (site.put(b"object").await, site.put(b"warning: x").await);
    let mut kept = result(object);
    kept.stderr_digest = Some(words.to_wire());
    site.actions().update_action_result(update(action, kept.clone())).await.unwrap();
    let mut request = get(action, "");
    request.inline_stderr = true;
    request.inline_output_files = vec!["a.o".into()];
    let mut answer = site.actions().get_action_result(request).await.unwrap().into_inner();
    assert_eq!(answer.stderr_raw, b"warning: x");
    assert_eq!(answer.output_files[0].contents, b"object");
    answer.stderr_raw.clear();
    answer.output_files[0].contents.clear();
    assert_eq!(answer.encode_to_vec(), kept.encode_to_vec());
    site.stop().await;
}
