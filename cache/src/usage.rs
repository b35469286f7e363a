//! What the store holds: walking it, counting it, emptying it. There is no index beside the files themselves.

use std::fs::Metadata;
use std::sync::atomic::Ordering;

use fs_err as fs;
use walkdir::WalkDir;

use crate::error::CacheError;
use crate::layout::{Entry, Kind};
use crate::store::{Inner, Store, is_absent};

/// The unit in which file systems hand out space, in bytes.
const BLOCK: u64 = 4096;

/// What a file of `size` bytes costs on disk.
pub(crate) fn on_disk(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK).unwrap_or(size)
}

/// What a store holds, as counted by a walk, and what this handle has done to it since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub blobs: u64,
    /// Bytes of content, without executable variants.
    pub blob_bytes: u64,
    pub actions: u64,
    /// Bytes of the files, headers included.
    pub action_bytes: u64,
    /// Executable and compressed variants of blobs.
    pub variants: u64,
    pub variant_bytes: u64,
    /// What all of it costs on disk, each file rounded up to 4 KiB: the figure that `max_bytes` limits.
    pub disk_bytes: u64,
    /// Damaged files met by this handle.
    pub damaged: u64,
    /// Files evicted by this handle.
    pub evicted: u64,
}

impl Store {
    /// Counts what is there, by walking the directory: tens of milliseconds per ten thousand files.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        self.inner.walk(|found| usage.count(&found.entry, found.metadata.len()));
        self.inner.with_counters(usage)
    }

    /// `damaged`, `evicted` and an estimate of `disk_bytes`, without a walk; the other fields are 0.
    pub fn counters(&self) -> Usage {
        let disk_bytes = self.inner.sweeper.estimate();
        self.inner.with_counters(Usage { disk_bytes, ..Usage::default() })
    }

    /// Removes everything, also what is young or pinned. Blobs that are being written are not touched, and
    /// appear afterwards.
    ///
    /// # Errors
    /// The first removal that failed; the others were tried all the same.
    pub fn clear(&self) -> Result<(), CacheError> {
        let mut result = Ok(());
        self.inner.walk(|found| {
            if let Err(error) = self.inner.remove(&found.entry)
                && result.is_ok()
            {
                result = Err(error);
            }
        });
        result
    }
}

/// A file of the store as a walk finds it.
pub(crate) struct Found {
    pub(crate) entry: Entry,
    pub(crate) metadata: Metadata,
}

impl Usage {
    pub(crate) fn count(&mut self, entry: &Entry, size: u64) {
        let (files, bytes) = self.row(entry);
        *files += 1;
        *bytes += size;
        self.disk_bytes += on_disk(size);
    }

    /// Takes back what `count` has counted.
    pub(crate) fn uncount(&mut self, entry: &Entry, size: u64) {
        let (files, bytes) = self.row(entry);
        *files -= 1;
        *bytes -= size;
        self.disk_bytes -= on_disk(size);
    }

    fn row(&mut self, entry: &Entry) -> (&mut u64, &mut u64) {
        match entry.kind {
            Kind::Blob(_) => (&mut self.blobs, &mut self.blob_bytes),
            Kind::Action => (&mut self.actions, &mut self.action_bytes),
            Kind::Executable(_) | Kind::Compressed(_) => (&mut self.variants, &mut self.variant_bytes),
        }
    }
}

impl Inner {
    /// Visits every file that carries one of our names. Others are nobody's and stay; what vanishes meanwhile
    /// is passed over.
    pub(crate) fn walk(&self, mut visit: impl FnMut(Found)) {
        for kind in Kind::ALL {
            let shards = WalkDir::new(self.root.join(kind.dir())).min_depth(2).max_depth(2);
            for file in shards.into_iter().flatten() {
                let Some(entry) = Entry::parse(kind, file.file_name()) else { continue };
                let Ok(metadata) = file.metadata() else { continue };
                if metadata.is_file() && file.path() == entry.path(&self.root) {
                    visit(Found { entry, metadata });
                }
            }
        }
    }

    /// Removes one file; false if somebody else had.
    pub(crate) fn remove(&self, entry: &Entry) -> Result<bool, CacheError> {
        let path = entry.path(&self.root);
        let size = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        match fs::remove_file(&path) {
            Ok(()) => {
                self.sweeper.subtract(size);
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn with_counters(&self, usage: Usage) -> Usage {
        Usage {
            damaged: self.damaged.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            ..usage
        }
    }
}
