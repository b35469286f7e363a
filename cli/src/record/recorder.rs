//! The recorder: one task that owns counters, tallies and records.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::trace::Trace;
use super::{Counters, Tally, TaskEnd, explain};

/// What the recorder listens to.
#[derive(Debug)]
pub enum Event {
    Ended(Box<TaskEnd>),
    /// A build begins: its tally is kept until `SessionEnd`.
    /// Where its trace goes, if it wants one.
    SessionBegin(String, Option<PathBuf>),
    /// The tally, and why the trace could not be written.
    SessionEnd(String, oneshot::Sender<(Tally, Option<String>)>),
    Counters(oneshot::Sender<Counters>),
    /// Sets every counter to zero.
    Zero,
    /// Writes everything down and answers.
    Flush(oneshot::Sender<()>),
}

pub type Sender = mpsc::UnboundedSender<Event>;

/// How long counters and records may wait in memory before they are written.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Bytes of records that wait at most.
const MAX_WAITING: usize = 1 << 20;

/// Sessions whose build never came back for its tally (killed) are forgotten beyond this many.
const MAX_SESSIONS: usize = 1000;

/// Builds at a time that are drawn.
const MAX_TRACES: usize = 16;

pub struct Recorder {
    records: PathBuf,
    counters: Counters,
    sessions: HashMap<String, Tally>,
    /// Of the builds that want one.
    traces: HashMap<String, Trace>,
    dirty: bool,
    /// Records that are to be written.
    log: Vec<u8>,
}

impl Recorder {
    /// Starts a recorder that keeps its files under `records`.
    pub fn start(records: PathBuf) -> Sender {
        let (sender, events) = mpsc::unbounded_channel();
        let counters = Counters::load(&records);
        let recorder = Recorder {
            records,
            counters,
            sessions: HashMap::new(),
            traces: HashMap::new(),
            dirty: false,
            log: Vec::new(),
        };
        tokio::spawn(recorder.run(events));
        sender
    }

    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        let mut tick = tokio::time::interval(SAVE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.step(event),
                    None => break,
                },
                _ = tick.tick() => self.save(),
            }
        }
        self.save();
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Ended(end) => {
                self.counters.add(&end);
                self.dirty = true;
                if let Some(trace) = self.traces.get_mut(&end.session) {
                    trace.add(&end);
                }
                if self.sessions.len() < MAX_SESSIONS || self.sessions.contains_key(&end.session) {
                    self.sessions.entry(end.session.clone()).or_default().add(&end);
                }
                if let Err(error) = explain::append(&mut self.log, &end) {
                    tracing::debug!(%error, "failed to record a task");
                }
                if self.log.len() > MAX_WAITING {
                    self.save();
                }
            }
            Event::SessionBegin(session, trace) => {
                if let Some(file) = trace.filter(|_| self.traces.len() < MAX_TRACES) {
                    self.traces.insert(session.clone(), Trace::new(file));
                }
                self.sessions.insert(session, Tally::default());
            }
            Event::SessionEnd(session, reply) => {
                // Whoever asks `why` after a build finds all of it.
                self.save();
                // A receiver that is gone does not want its answer any more; so below.
                let written = self.traces.remove(&session).map_or(Ok(()), Trace::write);
                let tally = self.sessions.remove(&session).unwrap_or_default();
                let _ = reply.send((tally, written.err().map(|error| error.to_string())));
            }
            Event::Counters(reply) => {
                let _ = reply.send(self.counters.clone());
            }
            Event::Zero => {
                self.counters = Counters::default();
                self.dirty = true;
                self.save();
            }
            Event::Flush(reply) => {
                self.save();
                let _ = reply.send(());
            }
        }
    }

    fn save(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let saved = fs_err::create_dir_all(&self.records).and_then(|()| self.counters.save(&self.records));
        if let Err(error) = saved.and_then(|()| explain::write(&self.records, &self.log)) {
            tracing::debug!(%error, "failed to save counters and records");
        }
        self.log.clear();
    }
}
