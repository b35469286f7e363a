//! ContentAddressableStorage: which blobs are here, and many small ones at once. All instances share one
//! store, so the instance name is checked and then ignored.

use std::collections::HashSet;
use std::io::Read;
use std::pin::Pin;

use dbuild_cache::{COMPRESS_ABOVE, CacheError, Store};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, MAX_BATCH, MAX_MESSAGE};
use futures_util::Stream;
use re::compressor::Value as Compressor;
use tonic::{Code, Request, Response, Status, Streaming};

use super::packing::Packer;
use super::{Site, blocking, refusal, tree};

/// Blobs below this size are not worth a compressor's header and its time.
const COMPRESS_FROM: u64 = 512;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct Service(pub Site);

#[tonic::async_trait]
impl re::content_addressable_storage_server::ContentAddressableStorage for Service {
    async fn find_missing_blobs(
        &self,
        request: Request<re::FindMissingBlobsRequest>,
    ) -> Result<Response<re::FindMissingBlobsResponse>, Status> {
        let request = request.into_inner();
        refusal::check_instance(&request.instance_name)?;
        let function = self.0.function(request.digest_function).map_err(refusal::digest)?;
        let digests = parse(&request.blob_digests)?;
        let store = self.0.store.clone();
        let missing = blocking(move || {
            let mut seen = HashSet::new();
            let absent =
                digests.iter().filter(|digest| seen.insert(**digest) && !store.contains(function, digest));
            Ok(absent.map(Digest::to_wire).collect())
        });
        Ok(Response::new(re::FindMissingBlobsResponse { missing_blob_digests: missing.await? }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<re::BatchUpdateBlobsRequest>,
    ) -> Result<Response<re::BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        refusal::check_instance(&request.instance_name)?;
        let function = self.0.function(request.digest_function).map_err(refusal::digest)?;
        check_batch(request.requests.iter().map(|entry| entry.data.len() as u64), MAX_BATCH)?;
        // Compressed entries must not come out larger than what a client could send plainly.
        let plain = |entry: &re::batch_update_blobs_request::Request| {
            entry.digest.as_ref().map_or(0, |digest| digest.size_bytes.try_into().unwrap_or(0))
        };
        check_batch(request.requests.iter().map(plain), MAX_MESSAGE)?;
        let store = self.0.store.clone();
        let responses = blocking(move || {
            let mut packer = Packer::default();
            let each = request.requests.into_iter().map(|entry| {
                let status = match update(&store, function, &entry, &mut packer) {
                    Ok(()) => refusal::rpc_status(Code::Ok, ""),
                    Err(status) => refusal::embed(&status),
                };
                re::batch_update_blobs_response::Response { digest: entry.digest, status: Some(status) }
            });
            Ok(each.collect())
        });
        Ok(Response::new(re::BatchUpdateBlobsResponse { responses: responses.await? }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<re::BatchReadBlobsRequest>,
    ) -> Result<Response<re::BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        refusal::check_instance(&request.instance_name)?;
        let function = self.0.function(request.digest_function).map_err(refusal::digest)?;
        let digests = parse(&request.digests)?;
        check_batch(digests.iter().map(|digest| digest.size), MAX_BATCH)?;
        let zstd = request.acceptable_compressors.contains(&(Compressor::Zstd as i32));
        let store = self.0.store.clone();
        let responses = blocking(move || {
            let mut packer = zstd.then(Packer::default);
            Ok(digests.iter().map(|digest| read(&store, function, digest, packer.as_mut())).collect())
        });
        Ok(Response::new(re::BatchReadBlobsResponse { responses: responses.await? }))
    }

    type GetTreeStream = Answers<re::GetTreeResponse>;

    async fn get_tree(
        &self,
        request: Request<re::GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let request = request.into_inner();
        refusal::check_instance(&request.instance_name)?;
        let function = self.0.function(request.digest_function).map_err(refusal::digest)?;
        let root = Digest::from_field(request.root_digest.as_ref()).map_err(refusal::digest)?;
        let walk = tree::Pages::new(function, root, request.page_size, &request.page_token)?;
        let store = self.0.store.clone();
        // The first page is made here, so that a missing root is the call's own error.
        let (walk, first) = page(store.clone(), walk).await?;
        let rest = futures_util::stream::try_unfold(walk, move |walk| {
            let store = store.clone();
            async move {
                if walk.is_done() {
                    return Ok(None);
                }
                let (walk, page) = page(store, walk).await?;
                Ok(Some((page, walk)))
            }
        });
        let first = futures_util::stream::iter([Ok(first)]);
        Ok(Response::new(Box::pin(futures_util::StreamExt::chain(first, rest))))
    }

    async fn split_blob(
        &self,
        _: Request<re::SplitBlobRequest>,
    ) -> Result<Response<re::SplitBlobResponse>, Status> {
        Err(chunking())
    }

    type GetChunkMappingStream = Answers<re::GetChunkMappingResponse>;

    async fn get_chunk_mapping(
        &self,
        _: Request<re::GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(chunking())
    }

    async fn splice_blob(
        &self,
        _: Request<re::SpliceBlobRequest>,
    ) -> Result<Response<re::SpliceBlobResponse>, Status> {
        Err(chunking())
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<re::RegisterChunkMappingRequest>>,
    ) -> Result<Response<re::RegisterChunkMappingResponse>, Status> {
        Err(chunking())
    }
}

fn chunking() -> Status {
    Status::unimplemented("chunked blobs are not served here, as the capabilities say")
}

async fn page(store: Store, mut walk: tree::Pages) -> Result<(tree::Pages, re::GetTreeResponse), Status> {
    blocking(move || {
        let page = walk.next_page(&store)?;
        Ok((walk, page))
    })
    .await
}

fn parse(digests: &[re::Digest]) -> Result<Vec<Digest>, Status> {
    digests.iter().map(|digest| Digest::from_wire(digest).map_err(refusal::digest)).collect()
}

/// A batch beyond the announced size is one bad request, not many bad blobs.
fn check_batch(mut sizes: impl Iterator<Item = u64>, limit: usize) -> Result<(), Status> {
    let total = sizes.try_fold(0u64, u64::checked_add);
    match total {
        Some(total) if total <= limit as u64 => Ok(()),
        _ => Err(Status::invalid_argument(format!(
            "the batch holds more than {limit} bytes; use ByteStream for large blobs"
        ))),
    }
}

fn update(
    store: &Store,
    function: DigestFunction,
    entry: &re::batch_update_blobs_request::Request,
    packer: &mut Packer,
) -> Result<(), Status> {
    let digest = Digest::from_field(entry.digest.as_ref()).map_err(refusal::digest)?;
    match Compressor::try_from(entry.compressor) {
        Ok(Compressor::Identity) => {
            store.put_verified(function, &digest, &entry.data).map_err(refusal::cache)
        }
        Ok(Compressor::Zstd) => packer.put(store, function, &digest, &entry.data).map_err(refusal::cache),
        _ => Err(Status::invalid_argument(format!(
            "compressor {} is not supported here (supported: IDENTITY, ZSTD)",
            entry.compressor
        ))),
    }
}

fn read(
    store: &Store,
    function: DigestFunction,
    digest: &Digest,
    packer: Option<&mut Packer>,
) -> re::batch_read_blobs_response::Response {
    let content = match packer.filter(|_| digest.size >= COMPRESS_FROM) {
        Some(_) if digest.size > COMPRESS_ABOVE => read_compressed(store, function, digest),
        Some(packer) => store.read(function, digest).and_then(|plain| {
            let packed = packer.pack(&plain)?;
            Ok(packed.map_or((plain, Compressor::Identity), |packed| (packed, Compressor::Zstd)))
        }),
        None => store.read(function, digest).map(|data| (data, Compressor::Identity)),
    };
    let (data, compressor, status) = match content {
        Ok((data, compressor)) => (data, compressor, refusal::rpc_status(Code::Ok, "")),
        Err(error) => (Vec::new(), Compressor::Identity, refusal::embed(&refusal::cache(error))),
    };
    re::batch_read_blobs_response::Response {
        digest: Some(digest.to_wire()),
        data,
        compressor: compressor as i32,
        status: Some(status),
    }
}

/// A blob that the store keeps compressed, too, as it is there; plain where compression gains nothing.
fn read_compressed(
    store: &Store,
    function: DigestFunction,
    digest: &Digest,
) -> Result<(Vec<u8>, Compressor), CacheError> {
    let mut reader = store.read_zstd(function, digest)?;
    let mut data = Vec::new();
    if reader.compressed_size().is_none_or(|size| size < digest.size) {
        reader.read_to_end(&mut data).map_err(CacheError::Io)?;
    }
    if data.is_empty() || data.len() as u64 >= digest.size {
        return Ok((store.read(function, digest)?, Compressor::Identity));
    }
    Ok((data, Compressor::Zstd))
}
