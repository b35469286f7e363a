//! Detached tasks: their callers leave, and whoever wants the result comes later, from anywhere, with the action's digest.
//!
//! While such a task is in flight the coordinator itself watches it, so the pool treats it like any other and its bounds
//! hold. Of each one the store has a record, which the coordinator's end does not touch: that it was accepted (no bytes),
//! then, unless the action cache knows its result, its answer (an `ExecuteResponse`). A task that was accepted and of which
//! nothing more is known, because a coordinator ended before it did, there was no helper, or its result was evicted, is
//! started again by whoever waits for it. Records are evicted like all that the store holds: then nobody knows the task any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dbuild_cache::{ActionKey, Store};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{DETACHED, DETACHED_OPERATIONS, DigestFunction};
use prost::Message;
use tokio::sync::{oneshot, watch};
use tonic::{Code, Request, Status};

use super::desk::{Answer, Progress, Watcher};
use super::{Site, action_cache, blocking, outputs, refusal};
use crate::pool::{ActionId, TaskId};

/// The detached tasks whose last word is not written down yet; no more than the pool may hold. It is never locked across
/// anything that can panic half-way or waits.
#[derive(Default)]
pub struct Detached(Mutex<HashMap<ActionId, Watcher>>);

/// What is known of an action that is not in flight.
pub enum Known {
    Ended(Answer),
    /// It was to be run; what came of it is not known, or is not complete any more.
    Accepted,
    /// Nobody asked for it, or that was long ago.
    Nothing,
}

/// Whether the caller of an Execute leaves before its end.
pub fn is_wanted<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(DETACHED)
}

/// The name of the operation: `{instance/}operations/detached/{function}/{hash}/{size}`.
pub fn name(action: &ActionId) -> String {
    let ActionId { instance, function, digest } = action;
    let slash = if instance.is_empty() { "" } else { "/" };
    format!("{instance}{slash}{DETACHED_OPERATIONS}{}/{digest}", function.name())
}

/// The action that an operation is named by.
pub fn read_name(name: &str) -> Option<ActionId> {
    let (instance, rest) = match name.strip_prefix(DETACHED_OPERATIONS) {
        Some(rest) => ("", rest),
        None => {
            let (before, rest) = name.split_once(DETACHED_OPERATIONS)?;
            (before.strip_suffix('/').filter(|instance| !instance.is_empty())?, rest)
        }
    };
    refusal::check_instance(instance).ok()?;
    let (function, digest) = rest.split_once('/')?;
    let function =
        [DigestFunction::Blake3, DigestFunction::Sha256].into_iter().find(|f| f.name() == function)?;
    Some(ActionId { instance: instance.to_owned(), function, digest: digest.parse().ok()? })
}

impl Detached {
    /// Someone who sees how far the task is, if it is in flight.
    pub fn watcher(&self, action: &ActionId) -> Option<Watcher> {
        self.tasks().get(action).map(|known| known.onlooker(known.progress.clone()))
    }

    /// Where whoever waits will see the task that `watcher` watches; with it, unless there is one, the place to show it.
    /// Of two tasks of one action, which `do_not_cache` allows, the last one counts.
    fn begin(&self, watcher: &Watcher) -> (Watcher, Option<watch::Sender<Progress>>) {
        let mut tasks = self.tasks();
        let action = &watcher.job.action;
        if let Some(known) = tasks.get(action).filter(|known| known.task == watcher.task) {
            return (known.onlooker(known.progress.clone()), None);
        }
        let shown = watch::Sender::new(Progress::queued());
        tasks.insert(action.clone(), watcher.onlooker(shown.subscribe()));
        (watcher.onlooker(shown.subscribe()), Some(shown))
    }

    fn is_last(&self, action: &ActionId, task: TaskId) -> bool {
        self.tasks().get(action).is_some_and(|known| known.task == task)
    }

