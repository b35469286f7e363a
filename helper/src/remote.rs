//! The coordinator's content store as a helper uses it: ask what is missing, read and write blobs, small ones in
//! batches, large ones as zstd streams. Knows the wire; what is needed and where it goes is decided elsewhere.
//!
//! Formats: REAPI ContentAddressableStorage and the ByteStream resource names of its `compressed-blobs` section.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use dbuild_cache::Store;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::byte_stream_client::ByteStreamClient;
use dbuild_proto::reapi::google::bytestream::{ReadRequest, WriteRequest};
use dbuild_proto::{Digest, DigestFunction, MAX_BATCH, MAX_MESSAGE};
use futures_util::{StreamExt, TryStreamExt};
use re::content_addressable_storage_client::ContentAddressableStorageClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::fault::{Trouble, blocking};

/// Blobs up to this size travel in batches, whose envelope costs less than a stream.
pub const SMALL: u64 = 256 * 1024;
/// Pieces of a stream, in bytes.
const PIECE: usize = 512 * 1024;
/// What a digest and a status add to a blob in a batch, generously.
const ENVELOPE: u64 = 256;
/// Batches and streams at a time, per action.
const PARALLEL: usize = 4;
/// Digests per FindMissingBlobs.
const QUESTIONS: usize = 10_000;

/// What a request is about: the instance and how its digests are made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub instance: String,
    pub function: DigestFunction,
}

/// Something to upload.
#[derive(Clone, Debug)]
pub enum Payload {
    Bytes(Vec<u8>),
    /// A file that nobody writes to any more.
    File(PathBuf),
}

/// A connection to the coordinator's content store.
#[derive(Clone, Debug)]
pub struct Remote {
    channel: Channel,
}

/// How connections to the coordinator are made: a peer that is silently gone is noticed within half a minute.
pub fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20))
}

impl Remote {
    /// Connects at the first request, and again when a connection was lost.
    pub fn new(endpoint: &Endpoint) -> Remote {
        Remote { channel: endpoint.connect_lazy() }
    }

    fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn streams(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Brings blobs into `store`, verified. Those that the coordinator lacks are named in [`Trouble::Missing`],
    /// all of them, after everything else was fetched.
    pub async fn download(&self, scope: &Scope, digests: &[Digest], store: &Store) -> Result<(), Trouble> {
        let (small, large): (Vec<Digest>, Vec<Digest>) =
            digests.iter().partition(|digest| digest.size <= SMALL);
        let batches = batches(small, |digest| digest.size);
        let batches = futures_util::stream::iter(batches)
            .map(|batch| self.read_batch(scope, batch, store))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<_>>();
        let streams = futures_util::stream::iter(large)
            .map(|digest| self.read_stream(scope, digest, store))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<_>>();
        let (from_batches, from_streams) = futures_util::future::try_join(batches, streams).await?;
        let missing: Vec<Digest> =
            from_batches.into_iter().flatten().chain(from_streams.into_iter().flatten()).collect();
        if missing.is_empty() { Ok(()) } else { Err(Trouble::Missing(missing)) }
    }

    /// Reads small blobs into memory, verified. Those that the coordinator lacks are named in [`Trouble::Missing`].
    pub async fn read(&self, scope: &Scope, digests: Vec<Digest>) -> Result<Vec<(Digest, Vec<u8>)>, Trouble> {
        let batches = futures_util::stream::iter(batches(digests, |digest| digest.size))
            .map(|batch| self.ask_batch(scope, batch))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<_>>();
        let mut blobs = Vec::new();
        let mut missing = Vec::new();
        for answer in batches.await? {
            missing.extend(answer.absent);
            let mut inflater = Inflater::default();
            for (digest, compressor, data) in answer.found {
                let data = inflater.inflate(compressor, data, &digest)?;
                if scope.function.digest(&data) != digest {
                    return Err(Trouble::here("read a blob", format!("{digest} came with other content")));
                }
                blobs.push((digest, data));
            }
        }
        if missing.is_empty() { Ok(blobs) } else { Err(Trouble::Missing(missing)) }
    }

    /// Returns the digests that are not there.
    async fn read_batch(
        &self,
        scope: &Scope,
        batch: Vec<Digest>,
        store: &Store,
    ) -> Result<Vec<Digest>, Trouble> {
        let answer = self.ask_batch(scope, batch).await?;
        let (store, function) = (store.clone(), scope.function);
        blocking(move || {
            let mut inflater = Inflater::default();
            for (digest, compressor, data) in answer.found {
                store.put_verified(function, &digest, &inflater.inflate(compressor, data, &digest)?)?;
            }
            Ok(answer.absent)
        })
        .await
    }

    /// One BatchReadBlobs, of which every digest is answered and nothing else.
    async fn ask_batch(&self, scope: &Scope, batch: Vec<Digest>) -> Result<Answer, Trouble> {
        let request = re::BatchReadBlobsRequest {
            instance_name: scope.instance.clone(),
            digests: batch.iter().map(Digest::to_wire).collect(),
            acceptable_compressors: vec![re::compressor::Value::Zstd.into()],
            digest_function: scope.function.to_wire(),
        };
        let received =
            self.cas().batch_read_blobs(request).await.map_err(|status| refused("read blobs", &status))?;
        let mut asked: HashSet<Digest> = batch.into_iter().collect();
        let mut answer = Answer::default();
        for response in received.into_inner().responses {
            let digest = Digest::from_field(response.digest.as_ref())
                .map_err(|error| Trouble::here("read blobs", error))?;
            if !asked.remove(&digest) {
                return Err(Trouble::here("read blobs", format!("{digest} was not asked for")));
            }
            let status = response.status.unwrap_or_default();
            match Code::from(status.code) {
                Code::Ok => answer.found.push((digest, response.compressor, response.data)),
                Code::NotFound => answer.absent.push(digest),
                code => return Err(Trouble::here("read a blob", format!("{code:?} {}", status.message))),
            }
        }
        match asked.iter().next() {
            Some(digest) => Err(Trouble::here("read blobs", format!("no answer about {digest}"))),
            None => Ok(answer),
        }
    }

    /// Returns the digest if it is not there.
    async fn read_stream(
        &self,
        scope: &Scope,
        digest: Digest,
        store: &Store,
    ) -> Result<Option<Digest>, Trouble> {
        let name = format!("{}compressed-blobs/zstd/{}{digest}", prefix(scope), infix(scope.function));
        let request = ReadRequest { resource_name: name, ..ReadRequest::default() };
        let mut stream = match self.streams().read(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(Some(digest)),
            Err(status) => return Err(refused("read a blob", &status)),
        };
        let (pieces, mut received) = mpsc::channel::<Vec<u8>>(4);
        let (store, function) = (store.clone(), scope.function);
        // Decompressing and hashing block; dropping `pieces` without a commit message leaves no blob behind,
        // because the writer verifies the whole.
        let written = tokio::task::spawn_blocking(move || {
            let mut writer = store.zstd_writer(function, &digest)?;
            while let Some(piece) = received.blocking_recv() {
                writer.write(&piece)?;
            }
            writer.commit()
        });
        loop {
            match stream.message().await {
                Ok(Some(response)) => {
                    if pieces.send(response.data).await.is_err() {
                        // The writer has failed; its error follows.
                        break;
                    }
                }
                Ok(None) => break,
                Err(status) if status.code() == Code::NotFound => return Ok(Some(digest)),
                Err(status) => return Err(refused("read a blob", &status)),
            }
        }
        drop(pieces);
        written.await.map_err(|error| Trouble::here("store a blob", error))??;
        Ok(None)
    }

    /// Uploads what the coordinator does not have yet; a little is not asked about first.
    pub async fn upload(&self, scope: &Scope, blobs: Vec<(Digest, Payload)>) -> Result<(), Trouble> {
        let in_memory = blobs.iter().all(|(_, payload)| matches!(payload, Payload::Bytes(_)));
        let digests = blobs.iter().map(|(digest, _)| *digest).filter(|digest| !digest.is_empty());
        let missing = if in_memory && blobs.iter().map(|(digest, _)| digest.size).sum::<u64>() <= SMALL {
            digests.collect()
        } else {
            self.missing(scope, digests).await?
        };
        let mut wanted: Vec<(Digest, Payload)> = Vec::new();
        for (digest, payload) in blobs {
            if missing.contains(&digest) && !wanted.iter().any(|(other, _)| *other == digest) {
                wanted.push((digest, payload));
            }
        }
        let (small, large): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|(digest, payload)| digest.size <= SMALL && matches!(payload, Payload::Bytes(_)));
        let batches = batches(small, |(digest, _)| digest.size);
        let batches = futures_util::stream::iter(batches)
            .map(|batch| self.write_batch(scope, batch))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>();
        let streams = futures_util::stream::iter(large)
            .map(|(digest, payload)| self.write_stream(scope, digest, payload))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>();
        futures_util::future::try_join(batches, streams).await?;
        Ok(())
    }

