//! Uploads: asks what is missing, sends small blobs in batches and large ones as compressed streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dbuild_intake::{Blob, BlobSource, InputRoot};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::bytestream::WriteRequest;
use dbuild_proto::{Digest, MAX_BATCH};
use tokio_stream::wrappers::ReceiverStream;

use super::{FUNCTION, Fault, Remote, lock};

/// Blobs up to this size travel in batches.
const SMALL: u64 = 256 * 1024;

/// What is not known to be there is sent without asking if it is no more than this many bytes in all: the question would
/// cost a round trip, and `Execute` looks into the pool's cache by itself.
const LITTLE: u64 = 16 * 1024;

/// Digests in one question; far below the message limit.
const MAX_QUESTION: usize = 20_000;

/// Bytes in one message of a stream.
const CHUNK: usize = 256 * 1024;

impl Remote {
    /// Whether the server is known to have every blob of a toolchain's tree.
    pub(super) fn knows_toolchain(&self, toolchain: &InputRoot) -> bool {
        lock(&self.0.toolchains).contains(&toolchain.digest())
    }

    /// Whether so little of `blobs` is not known to be there that nobody needs to be asked.
    pub(super) fn is_little(&self, blobs: &[Blob]) -> bool {
        let unknown = blobs.iter().filter(|blob| !self.knows(&blob.digest));
        unknown.map(|blob| blob.digest.size).sum::<u64>() <= LITTLE
    }

    /// Makes sure that the server has every blob of a toolchain's tree; gives the bytes sent.
    pub(super) async fn upload_toolchain(&self, toolchain: &InputRoot) -> Result<u64, Fault> {
        if self.knows_toolchain(toolchain) {
            return Ok(0);
        }
        let sent = self.upload(&toolchain.blobs()).await?;
        lock(&self.0.toolchains).insert(toolchain.digest());
        Ok(sent)
    }

    /// Whether the toolchain is there. If not, it is on its way when this returns: what needs it may run here meanwhile.
    pub fn begin_toolchain(&self, toolchain: &InputRoot) -> bool {
        if self.knows_toolchain(toolchain) {
            return true;
        }
        let digest = toolchain.digest();
        if !lock(&self.0.bringing).insert(digest) {
            return false;
        }
        let (remote, toolchain) = (self.clone(), toolchain.clone());
        tokio::spawn(async move {
            if let Err(fault) = remote.bring_toolchain(&toolchain).await {
                tracing::info!(fault = fault.message, "a toolchain could not be sent");
            }
            lock(&remote.0.bringing).remove(&digest);
        });
        false
    }

    /// As [`Remote::upload_toolchain`] for one of hundreds of megabytes: others' uploads get their turn between its files.
    pub async fn bring_toolchain(&self, toolchain: &InputRoot) -> Result<(), Fault> {
        for blob in toolchain.blobs().iter().filter(|blob| blob.digest.size > SMALL) {
            self.upload(std::slice::from_ref(blob)).await?;
        }
        self.upload_toolchain(toolchain).await.map(drop)
    }

    /// Makes sure that the server has every one of `blobs`; gives the bytes sent.
    pub(super) async fn upload(&self, blobs: &[Blob]) -> Result<u64, Fault> {
        let unknown = || blobs.iter().filter(|blob| !self.knows(&blob.digest)).collect::<Vec<_>>();
        if unknown().is_empty() {
            return Ok(0);
        }
        let little = self.is_little(blobs);
        // Tasks that start together need the same files: whoever comes second finds them known.
        let _turn = if little { None } else { Some(self.0.much.lock().await) };
        let unknown = unknown();
        let missing = if little { None } else { Some(self.missing(&unknown).await?) };
        let (small, large): (Vec<&Blob>, Vec<&Blob>) = unknown
            .iter()
            .filter(|blob| missing.as_ref().is_none_or(|missing| missing.contains(&blob.digest)))
            .partition(|blob| blob.digest.size <= SMALL);
        let mut sent = 0;
        for blob in large {
            sent += self.send_merged(blob).await?;
        }
        // Directories last: where one is known, all below it is taken to be there.
        let (directories, mut small): (Vec<&Blob>, Vec<&Blob>) =
            small.into_iter().partition(|blob| matches!(blob.source, BlobSource::Bytes(_)));
        small.extend(directories);
        sent += self.send_batches(&small).await?;
        self.learn(unknown.iter().map(|blob| blob.digest));
        Ok(sent)
    }

    async fn missing(&self, blobs: &[&Blob]) -> Result<std::collections::HashSet<Digest>, Fault> {
        let mut missing = std::collections::HashSet::new();
        for question in blobs.chunks(MAX_QUESTION) {
            let request = re::FindMissingBlobsRequest {
                blob_digests: question.iter().map(|blob| blob.digest.to_wire()).collect(),
                digest_function: FUNCTION.to_wire(),
                ..Default::default()
            };
            let answer =
                self.cas().find_missing_blobs(request).await.map_err(|s| self.fault("look for blobs", &s))?;
            // A digest that we did not ask for is of no use and does no harm.
            missing.extend(
                answer.get_ref().missing_blob_digests.iter().filter_map(|d| Digest::from_wire(d).ok()),
            );
        }
        Ok(missing)
    }

    async fn send_batches(&self, blobs: &[&Blob]) -> Result<u64, Fault> {
        let mut sent = 0;
        let mut batch = Vec::new();
        let mut size = 0;
        for blob in blobs {
            let bytes = read(blob)?;
            if size + bytes.len() > MAX_BATCH - 64 * 1024 {
                sent += self.send_batch(std::mem::take(&mut batch)).await?;
                size = 0;
            }
            size += bytes.len() + 128;
            batch.push((blob.digest, bytes));
        }
        if !batch.is_empty() {
            sent += self.send_batch(batch).await?;
        }
        Ok(sent)
    }

