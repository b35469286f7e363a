//! A task's way through the pool: its errand described, run there, the answer accepted.

mod accept;
mod errand;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use dbuild_intake::recall::Earlier;
use tokio::sync::{Notify, mpsc};

use super::context::{Context, blocking};
use super::crates::Objection;
use super::near::Missed;
use super::outputs::Ready;
use super::remote::{self, Purpose, Remote};
use super::slots::Slot;
use super::task::{Answered, Here, Prepared, Verdict};
use crate::config::processors;
pub use accept::SCAN_DIFFERS;
use errand::Errand;

/// Why a task runs here that helpers could have run.
const FULL: &str = "helpers are busy";

/// Why a task is done here that a helper had begun.
const LATE: &str = "a helper was late";

/// An action is late after so many times what it took before, and never sooner than after so long.
const LATE_AFTER: (u32, Duration) = (4, Duration::from_secs(10));
/// How often a late action looks for a free slot here.
const LOOK: Duration = Duration::from_millis(500);

/// Takes what the build is to hear before a task's end.
pub type Prints = mpsc::UnboundedSender<Vec<u8>>;

/// Asks the pool, if there is one for this task. `alone`: it is the only task of its call.
pub async fn answer(context: Arc<Context>, missed: Missed, alone: bool, prints: Prints) -> Verdict {
    let Missed { prepared, miss, notice, earlier, described } = missed;
    let task = prepared.task.clone();
    let mut here = match reachable(&context, &prepared) {
        Err(reason) => Here::new(prepared, reason),
        Ok(url) => match ask(&context, &prepared, (earlier, described), url, alone.then_some(prints)).await {
            Ok(answered) => return Verdict::Answered(answered),
            Err(refusal) => {
                let mut here = Here::new(prepared, refusal.reason);
                here.fault = refusal.fault;
                here.slot = refusal.slot;
                here
            }
        },
    };
    here.miss = miss;
    here.notice = notice;
    here.uncacheable = task.cache.as_ref().err().map(ToString::to_string);
    if let Err(reason) = &context.initiator.store {
        here.uncacheable = Some("the cache cannot be used".to_owned());
        here.fault.get_or_insert_with(|| reason.clone());
    }
    Verdict::Here(Box::new(here))
}

/// The coordinator of a task that may leave this machine; else why it may not.
fn reachable<'c>(context: &'c Context, prepared: &Prepared) -> Result<&'c str, String> {
    let url = context.coordinator.as_deref().ok_or("no pool")?;
    prepared.task.distribute.as_ref().map_err(ToString::to_string)?;
    match context.variable("LD_PRELOAD") {
        Some(_) => Err("LD_PRELOAD".to_owned()),
        None => Ok(url),
    }
}

/// A task's inputs and its action, or why it does not go to the pool.
pub struct Described(Result<Errand, Refusal>);

/// Describes the task on the calling thread, if it goes to the pool and nothing has to be waited for: that saves handing
/// it over twice.
pub fn describe_at_once(context: &Context, missed: &mut Missed) {
    // What a crate needs is found by walking through directories.
    if missed.prepared.task.unit.is_some() {
        return;
    }
    let Ok(url) = reachable(context, &missed.prepared) else { return };
    let initiator = &context.initiator;
    if initiator.known_remote(url).is_some_and(|remote| remote.is_ready())
        && let Some(_turn) = initiator.scans.try_take(processors())
    {
        // It is of no use afterwards, and holds on to a whole manifest.
        let earlier = missed.earlier.take();
        let described = errand::describe(context, &missed.prepared, earlier.as_ref());
        missed.described = Some(Described(described));
    }
}

/// Why the pool did not answer: the reason for statistics, and the fault if it is one.
struct Refusal {
    reason: String,
    fault: Option<String>,
    /// The slot that it is to run in.
    slot: Option<Slot>,
}

impl Refusal {
    /// The task is not one for helpers; nothing is wrong.
    fn because(reason: impl Into<String>) -> Self {
        Refusal { reason: reason.into(), fault: None, slot: None }
    }

    fn fault(message: impl Into<String>) -> Self {
        let message = message.into();
        Refusal { reason: message.clone(), fault: Some(message), slot: None }
    }
}

impl From<Objection> for Refusal {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Because(reason) => Refusal::because(reason),
            Objection::Doubt(doubt) => {
                tracing::info!(%doubt, "inputs are not certain");
                Refusal::because("inputs are not certain")
            }
        }
    }
}

