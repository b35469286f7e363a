//! What an action costs beyond its program: `cargo test -p dbuild-helper --release -- --ignored --nocapture cost`.
//! Prints, asserts nothing about time.

use std::time::Instant;

use dbuild_proto::reapi::google::protobuf::Timestamp;

use crate::bench::{Bench, Order};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_an_action() {
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    for (title, below) in
        [("one directory of 300 files, shared", "opt/"), ("300 files, never shared", "work/")]
    {
        let mut root = bench.shell();
        for n in 0..300 {
            root = root.file(&format!("{below}d{}/f{n}", n / 15), format!("content {below} {n}"), false);
        }
        let mut profile: Vec<[f64; 4]> = Vec::new();
        let mut spent = processor_ms();
        for round in 0..220 {
            let mut root = root.clone().file("work/round", format!("{below} {round}"), false);
            if below == "work/" {
                for n in 0..20 {
                    root = root.file(&format!("work/d{n}/round"), format!("{below} {round}"), false);
                }
            }
            let order = Order::new(&root, &["true"]);
            let action = order.put(&bench.blobs);
            let begun = Instant::now();
            let lease = bench.helper.run(action, 60_000);
            let dbuild_proto::pool::lease_result::Outcome::ActionResult(bytes) = lease.await else {
                panic!()
            };
            let whole = begun.elapsed().as_secs_f64() * 1e3;
            let result: dbuild_proto::reapi::build::bazel::remote::execution::v2::ActionResult =
                prost::Message::decode(bytes.as_slice()).unwrap();
            let times = result.execution_metadata.unwrap();
            let span = |from: &Option<Timestamp>, to: &Option<Timestamp>| {
                let at = |time: &Option<Timestamp>| {
                    time.map(|t| t.seconds as f64 * 1e3 + f64::from(t.nanos) / 1e6)
                };
                at(to).unwrap() - at(from).unwrap()
            };
            if round == 19 {
                spent = processor_ms();
            }
            if round >= 20 {
                profile.push([
                    whole,
                    span(&times.input_fetch_start_timestamp, &times.input_fetch_completed_timestamp),
                    span(&times.execution_start_timestamp, &times.execution_completed_timestamp),
                    span(&times.output_upload_start_timestamp, &times.output_upload_completed_timestamp),
                ]);
            }
        }
        let median = |column: usize| {
            let mut values: Vec<f64> = profile.iter().map(|row| row[column]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{title}: whole {:.2} ms = fetch and stage {:.2} + execute {:.2} + collect and upload {:.2} + rest; \
             processor time {:.2} ms",
            median(0),
            median(1),
            median(2),
            median(3),
            (processor_ms() - spent) / 200.0
        );
    }
    bench.stop().await;
}

/// Processor time of this process (helper and stand-in) and of what it waited for.
fn processor_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    // utime and stime are fields 14 and 15 of proc(5), in ticks of 10 ms.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() * 10.0).sum()
}
