//! Brings what the store lacks. Each blob is fetched once however many actions wait for it: who asks first
//! fetches, the others wait, and if the first gives up (cancelled, failed) one of the others takes over.
//! Knows no trees and no files.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dbuild_cache::Store;
use dbuild_proto::{Digest, DigestFunction};
use tokio::sync::watch;

use crate::fault::{Trouble, blocking};
use crate::remote::{Remote, SMALL, Scope};

/// Rounds after which a blob that was fetched and is still not there is the store's fault.
const ROUNDS: usize = 5;

type Key = (DigestFunction, Digest);

/// Small messages that stay in memory, in bytes all together: an action's directories stand in the way of its
/// start, and as files of the store each would cost more than it takes to fetch it.
const KEPT_BYTES: usize = 32 << 20;
/// Blobs whose presence is remembered.
const SEEN: usize = 200_000;
/// So few files are looked at without changing the thread.
const FEW: usize = 32;

/// What is being fetched; a receiver ends when its fetch does.
type Flights = Arc<Mutex<HashMap<Key, watch::Receiver<()>>>>;

#[derive(Clone, Debug)]
pub struct Fetcher {
    store: StoreHandle,
    remote: Remote,
    flights: Flights,
    memory: Arc<Mutex<Memory>>,
}

/// Lock order: never held across I/O or `await`, nor with the flights.
#[derive(Debug, Default)]
struct Memory {
    messages: HashMap<Key, Arc<[u8]>>,
    bytes: usize,
    /// What was in the store when it was last looked for.
    seen: HashSet<Key>,
}

impl Memory {
    fn keep(&mut self, key: Key, bytes: Arc<[u8]>) {
        if self.bytes + bytes.len() > KEPT_BYTES {
            self.messages.clear();
            self.bytes = 0;
        }
        let size = bytes.len();
        if self.messages.insert(key, bytes).is_none() {
            self.bytes += size;
        }
    }
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
        Fetcher { store: StoreHandle(store), remote, flights: Flights::default(), memory: Arc::default() }
    }

    pub fn store(&self) -> &Store {
        &self.store.0
    }

    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Reads messages, which the helper looks at itself: small ones do not touch the disk.
    pub async fn read(
        &self,
        scope: &Scope,
        digests: HashSet<Digest>,
    ) -> Result<HashMap<Digest, Arc<[u8]>>, Trouble> {
        let mut found = HashMap::with_capacity(digests.len());
        let (mut wanted, large): (Vec<Digest>, Vec<Digest>) =
            digests.into_iter().partition(|digest| digest.size <= SMALL);
        for _ in 0..ROUNDS {
            self.recall(scope.function, &mut wanted, &mut found);
            if wanted.is_empty() {
                break;
            }
            let (claim, others) = self.claim(scope.function, &wanted);
            let mut mine = claim.keys.iter().map(|(_, digest)| *digest).collect();
            self.recall(scope.function, &mut mine, &mut found);
            if !mine.is_empty() {
                let read = self.remote.read(scope, mine).await?;
                let mut memory = self.memory();
                for (digest, bytes) in read {
                    let bytes = Arc::<[u8]>::from(bytes);
                    memory.keep((scope.function, digest), Arc::clone(&bytes));
                    found.insert(digest, bytes);
                }
            }
            wanted.retain(|digest| !found.contains_key(digest));
            drop(claim);
            wait_for(others).await;
        }
        if !wanted.is_empty() {
            return Err(Trouble::Infrastructure(format!(
                "fetch {} messages that others fetch",
                wanted.len()
            )));
        }
        if !large.is_empty() {
            self.ensure(scope, large.iter().copied().collect()).await?;
            let (store, function) = (self.store().clone(), scope.function);
            let read = blocking(move || {
                let read = |digest: Digest| Ok((digest, store.read(function, &digest)?.into()));
                large.into_iter().map(read).collect::<Result<Vec<_>, Trouble>>()
            });
            found.extend(read.await?);
        }
        Ok(found)
    }

    /// Keeps messages that came without being asked for.
    pub fn keep(&self, function: DigestFunction, messages: &[Bytes]) {
        let digests: Vec<Digest> = messages.iter().map(|bytes| function.digest(bytes)).collect();
        let mut memory = self.memory();
        for (digest, bytes) in digests.into_iter().zip(messages) {
            memory.keep((function, digest), bytes.as_ref().into());
        }
    }

    /// Moves from `wanted` to `found` what is in memory.
    fn recall(
        &self,
        function: DigestFunction,
        wanted: &mut Vec<Digest>,
        found: &mut HashMap<Digest, Arc<[u8]>>,
    ) {
        let memory = self.memory();
        wanted.retain(|digest| match memory.messages.get(&(function, *digest)) {
            Some(bytes) => {
                found.insert(*digest, Arc::clone(bytes));
                false
            }
            None => true,
        });
    }

    /// Those of `digests` that were never seen in the store. The others may have been evicted since: whoever then
    /// finds that one is gone calls [`Fetcher::forget`] and tries again.
    pub fn unseen(&self, function: DigestFunction, digests: impl Iterator<Item = Digest>) -> HashSet<Digest> {
        let memory = self.memory();
        digests.filter(|digest| !memory.seen.contains(&(function, *digest))).collect()
    }

    /// Looks again for everything.
    pub fn forget(&self) {
        self.memory().seen.clear();
    }

    /// Returns when all of `digests` are in the store.
    pub async fn ensure(&self, scope: &Scope, digests: HashSet<Digest>) -> Result<(), Trouble> {
        let mut wanted: Vec<Digest> = digests.iter().copied().collect();
        for _ in 0..ROUNDS {
            wanted = self.lacking(scope.function, wanted).await?;
            if wanted.is_empty() {
                let mut memory = self.memory();
                if memory.seen.len() + digests.len() > SEEN {
                    memory.seen.clear();
                }
                memory.seen.extend(digests.into_iter().map(|digest| (scope.function, digest)));
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
            wait_for(others).await;
        }
        Err(Trouble::Infrastructure(format!("keep {} blobs that were fetched in the store", wanted.len())))
    }

    async fn lacking(
        &self,
        function: DigestFunction,
        mut digests: Vec<Digest>,
    ) -> Result<Vec<Digest>, Trouble> {
        let store = self.store().clone();
        if digests.len() <= FEW {
            digests.retain(|digest| !store.contains(function, digest));
            return Ok(digests);
        }
        blocking(move || {
            digests.retain(|digest| !store.contains(function, digest));
            Ok(digests)
        })
        .await
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Until all these fetches have ended, however.
async fn wait_for(others: Vec<watch::Receiver<()>>) {
    for mut other in others {
        // An error is the end that is waited for: nothing is ever sent.
        let _ = other.changed().await;
    }
}
