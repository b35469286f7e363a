//! Inputs that are missing or hostile, outputs of every kind, blobs that are fetched once, trees that are shared.

use std::collections::HashSet;

use dbuild_proto::Digest;
use dbuild_proto::pool::fault::Kind;
use dbuild_proto::pool::lease_result::Outcome;
use dbuild_proto::pool::{Cancel, from_helper, to_helper};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use prost::Message as _;

use crate::bench::{Bench, Order, messages};
use crate::store::{FUNCTION, asked_twice};

#[tokio::test]
async fn outputs_are_uploaded_before_they_are_told() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let script = "echo object > ../o/a.o; mkdir -p dir/sub; echo x > dir/sub/x; ln -s a.o ../o/l; \
                  head -c 3000000 /dev/zero > big; chmod 755 big; head -c 100000 /dev/zero; echo warn >&2; exit 3";
    let order =
        Order::script(&bench.shell(), script).outputs(&["../o/a.o", "dir", "../o/l", "big", "absent"]);
    let result = bench.result(&order).await;
    assert_eq!(result.exit_code, 3);
    assert_eq!(result.stderr_raw, b"warn\n");
    assert_eq!(bench.blobs.wire(&result.stdout_digest).len(), 100_000);
    assert_eq!(bench.file(&result, "../o/a.o"), b"object\n");
    assert_eq!(bench.file(&result, "big").len(), 3_000_000);
    assert!(result.output_files.iter().any(|file| file.path == "big" && file.is_executable));
    assert_eq!(result.output_symlinks[0].target, "a.o");
    let tree = bench.blobs.wire(&result.output_directories[0].tree_digest);
    let tree: re::Tree = prost::Message::decode(tree.as_slice()).unwrap();
    assert_eq!(bench.blobs.wire(&tree.children[0].files[0].digest), b"x\n");
    assert_eq!(result.output_files.len(), 2);
    let metadata = result.execution_metadata.unwrap();
    assert_eq!(metadata.worker, "bench");
    assert!(metadata.execution_completed_timestamp.is_some());
    bench.stop().await;
}

#[tokio::test]
async fn missing_inputs_are_all_named() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let small = bench.blobs.put("small, and gone");
    let large = bench.blobs.put(vec![5; 1 << 20]);
    let root = bench.shell().file("work/s", "small, and gone", false).file("work/l", vec![5; 1 << 20], false);
    let order = Order::script(&root, "true");
    bench.blobs.remove(&small);
    bench.blobs.remove(&large);
    let fault = bench.fault(&order).await;
    assert_eq!(fault.kind(), Kind::MissingInputs);
    let mut missing = fault.missing.clone();
    missing.sort();
    let mut expected = [small.to_string(), large.to_string()];
    expected.sort();
    assert_eq!(missing, expected);
    // Once they are there it runs.
    bench.blobs.put("small, and gone");
    bench.blobs.put(vec![5; 1 << 20]);
    bench.result(&order).await;
    bench.stop().await;
}

#[tokio::test]
async fn hostile_actions_are_refused_and_the_helper_goes_on() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell();
    let good = Order::script(&root, "echo fine");
    let content = bench.blobs.put("x").to_wire();
    let node =
        |name: &str| re::FileNode { name: name.into(), digest: Some(content.clone()), ..Default::default() };
    for name in ["../escape", "..", "a/b", ""] {
        let hostile = re::Directory { files: vec![node(name)], ..Default::default() };
        let order = Order { root: bench.blobs.put_message(&hostile), ..good.clone() };
        assert_eq!(bench.fault(&order).await.kind(), Kind::BadAction, "{name:?}");
    }
    let garbage = Order { root: bench.blobs.put("\u{7}garbage"), ..good.clone() };
    assert_eq!(bench.fault(&garbage).await.kind(), Kind::BadAction);
    let proc = Order::script(&bench.shell().link("proc", "/etc"), "true");
    assert_eq!(bench.fault(&proc).await.kind(), Kind::BadAction);
    let climbing = Order { outputs: vec!["/etc/x".into()], ..good.clone() };
    assert_eq!(bench.fault(&climbing).await.kind(), Kind::BadAction);
    let nothing = Digest { hash: [7; 32], size: 9 };
    let lost = Order { root: nothing, ..good.clone() };
    assert_eq!(bench.fault(&lost).await.kind(), Kind::MissingInputs);
    assert_eq!(bench.says(&good).await, "fine\n");
    bench.stop().await;
}

/// A directory of thirty files is laid out for the first actions, then kept once and mounted.
#[tokio::test]
async fn subtrees_are_shared_from_the_third_use() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let mut root = bench.shell();
    for n in 0..30 {
        root = root.file(&format!("opt/tool/f{n}"), format!("content {n}"), n == 7);
    }
    for round in 0..5 {
        let root = root.clone().file("work/round", format!("{round}"), false);
        let script = "cat round /opt/tool/f3; [ -x /opt/tool/f7 ] && [ ! -x /opt/tool/f8 ] && \
                      ! (echo bad > /opt/tool/f3) 2>/dev/null && ! (echo bad > /opt/tool/new) 2>/dev/null && echo .";
        assert_eq!(bench.says(&Order::script(&root, script)).await, format!("{round}content 3.\n"));
    }
    let boots = std::fs::read_dir(bench.data_dir.join("trees-v1")).unwrap().flatten();
    let kept: Vec<_> = boots.flat_map(|boot| std::fs::read_dir(boot.path()).unwrap().flatten()).collect();
    assert!(kept.iter().any(|tree| tree.path().join("tool/f3").exists() || tree.path().join("f3").exists()));
    // All these actions, and every blob travelled once.
    assert_eq!(asked_twice(&bench.blobs), Default::default());
    bench.stop().await;
}

