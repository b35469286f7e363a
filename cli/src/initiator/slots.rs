//! Local slots: how many compilers may run on this machine at a time, over all builds of the user.
//!
//! Builds may ask for different limits (`DBUILD_LOCAL_SLOTS`), so a limit comes with each request: a slot is granted
//! while fewer than that many are taken. First come, first served among equals.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

/// When no slot is freed for so long, one more is granted: two compilers of one pipe must not wait for each other for
/// ever.
const STUCK: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
pub struct Slots(Arc<Inner>);

#[derive(Default)]
struct Inner {
    taken: Mutex<usize>,
    freed: Notify,
}

/// A slot that is taken; dropping it frees it.
pub struct Slot(Arc<Inner>);

impl Slots {
    pub fn new() -> Self {
        Slots::default()
    }

    /// Waits until fewer than `limit` slots are taken (at least one slot there always is), and takes one.
    pub async fn take(&self, limit: u32) -> Slot {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // Registered before the look, so that a slot freed in between is not missed.
            freed.as_mut().enable();
            if let Some(slot) = self.try_take(limit) {
                return slot;
            }
            if tokio::time::timeout(STUCK, freed).await.is_err() {
                // Whoever holds the slots may be waiting for us, through a pipe that we cannot see.
                return self.grant();
            }
        }
    }

    fn grant(&self) -> Slot {
        *self.0.lock() += 1;
        Slot(self.0.clone())
    }

    /// Takes a slot if one is free now.
    pub fn try_take(&self, limit: u32) -> Option<Slot> {
        let mut taken = self.0.lock();
        if *taken >= limit.max(1) as usize {
            return None;
        }
        *taken += 1;
        Some(Slot(self.0.clone()))
    }
}

impl Inner {
    /// A count cannot be left half-changed.
    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        // Those who wait have different limits: the first may not be the one who can go on.
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_holds_and_zero_means_one() {
        let slots = Slots::new();
        let first = slots.take(0).await;
        assert!(slots.try_take(1).is_none());
        let second = slots.try_take(2).expect("two may run where two are allowed");
        drop(first);
        assert!(slots.try_take(1).is_none(), "one is still taken");
        drop(second);
        assert!(slots.try_take(1).is_some());
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_slot_that_is_freed() {
        let slots = Slots::new();
        let held = slots.take(1).await;
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { drop(slots.take(1).await) }
        });
        tokio::task::yield_now().await;
        drop(held);
        waiting.await.expect("the waiter ends");
    }
}