    async fn send_batch(&self, batch: Vec<(Digest, Vec<u8>)>) -> Result<u64, Fault> {
        let digests: Vec<Digest> = batch.iter().map(|(digest, _)| *digest).collect();
        let sent = AtomicU64::new(0);
        let mut squeezer = Squeezer::default();
        let requests = batch.into_iter().map(|(digest, bytes)| {
            let (data, compressor) = squeezer.squeeze(bytes);
            sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            re::batch_update_blobs_request::Request { digest: Some(digest.to_wire()), data, compressor }
        });
        let request = re::BatchUpdateBlobsRequest {
            requests: requests.collect(),
            digest_function: FUNCTION.to_wire(),
            ..Default::default()
        };
        let answer =
            self.cas().batch_update_blobs(request).await.map_err(|s| self.fault("take blobs", &s))?;
        for response in &answer.get_ref().responses {
            if let Some(status) = response.status.as_ref().filter(|status| status.code != 0) {
                return Err(Fault::new(format!("the pool failed to take a blob: {}", status.message)));
            }
        }
        self.learn(digests);
        Ok(sent.into_inner())
    }

    /// Sends one large blob; whoever comes meanwhile with the same one waits for this upload instead of repeating it.
    async fn send_merged(&self, blob: &Blob) -> Result<u64, Fault> {
        let turn = lock(&self.0.uploads).entry(blob.digest).or_default().clone();
        let _mine = turn.lock().await;
        if self.knows(&blob.digest) {
            return Ok(0);
        }
        let sent = self.send_stream(blob).await;
        lock(&self.0.uploads).remove(&blob.digest);
        if sent.is_ok() {
            self.learn([blob.digest]);
        }
        sent
    }

    async fn send_stream(&self, blob: &Blob) -> Result<u64, Fault> {
        let name = format!("uploads/{}/compressed-blobs/zstd/blake3/{}", upload_id(), blob.digest);
        let (requests, stream) = tokio::sync::mpsc::channel::<WriteRequest>(8);
        let sent = Arc::new(AtomicU64::new(0));
        let source = blob.source.clone();
        let counted = sent.clone();
        let feeder = tokio::task::spawn_blocking(move || feed(&source, name, &requests, &counted));
        let answer = self.bytes().write(ReceiverStream::new(stream)).await;
        let fed = feeder.await;
        // The server ends the stream early when it has the blob already: then feeding fails, and nothing is wrong.
        answer.map_err(|s| self.fault("take a blob", &s))?;
        if let Ok(Err(error)) = fed
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(Fault::new(format!("failed to read an input: {error}")));
        }
        Ok(sent.load(Ordering::Relaxed))
    }
}

/// Compresses a source into write requests; blocking.
fn feed(
    source: &BlobSource,
    name: String,
    requests: &tokio::sync::mpsc::Sender<WriteRequest>,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    use std::io::Write;
    let mut encoder =
        zstd::Encoder::new(Requests { name, buffer: Vec::new(), offset: 0, requests, sent }, 1)?;
    match source {
        BlobSource::File(path) => drop(std::io::copy(&mut fs_err::File::open(path)?, &mut encoder)?),
        BlobSource::Bytes(bytes) => encoder.write_all(bytes)?,
    }
    encoder.finish()?.finish()
}

/// Cuts a byte stream into write requests.
struct Requests<'a> {
    name: String,
    buffer: Vec<u8>,
    offset: i64,
    requests: &'a tokio::sync::mpsc::Sender<WriteRequest>,
    sent: &'a AtomicU64,
}

impl Requests<'_> {
    fn send(&mut self, finish_write: bool) -> std::io::Result<()> {
        let data = std::mem::take(&mut self.buffer);
        self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        // The name is needed in the first request only.
        let resource_name = std::mem::take(&mut self.name);
        let request = WriteRequest { resource_name, write_offset: self.offset, finish_write, data };
        self.offset += request.data.len() as i64;
        self.requests.blocking_send(request).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.send(true)
    }
}

impl std::io::Write for Requests<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.send(false)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A blob of at most [`SMALL`] bytes that was hashed a moment ago: reading it is a copy from the page cache, which takes
/// less than handing it to another thread.
fn read(blob: &Blob) -> Result<Vec<u8>, Fault> {
    match &blob.source {
        BlobSource::Bytes(bytes) => Ok(bytes.to_vec()),
        BlobSource::File(path) => {
            fs_err::read(path).map_err(|error| Fault::new(format!("failed to read an input: {error}")))
        }
    }
}

/// zstd level 1 where it saves something. Making a compressor costs more than packing a small blob.
#[derive(Default)]
struct Squeezer(Option<zstd::bulk::Compressor<'static>>);

impl Squeezer {
    fn squeeze(&mut self, bytes: Vec<u8>) -> (Vec<u8>, i32) {
        match self.smaller(&bytes) {
            Some(small) => (small, re::compressor::Value::Zstd as i32),
            None => (bytes, re::compressor::Value::Identity as i32),
        }
    }

    fn smaller(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes.len() <= 512 {
            return None;
        }
        let compressor = match &mut self.0 {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(1).ok()?),
        };
        compressor.compress(bytes).ok().filter(|small| small.len() < bytes.len())
    }
}

/// Any name that no other upload has; the REAPI suggests a UUID, whose form this has.
fn upload_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    format!("{process:08x}-0000-4000-8000-{:012x}", (nanos ^ (number << 40)) & 0xffff_ffff_ffff)
}
