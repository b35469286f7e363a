//! The calls of clients at the coordinator, as `execution.rs` of `coordinator/src/service` answers them: each follows a task to its
//! end, and who hangs up lets go of it.

use std::time::Duration;

use dbuild_coordinator::pool::{ActionId, Event, Outcome as Fate, Owner, Request, TaskId};
use dbuild_proto::DigestFunction;

use super::clock::ms;
use super::coordinator::{Coordinator, Side, Timer};
use super::network::{ConnId, End};
use super::stage::Stage;
use super::wire::{Action, Call, Ended, Message, Operation, Value};

/// `KEPT` of `desk.rs`.
const KEPT: (usize, Duration) = (1024, ms(60_000));

impl Coordinator {
    pub(super) fn call(&mut self, stage: &mut Stage, id: ConnId, message: Message) {
        let Some(Side::Client(calls)) = self.sides.get_mut(&id) else { return };
        match message {
            Message::Execute { call, action } => {
                calls.insert(call, None);
                let takes = stage.rng.wait(0, 50);
                self.put(stage, takes, Timer::Prepared { id, call, action });
            }
            Message::WaitExecution { call, operation } => {
                let task = operation.task;
                if operation.run == self.run {
                    self.step(stage, Event::Join { task });
                    if self.watch(stage, id, call, task) {
                        stage.count("calls that came back to their task");
                        return;
                    }
                }
                stage.send(id, End::Coordinator, Message::Unknown { call });
            }
            other => stage.audit.broken(format!("the coordinator heard {other:?}")),
        }
    }

    pub(super) fn prepared(&mut self, stage: &mut Stage, id: ConnId, call: Call, action: Action) {
        // Who hung up meanwhile is not waited for.
        let Some(Side::Client(calls)) = self.sides.get_mut(&id) else { return };
        if calls.get(&call) != Some(&None) {
            return;
        }
        if let Some(value) = self.known.get(&action.content).filter(|_| action.merge) {
            calls.remove(&call);
            stage.count("answers from the action cache");
            return stage.send(id, End::Coordinator, Message::Done { call, ended: Ended::Answered(*value) });
        }
        match self.submit(stage, action) {
            Ok(task) => {
                self.watch(stage, id, call, task);
            }
            Err(fate) => {
                let ended = self.explain(stage, &fate);
                stage.send(id, End::Coordinator, Message::Done { call, ended });
                self.ended_call(id, call);
            }
        }
    }

    pub(super) fn ended_call(&mut self, id: ConnId, call: Call) {
        if let Some(Side::Client(calls)) = self.sides.get_mut(&id) {
            calls.remove(&call);
        }
    }

    /// The call follows a task that lives, or is told how it ended; false if it is not known.
    pub(super) fn watch(&mut self, stage: &mut Stage, id: ConnId, call: Call, task: TaskId) -> bool {
        let operation = Operation { run: self.run, task };
        if let Some(live) = self.live.get_mut(&task) {
            live.watchers.push((id, call));
            if let Some(Side::Client(calls)) = self.sides.get_mut(&id) {
                calls.insert(call, Some(task));
            }
            stage.send(id, End::Coordinator, Message::Update { call, operation });
            return true;
        }
        let Some((.., ended)) = self.kept.iter().find(|(_, kept, _)| *kept == task) else { return false };
        stage.send(id, End::Coordinator, Message::Done { call, ended: ended.clone() });
        self.ended_call(id, call);
        self.step(stage, Event::Leave { task });
        true
    }

    pub(super) fn leave(&mut self, stage: &mut Stage, id: ConnId, call: Call, watched: Option<TaskId>) {
        let Some(task) = watched else { return };
        if let Some(live) = self.live.get_mut(&task) {
            live.watchers.retain(|watcher| *watcher != (id, call));
        }
        self.step(stage, Event::Leave { task });
    }

    pub(super) fn submit(&mut self, stage: &mut Stage, action: Action) -> Result<TaskId, Fate<Value>> {
        let function = DigestFunction::Blake3;
        let digest = function.digest(&action.content.to_le_bytes());
        let system = action.system.map(|system| ("OSFamily".to_owned(), system.to_owned()));
        let request = Request {
            action: ActionId { instance: String::new(), function, digest },
            merge: action.merge,
            owner: Owner {
                user: format!("u{}", action.user).into(),
                build: format!("b{}", action.build).into(),
            },
            priority: action.priority,
            expected: action.expected,
            properties: system.into_iter().collect(),
            timeout: action.timeout,
        };
        self.step_with(stage, Event::Submit(request), Some(action)).unwrap_or(Err(Fate::NoHelper))
    }

    pub(super) fn finish(&mut self, stage: &mut Stage, task: TaskId, fate: &Fate<Value>) {
        let Some(live) = self.live.remove(&task) else { return };
        let ended = self.explain(stage, fate);
        let now = stage.now;
        while self.kept.len() >= KEPT.0 || self.kept.front().is_some_and(|(at, ..)| *at + KEPT.1 <= now) {
            self.kept.pop_front();
        }
        self.kept.push_back((now, task, ended.clone()));
        for (id, call) in live.watchers {
            stage.send(id, End::Coordinator, Message::Done { call, ended: ended.clone() });
            self.ended_call(id, call);
        }
    }

    /// As clients are told, by the code that `desk.rs` gives it.
    pub(super) fn explain(&self, stage: &mut Stage, fate: &Fate<Value>) -> Ended {
        let (word, ended) = match fate {
            Fate::Answered(value) => ("answered", Ended::Answered(*value)),
            Fate::Exhausted { .. } => ("exhausted", Ended::Never),
            Fate::Unmatched(_) => ("unmatched", Ended::Never),
            Fate::NoHelper => ("without any helper", Ended::NotNow),
            Fate::Closed(_) => ("without a helper that takes work", Ended::NotNow),
            Fate::Full { .. } => ("declined by a full pool", Ended::NotNow),
        };
        stage.count(word);
        ended
    }
}
