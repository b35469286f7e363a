//! Work for the cache that goes on after a call was answered, counted by build: the end of a build waits for its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// The longest that the end of a build waits. What is kept later is missing in its summary, and nowhere else.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
pub struct Keeping(Arc<Inner>);

#[derive(Default)]
struct Inner {
    sessions: Mutex<HashMap<String, usize>>,
    done: Notify,
}

/// One piece of work; over when this is dropped.
pub struct Turn {
    inner: Arc<Inner>,
    session: String,
}

impl Keeping {
    pub fn begin(&self, session: &str) -> Turn {
        *self.0.lock().entry(session.to_owned()).or_default() += 1;
        Turn { inner: self.0.clone(), session: session.to_owned() }
    }

    /// Waits until nothing is left to be kept of a build, for a while.
    pub async fn settle(&self, session: &str) {
        let settled = async {
            loop {
                let done = self.0.done.notified();
                if !self.0.lock().contains_key(session) {
                    return;
                }
                done.await;
            }
        };
        // Too late is only less to tell.
        let _ = tokio::time::timeout(PATIENCE, settled).await;
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut sessions = self.inner.lock();
        if let Some(count) = sessions.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                sessions.remove(&self.session);
            }
        }
        drop(sessions);
        self.inner.done.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_build_waits_for_its_own_work_only() {
        let keeping = Keeping::default();
        let other = keeping.begin("other");
        let turns = [keeping.begin("mine"), keeping.begin("mine")];
        let waiting = tokio::spawn({
            let keeping = keeping.clone();
            async move { keeping.settle("mine").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(turns);
        waiting.await.unwrap();
        keeping.settle("nobody").await;
        drop(other);
    }
}
