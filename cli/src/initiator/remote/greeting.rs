//! Is anybody there? The first word with a coordinator, before anything is prepared for it.
//!
//! A port that accepts connections and never answers would hold every task up until keep-alive notices. So a build
//! waits for a first answer once, and not for long; while none comes, its tasks run here and one of them asks again in
//! the background from time to time.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbuild_proto::pool::{ListHelpersRequest, pool_client::PoolClient};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use re::capabilities_client::CapabilitiesClient;

use super::{Fault, Remote, lock};

/// The longest that a build waits for a coordinator's first answer, connecting included.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// Builds that are remembered to have waited in vain.
const MAX_BUILDS: usize = 64;

#[derive(Default)]
pub(super) struct Greeting {
    /// It has answered, and was not lost since.
    answered: AtomicBool,
    /// Held while a first answer is waited for.
    turn: tokio::sync::Mutex<()>,
    in_vain: Mutex<VecDeque<String>>,
}

impl Greeting {
    pub(super) fn lost(&self) {
        self.answered.store(false, Ordering::Release);
    }

    /// Whether this build has waited in vain before.
    fn waited(&self, session: &str) -> bool {
        lock(&self.in_vain).iter().any(|known| known == session)
    }

    fn remember(&self, session: &str) {
        let mut builds = lock(&self.in_vain);
        if builds.len() >= MAX_BUILDS {
            builds.pop_front();
        }
        builds.push_back(session.to_owned());
    }
}

impl Remote {
    /// Whether the pool is worth asking now, for the build `session`; else why not.
    pub async fn ready(&self, session: &str) -> Result<(), Fault> {
        let greeting = &self.0.greeting;
        self.resting()?;
        if greeting.answered.load(Ordering::Acquire) {
            return Ok(());
        }
        if greeting.waited(session) {
            let remote = self.clone();
            tokio::spawn(async move {
                if let Ok(_turn) = remote.0.greeting.turn.try_lock() { remote.greet().await } else { Ok(()) }
            });
            return Err(Fault::new(self.why_down()));
        }
        let _turn = greeting.turn.lock().await;
        // Whoever had the turn before may have had its answer, or waited for us as well.
        self.resting()?;
        let answer = self.greet().await;
        if answer.is_err() {
            greeting.remember(session);
        }
        answer
    }

    /// Whether [`Remote::ready`] would say so without waiting.
    pub fn is_ready(&self) -> bool {
        self.0.greeting.answered.load(Ordering::Acquire) && self.resting().is_ok()
    }

    /// How many slots the pool's helpers offer now; 0 for a server that does not tell (it may be no dbuild).
    pub async fn slots(&self, session: &str) -> u32 {
        if self.ready(session).await.is_err() {
            return 0;
        }
        let mut pool = PoolClient::new(self.0.channel.clone());
        match tokio::time::timeout(FIRST_ANSWER, pool.list_helpers(ListHelpersRequest {})).await {
            Ok(Ok(answer)) => {
                let helpers = answer.get_ref().helpers.iter();
                helpers.fold(0, |sum: u32, helper| sum.saturating_add(helper.open_slots()))
            }
            _ => 0,
        }
    }

    /// Asks for what every server of the protocol can tell.
    async fn greet(&self) -> Result<(), Fault> {
        if self.0.greeting.answered.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut client = CapabilitiesClient::new(self.0.channel.clone());
        let question = client.get_capabilities(re::GetCapabilitiesRequest::default());
        match tokio::time::timeout(FIRST_ANSWER, question).await {
            Err(_) => return Err(self.rest("the coordinator does not answer")),
            Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
                return Err(self.fault("greet", &status));
            }
            // Even a refusal is an answer.
            Ok(_) => {}
        }
        self.0.greeting.answered.store(true, Ordering::Release);
        Ok(())
    }
}
