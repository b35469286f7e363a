//! The client's side of a pool: one REAPI server, what it is known to hold, and whether it is worth asking.
//!
//! Every wait is bounded and every failure is a [`Fault`]: the caller runs the task here instead. Dropping a future
//! of this module cancels what it began.

mod detached;
mod download;
mod execute;
mod greeting;
mod requester;
mod room;
mod upload;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::byte_stream_client::ByteStreamClient;
use dbuild_proto::{Digest, DigestFunction, MAX_MESSAGE};
use re::action_cache_client::ActionCacheClient;
use re::content_addressable_storage_client::ContentAddressableStorageClient;
use re::execution_client::ExecutionClient;
use tonic::transport::{Channel, Endpoint};

pub use detached::Waited;
pub use execute::Answer;
use greeting::Greeting;
pub use requester::Purpose;
use room::Room;

/// dbuild's own digest function on the wire.
const FUNCTION: DigestFunction = DigestFunction::Blake3;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A coordinator that could not be reached is not asked again for this long: a dead cluster costs one time-out, not
/// one per task.
const REST: Duration = Duration::from_secs(5);

/// A blob was there when it was asked about, and not any more when it was asked for.
const LOST: &str = "the pool's store lost a blob; is it too small?";

/// Digests beyond this many are forgotten, and asked for again.
const MAX_KNOWN: usize = 1_000_000;

/// Why the pool gave no answer. `message` is the reason that statistics and the summary show.
#[derive(Clone, Debug)]
pub struct Fault {
    pub message: String,
}

impl Fault {
    pub fn new(message: impl Into<String>) -> Self {
        Fault { message: message.into() }
    }
}

/// One coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    channel: Channel,
    /// Digests that the server said it has (or took from us) since it was last seen to forget one.
    known: Mutex<HashSet<Digest>>,
    /// Input roots of toolchains whose blobs are all known.
    toolchains: Mutex<HashSet<Digest>>,
    /// Those whose blobs are on their way.
    bringing: Mutex<HashSet<Digest>>,
    /// Large blobs on their way, so that equal uploads are merged.
    uploads: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while more than a little is asked for and sent.
    much: tokio::sync::Mutex<()>,
    down: Mutex<Option<(Instant, String)>>,
    greeting: Greeting,
    room: Room,
}

impl Remote {
    /// A client of the coordinator at `url`; connects when first used. Needs a runtime.
    pub fn new(url: &str) -> Result<Remote, Fault> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| Fault::new(format!("{url} is not a URL: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(Remote(Arc::new(Inner {
            channel: endpoint.connect_lazy(),
            known: Mutex::default(),
            toolchains: Mutex::default(),
            bringing: Mutex::default(),
            uploads: Mutex::default(),
            much: tokio::sync::Mutex::default(),
            down: Mutex::default(),
            greeting: Greeting::default(),
            room: Room::default(),
        })))
    }

    /// An error while the pool is not to be asked, with the reason.
    fn resting(&self) -> Result<(), Fault> {
        match &*lock(&self.0.down) {
            Some((until, why)) if Instant::now() < *until => Err(Fault::new(why.clone())),
            _ => Ok(()),
        }
    }

    /// Why it was last found not to be worth asking.
    fn why_down(&self) -> String {
        let why = lock(&self.0.down).as_ref().map(|(_, why)| why.clone());
        why.unwrap_or_else(|| "the coordinator does not answer".to_owned())
    }

    /// Turns a failed call into a fault; one of the connection puts the coordinator to rest.
    fn fault(&self, doing: &str, status: &tonic::Status) -> Fault {
        tracing::info!(%status, doing, "fault of the pool");
        if is_lost(status) {
            // It may come back with an empty disk.
            self.forget();
            self.0.greeting.lost();
            return self.rest("the coordinator cannot be reached");
        }
        if status.code() == tonic::Code::NotFound {
            // Which blob is no matter of the summary's: faults are counted by their text.
            return Fault::new(LOST);
        }
        Fault::new(format!("the pool failed to {doing}: {}", status.message()))
    }

    /// Asks nothing more for a while.
    fn rest(&self, why: &str) -> Fault {
        *lock(&self.0.down) = Some((Instant::now() + REST, why.to_owned()));
        Fault::new(why)
    }

    fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.0.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn bytes(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.0.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn actions(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.0.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.0.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn knows(&self, digest: &Digest) -> bool {
        digest.is_empty() || lock(&self.0.known).contains(digest)
    }

    fn learn(&self, digests: impl IntoIterator<Item = Digest>) {
        let mut known = lock(&self.0.known);
        if known.len() > MAX_KNOWN {
            known.clear();
        }
        known.extend(digests);
    }

    fn forget(&self) {
        lock(&self.0.known).clear();
        lock(&self.0.toolchains).clear();
    }
}

/// Whether a call failed with its connection. That has a cause on this side, where an answer of the server's has none; the
/// code depends on how far the call had come.
fn is_lost(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::Unavailable || std::error::Error::source(status).is_some()
}

/// No lock here is held across anything that can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
