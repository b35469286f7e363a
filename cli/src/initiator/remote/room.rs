//! How much room the pool has: whether one more task of this initiator would only wait in its queue.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Remote, lock};

/// How long a number of slots is believed.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Room {
    /// Slots of the helpers that are there; 0: not known.
    slots: AtomicU32,
    asked: Mutex<Option<Instant>>,
    /// Tasks of this initiator that the pool has and has not answered.
    running: AtomicU32,
}

/// A task that the pool has; dropping it means that it is answered.
pub struct Running(Remote);

impl Room {
    fn full(&self) -> bool {
        let slots = self.slots.load(Ordering::Relaxed);
        slots > 0 && self.running.load(Ordering::Relaxed) >= slots
    }

    /// Whether it is time to ask how many slots there are; true for one asker only.
    fn outdated(&self, now: Instant) -> bool {
        let mut asked = lock(&self.asked);
        let outdated = asked.is_none_or(|asked| now.duration_since(asked) >= FRESH);
        if outdated {
            *asked = Some(now);
        }
        outdated
    }
}

impl Remote {
    /// Whether the helpers have as many tasks of this initiator as they have slots. Never while it is not known how
    /// many slots there are; that is asked in the background.
    pub fn full(&self, session: &str) -> bool {
        if self.0.room.outdated(Instant::now()) {
            let (remote, session) = (self.clone(), session.to_owned());
            tokio::spawn(async move {
                let slots = remote.slots(&session).await;
                remote.0.room.slots.store(slots, Ordering::Relaxed);
            });
        }
        self.0.room.full()
    }

    /// Counts a task as the pool's.
    pub fn running(&self) -> Running {
        self.0.room.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.room.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_known_slots_that_are_all_taken() {
        let room = Room::default();
        assert!(!room.full(), "nothing is known yet");
        room.slots.store(2, Ordering::Relaxed);
        assert!(!room.full());
        room.running.store(1, Ordering::Relaxed);
        assert!(!room.full());
        room.running.store(2, Ordering::Relaxed);
        assert!(room.full());
    }

    #[test]
    fn one_asks_at_a_time_and_again_later() {
        let (room, now) = (Room::default(), Instant::now());
        assert!(room.outdated(now));
        assert!(!room.outdated(now));
        assert!(room.outdated(now + FRESH));
    }
}
