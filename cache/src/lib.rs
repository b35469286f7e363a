//! The store on disk: content-addressed blobs and small action values, bounded in size, shared by any number
//! of processes. The near cache of the initiator and the stores of coordinator and helper are all this crate.
//! It does not know what the blobs mean, who asks, or the network; it is synchronous and blocks.
//!
//! # What holds at any moment
//! * **No half blob is ever served.** A file is written under `tmp/`, and appears under its name by `rename`,
//!   complete. A kill leaves at most a temp file, which the next opener removes (`temp.rs`).
//! * **Digests are checked on the way in and on the way out.** `read`, `copy_to`, a `BlobReader` read from
//!   its start to its end, and the first `linkable` or `read_zstd` of a file in a process, hash what they
//!   hand out. A damaged file is removed, counted in [`Usage::damaged`] and reported as not found.
//! * **No `fsync`.** It would cost milliseconds per blob. The price: after a power loss a file may be there
//!   under its name and be short or hold zeros. The size in its name or the hash gives it away at the first
//!   use, and a cache that lost a blob has lost nothing. [`Store::contains`] sees a wrong size, not wrong
//!   bytes.
//! * **Nothing is locked between processes** but their own temp directories: renames of equal content
//!   commute. An existing blob is never written again.
//!
//! # Eviction
//! Least recently used first, by mtime, which a use refreshes when it is older than an hour (older than five
//! minutes once the store is 80 % full, so that what a running build uses is not taken from it). When the
//! size, estimated by what this process wrote since it last counted, passes `max_bytes`, a background thread
//! counts and evicts down to 90 %. It spares entries younger than ten minutes and those that this process
//! [pins](Pin); the limit may be passed by that much. An mtime more than an hour in the future (a clock was
//! wrong) counts as oldest. Sizes here are what files cost on disk: rounded up to 4 KiB.
//!
//! # Locks
//! `pins`, `verified`, `making`, the session and the sweeper's handle each have a mutex of their own; no code
//! holds two of them, nor one across I/O (but for making a session anew). Names on disk are in `layout.rs`.

mod actions;
mod blobs;
mod compressed;
mod error;
mod gc;
mod inflate;
mod layout;
mod place;
mod reader;
mod store;
mod temp;
mod usage;
mod verified;
mod writer;

pub use actions::{ActionKey, MAX_ACTION_VALUE};
pub use compressed::{COMPRESS_ABOVE, CompressedReader};
pub use dbuild_proto::{Digest, DigestFunction};
pub use error::CacheError;
pub use inflate::ZstdWriter;
pub use reader::BlobReader;
pub use store::{Pin, Store, StoreConfig};
pub use usage::Usage;
pub use writer::BlobWriter;
