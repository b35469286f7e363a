//! Downloads: the blobs of a result, into the near cache. Nothing that comes from the network is believed: every
//! blob is checked against its digest before it is kept.

use dbuild_cache::Store;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::ReadRequest;
use dbuild_proto::{Digest, MAX_BATCH};

use super::{FUNCTION, Fault, LOST, Remote};

/// Blobs up to this size travel in batches.
const SMALL: u64 = 1024 * 1024;

/// The largest output that is accepted, in bytes.
const MAX_OUTPUT: u64 = 8 << 30;

impl Remote {
    /// Brings what the near cache lacks of `digests`; gives the bytes received.
    pub async fn download(&self, store: &Store, digests: &[Digest]) -> Result<u64, Fault> {
        let mut received = 0;
        let mut batch: Vec<Digest> = Vec::new();
        let mut size = 0;
        for digest in digests {
            if batch.contains(digest) || store.contains(FUNCTION, digest) {
                continue;
            }
            if digest.size > MAX_OUTPUT {
                return Err(Fault::new(format!("an output of {} bytes is too large", digest.size)));
            }
            if digest.size > SMALL {
                received += self.receive_stream(store, digest).await?;
                continue;
            }
            if size + digest.size > (MAX_BATCH - 64 * 1024) as u64 {
                received += self.receive_batch(store, std::mem::take(&mut batch)).await?;
                size = 0;
            }
            size += digest.size;
            batch.push(*digest);
        }
        if !batch.is_empty() {
            received += self.receive_batch(store, batch).await?;
        }
        Ok(received)
    }

    async fn receive_batch(&self, store: &Store, digests: Vec<Digest>) -> Result<u64, Fault> {
        let request = re::BatchReadBlobsRequest {
            digests: digests.iter().map(Digest::to_wire).collect(),
            acceptable_compressors: vec![
                re::compressor::Value::Identity as i32,
                re::compressor::Value::Zstd as i32,
            ],
            digest_function: FUNCTION.to_wire(),
            ..Default::default()
        };
        let answer = self.cas().batch_read_blobs(request).await.map_err(|s| self.fault("give blobs", &s))?;
        let mut received = 0;
        let mut wanted: std::collections::HashSet<Digest> = digests.into_iter().collect();
        for response in answer.into_inner().responses {
            if let Some(status) = response.status.filter(|status| status.code != 0) {
                if status.code == tonic::Code::NotFound as i32 {
                    return Err(Fault::new(LOST));
                }
                return Err(Fault::new(format!("the pool failed to give a blob: {}", status.message)));
            }
            let digest = Digest::from_field(response.digest.as_ref())
                .map_err(|error| Fault::new(format!("the pool gave a bad digest: {error}")))?;
            if !wanted.remove(&digest) {
                return Err(Fault::new("the pool gave a blob that was not asked for"));
            }
            received += response.data.len() as u64;
            let bytes = if response.compressor == re::compressor::Value::Zstd as i32 {
                zstd::bulk::decompress(&response.data, digest.size as usize).map_err(|_| damaged(&digest))?
            } else {
                response.data
            };
            store.put_verified(FUNCTION, &digest, &bytes).map_err(|error| keep(&error))?;
        }
        match wanted.iter().next() {
            Some(digest) => Err(Fault::new(format!("the pool left out blob {digest}"))),
            None => Ok(received),
        }
    }

    async fn receive_stream(&self, store: &Store, digest: &Digest) -> Result<u64, Fault> {
        let request = ReadRequest {
            resource_name: format!("compressed-blobs/zstd/blake3/{digest}"),
            ..Default::default()
        };
        let mut stream =
            self.bytes().read(request).await.map_err(|s| self.fault("give a blob", &s))?.into_inner();
        let mut writer = store.zstd_writer(FUNCTION, digest).map_err(|error| keep(&error))?;
        let mut received = 0;
        while let Some(part) = stream.message().await.map_err(|s| self.fault("give a blob", &s))? {
            received += part.data.len() as u64;
            writer.write(&part.data).map_err(|error| keep(&error))?;
        }
        writer.commit().map_err(|error| keep(&error))?;
        Ok(received)
    }
}

fn damaged(digest: &Digest) -> Fault {
    Fault::new(format!("blob {digest} came damaged from the pool"))
}

pub(super) fn keep(error: &dbuild_cache::CacheError) -> Fault {
    Fault::new(crate::initiator::outputs::cache_fault(error))
}
