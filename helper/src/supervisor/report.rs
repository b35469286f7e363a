//! The ways by which a helper's state reaches coordinators.

use std::time::Duration;

use dbuild_proto::PROTOCOL;
use dbuild_proto::pool::{Hello, HelperRecord, HelperReport, State, pool_client::PoolClient};
use dbuild_registry::{Registry, without_password};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::Supervision;
use crate::HelperError;
use crate::agent::{SAMPLE, hello};
use crate::remote::endpoint;

/// Which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// On the worker's stream only, beside its leases: one connection for each helper.
    ByWorker,
    /// Also on a stream of the supervisor's own to this coordinator: it reports while there is no worker, too.
    BySupervisor { coordinator: String },
    /// Also into the database at this address, where every coordinator of the pool reads it.
    ByRegistry { url: String },
}

/// Waits between two tries, doubled from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Passes state on where the worker does not.
#[derive(Debug)]
pub struct Reporter(Option<(watch::Sender<Option<State>>, JoinHandle<()>)>);

impl Reporter {
    pub fn start(config: &Supervision) -> Result<Reporter, HelperError> {
        let (latest, states) = watch::channel(None);
        let task = match &config.reporting {
            Reporting::ByWorker => return Ok(Reporter(None)),
            Reporting::BySupervisor { coordinator } => {
                let endpoint = endpoint(coordinator).map_err(|error| HelperError::Url {
                    url: coordinator.clone(),
                    reason: error.to_string(),
                })?;
                tokio::spawn(stream(endpoint, config.name.clone(), states))
            }
            Reporting::ByRegistry { url } => {
                let registry = Registry::open(url).map_err(|error| HelperError::Url {
                    url: without_password(url),
                    reason: error.to_string(),
                })?;
                tokio::spawn(publish(registry, hello(&config.name, config.slots), states))
            }
        };
        Ok(Reporter(Some((latest, task))))
    }

    pub fn tell(&self, state: State) {
        if let Some((latest, _)) = &self.0 {
            latest.send_replace(Some(state));
        }
    }

    /// Says that there is no helper any more, where that is to be said.
    pub async fn end(self) {
        let Some((latest, mut task)) = self.0 else { return };
        drop(latest);
        if tokio::time::timeout(LAST_WORDS, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Keeps a stream of reports open, until nobody tells any more.
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
        if states.has_changed().is_err() {
            return;
        }
        if begun.elapsed() > SAMPLE * 10 {
            wait = WAITS.0;
        }
        tracing::info!("the supervisor's connection ended: {why}; trying again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

/// Writes each state into the database, until nobody tells any more; then it takes the helper's record away.
async fn publish(registry: Registry, hello: Hello, mut states: watch::Receiver<Option<State>>) {
    let mut failing = false;
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        let record = HelperRecord { hello: Some(hello.clone()), state };
        match registry.publish(&hello.name, &record).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the state's database answers again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("failed to {error}; trying again");
                }
            }
        }
    }
    // It ends by itself where this fails.
    let _ = registry.forget(&hello.name).await;
}
