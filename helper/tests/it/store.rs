//! A content store in memory, served over the REAPI's two services: what a helper needs of a coordinator.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream as bs;
use dbuild_proto::reapi::google::rpc;
use dbuild_proto::{Digest, DigestFunction};
use re::content_addressable_storage_server::ContentAddressableStorage;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Response, Status, Streaming};

pub const FUNCTION: DigestFunction = DigestFunction::Blake3;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

#[derive(Clone, Debug, Default)]
pub struct Blobs {
    inner: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
    /// How often each blob was asked for.
    pub reads: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Blobs {
    pub fn put(&self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = FUNCTION.digest(&bytes);
        self.inner.lock().unwrap().insert(digest, bytes);
        digest
    }

    pub fn put_message(&self, message: &impl prost::Message) -> Digest {
        self.put(message.encode_to_vec())
    }

    pub fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.inner.lock().unwrap().get(digest).cloned()
    }

    pub fn wire(&self, digest: &Option<re::Digest>) -> Vec<u8> {
        self.get(&Digest::from_field(digest.as_ref()).unwrap())
            .expect("a result names only what was uploaded")
    }

    pub fn remove(&self, digest: &Digest) {
        self.inner.lock().unwrap().remove(digest);
    }

    fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        *self.reads.lock().unwrap().entry(*digest).or_default() += 1;
        self.get(digest)
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for Blobs {
    async fn find_missing_blobs(
        &self,
        request: Request<re::FindMissingBlobsRequest>,
    ) -> Answer<re::FindMissingBlobsResponse> {
        let missing = request.into_inner().blob_digests;
        let missing =
            missing.into_iter().filter(|digest| self.get(&Digest::from_wire(digest).unwrap()).is_none());
        Ok(Response::new(re::FindMissingBlobsResponse { missing_blob_digests: missing.collect() }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<re::BatchUpdateBlobsRequest>,
    ) -> Answer<re::BatchUpdateBlobsResponse> {
        let responses = request.into_inner().requests.into_iter().map(|blob| {
            let digest = self.put(blob.data);
            assert_eq!(Some(digest.to_wire()), blob.digest);
            re::batch_update_blobs_response::Response { digest: blob.digest, status: None }
        });
        Ok(Response::new(re::BatchUpdateBlobsResponse { responses: responses.collect() }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<re::BatchReadBlobsRequest>,
    ) -> Answer<re::BatchReadBlobsResponse> {
        let responses = request.into_inner().digests.into_iter().map(|digest| {
            let found = self.read(&Digest::from_wire(&digest).unwrap());
            let code = if found.is_some() { Code::Ok } else { Code::NotFound };
            re::batch_read_blobs_response::Response {
                digest: Some(digest),
                data: zstd::bulk::compress(&found.unwrap_or_default(), 1).unwrap(),
                compressor: re::compressor::Value::Zstd.into(),
                status: Some(rpc::Status { code: code.into(), ..Default::default() }),
            }
        });
        Ok(Response::new(re::BatchReadBlobsResponse { responses: responses.collect() }))
    }

    type GetTreeStream = Stream<re::GetTreeResponse>;
    async fn get_tree(&self, _: Request<re::GetTreeRequest>) -> Answer<Self::GetTreeStream> {
        Err(Status::unimplemented(""))
    }
    async fn split_blob(&self, _: Request<re::SplitBlobRequest>) -> Answer<re::SplitBlobResponse> {
        Err(Status::unimplemented(""))
    }
    async fn splice_blob(&self, _: Request<re::SpliceBlobRequest>) -> Answer<re::SpliceBlobResponse> {
        Err(Status::unimplemented(""))
    }
    type GetChunkMappingStream = Stream<re::GetChunkMappingResponse>;
    async fn get_chunk_mapping(
        &self,
        _: Request<re::GetChunkMappingRequest>,
    ) -> Answer<Self::GetChunkMappingStream> {
        Err(Status::unimplemented(""))
    }
    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<re::RegisterChunkMappingRequest>>,
    ) -> Answer<re::RegisterChunkMappingResponse> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl bs::byte_stream_server::ByteStream for Blobs {
    type ReadStream = Stream<bs::ReadResponse>;

    async fn read(&self, request: Request<bs::ReadRequest>) -> Answer<Self::ReadStream> {
        let name = request.into_inner().resource_name;
        let digest = digest_of(&name, "compressed-blobs/zstd/blake3/");
        let blob = self.read(&digest).ok_or_else(|| Status::not_found(name))?;
        let compressed = zstd::encode_all(blob.as_slice(), 1).unwrap();
        let pieces: Vec<_> =
            compressed.chunks(100_000).map(|piece| Ok(bs::ReadResponse { data: piece.to_vec() })).collect();
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn write(&self, request: Request<Streaming<bs::WriteRequest>>) -> Answer<bs::WriteResponse> {
        let mut stream = request.into_inner();
        let (mut name, mut bytes, mut finished) = (String::new(), Vec::new(), false);
        while let Some(part) = stream.next().await {
            let part = part?;
            assert_eq!(part.write_offset, bytes.len() as i64);
            name = if name.is_empty() { part.resource_name } else { name };
            bytes.extend(part.data);
            finished |= part.finish_write;
        }
        assert!(finished && name.starts_with("uploads/"));
        let digest = self.put(zstd::decode_all(bytes.as_slice()).unwrap());
        assert_eq!(digest, digest_of(&name, "compressed-blobs/zstd/blake3/"));
        Ok(Response::new(bs::WriteResponse { committed_size: bytes.len() as i64 }))
    }

    async fn query_write_status(
        &self,
        _: Request<bs::QueryWriteStatusRequest>,
    ) -> Answer<bs::QueryWriteStatusResponse> {
        Err(Status::unimplemented(""))
    }
}

fn digest_of(name: &str, marker: &str) -> Digest {
    let (_, rest) = name.split_once(marker).expect("the resource names its digest function");
    let (hash, size) = rest.split_once('/').unwrap();
    Digest::from_hex(hash, size.parse().unwrap()).unwrap()
}

/// Digests that were asked for more than once.
pub fn asked_twice(blobs: &Blobs) -> HashSet<Digest> {
    let reads = blobs.reads.lock().unwrap();
    reads.iter().filter(|(_, times)| **times > 1).map(|(digest, _)| *digest).collect()
}
