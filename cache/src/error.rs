//! What can go wrong in the store, told so that a caller can choose: build without the cache, report a bad
//! peer, or blame the place it asked us to write to. Wording, hints and exit codes are not decided here.

use std::io;

use dbuild_proto::Digest;

/// Fragments fit after "failed to …". I/O errors carry the path that they are about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Not there, or it was damaged and has just been removed (see `Usage::damaged`).
    #[error("find blob {0} in the cache")]
    NotFound(Digest),
    /// The bytes that were handed in are not those that the digest names.
    #[error("verify a blob: expected {expected}, got {actual}")]
    DigestMismatch { expected: Digest, actual: Digest },
    /// More bytes were handed in than the digest announces; nothing of them is kept.
    #[error("take in blob {expected}: more bytes came than its size")]
    TooLong { expected: Digest },
    /// One blob or action value larger than the store takes at all, in bytes.
    #[error("store {size} bytes where at most {limit} are allowed")]
    TooLarge { size: u64, limit: u64 },
    /// The peer's zstd stream is corrupt, cut short, or wants more memory than we grant.
    #[error("decompress a zstd stream: {0}")]
    BadCompression(String),
    /// The caller's file, which was to be stored, cannot be read.
    #[error("read a file to store: {0}")]
    Source(#[source] io::Error),
    /// The place that the caller named cannot be written; the store itself is fine.
    #[error("write a file from the cache: {0}")]
    Destination(#[source] io::Error),
    /// The store's own directory.
    #[error("use the cache directory: {0}")]
    Io(#[source] io::Error),
}

impl CacheError {
    /// True where a miss is the right reading of the error.
    pub fn is_not_found(&self) -> bool {
        matches!(self, CacheError::NotFound(_))
    }

    /// True when the disk, a quota or the store's own limit leaves no room. For `Destination` it is the
    /// destination's disk that is full.
    pub fn is_full(&self) -> bool {
        match self {
            CacheError::TooLarge { .. } => true,
            _ => matches!(
                self.io_kind(),
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
            ),
        }
    }

    /// True when we may not write: a read-only file system or missing permission.
    pub fn is_read_only(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied))
    }

    /// The kind of the I/O error inside, if there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            CacheError::Source(error) | CacheError::Destination(error) | CacheError::Io(error) => {
                Some(error.kind())
            }
            _ => None,
        }
    }
}

impl From<io::Error> for CacheError {
    /// Takes back a `CacheError` that travelled through an `io::Read` or `io::Write` (see the other
    /// direction below); any other error is the store's own.
    fn from(error: io::Error) -> Self {
        match error.downcast::<CacheError>() {
            Ok(ours) => ours,
            Err(error) => CacheError::Io(error),
        }
    }
}

impl From<CacheError> for io::Error {
    /// For `io::Read` and `io::Write` on readers and writers of this crate.
    fn from(error: CacheError) -> Self {
        let kind = match &error {
            CacheError::NotFound(_) => io::ErrorKind::NotFound,
            CacheError::Source(inner) | CacheError::Destination(inner) | CacheError::Io(inner) => {
                inner.kind()
            }
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_recognised_through_fs_err() {
        for (errno, full, read_only) in [
            (rustix::io::Errno::NOSPC, true, false),
            (rustix::io::Errno::DQUOT, true, false),
            (rustix::io::Errno::ROFS, false, true),
            (rustix::io::Errno::ACCESS, false, true),
            (rustix::io::Errno::IO, false, false),
        ] {
            let error = CacheError::Io(errno.into());
            assert_eq!((error.is_full(), error.is_read_only()), (full, read_only), "{errno:?}");
        }
    }

    #[test]
    fn errors_survive_a_trip_through_io() {
        let digest = dbuild_proto::DigestFunction::Blake3.digest(b"x");
        let through: io::Error = CacheError::NotFound(digest).into();
        assert!(CacheError::from(through).is_not_found());
        let plain = io::Error::from(io::ErrorKind::StorageFull);
        assert!(CacheError::from(plain).is_full());
    }

    #[test]
    fn wording_fits_failed_to() {
        let digest = dbuild_proto::DigestFunction::Blake3.digest(b"");
        let error = CacheError::NotFound(digest);
        assert!(format!("failed to {error}").starts_with("failed to find blob af1349b9"));
    }
}
