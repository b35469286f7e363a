//! Everything that can be set on a coordinator, with the defaults. It does not know where settings come
//! from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::DigestFunction;
use dbuild_registry::Registry;

use crate::pool::Limits;

/// What a coordinator is and where its bounds are.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Holds the store of blobs and action results; made if it is not there.
    pub data_dir: PathBuf,
    /// Size of the store in bytes, which eviction keeps to.
    pub max_bytes: u64,
    /// What a request means that names no digest function. Bazel and its kin mean SHA-256; Buck2 means
    /// whatever its own configuration says.
    pub default_digest_function: DigestFunction,
    /// Whether clients may write the action cache. Off: only what helpers ran is shared.
    pub client_updates: bool,
    /// Actions accepted and not yet answered; beyond them, `RESOURCE_EXHAUSTED`.
    pub max_queue: usize,
    /// Helpers connected at a time.
    pub max_helpers: usize,
    /// How often one action is tried before its infrastructure fault is passed on.
    pub max_attempts: u32,
    /// How long an action waits when no helper is connected before it is answered `UNAVAILABLE`.
    pub helper_wait: Duration,
    /// How often helpers report their state; one that is silent for three times as long is lost.
    pub state_interval: Duration,
    /// How long an action goes on that nobody waits for, so that a client may come back.
    pub abandon_after: Duration,
    /// Timeout of actions that name none.
    pub default_timeout: Duration,
    /// The longest timeout that an action may name.
    pub max_timeout: Duration,
    /// What a lease gets on top of its action's timeout, to fetch inputs and store outputs.
    pub lease_slack: Duration,
    /// The database in which helpers' state is, and in which one of several coordinators leads. None: helpers report here.
    pub registry: Option<Membership>,
    /// A waiting client hears of its operation at least this often, which keeps proxies from closing it.
    pub update_interval: Duration,
}

/// A coordinator's place among several.
#[derive(Clone)]
pub struct Membership {
    pub registry: Arc<Registry>,
    /// How helpers and clients reach this coordinator.
    pub url: String,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("url", &self.url).finish_non_exhaustive()
    }
}

impl CoordinatorConfig {
    /// The defaults for a store of `max_bytes` in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>, max_bytes: u64) -> Self {
        CoordinatorConfig {
            data_dir: data_dir.into(),
            max_bytes,
            default_digest_function: DigestFunction::Sha256,
            client_updates: false,
            max_queue: 100_000,
            max_helpers: 4096,
            max_attempts: 3,
            helper_wait: Duration::from_secs(5),
            state_interval: Duration::from_secs(3),
            abandon_after: Duration::from_secs(2),
            default_timeout: Duration::from_secs(3600),
            max_timeout: Duration::from_secs(24 * 3600),
            lease_slack: Duration::from_secs(600),
            registry: None,
            update_interval: Duration::from_secs(10),
        }
    }

    /// The bounds of the pool that follow from this configuration.
    pub fn limits(&self) -> Limits {
        Limits {
            tasks: self.max_queue,
            helpers: self.max_helpers,
            attempts: self.max_attempts.max(1),
            helper_wait: self.helper_wait,
            silence: self.state_interval * 3,
            abandon: self.abandon_after,
            lease_slack: self.lease_slack,
            cancel_wait: Duration::from_secs(10),
        }
    }
}
