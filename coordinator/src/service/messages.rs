//! What a helper has to read before an action can start: the action, its command, the directories of its input root.
//! They go out with the lease, as far as this coordinator has them in memory and the helper was not sent them before.
//! Nobody relies on that: a helper that lacks one asks for it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dbuild_proto::{Digest, DigestFunction};

/// What is kept in memory, in bytes of messages.
const KEPT_BYTES: usize = 32 << 20;
/// The most that goes with one lease, in bytes, and so well below what a message may have.
const WITH_A_LEASE: usize = 1 << 20;
/// How much is remembered of what a helper was sent.
const MAX_SENT: usize = 100_000;

type Key = (DigestFunction, Digest);

#[derive(Clone)]
struct Known {
    bytes: Bytes,
    /// The messages that this one names.
    below: Vec<Digest>,
}

/// Messages that were read lately. Its lock is never held while anything is waited for.
#[derive(Default)]
pub struct Messages(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    known: HashMap<Key, Known>,
    bytes: usize,
}

impl Messages {
    /// Keeps a message that was read from the store, and which others it names.
    pub fn keep(&self, function: DigestFunction, digest: Digest, bytes: Vec<u8>, below: Vec<Digest>) {
        let mut memory = self.memory();
        if memory.bytes + bytes.len() > KEPT_BYTES {
            *memory = Memory::default();
        }
        let size = bytes.len();
        if memory.known.insert((function, digest), Known { bytes: bytes.into(), below }).is_none() {
            memory.bytes += size;
        }
    }

    fn get(&self, key: &Key) -> Option<Known> {
        self.memory().known.get(key).cloned()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one helper was sent. Below a message that was sent everything was, or is left to be asked for.
#[derive(Default)]
pub struct Sent(HashSet<Key>);

impl Sent {
    /// What is to go with a lease on `action`.
    pub fn next(&mut self, messages: &Messages, function: DigestFunction, action: Digest) -> Vec<Bytes> {
        if self.0.len() > MAX_SENT {
            self.0.clear();
        }
        let (mut batch, mut room) = (Vec::new(), WITH_A_LEASE);
        let mut open = vec![action];
        while let Some(digest) = open.pop() {
            let key = (function, digest);
            if self.0.contains(&key) {
                continue;
            }
            let Some(message) = messages.get(&key) else { continue };
            let Some(left) = room.checked_sub(message.bytes.len()) else { break };
            room = left;
            self.0.insert(key);
            batch.push(message.bytes);
            open.extend(message.below);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: DigestFunction = DigestFunction::Blake3;

    fn keep(messages: &Messages, bytes: Vec<u8>, below: &[Digest]) -> Digest {
        let digest = F.digest(&bytes);
        messages.keep(F, digest, bytes, below.to_vec());
        digest
    }

    #[test]
    fn each_message_goes_out_once() {
        let messages = Messages::default();
        let shared = keep(&messages, b"shared".to_vec(), &[]);
        let absent = F.digest(b"never read");
        let first = keep(&messages, b"first".to_vec(), &[shared, absent, shared]);
        let second = keep(&messages, b"second".to_vec(), &[shared]);
        let mut sent = Sent::default();
        assert_eq!(sent.next(&messages, F, first), ["first", "shared"]);
        assert_eq!(sent.next(&messages, F, second), ["second"]);
        assert!(sent.next(&messages, F, second).is_empty());
        assert_eq!(Sent::default().next(&messages, F, second), ["second", "shared"]);
        assert!(sent.next(&messages, F, absent).is_empty());
    }

    #[test]
    fn a_lease_and_the_memory_are_bounded() {
        let messages = Messages::default();
        let large: Vec<Digest> = (0..4).map(|n| keep(&messages, vec![n; WITH_A_LEASE / 3], &[])).collect();
        let root = keep(&messages, b"root".to_vec(), &large);
        let batch = Sent::default().next(&messages, F, root);
        assert_eq!(batch.len(), 3, "the root and two of a third each");
        for n in 0..64 {
            keep(&messages, vec![n; 1 << 20], &[]);
            assert!(messages.memory().bytes <= KEPT_BYTES);
        }
    }
}
