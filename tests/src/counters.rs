//! The counters of `dbuild stats --json`, and differences of them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What the command-line contract promises; more keys may be there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Counters {
    /// Tasks that came in, calls that stay whole (links, `-E`) included; each has exactly one placement: a hit,
    /// remote or local.
    pub tasks: u64,
    pub hits_local: u64,
    pub hits_shared: u64,
    pub remote: u64,
    pub local: u64,
    /// Tasks whose result must not be cached. A mark, not a placement; so are the next two.
    pub uncacheable: u64,
    /// Tasks that ran here although they could have run elsewhere.
    pub fallbacks: u64,
    pub errors: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// How often each reason was given, for whatever was not the usual way.
    pub reasons: BTreeMap<String, u64>,
}

impl Counters {
    pub fn parse(json: &[u8]) -> Counters {
        let shown = String::from_utf8_lossy(json);
        serde_json::from_slice(json)
            .unwrap_or_else(|error| panic!("`dbuild stats --json` gave {shown:?}: {error}"))
    }

    /// What was counted between `before` and now.
    pub fn since(&self, before: &Counters) -> Counters {
        let mut reasons = self.reasons.clone();
        for (reason, count) in &before.reasons {
            if let Some(now) = reasons.get_mut(reason) {
                *now -= count;
            }
        }
        reasons.retain(|_, count| *count > 0);
        Counters {
            tasks: self.tasks - before.tasks,
            hits_local: self.hits_local - before.hits_local,
            hits_shared: self.hits_shared - before.hits_shared,
            remote: self.remote - before.remote,
            local: self.local - before.local,
            uncacheable: self.uncacheable - before.uncacheable,
            fallbacks: self.fallbacks - before.fallbacks,
            errors: self.errors - before.errors,
            bytes_sent: self.bytes_sent - before.bytes_sent,
            bytes_received: self.bytes_received - before.bytes_received,
            reasons,
        }
    }

    pub fn hits(&self) -> u64 {
        self.hits_local + self.hits_shared
    }

    /// Whether a reason was given that contains one of the words separated by `|`, in any case.
    pub fn gave_reason(&self, words: &str) -> bool {
        let words: Vec<String> = words.split('|').map(str::to_lowercase).collect();
        self.reasons.keys().any(|reason| words.iter().any(|word| reason.to_lowercase().contains(word)))
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "tasks {}, hits {}+{}, remote {}, local {}, uncacheable {}, fallbacks {}, errors {}, reasons {:?}",
            self.tasks,
            self.hits_local,
            self.hits_shared,
            self.remote,
            self.local,
            self.uncacheable,
            self.fallbacks,
            self.errors,
            self.reasons
        )
    }
}
