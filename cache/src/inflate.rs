//! Taking in blobs that come as zstd streams. Output is bounded by the expected size, the window by
//! `WINDOW_LOG`, input by `input_limit`: a small hostile stream can fill neither disk nor memory, nor keep us
//! busy for ever with frames that hold nothing.

use std::io::{self, Read, Write};

use dbuild_proto::{Digest, DigestFunction};
use zstd::stream::write::Decoder;

use crate::error::CacheError;
use crate::place::CHUNK;
use crate::store::Store;
use crate::writer::BlobWriter;

/// 8 MiB, the window that RFC 8878 (section 3.1.1.1.2) asks every decoder to support; levels up to 19 need no
/// more.
const WINDOW_LOG: u32 = 23;

/// The most compressed bytes that a blob may come in. Incompressible data grows by 3 bytes per 128 KiB block;
/// the rest is room for clients that flush often.
fn input_limit(size: u64) -> u64 {
    size.saturating_mul(2).saturating_add(64 * 1024)
}

/// A blob on its way in, compressed. Like [`BlobWriter`], it may wait for a peer that was cut off.
pub struct ZstdWriter {
    decoder: Decoder<'static, Sink>,
    written: u64,
    limit: u64,
    broken: bool,
}

impl Store {
    /// Starts to take in a blob from pieces of a zstd stream (one frame or several).
    ///
    /// # Errors
    /// As for [`Store::writer`].
    pub fn zstd_writer(&self, f: DigestFunction, expected: &Digest) -> Result<ZstdWriter, CacheError> {
        let mut decoder = Decoder::new(Sink(self.writer(f, expected)?))?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(ZstdWriter { decoder, written: 0, limit: input_limit(expected.size), broken: false })
    }

    /// Takes in a blob from a whole zstd stream; never more than `expected.size` bytes come out of it.
    ///
    /// # Errors
    /// `Source` if the stream cannot be read; `BadCompression`, `TooLong`, `DigestMismatch` if it is wrong.
    pub fn put_zstd(
        &self,
        f: DigestFunction,
        expected: &Digest,
        mut stream: impl Read,
    ) -> Result<(), CacheError> {
        let mut writer = self.zstd_writer(f, expected)?;
        let mut buffer = vec![0; input_limit(expected.size).min(CHUNK as u64) as usize];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return writer.commit(),
                Ok(count) => writer.write(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CacheError::Source(error)),
            }
        }
    }
}

impl ZstdWriter {
    /// Takes the next compressed bytes, cut anywhere.
    ///
    /// # Errors
    /// `BadCompression`, `TooLong`, `Io`; the writer is then of no more use.
    pub fn write(&mut self, compressed: &[u8]) -> Result<(), CacheError> {
        if self.broken {
            return Err(CacheError::BadCompression("an earlier piece of this stream was bad".to_owned()));
        }
        let result = self.decode(compressed);
        self.broken = result.is_err();
        result
    }

    fn decode(&mut self, compressed: &[u8]) -> Result<(), CacheError> {
        if compressed.len() as u64 > self.limit - self.written {
            return Err(CacheError::BadCompression(format!("more than {} bytes came", self.limit)));
        }
        self.decoder.write_all(compressed).map_err(sort_out)?;
        self.written += compressed.len() as u64;
        Ok(())
    }

    /// *Compressed* bytes taken so far (what the REAPI calls `committed_size` of a compressed upload).
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Verifies the whole and gives it its name.
    ///
    /// # Errors
    /// `BadCompression` if the stream stopped in the middle of a frame; else as for [`BlobWriter::commit`].
    pub fn commit(self) -> Result<(), CacheError> {
        if self.broken {
            return Err(CacheError::BadCompression("an earlier piece of this stream was bad".to_owned()));
        }
        self.decoder.finish().map_err(sort_out)?.0.commit()
    }
}

/// Errors that come out of the decoder are the sink's, which are ours, or zstd's own.
fn sort_out(error: io::Error) -> CacheError {
    match error.downcast::<CacheError>() {
        Ok(ours) => ours,
        Err(error) => CacheError::BadCompression(error.to_string()),
    }
}

struct Sink(BlobWriter);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
