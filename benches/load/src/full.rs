//! `full`: what a coordinator holds in memory with a full cache and a full queue.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use re::action_cache_client::ActionCacheClient;
use re::execution_client::ExecutionClient;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Result;
use crate::action::{FUNCTION, action, command, execute, upload};
use crate::helper;
use crate::server::Server;

/// Operations that are followed over one connection: below what the coordinator allows.
const STREAMS: u64 = 4000;
/// How many known results are asked for at the end.
const ASKED: u64 = 1000;
/// Results that are on their way at a time when the cache is filled.
const WRITERS: u64 = 64;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Results in the cache
    #[arg(long, default_value_t = 1_000_000)]
    known: u64,
    /// Actions in the queue
    #[arg(long, default_value_t = 100_000)]
    queued: u64,
    /// Where the store is made, and removed afterwards (default: the directory for temporary files)
    #[arg(long)]
    data: Option<PathBuf>,
}

type Operations = Streaming<dbuild_proto::reapi::google::longrunning::Operation>;

pub async fn run(args: Args) -> Result<()> {
    let data = tempfile::Builder::new()
        .prefix("dbuild-load-")
        .tempdir_in(args.data.clone().unwrap_or_else(std::env::temp_dir))?;
    let begun = Instant::now();
    fill(data.path(), args.known).await?;
    println!("{} results written in {:.0} s", args.known, begun.elapsed().as_secs_f64());

    let server = Server::start(data.path(), false)?;
    ask(&server, args.known).await?;
    say_memory(&server);

    // One slot, taken for ever, so that everything waits.
    tokio::spawn(helper::attach(server.connect().await?, "busy".into(), 1, None).await?);
    let begun = Instant::now();
    let held = queue(&server, args.queued).await?;
    println!("{} actions queued in {:.0} s", held.len(), begun.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(2)).await;
    say_memory(&server);
    Ok(())
}

fn say_memory(server: &Server) {
    let (now, most) = server.process().memory();
    println!("coordinator's memory: {now} MiB, at most {most} MiB");
}

/// Asks for some of the results: they are all to be found.
async fn ask(server: &Server, known: u64) -> Result<()> {
    let mut cache = ActionCacheClient::new(server.connect().await?);
    let (begun, step) = (Instant::now(), known.div_ceil(ASKED).max(1));
    let mut asked = 0;
    for number in (0..known).step_by(step as usize) {
        let request = re::GetActionResultRequest {
            action_digest: Some(action(0, number).digest.to_wire()),
            digest_function: FUNCTION.to_wire(),
            ..Default::default()
        };
        cache.get_action_result(request).await?;
        asked += 1;
    }
    let each = begun.elapsed().as_secs_f64() * 1e3 / f64::from(asked.max(1));
    println!("{asked} of them asked for, one after the other, and found: {each:.2} ms each");
    Ok(())
}

/// Writes results over the wire, in a coordinator that ends afterwards, so that what is measured starts with them.
async fn fill(data: &Path, known: u64) -> Result<()> {
    let server = Server::start(data, true)?;
    let mut writers = JoinSet::<Result<()>>::new();
    for writer in 0..WRITERS {
        let mut cache = ActionCacheClient::new(server.connect().await?);
        writers.spawn(async move {
            for number in (writer..known).step_by(WRITERS as usize) {
                cache.update_action_result(result(number)).await?;
            }
            Ok(())
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    Ok(())
}

fn result(number: u64) -> re::UpdateActionResultRequest {
    re::UpdateActionResultRequest {
        action_digest: Some(action(0, number).digest.to_wire()),
        action_result: Some(re::ActionResult::default()),
        digest_function: FUNCTION.to_wire(),
        ..Default::default()
    }
}

/// Queues actions and keeps following them: nobody would wait for them otherwise.
async fn queue(server: &Server, queued: u64) -> Result<Vec<Operations>> {
    let mut held = Vec::new();
    while (held.len() as u64) < queued {
        let channel = server.connect().await?;
        let first = held.len() as u64;
        let numbers = first..(first + STREAMS).min(queued);
        upload(&channel, vec![command()]).await?;
        for some in numbers.collect::<Vec<_>>().chunks(500) {
            upload(&channel, some.iter().map(|number| action(1, *number)).collect()).await?;
            for number in some {
                held.push(start(&channel, *number).await?);
            }
        }
    }
    Ok(held)
}

async fn start(channel: &Channel, number: u64) -> Result<Operations> {
    let request = execute(&action(1, number).digest);
    let mut operations = ExecutionClient::new(channel.clone()).execute(request).await?.into_inner();
    match operations.message().await? {
        Some(operation) if !operation.done => Ok(operations),
        other => Err(format!("an action was not queued: {other:?}").into()),
    }
}
