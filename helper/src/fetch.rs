//! Brings what the store lacks. Each blob is fetched once however many actions wait for it: who asks first
//! fetches, the others wait, and if the first gives up (cancelled, failed) one of the others takes over.
//! Knows no trees and no files.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use dbuild_cache::Store;
use dbuild_proto::{Digest, DigestFunction};
use tokio::sync::watch;

use crate::fault::{Trouble, blocking};
use crate::remote::{Remote, Scope};

/// Rounds after which a blob that was fetched and is still not there is the store's fault.
const ROUNDS: usize = 5;

type Key = (DigestFunction, Digest);

/// What is being fetched; a receiver ends when its fetch does.
type Flights = Arc<Mutex<HashMap<Key, watch::Receiver<()>>>>;

#[derive(Clone, Debug)]
pub struct Fetcher {
    store: StoreHandle,
    remote: Remote,
    flights: Flights,
}

/// The store has no `Debug` of its own.
#[derive(Clone)]
struct StoreHandle(Store);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// The right to fetch some blobs; dropping it wakes who waits for them.
struct Claim {
    flights: Flights,
    keys: Vec<Key>,
    _sender: watch::Sender<()>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            flights.remove(key);
        }
    }
}

impl Fetcher {
    pub fn new(store: Store, remote: Remote) -> Fetcher {
        Fetcher { store: StoreHandle(store), remote, flights: Flights::default() }
    }

    pub fn store(&self) -> &Store {
        &self.store.0
    }

    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Returns when all of `digests` are in the store.
    pub async fn ensure(&self, scope: &Scope, digests: HashSet<Digest>) -> Result<(), Trouble> {
        let mut wanted: Vec<Digest> = digests.into_iter().collect();
        for _ in 0..ROUNDS {
            wanted = self.lacking(scope.function, wanted).await?;
            if wanted.is_empty() {
                return Ok(());
            }
            let (claim, others) = self.claim(scope.function, &wanted);
            if !claim.keys.is_empty() {
                let mine = claim.keys.iter().map(|(_, digest)| *digest).collect();
                // Between the look and the claim another fetch may have ended.
                let mine = self.lacking(scope.function, mine).await?;
                self.remote.download(scope, &mine, self.store()).await?;
            }
            drop(claim);
            for mut other in others {
                // An error is the end that is waited for: nothing is ever sent.
                let _ = other.changed().await;
            }
        }
        Err(Trouble::Infrastructure(format!("keep {} blobs that were fetched in the store", wanted.len())))
    }

    async fn lacking(
        &self,
        function: DigestFunction,
        mut digests: Vec<Digest>,
    ) -> Result<Vec<Digest>, Trouble> {
        let store = self.store().clone();
        blocking(move || {
            digests.retain(|digest| !store.contains(function, digest));
            Ok(digests)
        })
        .await
    }

    /// Claims what nobody fetches yet, and listens to those who fetch the rest.
    fn claim(&self, function: DigestFunction, wanted: &[Digest]) -> (Claim, Vec<watch::Receiver<()>>) {
        let (sender, receiver) = watch::channel(());
        let mut claim = Claim { flights: Arc::clone(&self.flights), keys: Vec::new(), _sender: sender };
        let mut others: Vec<watch::Receiver<()>> = Vec::new();
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in wanted {
            match flights.get(&(function, *digest)) {
                Some(flight) if others.iter().any(|other| other.same_channel(flight)) => {}
                Some(flight) => others.push(flight.clone()),
                None => {
                    flights.insert((function, *digest), receiver.clone());
                    claim.keys.push((function, *digest));
                }
            }
        }
        drop(flights);
        (claim, others)
    }
}
