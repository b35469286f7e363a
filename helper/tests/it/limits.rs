//! Time, memory, processes, sizes; and ends before the end: cancel, lost streams, dead helpers.

use dbuild_proto::pool::fault::Kind;
use dbuild_proto::pool::lease_result::Outcome;
use dbuild_proto::pool::{Cancel, from_helper, to_helper};

use crate::bench::{Bench, Order, processes_with};

#[tokio::test]
async fn a_timeout_ends_grandchildren_too() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell();
    let mut order = Order::script(&root, "(setsid sleep 98760.25 &); sleep 98760.25");
    order.timeout_ms = 500;
    let fault = bench.fault(&order).await;
    assert_eq!(fault.kind(), Kind::Timeout);
    assert_eq!(processes_with("98760.25"), 0);
    bench.stop().await;
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let root = bench.shell();
    // The sleeper holds stdout open: only its end lets the action end.
    let order = Order::script(&root, "setsid sleep 98760.5 & echo done");
    assert_eq!(bench.says(&order).await, "done\n");
    assert_eq!(processes_with("98760.5"), 0);
    bench.stop().await;
}

#[tokio::test]
async fn memory_is_limited() {
    let Some(mut bench) = Bench::start(|config| config.limits.memory_bytes = 64 << 20).await else { return };
    let root = bench.shell();
    // tail keeps a line without end in memory.
    let order = Order::script(&root, "head -c 200000000 /dev/zero | tail -n 1 > /dev/null");
    let result = bench.result(&order).await;
    assert_ne!(result.exit_code, 0);
    let small = Order::script(&root, "head -c 20000000 /dev/zero | tail -n 1 > /dev/null && echo fine");
    assert_eq!(bench.says(&small).await, "fine\n");
    bench.stop().await;
}

#[tokio::test]
async fn processes_are_limited() {
    let Some(mut bench) = Bench::start(|config| config.limits.processes = 20).await else { return };
    let root = bench.shell();
    let many = "i=0; while [ $i -lt 60 ]; do sleep 98760.75 & i=$((i+1)); done; echo all";
    let result = bench.result(&Order::script(&root, many)).await;
    assert!(!String::from_utf8_lossy(&result.stdout_raw).contains("all"));
    assert_eq!(processes_with("98760.75"), 0);
    bench.stop().await;
}

#[tokio::test]
async fn files_and_prints_are_limited() {
    let small = |config: &mut dbuild_helper::HelperConfig| {
        config.limits.file_bytes = 1 << 20;
        config.limits.stdio_bytes = 100_000;
        config.limits.output_bytes = 1 << 20;
    };
    let Some(mut bench) = Bench::start(small).await else { return };
    let root = bench.shell();
    let result = bench.result(&Order::script(&root, "exec head -c 5000000 /dev/zero > big")).await;
    // SIGXFSZ, and a note that it was a signal.
    assert_eq!(result.exit_code, 128 + 25);
    assert_eq!(result.execution_metadata.unwrap().auxiliary_metadata.len(), 1);
    let fault = bench.fault(&Order::script(&root, "while :; do echo y; done")).await;
    assert_eq!(fault.kind(), Kind::BadAction);
    assert!(fault.message.contains("prints"), "{}", fault.message);
    let many = "for f in 1 2 3; do head -c 500000 /dev/zero > $f; done";
    let fault = bench.fault(&Order::script(&root, many).outputs(&["1", "2", "3"])).await;
    assert_eq!(fault.kind(), Kind::BadAction);
    bench.stop().await;
}

#[tokio::test]
async fn a_cancelled_lease_is_answered_and_gone() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let order = Order::script(&bench.shell(), "sleep 98759.5");
    let action = order.put(&bench.blobs);
    let lease_id = bench.helper.lease(action, 60_000);
    running(&mut bench, "98759.5").await;
    bench.helper.send(to_helper::Message::Cancel(Cancel { lease_id }));
    let result = bench.helper.result().await;
    let Some(Outcome::Fault(fault)) = result.outcome else { panic!("{result:?}") };
    assert_eq!(fault.kind(), Kind::Cancelled);
    assert_eq!(processes_with("98759.5"), 0);
    bench.stop().await;
}

#[tokio::test]
async fn a_lost_stream_ends_what_runs_and_the_helper_comes_back() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let order = Order::script(&bench.shell(), "sleep 98759.75");
    let action = order.put(&bench.blobs);
    bench.helper.lease(action, 60_000);
    running(&mut bench, "98759.75").await;
    // The helper attaches again only when nothing runs any more.
    bench.helper.close();
    bench.helper = bench.arrivals.recv().await.unwrap();
    assert_eq!(processes_with("98759.75"), 0);
    assert_eq!(bench.says(&Order::script(&bench.shell(), "echo back")).await, "back\n");
    bench.stop().await;
}

#[tokio::test]
async fn more_leases_than_slots_are_refused() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    assert_eq!((bench.helper.hello.slots, bench.helper.hello.name.as_str()), (1, "bench"));
    let action = Order::script(&bench.shell(), "sleep 98758.5").put(&bench.blobs);
    let first = bench.helper.lease(action, 60_000);
    running(&mut bench, "98758.5").await;
    let second = bench.helper.lease(action, 60_000);
    let refused = bench.helper.result().await;
    assert_eq!(refused.lease_id, second);
    bench.helper.send(to_helper::Message::Cancel(Cancel { lease_id: first }));
    assert_eq!(bench.helper.result().await.lease_id, first);
    bench.stop().await;
}

/// Waits for states of the helper until a process with this argument runs.
async fn running(bench: &mut Bench, marker: &str) {
    while processes_with(marker) == 0 {
        bench.helper.next(|message| matches!(message, from_helper::Message::State(_)).then_some(())).await;
    }
}