    fn end(&self, action: &ActionId, task: TaskId) {
        let mut tasks = self.tasks();
        if tasks.get(action).is_some_and(|known| known.task == task) {
            tasks.remove(action);
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<ActionId, Watcher>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the task to its end, whoever leaves. Returns when the store has its record, with someone to follow it by.
pub async fn watch(site: &Site, watcher: Watcher) -> Result<Watcher, Status> {
    let (onlooker, shown) = site.detached.begin(&watcher);
    if let Some(shown) = shown {
        let (accepted, written) = oneshot::channel();
        tokio::spawn(see_through(site.clone(), watcher, shown, accepted));
        written.await.map_err(|_| Status::unavailable("the coordinator is stopping"))??;
    }
    Ok(onlooker)
}

async fn see_through(
    site: Site,
    watcher: Watcher,
    shown: watch::Sender<Progress>,
    accepted: oneshot::Sender<Result<(), Status>>,
) {
    let (action, task) = (watcher.job.action.clone(), watcher.task);
    let record = accept(&site, &action).await;
    let recorded = record.is_ok();
    // Whoever asked may be gone already, and the task goes on.
    let _ = accepted.send(record);
    if recorded {
        show(&site, watcher, &shown).await;
    }
    site.detached.end(&action, task);
}

/// Shows how far the task is, to the end; its answer is in the store before anybody hears of it.
async fn show(site: &Site, mut watcher: Watcher, shown: &watch::Sender<Progress>) {
    loop {
        let progress = watcher.progress.borrow_and_update().clone();
        let answer = progress.answer.clone();
        if let Some(answer) = &answer
            && site.detached.is_last(&watcher.job.action, watcher.task)
        {
            let (store, action, answer) = (site.store.clone(), watcher.job.action.clone(), answer.clone());
            if let Err(status) = blocking(move || write_down(&store, &action, &answer)).await {
                tracing::warn!(%status, "what came of a detached task could not be kept");
            }
        }
        shown.send_replace(progress);
        // The desk lets go of a task that is not at its end only when the coordinator stops.
        if answer.is_some() || watcher.progress.changed().await.is_err() {
            return;
        }
    }
}

fn key(action: &ActionId) -> ActionKey {
    action_cache::key(b"dbuild detached action 1\0", action)
}

/// Records that the action is to be run.
pub async fn accept(site: &Site, action: &ActionId) -> Result<(), Status> {
    let (store, key) = (site.store.clone(), key(action));
    blocking(move || store.put_action(&key, &[]).map_err(refusal::cache)).await
}

/// Keeps an answer that the action cache does not have. That there was no helper is no word about the action: whoever waits
/// for it later has it started again.
fn write_down(store: &Store, action: &ActionId, answer: &Answer) -> Result<(), Status> {
    let no_helper = answer.status.as_ref().is_some_and(|status| status.code == Code::Unavailable as i32);
    if no_helper || action_cache::recall(store, action)?.is_some() {
        return Ok(());
    }
    store.put_action(&key(action), &answer.encode_to_vec()).map_err(refusal::cache)
}

/// What is known of an action that is not in flight. Blocks.
pub fn recall(store: &Store, action: &ActionId) -> Result<Known, Status> {
    if let Some(result) = action_cache::recall(store, action)? {
        let status = Some(refusal::rpc_status(Code::Ok, ""));
        let result = Some(result);
        let cached = re::ExecuteResponse { result, cached_result: true, status, ..Default::default() };
        return Ok(Known::Ended(Arc::new(cached)));
    }
    let Some(record) = store.action(&key(action)).map_err(refusal::cache)? else { return Ok(Known::Nothing) };
    let Ok(answer) = re::ExecuteResponse::decode(record.as_slice()) else { return Ok(Known::Accepted) };
    let complete = match &answer.result {
        Some(result) => outputs::complete(store, action.function, result).is_ok(),
        None => answer.status.is_some(),
    };
    Ok(if complete { Known::Ended(Arc::new(answer)) } else { Known::Accepted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        for instance in ["", "main", "a/b"] {
            for function in [DigestFunction::Blake3, DigestFunction::Sha256] {
                let digest = function.digest(b"action");
                let action = ActionId { instance: instance.into(), function, digest };
                assert_eq!(read_name(&name(&action)), Some(action));
            }
        }
        let digest = DigestFunction::Blake3.digest(b"action");
        for name in [
            format!("operations/detached/{digest}"),
            format!("operations/detached/md5/{digest}"),
            format!("/operations/detached/blake3/{digest}"),
            format!("x/blobs/operations/detached/blake3/{digest}"),
            format!("xoperations/detached/blake3/{digest}"),
            format!("operations/detached/blake3/{digest}/x"),
            "operations/detached/blake3/".into(),
        ] {
            assert_eq!(read_name(&name), None, "{name}");
        }
    }
}
