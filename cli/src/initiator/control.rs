//! How `dbuild` talks to its initiator: one JSON object per line, one answer per request.
//!
//! Both ends are of the same build (the socket's directory is named after it), so the format carries no version.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::record::{Counters, Event, Tally};

use super::{Initiator, Warmth};

/// The longest request or answer, in bytes.
const MAX_LINE: u64 = 16 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// `trace`: the file, by its whole path, into which the build is drawn at its end.
    Begin {
        session: String,
        trace: Option<PathBuf>,
    },
    End {
        session: String,
    },
    /// How many slots the pool at this URL has.
    Slots {
        session: String,
        coordinator: String,
    },
    Stats,
    Zero,
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Ok,
    /// `trace_failed`: why the build's trace could not be written.
    Tally {
        tally: Box<Tally>,
        trace_failed: Option<String>,
    },
    /// 0: no pool, or one that does not tell.
    Slots(u32),
    Stats {
        counters: Box<Counters>,
        warmth: Box<Warmth>,
    },
}

/// Serves one connection until the other side closes it.
pub async fn serve(initiator: &Initiator, stream: UnixStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_line(&mut stream).await? {
        let answer = match request {
            Request::Begin { session, trace } => {
                initiator.record(Event::SessionBegin(session, trace));
                Answer::Ok
            }
            Request::End { session } => {
                initiator.keeping.settle(&session).await;
                let (reply, tally) = oneshot::channel();
                initiator.record(Event::SessionEnd(session, reply));
                let (tally, trace_failed) = tally.await.unwrap_or_default();
                Answer::Tally { tally: Box::new(tally), trace_failed }
            }
            Request::Slots { session, coordinator } => {
                let slots = match initiator.remote(&coordinator).await {
                    Ok(remote) => remote.slots(&session).await,
                    Err(_) => 0,
                };
                Answer::Slots(slots)
            }
            Request::Stats => {
                let (reply, counters) = oneshot::channel();
                initiator.record(Event::Counters(reply));
                let counters = Box::new(counters.await.unwrap_or_default());
                Answer::Stats { counters, warmth: Box::new(Warmth::of(initiator)) }
            }
            Request::Zero => {
                initiator.record(Event::Zero);
                Answer::Ok
            }
            Request::Stop => {
                initiator.stop();
                Answer::Ok
            }
        };
        write_line(&mut stream, &answer).await?;
    }
    Ok(())
}

/// Sends one request and waits for its answer.
pub async fn ask(stream: &mut BufReader<UnixStream>, request: &Request) -> std::io::Result<Answer> {
    write_line(stream, request).await?;
    read_line(stream).await?.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

async fn write_line<T: Serialize>(stream: &mut BufReader<UnixStream>, value: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn read_line<T: for<'a> Deserialize<'a>>(
    stream: &mut BufReader<UnixStream>,
) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    let read = stream.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