impl From<remote::Fault> for Refusal {
    fn from(fault: remote::Fault) -> Self {
        Refusal::fault(fault.message)
    }
}

async fn ask(
    context: &Arc<Context>,
    prepared: &Prepared,
    (earlier, described): (Option<Earlier>, Option<Described>),
    url: &str,
    prints: Option<Prints>,
) -> Result<Answered, Refusal> {
    let remote: Remote = context.initiator.remote(url).await?;
    remote.ready(&context.session).await?;
    let store = context.initiator.store.clone().map_err(Refusal::fault)?;

    let toolchain = prepared.toolchain.clone();
    if prepared.task.unit.is_some() && !remote.begin_toolchain(&toolchain.root) {
        if context.local_slots > 0 {
            return Err(Refusal::because("its toolchain is on the way to the pool"));
        }
        remote.bring_toolchain(&toolchain.root).await?;
    }
    let errand = match described {
        Some(Described(described)) => described?,
        None => {
            // Scanning takes a processor of this machine.
            let _turn = context.initiator.scans.take(processors()).await;
            let (context, prepared) = (context.clone(), prepared.clone());
            blocking(move || errand::describe(&context, &prepared, earlier.as_ref()))
                .await
                .map_err(|error| Refusal::fault(error.to_string()))??
        }
    };
    // In a full pool it would only wait. A call's other tasks would hold one up that runs here.
    let waits = prints.is_some() && remote.full(&context.session);
    let errand = Arc::new(errand);
    let mut placed = Vec::new();
    let answer = match remote.recall(&toolchain.root, &errand.built, &store, waits).await? {
        Some(answer) => answer,
        None => {
            if waits && let Some(slot) = context.spare_slot() {
                return Err(Refusal { slot: Some(slot), ..Refusal::because(FULL) });
            }
            let (early, ready) = mpsc::unbounded_channel();
            let running = Notify::new();
            let purpose =
                Purpose { session: &context.session, expected: errand.expected, begun: Some(&running) };
            let executed = remote.execute(&toolchain.root, &errand.built, &store, purpose, early);
            let alone = prints.is_some();
            let begun = AtomicBool::new(false);
            let placing = place(context, prepared, &errand, ready, prints, &begun);
            tokio::select! {
                (executed, early) = async { tokio::join!(executed, placing) } => {
                    placed = early;
                    executed?
                }
                // The pool hears that nobody waits any more before anything begins here: one of the two writes.
                slot = late(context, errand.expected, &running, &begun), if alone => {
                    return Err(Refusal { slot: Some(slot), ..Refusal::because(LATE) });
                }
            }
        }
    };

    let (context, prepared) = (context.clone(), prepared.clone());
    blocking(move || accept::accept(&context, &prepared, &errand, answer, &placed))
        .await
        .map_err(|error| Refusal::fault(error.to_string()))?
}

/// Waits until an action is late since it was `running`, of which nothing was `placed` yet, and this machine has a free slot for it.
async fn late(context: &Context, expected: Option<Duration>, running: &Notify, placed: &AtomicBool) -> Slot {
    let Some(expected) = expected else { return std::future::pending().await };
    let (times, least) = LATE_AFTER;
    running.notified().await;
    tokio::time::sleep(expected.saturating_mul(times).max(least)).await;
    loop {
        if !placed.load(Relaxed)
            && let Some(slot) = context.spare_slot()
        {
            return slot;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Puts in place what is ready before the end, and lets the build hear of it; gives what was placed.
async fn place(
    context: &Arc<Context>,
    prepared: &Prepared,
    errand: &Arc<Errand>,
    mut ready: mpsc::UnboundedReceiver<remote::Answer>,
    prints: Option<Prints>,
    begun: &AtomicBool,
) -> Vec<Ready> {
    let mut placed = Vec::new();
    while let Some(answer) = ready.recv().await {
        let Some(prints) = &prints else { continue };
        begun.store(true, Relaxed);
        let (context, prepared, errand) = (context.clone(), prepared.clone(), errand.clone());
        let early = blocking(move || accept::early(&context, &prepared, &errand, answer)).await;
        match early {
            Ok(Ok((files, text))) => {
                placed.extend(files);
                // The build is gone: then nobody waits.
                let _ = prints.send(text);
            }
            // It comes with the result, if at all.
            Ok(Err(refusal)) => tracing::info!(refusal.reason, "what was ready is not used"),
            Err(error) => tracing::info!(%error, "what was ready is not used"),
        }
    }
    placed
}
