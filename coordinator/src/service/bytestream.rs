//! ByteStream: blobs of any size, plain or as one zstd stream, as the Remote Execution API uses it
//! (REAPI, ContentAddressableStorage). A blob appears in the store complete and verified or not at all.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;

use dbuild_cache::{CacheError, Store};
use dbuild_proto::reapi::google::bytestream as bs;
use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::resource::{self, BlobName};
use super::uploads::{Sink, Upload, Uploads};
use super::{Site, blocking, refusal};

/// Bytes in one message of a download: enough that a message's own cost (a thread hand-over and a frame)
/// does not show.
const PIECE: usize = 512 * 1024;
/// zstd's fastest level; see docs/ for what it gains on objects.
const LEVEL: i32 = 1;

pub struct Service {
    site: Site,
    uploads: Arc<Uploads>,
}

impl Service {
    pub fn new(site: Site) -> Self {
        Service { site, uploads: Arc::default() }
    }

    fn name(
        &self,
        name: &str,
        read: fn(&str, dbuild_proto::DigestFunction) -> Result<BlobName, resource::NameError>,
    ) -> Result<BlobName, Status> {
        read(name, self.site.config.default_digest_function)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    async fn is_here(&self, blob: BlobName) -> Result<bool, Status> {
        let store = self.site.store.clone();
        blocking(move || Ok(store.contains(blob.function, &blob.digest))).await
    }
}

type Pieces = Pin<Box<dyn Stream<Item = Result<bs::ReadResponse, Status>> + Send>>;

#[tonic::async_trait]
impl bs::byte_stream_server::ByteStream for Service {
    type ReadStream = Pieces;

