//! When a worker that ended is started again, and when no more. It knows no processes and no clock.

use std::collections::VecDeque;
use std::time::Duration;

/// The wait before a start, doubled from the first to the last as long as workers do not live.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A worker that lived for so long was well: the next wait is the first one again.
const WELL: Duration = Duration::from_secs(120);
/// So many starts in so much time are enough.
const LIMIT: (usize, Duration) = (10, Duration::from_secs(600));

/// The starts of one helper's workers. Times are since an epoch of the caller's.
#[derive(Debug, Default)]
pub struct Backoff {
    starts: VecDeque<Duration>,
    wait: Option<Duration>,
}

impl Backoff {
    /// A worker starts now.
    pub fn started(&mut self, now: Duration) {
        self.starts.push_back(now);
    }

    /// It ended now: how long to wait before the next one, or none if it is time to give up.
    pub fn ended(&mut self, now: Duration) -> Option<Duration> {
        while self.starts.front().is_some_and(|start| now.saturating_sub(*start) > LIMIT.1) {
            self.starts.pop_front();
        }
        if self.starts.len() >= LIMIT.0 {
            return None;
        }
        let lived = self.starts.back().map_or(Duration::ZERO, |start| now.saturating_sub(*start));
        let wait = match self.wait {
            Some(last) if lived < WELL => (last * 2).min(WAIT.1),
            _ => WAIT.0,
        };
        self.wait = Some(wait);
        Some(wait)
    }

    /// Why there is no next one, as a fragment.
    pub fn gave_up() -> String {
        format!("it ended {} times within {} minutes", LIMIT.0, LIMIT.1.as_secs() / 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_double_and_a_worker_that_lived_begins_anew() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for start in [0, 10, 20, 30] {
            backoff.started(at(start));
            waits.push(backoff.ended(at(start + 1)));
        }
        assert_eq!(waits, [1, 2, 4, 8].map(|seconds| Some(at(seconds))));
        backoff.started(at(40));
        assert_eq!(backoff.ended(at(400)), Some(at(1)));
    }

    #[test]
    fn ten_starts_in_ten_minutes_are_enough() {
        let mut backoff = Backoff::default();
        for start in 0..9 {
            backoff.started(at(start));
            assert!(backoff.ended(at(start)).is_some());
        }
        backoff.started(at(9));
        assert_eq!(backoff.ended(at(9)), None);
        let mut slow = Backoff::default();
        for start in 0..100 {
            slow.started(at(start * 70));
            assert!(slow.ended(at(start * 70 + 60)).is_some());
        }
    }
}