    async fn missing(
        &self,
        scope: &Scope,
        digests: impl Iterator<Item = Digest>,
    ) -> Result<Vec<Digest>, Trouble> {
        let digests: Vec<re::Digest> = digests.map(|digest| digest.to_wire()).collect();
        let mut missing = Vec::new();
        for part in digests.chunks(QUESTIONS) {
            let request = re::FindMissingBlobsRequest {
                instance_name: scope.instance.clone(),
                blob_digests: part.to_vec(),
                digest_function: scope.function.to_wire(),
            };
            let answer = self.cas().find_missing_blobs(request).await;
            for digest in
                answer.map_err(|status| refused("ask for blobs", &status))?.into_inner().missing_blob_digests
            {
                missing
                    .push(Digest::from_wire(&digest).map_err(|error| Trouble::here("ask for blobs", error))?);
            }
        }
        Ok(missing)
    }

    async fn write_batch(&self, scope: &Scope, batch: Vec<(Digest, Payload)>) -> Result<(), Trouble> {
        let requests = batch.into_iter().filter_map(|(digest, payload)| match payload {
            Payload::Bytes(data) => Some(re::batch_update_blobs_request::Request {
                digest: Some(digest.to_wire()),
                data,
                compressor: re::compressor::Value::Identity.into(),
            }),
            Payload::File(_) => None,
        });
        let request = re::BatchUpdateBlobsRequest {
            instance_name: scope.instance.clone(),
            requests: requests.collect(),
            digest_function: scope.function.to_wire(),
        };
        let answer = self.cas().batch_update_blobs(request).await;
        for response in answer.map_err(|status| refused("upload blobs", &status))?.into_inner().responses {
            let status = response.status.unwrap_or_default();
            if Code::from(status.code) != Code::Ok {
                return Err(Trouble::here("upload a blob", status.message));
            }
        }
        Ok(())
    }

    async fn write_stream(&self, scope: &Scope, digest: Digest, payload: Payload) -> Result<(), Trouble> {
        let name = format!(
            "{}uploads/{}/compressed-blobs/zstd/{}{digest}",
            prefix(scope),
            random_uuid()?,
            infix(scope.function)
        );
        let (requests, stream) = mpsc::channel(4);
        let compressed = tokio::task::spawn_blocking(move || compress(name, payload, &requests));
        let answer = self.streams().write(ReceiverStream::new(stream)).await;
        // An answer before the end of the stream means that the blob has arrived by another way meanwhile.
        answer.map_err(|status| refused("upload a blob", &status))?;
        match compressed.await {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Trouble::here("compress an output", error))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(Trouble::here("compress an output", error)),
        }
    }
}

/// Sends a payload as the pieces of one zstd stream; the last one says so, and is never sent after an error.
fn compress(name: String, payload: Payload, to: &mpsc::Sender<WriteRequest>) -> std::io::Result<()> {
    let mut from: Box<dyn Read> = match payload {
        Payload::Bytes(bytes) => Box::new(std::io::Cursor::new(bytes)),
        Payload::File(path) => Box::new(fs_err::File::open(path)?),
    };
    let mut encoder = zstd::Encoder::new(Pieces { name, offset: 0, held: Vec::new(), to }, 1)?;
    std::io::copy(&mut from, &mut encoder)?;
    encoder.finish()?.send(true)
}

