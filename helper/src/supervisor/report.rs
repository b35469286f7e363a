//! The ways by which a helper's state reaches coordinators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use dbuild_proto::PROTOCOL;
use dbuild_proto::pool::{Hello, HelperRecord, HelperReport, State, pool_client::PoolClient};
use dbuild_registry::{Registry, without_password};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::Supervision;
use crate::HelperError;
use crate::agent::{SAMPLE, hello};
use crate::remote::endpoint;

/// Which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// On the worker's stream, beside its leases: one connection for each helper.
    ByWorker,
    /// On a stream of the supervisor's own to this coordinator: it reports while there is no worker, too.
    BySupervisor { coordinator: String },
    /// Into the database at this address, where every coordinator of the pool reads it. While it does not answer, the worker
    /// reports.
    ByRegistry { url: String },
}

/// Waits between two tries, doubled from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Passes state on, or leaves it to the worker.
#[derive(Debug)]
pub struct Reporter {
    /// None: the worker tells.
    latest: Option<watch::Sender<Option<State>>>,
    /// What there is does not reach anybody at the moment.
    failing: Arc<AtomicBool>,
}

impl Reporter {
    pub fn start(config: &Supervision) -> Result<Reporter, HelperError> {
        let failing = Arc::new(AtomicBool::new(false));
        let (latest, states) = watch::channel(None);
        match &config.reporting {
            Reporting::ByWorker => return Ok(Reporter { latest: None, failing }),
            Reporting::BySupervisor { coordinator } => {
                let endpoint = endpoint(coordinator).map_err(|error| HelperError::Url {
                    url: coordinator.clone(),
                    reason: error.to_string(),
                })?;
                tokio::spawn(stream(endpoint, config.name.clone(), states));
            }
            Reporting::ByRegistry { url } => {
                let registry = Registry::open(url).map_err(|error| HelperError::Url {
                    url: without_password(url),
                    reason: error.to_string(),
                })?;
                let hello = hello(&config.name, config.slots);
                tokio::spawn(publish(registry, hello, states, Arc::clone(&failing)));
            }
        }
        Ok(Reporter { latest: Some(latest), failing })
    }

    /// Whether the worker is to pass state on.
    pub fn by_worker(&self) -> bool {
        self.latest.is_none() || self.failing.load(Relaxed)
    }

    pub fn tell(&self, state: State) {
        if let Some(latest) = &self.latest {
            latest.send_replace(Some(state));
        }
    }
}

/// Keeps a stream of reports open, for ever.
async fn stream(endpoint: tonic::transport::Endpoint, name: String, states: watch::Receiver<Option<State>>) {
    let mut wait = WAITS.0;
    loop {
        let begun = tokio::time::Instant::now();
        let why = match endpoint.connect().await {
            Err(error) => error.to_string(),
            Ok(channel) => {
                let name = name.clone();
                let report =
                    move |state| HelperReport { protocol: PROTOCOL, name: name.clone(), state: Some(state) };
                let reports = WatchStream::new(states.clone()).filter_map(|state| state).map(report);
                match PoolClient::new(channel).report(reports).await {
                    Ok(_) => "the coordinator closed it".to_owned(),
                    Err(status) => status.message().to_owned(),
                }
            }
        };
        if begun.elapsed() > SAMPLE * 10 {
            wait = WAITS.0;
        }
        tracing::info!("the supervisor's connection ended: {why}; trying again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

/// Writes each state into the database, until nobody tells any more; then it takes the helper's record away.
async fn publish(
    registry: Registry,
    hello: Hello,
    mut states: watch::Receiver<Option<State>>,
    failing: Arc<AtomicBool>,
) {
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        let record = HelperRecord { hello: Some(hello.clone()), state };
        match registry.publish(&hello.name, &record).await {
            Ok(()) => {
                if failing.swap(false, Relaxed) {
                    tracing::info!("the state's database answers again");
                }
            }
            Err(error) => {
                if !failing.swap(true, Relaxed) {
                    tracing::warn!("failed to {error}; the worker reports meanwhile");
                }
            }
        }
    }
    // It ends by itself where this fails.
    let _ = registry.forget(&hello.name).await;
}
