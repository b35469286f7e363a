//! `load`: a steady rate of actions over many helpers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Result;
use crate::action::{command, upload};
use crate::client::{self, Offer, Seen};
use crate::figures::Process;
use crate::helper;
use crate::server::Server;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Helpers, each with a connection of its own
    #[arg(long, default_value_t = 1000)]
    helpers: u32,
    /// Slots of each
    #[arg(long, default_value_t = 8)]
    slots: u32,
    /// Clients, each with a connection of its own
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// Actions per second, of all clients together
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long an action takes on a helper
    #[arg(long, default_value_t = 0)]
    work_ms: u64,
    /// Where the store is made, and removed afterwards (default: the directory for temporary files)
    #[arg(long)]
    data: Option<PathBuf>,
}

pub async fn run(args: Args) -> Result<()> {
    let data = tempfile::Builder::new()
        .prefix("dbuild-load-")
        .tempdir_in(args.data.clone().unwrap_or_else(std::env::temp_dir))?;
    let server = Server::start(data.path(), false)?;
    let work = Duration::from_millis(args.work_ms);
    let attaching = Instant::now();
    for number in 0..args.helpers {
        let helper =
            helper::attach(server.connect().await?, format!("load-{number}"), args.slots, Some(work));
        tokio::spawn(helper.await?);
    }
    println!(
        "{} helpers of {} slots attached in {:.1} s",
        args.helpers,
        args.slots,
        attaching.elapsed().as_secs_f64()
    );
    upload(&server.connect().await?, vec![command()]).await?;

    let done = Arc::new(AtomicU64::new(0));
    let offer = Offer {
        run: u64::from(std::process::id()),
        rate: args.rate / f64::from(args.clients),
        lasts: Duration::from_secs(args.seconds),
    };
    let before = (server.process().cpu(), Process::own().cpu());
    let (begun, mut clients) = (Instant::now(), JoinSet::new());
    for number in 0..args.clients {
        let (channel, done) = (server.connect().await?, done.clone());
        clients.spawn(client::run(channel, offer, number.into(), args.clients.into(), done));
    }
    let watching = tokio::spawn(watch(done));
    let mut seen = Seen::default();
    while let Some(client) = clients.join_next().await {
        seen.add(client??);
    }
    let took = begun.elapsed().as_secs_f64();
    watching.abort();
    let after = (server.process().cpu(), Process::own().cpu());
    report(&args, seen, took, (after.0 - before.0, after.1 - before.1), server.process().memory());
    Ok(())
}

/// Prints what was done in every ten seconds.
async fn watch(done: Arc<AtomicU64>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let now = done.load(Ordering::Relaxed);
        println!("  {:.0} actions per second in the last ten", (now - before) as f64 / 10.0);
        before = now;
    }
}

fn report(args: &Args, seen: Seen, took: f64, cpu: (f64, f64), memory: (u64, u64)) {
    let answered = seen.whole.len() as f64;
    println!(
        "offered {:.0} per second for {} s; {answered} answered in {took:.1} s: {:.0} per second",
        args.rate,
        args.seconds,
        answered / took
    );
    println!("failed {}, not offered because too many were open {}", seen.failed, seen.held_back);
    if let Some(why) = &seen.first_failure {
        println!("the first failure: {why}");
    }
    println!("from Execute to answer: {}", seen.whole.line());
    println!("dispatch, from queued to leased: {}", seen.dispatch.line());
    let each = |cpu: f64| cpu * 1e6 / answered.max(1.0);
    println!("CPU per action: coordinator {:.0} µs, clients and helpers {:.0} µs", each(cpu.0), each(cpu.1));
    println!("coordinator's memory: {} MiB, at most {} MiB", memory.0, memory.1);
}
