//! What is said of helpers: in their reports, by their supervisors and by operators, as `Report` and `SetDrained` of
//! `coordinator/src/service/pool.rs` take it.

use dbuild_coordinator::pool::{Event, Report};
use dbuild_proto::pool::State;

use super::coordinator::Coordinator;
use super::stage::Stage;
use super::wire::Word;

/// A report of a helper that offers so many of its slots.
pub fn report(offered: Option<u32>) -> Report {
    Report(State { offered, ..State::default() }.into())
}

impl Coordinator {
    /// A helper's supervisor says how it is.
    pub fn said(&mut self, stage: &mut Stage, Word { name, offered, up }: Word) {
        self.step(stage, Event::Said { name: format!("h{name}").into(), report: report(offered), up });
    }

    /// An operator wants a helper to get no more work, or work again; false if nobody knows it.
    pub fn drain(&mut self, stage: &mut Stage, name: u64, drained: bool) -> bool {
        let name = format!("h{name}");
        let known = self.pool.knows(&name);
        self.step(stage, Event::Drain { name: name.into(), drained });
        known
    }
}