/// Cuts what is written into requests.
struct Pieces<'a> {
    name: String,
    offset: i64,
    held: Vec<u8>,
    to: &'a mpsc::Sender<WriteRequest>,
}

impl Pieces<'_> {
    fn send(&mut self, finish_write: bool) -> std::io::Result<()> {
        let data = std::mem::take(&mut self.held);
        let length = data.len() as i64;
        // The resource is named in the first request only (bytestream.proto).
        let resource_name = std::mem::take(&mut self.name);
        let request = WriteRequest { resource_name, write_offset: self.offset, finish_write, data };
        self.offset += length;
        self.to.blocking_send(request).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE {
            self.send(false)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What came of a BatchReadBlobs: digest, compressor and data of each blob that was there.
#[derive(Default)]
struct Answer {
    found: Vec<(Digest, i32, Vec<u8>)>,
    absent: Vec<Digest>,
}

/// Unpacks the blobs of a batch; making a decompressor costs more than unpacking a small blob.
#[derive(Default)]
struct Inflater(Option<zstd::bulk::Decompressor<'static>>);

impl Inflater {
    /// Never more bytes than the digest promises: a larger one is an error.
    fn inflate(&mut self, compressor: i32, data: Vec<u8>, digest: &Digest) -> Result<Vec<u8>, Trouble> {
        if compressor == i32::from(re::compressor::Value::Identity) {
            return Ok(data);
        }
        if compressor != i32::from(re::compressor::Value::Zstd) {
            return Err(Trouble::here("read a blob", format!("unknown compressor {compressor}")));
        }
        let failed = |error| Trouble::here("decompress a blob", error);
        let decompressor = match &mut self.0 {
            Some(decompressor) => decompressor,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(failed)?),
        };
        decompressor.decompress(&data, digest.size.min(SMALL) as usize).map_err(failed)
    }
}

/// Cuts a list into batches of at most [`MAX_BATCH`] bytes, envelopes included.
fn batches<T>(items: Vec<T>, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let needed = size(&item) + ENVELOPE;
        match batches.last_mut() {
            Some(batch) if needed <= room => batch.push(item),
            _ => {
                batches.push(vec![item]);
                room = MAX_BATCH as u64;
            }
        }
        room = room.saturating_sub(needed);
    }
    batches
}

fn prefix(scope: &Scope) -> String {
    if scope.instance.is_empty() { String::new() } else { format!("{}/", scope.instance) }
}

/// SHA-256 must not be named in a resource, every other function must (REAPI, `digest_function`).
fn infix(function: DigestFunction) -> &'static str {
    match function {
        DigestFunction::Blake3 => "blake3/",
        DigestFunction::Sha256 => "",
    }
}

/// A random UUID (RFC 9562, version 4), which names one upload.
fn random_uuid() -> Result<String, Trouble> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Trouble::here("get random bytes", error))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn refused(attempt: &str, status: &Status) -> Trouble {
    Trouble::here(attempt, format!("{:?} {}", status.code(), status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_below_the_limit() {
        let sizes = vec![SMALL; 40];
        let cut = batches(sizes, |size| *size);
        assert!(
            cut.iter().all(|batch| batch.iter().map(|size| size + ENVELOPE).sum::<u64>() <= MAX_BATCH as u64)
        );
        assert_eq!(cut.iter().map(Vec::len).sum::<usize>(), 40);
        assert!(batches(Vec::<u64>::new(), |size| *size).is_empty());
    }

    #[test]
    fn a_bomb_in_a_batch_is_not_unpacked() {
        let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
        let digest = DigestFunction::Blake3.digest(b"ten bytes!");
        assert!(Inflater::default().inflate(re::compressor::Value::Zstd.into(), bomb, &digest).is_err());
    }
}
