//! Digests of large files, carried from one initiator to the next: a compiler has half a gigabyte of them.
//!
//! An entry is as good as one in memory: it counts only while device, inode, size and both times are what they were.

use dbuild_cache::{ActionKey, CacheError, Store};
use dbuild_proto::record::{KnownFile, KnownFiles};
use dbuild_proto::{Digest, DigestFunction};
use prost::Message as _;

use super::{FileTable, Known, Signature, lock};

/// Smaller files are hashed in less time than it takes to look whether they changed.
const LARGE: u64 = 256 << 10;

/// More than any compilers have; what a build makes is among them, too, and is forgotten with it.
const MOST: usize = 20_000;

impl FileTable {
    /// Leaves what is known of large files in `store`.
    ///
    /// # Errors
    /// The store's.
    pub fn leave(&self, store: &Store) -> Result<(), CacheError> {
        let mut all = KnownFiles::default();
        for shard in &self.shards {
            let shard = lock(shard);
            let large = shard.values().filter(|known| known.digest.size >= LARGE);
            all.files.extend(large.filter_map(Known::kept));
        }
        all.files.truncate(MOST);
        store.put_action(&self.name(), &all.encode_to_vec())
    }

    /// Takes over what an earlier table left in `store`; how many files that were.
    ///
    /// # Errors
    /// The store's. What is damaged is passed over.
    pub fn take_over(&self, store: &Store) -> Result<usize, CacheError> {
        let Some(bytes) = store.action(&self.name())? else { return Ok(0) };
        let Ok(all) = KnownFiles::decode(bytes.as_slice()) else { return Ok(0) };
        let known = all.files.iter().take(MOST).filter_map(Known::of);
        let known: Vec<Known> = known.collect();
        for known in &known {
            let Signature { device, inode, .. } = known.signature;
            self.shard(&known.signature, |shard| shard.put((device, inode), *known));
        }
        Ok(known.len())
    }

    fn name(&self) -> ActionKey {
        ActionKey(
            DigestFunction::Blake3.digest(format!("known files 1 {}", self.function.name()).as_bytes()).hash,
        )
    }
}

impl Known {
    fn kept(&self) -> Option<KnownFile> {
        let Signature { device, inode, size, mtime, ctime } = self.signature;
        Some(KnownFile {
            device,
            inode,
            size,
            mtime: mtime.try_into().ok()?,
            ctime: ctime.try_into().ok()?,
            hash: self.digest.hash.to_vec(),
            executable: self.executable,
        })
    }

    fn of(file: &KnownFile) -> Option<Known> {
        let (mtime, ctime) = (i128::from(file.mtime), i128::from(file.ctime));
        let signature = Signature { device: file.device, inode: file.inode, size: file.size, mtime, ctime };
        let hash = file.hash.as_slice().try_into().ok()?;
        let digest = Digest { hash, size: file.size };
        Some(Known { signature, digest, mentions: None, executable: file.executable })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use dbuild_cache::StoreConfig;
    use fs_err as fs;

    use super::*;

    fn late() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn large_files_are_known_to_the_next_table_until_they_change() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { dir: place.path().join("store"), max_bytes: 1 << 30 }).unwrap();
        let (large, small) = (place.path().join("large"), place.path().join("small"));
        fs::write(&large, vec![7; LARGE as usize]).unwrap();
        fs::write(&small, "7").unwrap();
        let first = FileTable::new(100, late);
        let facts = [&large, &small].map(|path| first.unscanned(path).unwrap());
        first.leave(&store).unwrap();

        let second = FileTable::new(100, late);
        assert_eq!(second.take_over(&store).unwrap(), 1);
        assert_eq!(second.unscanned(&large).unwrap(), facts[0]);
        assert_eq!(second.counts().hashes, 0);
        assert_eq!(second.unscanned(&small).unwrap(), facts[1]);
        assert_eq!(second.counts().hashes, 1);
        fs::write(&large, vec![8; LARGE as usize]).unwrap();
        assert_ne!(second.unscanned(&large).unwrap().digest, facts[0].digest);

        store.put_action(&second.name(), b"damaged").unwrap();
        assert_eq!(FileTable::new(100, late).take_over(&store).unwrap(), 0);
    }
}
