//! Small blobs in and out of zstd. Making a compressor costs more than packing a small blob, so a batch has one for all.

use dbuild_cache::{CacheError, Store};
use dbuild_proto::{Digest, DigestFunction};
use zstd::bulk::{Compressor, Decompressor};

/// zstd's fastest ordinary level: on the links that helpers have, more is not paid back.
const LEVEL: i32 = 1;

#[derive(Default)]
pub struct Packer {
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
}

impl Packer {
    /// The blob as a zstd frame; `None` where compression gains nothing.
    pub fn pack(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, CacheError> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(LEVEL).map_err(CacheError::Io)?),
        };
        let packed = compressor.compress(bytes).map_err(CacheError::Io)?;
        Ok((packed.len() < bytes.len()).then_some(packed))
    }

    /// Takes a blob in. Never more bytes come out than `expected` has, which the caller has found to be few.
    pub fn put(
        &mut self,
        store: &Store,
        function: DigestFunction,
        expected: &Digest,
        packed: &[u8],
    ) -> Result<(), CacheError> {
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(CacheError::Io)?),
        };
        match decompressor.decompress(packed, expected.size as usize) {
            Ok(bytes) => store.put_verified(function, expected, &bytes),
            // What is wrong with it, or that it is several frames, is found out piece by piece.
            Err(_) => store.put_zstd(function, expected, packed),
        }
    }
}
