//! The ways by which a helper's state reaches coordinators.

use std::time::Duration;

use dbuild_proto::PROTOCOL;
use dbuild_proto::pool::{HelperReport, State, pool_client::PoolClient};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::Supervision;
use crate::HelperError;
use crate::agent::SAMPLE;
use crate::remote::endpoint;

/// Which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// On the worker's stream, beside its leases: one connection for each helper.
    ByWorker,
    /// On a stream of the supervisor's own to this coordinator: it reports while there is no worker, too.
    BySupervisor { coordinator: String },
}

/// Waits between two tries, doubled from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Passes state on, or leaves it to the worker.
#[derive(Debug)]
pub struct Reporter {
    /// None: the worker tells.
    latest: Option<watch::Sender<Option<State>>>,
}

impl Reporter {
    pub fn start(config: &Supervision) -> Result<Reporter, HelperError> {
        let latest = match &config.reporting {
            Reporting::ByWorker => None,
            Reporting::BySupervisor { coordinator } => {
                let (latest, states) = watch::channel(None);
                let endpoint = endpoint(coordinator).map_err(|error| HelperError::Url {
                    url: coordinator.clone(),
                    reason: error.to_string(),
                })?;
                tokio::spawn(stream(endpoint, config.name.clone(), states));
                Some(latest)
            }
        };
        Ok(Reporter { latest })
    }

    /// Whether the worker is to pass state on.
    pub fn by_worker(&self) -> bool {
        self.latest.is_none()
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