#[tokio::test]
async fn concurrent_actions_fetch_each_blob_once() {
    let Some(mut bench) = Bench::start(|config| config.slots = 4).await else { return };
    let root = bench.shell().file("work/large", vec![9; 3 << 20], false);
    for n in 0..4 {
        let action = Order::script(&root, &format!("echo {n}")).put(&bench.blobs);
        bench.helper.lease(action, 60_000);
    }
    for _ in 0..4 {
        bench.helper.result().await;
    }
    assert_eq!(asked_twice(&bench.blobs), Default::default());
    bench.stop().await;
}

/// The next action's root is made out of the last one's; it must look as if it were new.
#[tokio::test]
async fn nothing_of_an_action_is_left_for_the_next() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let shell = bench.shell().dir("work/sub").file("work/closed/fixed.h", "fixed", false);
    let dirty = "echo x > new; mkdir d; echo x > d/f; rm -f input.c; ln -s /etc input.c; chmod 777 .; \
                 (mv closed other || rm -rf closed || echo x > closed/new) 2>/dev/null; echo x > sub/out.o; chmod 700 sub";
    let first = shell.clone().file("work/input.c", "one", false).file("work/closed/old.h", "old", false);
    let result = bench.result(&Order::script(&first, dirty).outputs(&["sub/out.o", "new"])).await;
    assert_eq!(result.exit_code, 0, "{result:?}");
    let look = "ls -A . sub closed /tmp; cat input.c closed/fixed.h; ls -ld . sub | head -c 10";
    let second = shell.file("work/input.c", "two", false).file("work/closed/next.h", "next", false);
    let order = Order::script(&second, look).outputs(&["sub/out.o"]);
    let seen = bench.says(&order).await;
    let expected =
        ".:\nclosed\ninput.c\nsub\n\n/tmp:\n\nclosed:\nfixed.h\nnext.h\n\nsub:\ntwofixeddrwxr-xr-x";
    assert_eq!(seen, expected);
    assert_eq!(bench.says(&order).await, seen);
    bench.stop().await;
}

#[tokio::test]
async fn messages_that_came_with_the_lease_are_not_asked_for() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell().file("work/deep/er/a", "text", false);
    let order = Order::script(&root, "cat deep/er/a > out").outputs(&["out"]);
    let action = order.put(&bench.blobs);
    let mut with = messages(&bench.blobs, action, &mut HashSet::new());
    let told: Vec<Digest> = with.iter().map(|bytes| FUNCTION.digest(bytes)).collect();
    // What nobody names does no harm.
    with.push("no message at all".into());
    let outcome = bench.helper.run_with(action, order.timeout_ms, with).await;
    let Outcome::ActionResult(bytes) = outcome else { panic!("{outcome:?}") };
    let result: re::ActionResult = prost::Message::decode(bytes.as_slice()).unwrap();
    assert_eq!(bench.file(&result, "out"), b"text");
    let reads = bench.blobs.reads.lock().unwrap().clone();
    assert!(told.iter().all(|digest| !reads.contains_key(digest)), "{reads:?}");
    assert!(reads.contains_key(&FUNCTION.digest(b"text")), "files are asked for");
    bench.stop().await;
}

/// A crate's metadata is told while its code is still being made.
#[tokio::test]
async fn what_is_ready_is_announced_before_the_end() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let word = r#"{"$message_type":"artifact","artifact":"/work/libx.rmeta","emit":"metadata"}"#;
    let script = format!("echo meta > libx.rmeta; echo '{word}' >&2; sleep 98757.5");
    let order = Order::script(&bench.shell(), &script).outputs(&["libx.rmeta", "libx.rlib"]);
    let action = order.put(&bench.blobs);
    let lease_id = bench.helper.lease(action, 60_000);
    let announced = |message| match message {
        from_helper::Message::Announcement(announcement) => Some(announcement),
        _ => None,
    };
    let announcement = bench.helper.next(announced).await;
    assert_eq!(announcement.lease_id, lease_id);
    let ready = re::ActionResult::decode(announcement.action_result.as_slice()).unwrap();
    assert_eq!(String::from_utf8(ready.stderr_raw).unwrap(), format!("{word}\n"));
    assert_eq!(ready.output_files.len(), 1);
    let digest = Digest::from_field(ready.output_files[0].digest.as_ref()).unwrap();
    assert_eq!(bench.blobs.get(&digest).unwrap(), b"meta\n");
    bench.helper.send(to_helper::Message::Cancel(Cancel { lease_id }));
    assert_eq!(bench.helper.result().await.lease_id, lease_id);
    bench.stop().await;
}