    async fn read(&self, request: Request<bs::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let blob = self.name(&request.resource_name, resource::read_name)?;
        let offset = u64::try_from(request.read_offset).ok().filter(|offset| *offset <= blob.digest.size);
        let offset = offset.ok_or_else(|| {
            let (offset, size) = (request.read_offset, blob.digest.size);
            Status::out_of_range(format!("read_offset {offset} is outside the blob's {size} bytes"))
        })?;
        let limit = match (u64::try_from(request.read_limit), blob.compressed) {
            (Ok(0), _) => u64::MAX,
            (Ok(limit), false) => limit,
            (Ok(_), true) => {
                return Err(Status::invalid_argument("read_limit must be 0 for compressed blobs"));
            }
            (Err(_), _) => {
                return Err(Status::invalid_argument(format!(
                    "read_limit {} is negative",
                    request.read_limit
                )));
            }
        };
        let store = self.site.store.clone();
        let source = blocking(move || open(&store, blob, offset).map_err(refusal::cache)).await?;
        let pieces = stream::try_unfold((source, limit), |(mut source, limit)| async move {
            let (data, source) = blocking(move || {
                let mut data = Vec::new();
                source.by_ref().take(limit.min(PIECE as u64)).read_to_end(&mut data).map_err(|error| {
                    Status::data_loss(format!("the blob cannot be read to its end: {error}"))
                })?;
                Ok((data, source))
            })
            .await?;
            if data.is_empty() {
                return Ok(None);
            }
            let rest = limit - data.len() as u64;
            Ok(Some((bs::ReadResponse { data }, (source, rest))))
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn write(
        &self,
        request: Request<Streaming<bs::WriteRequest>>,
    ) -> Result<Response<bs::WriteResponse>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the upload has no first message"))?;
        let name = first.resource_name.clone();
        let blob = self.name(&name, resource::write_name)?;
        let committed = |size: u64| Ok(Response::new(bs::WriteResponse { committed_size: size as i64 }));
        if self.is_here(blob).await? {
            let size = if blob.compressed { -1 } else { blob.digest.size as i64 };
            return Ok(Response::new(bs::WriteResponse { committed_size: size }));
        }
        let mut upload = self.begin(blob, &name, first.write_offset).await?;
        let mut next = first;
        let mut offset = next.write_offset as u64;
        loop {
            if !next.resource_name.is_empty() && next.resource_name != name {
                return Err(Status::invalid_argument("resource_name changed within the upload"));
            }
            if next.write_offset as u64 != offset {
                let wrong = next.write_offset;
                return Err(Status::invalid_argument(format!("write_offset is {wrong}, expected {offset}")));
            }
            offset += next.data.len() as u64;
            let finish = next.finish_write;
            let taken = blocking(move || {
                upload.write(&next.data).map_err(refusal::cache)?;
                if finish {
                    upload.commit().map_err(refusal::cache)?;
                    return Ok(None);
                }
                Ok(Some(upload))
            });
            let Some(going_on) = taken.await? else { break };
            upload = going_on;
            match requests.message().await? {
                Some(message) => next = message,
                // Half an upload is no error (google.bytestream, Write): it is kept for the client's return.
                None => return committed(offset),
            }
        }
        // What follows the end must be nothing; but the blob is here now, whatever follows.
        committed(offset)
    }

    async fn query_write_status(
        &self,
        request: Request<bs::QueryWriteStatusRequest>,
    ) -> Result<Response<bs::QueryWriteStatusResponse>, Status> {
        let name = request.into_inner().resource_name;
        let blob = self.name(&name, resource::write_name)?;
        let complete = self.is_here(blob).await?;
        // For an upload that is unknown google.bytestream suggests NOT_FOUND; but clients take that for the
        // upload's failure, and 0 is as true: they send it from the start.
        let size = if complete { blob.digest.size } else { self.uploads.committed(&name).unwrap_or(0) };
        Ok(Response::new(bs::QueryWriteStatusResponse { committed_size: size as i64, complete }))
    }
}

impl Service {
    /// A new upload, or the one that was left behind at `offset`.
    async fn begin(&self, blob: BlobName, name: &str, offset: i64) -> Result<Upload, Status> {
        let limit = self.site.config.max_bytes;
        if blob.digest.size > limit {
            let size = blob.digest.size;
            return Err(Status::resource_exhausted(format!(
                "the blob has {size} bytes, more than the {limit} of the whole store"
            )));
        }
        match u64::try_from(offset) {
            Ok(0) => {
                let (store, uploads, name) = (self.site.store.clone(), self.uploads.clone(), name.to_owned());
                blocking(move || {
                    let sink = if blob.compressed {
                        store
                            .zstd_writer(blob.function, &blob.digest)
                            .map(|writer| Sink::Zstd(Box::new(writer)))
                    } else {
                        store.writer(blob.function, &blob.digest).map(|writer| Sink::Plain(Box::new(writer)))
                    };
                    Ok(uploads.start(&name, sink.map_err(refusal::cache)?))
                })
                .await
            }
            Ok(offset) => self.uploads.resume(name, offset).map_err(|there| {
                Status::invalid_argument(format!(
                    "write_offset {offset} does not continue the upload, of which {there} bytes are here"
                ))
            }),
            Err(_) => Err(Status::invalid_argument(format!("write_offset {offset} is negative"))),
        }
    }
}

type Source = Box<dyn Read + Send>;

/// Opens what a read asks for. `offset` counts bytes of the plain blob in both forms (REAPI), so a compressed
/// read from its middle is compressed anew.
fn open(store: &Store, blob: BlobName, offset: u64) -> Result<Source, CacheError> {
    if blob.compressed && offset == 0 {
        return Ok(Box::new(store.read_zstd(blob.function, &blob.digest)?));
    }
    let mut reader = store.open_blob(blob.function, &blob.digest)?;
    reader.seek_to(offset)?;
    if !blob.compressed {
        return Ok(Box::new(reader));
    }
    let encoder = zstd::stream::read::Encoder::new(reader, LEVEL).map_err(CacheError::Io)?;
    Ok(Box::new(encoder))
}
