//! Blobs out to where a build or a sandbox needs them: copies at a path, and read-only files to link from.
//! Also the one way in which file contents are copied here: reflink where the file system can, and hashed, unless
//! this process has hashed the large file before and it has not changed since.

use std::fs::Metadata;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use dbuild_proto::{Digest, DigestFunction, Hasher};
use fs_err as fs;

use crate::blobs::IN_MEMORY;
use crate::error::CacheError;
use crate::layout::{Entry, Kind};
use crate::store::{Inner, Store, is_absent, is_empty_blob};
use crate::temp::TempFile;

/// Bytes read at a time where a file is not taken whole: large enough for the hash's wide paths, small enough
/// to stay in the second-level cache between hashing and writing.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Files smaller than this, in bytes, are not worth a reflink's metadata transaction.
const REFLINK_FROM: u64 = 64 * 1024;

impl Store {
    /// Puts a verified copy of the blob at `to`: a temp file beside it, then `rename`. Nobody sees a half file there;
    /// an old one goes just before the new one comes. The file
    /// is new (fresh inode and mtime, never a hard link into the store) and has exactly `mode`, whatever the
    /// umask. A kill may leave the temp file, `.dbuild-*.tmp`, never a half `to`.
    ///
    /// # Errors
    /// `NotFound` as for [`Store::read`], and then `to` is as it was. `Destination` when `to` cannot be
    /// written; also when something is there that is neither a file nor a symlink (`/dev/null`, say, which a
    /// rename would replace). A symlink is replaced, not followed.
    pub fn copy_to(&self, f: DigestFunction, d: &Digest, to: &Path, mode: u32) -> Result<(), CacheError> {
        let entry = Entry::blob(f, d);
        let source = if is_empty_blob(f, d) {
            None
        } else {
            Some(self.inner.open(&entry)?.ok_or(CacheError::NotFound(*d))?)
        };
        let replaces = refuse_special(to).map_err(CacheError::Destination)?;
        let mut temp = self.inner.session.create_beside(to).map_err(CacheError::Destination)?;
        if let Some((mut file, metadata)) = source {
            self.inner.fill(f, &entry, &mut file, &metadata, &mut temp, CacheError::Destination)?;
        }
        if replaces {
            // ext4 and btrfs write a file out to the disk when it is renamed over another one, for the sake of
            // programs that want one of the two after a crash. A build makes it again.
            match fs::remove_file(to) {
                // Somebody else puts the same file there, or took it away.
                Err(error) if !is_absent(&error) => return Err(CacheError::Destination(error)),
                _ => {}
            }
        }
        temp.persist(to, mode & 0o7777, false).map_err(CacheError::Destination)
    }

    /// The path of a read-only file of the store with the blob's bytes: mode 0444, or 0555 if `executable`
    /// (a second file, made on the first such call). To hard-link or bind-mount from, never to write to.
    ///
    /// The bytes are hashed at the first call in this process and whenever the file has changed since (not at
    /// each call: inputs are staged thousands of times). Eviction may remove the file at any time after: a
    /// link that fails with `NotFound` asks again, or holds a [`Pin`](crate::Pin). Its mtime is the store's,
    /// not the build's. The caller meets the file system's limit of links per file (`EMLINK`; 65,000 on
    /// ext4), and `ETXTBSY` when it executes a file in the instant after it was made, while another thread
    /// forks: both by trying again.
    ///
    /// # Errors
    /// `NotFound` as for [`Store::read`].
    pub fn linkable(&self, f: DigestFunction, d: &Digest, executable: bool) -> Result<PathBuf, CacheError> {
        let blob = Entry::blob(f, d);
        if is_empty_blob(f, d) && self.inner.stat(&blob)?.is_none() {
            // The one blob that is never put, since it always is there.
            let temp = self.inner.create(0)?;
            self.inner.install(temp, &blob, 0)?;
        }
        let entry = if executable { Entry { kind: Kind::Executable(f), digest: *d } } else { blob };
        if let Some(path) = self.inner.verified_path(f, &entry)? {
            return Ok(path);
        }
        if !executable {
            return Err(CacheError::NotFound(*d));
        }
        let _making = self.inner.making.enter(entry);
        if let Some(path) = self.inner.verified_path(f, &entry)? {
            return Ok(path);
        }
        let (mut file, metadata) = self.inner.open(&blob)?.ok_or(CacheError::NotFound(*d))?;
        let mut temp = self.inner.create(d.size)?;
        self.inner.fill(f, &blob, &mut file, &metadata, &mut temp, CacheError::Io)?;
        self.inner.install(temp, &entry, d.size)?;
        let path = entry.path(&self.inner.root);
        self.inner.verified.remember(&entry, &fs::symlink_metadata(&path)?);
        Ok(path)
    }
}

impl Inner {
    /// The path of an entry whose bytes this process has verified, now or before; `None` if it is not there
    /// or was damaged.
    fn verified_path(&self, f: DigestFunction, entry: &Entry) -> Result<Option<PathBuf>, CacheError> {
        use std::os::unix::fs::PermissionsExt as _;

        let Some(metadata) = self.stat(entry)? else { return Ok(None) };
        let path = entry.path(&self.root);
        if metadata.permissions().mode() & 0o7777 != entry.kind.mode() {
            fs::set_permissions(&path, std::fs::Permissions::from_mode(entry.kind.mode()))?;
        }
        // The second look is for an mtime that `stat` has just refreshed.
        if self.verified.knows(entry, &metadata) || self.verified.knows(entry, &fs::symlink_metadata(&path)?)
        {
            return Ok(Some(path));
        }
        let Some((mut file, metadata)) = self.open(entry)? else { return Ok(None) };
        match self.check(f, entry, &mut file, &metadata) {
            Ok(()) => self.verified.remember(entry, &file.metadata()?),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(path))
    }

    /// Copies an open blob into a temp file and verifies what was copied. `blame` says whose disk `temp` is
    /// on.
    fn fill(
        &self,
        f: DigestFunction,
        entry: &Entry,
        file: &mut fs::File,
        metadata: &Metadata,
        temp: &mut TempFile,
        blame: fn(io::Error) -> CacheError,
    ) -> Result<(), CacheError> {
        if metadata.len() > IN_MEMORY && self.verified.knows(entry, metadata) {
            // Hashed before, and not changed since: the kernel may copy it by itself.
            let copied = io::copy(file.file_mut(), temp.file().file_mut()).map_err(blame)?;
            return if copied == entry.digest.size { Ok(()) } else { self.refuse(entry, metadata) };
        }
        match transfer(f, file, metadata.len(), temp.file(), metadata.len()) {
            Ok(copied) if copied == entry.digest => {
                self.verified.remember(entry, metadata);
                Ok(())
            }
            // Too large: it grew after it was opened, which nothing in the store does.
            Ok(_) | Err(CopyFault::TooLarge { .. }) => self.refuse(entry, metadata),
            Err(fault) => Err(fault.into_error(CacheError::Io, blame)),
        }
    }

    fn refuse(&self, entry: &Entry, metadata: &Metadata) -> Result<(), CacheError> {
        self.discard(entry, metadata);
        Err(CacheError::NotFound(entry.digest))
    }
}

/// Which side of a copy failed.
pub(crate) enum CopyFault {
    Read(io::Error),
    Write(io::Error),
    TooLarge { size: u64, limit: u64 },
}

impl CopyFault {
    pub(crate) fn into_error(
        self,
        read: fn(io::Error) -> CacheError,
        write: fn(io::Error) -> CacheError,
    ) -> CacheError {
        match self {
            CopyFault::Read(error) => read(error),
            CopyFault::Write(error) => write(error),
            CopyFault::TooLarge { size, limit } => CacheError::TooLarge { size, limit },
        }
    }
}

/// Copies all of `from`, expected to be `size` bytes long, into the empty file `to`; returns the digest of
/// what `to` holds. Stops with `TooLarge` past `limit` bytes (a file that grows while it is read).
pub(crate) fn transfer(
    f: DigestFunction,
    from: &mut fs::File,
    size: u64,
    to: &mut fs::File,
    limit: u64,
) -> Result<Digest, CopyFault> {
    if size >= REFLINK_FROM && rustix::fs::ioctl_ficlone(to.file(), from.file()).is_ok() {
        // The clone is a snapshot: hashing it, not the source, tells what we have.
        to.seek(SeekFrom::Start(0)).map_err(CopyFault::Write)?;
        return hash_all(f, to, limit, |_| Ok(()));
    }
    if size <= IN_MEMORY {
        let mut bytes = Vec::with_capacity(size as usize + 1);
        from.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(CopyFault::Read)?;
        if bytes.len() as u64 > limit {
            return Err(CopyFault::TooLarge { size: bytes.len() as u64, limit });
        }
        to.write_all(&bytes).map_err(CopyFault::Write)?;
        return Ok(f.digest(&bytes));
    }
    hash_all(f, from, limit, |bytes| to.write_all(bytes))
}

fn hash_all(
    f: DigestFunction,
    from: &mut fs::File,
    limit: u64,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Digest, CopyFault> {
    let mut hasher = Hasher::new(f);
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let count = from.read(&mut buffer).map_err(CopyFault::Read)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        size += count as u64;
        if size > limit {
            return Err(CopyFault::TooLarge { size, limit });
        }
        hasher.update(&buffer[..count]);
        sink(&buffer[..count]).map_err(CopyFault::Write)?;
    }
}

/// Whether something is there that a file may replace; an error if it is something else.
fn refuse_special(to: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(to) {
        Ok(found) if found.is_file() || found.is_symlink() => Ok(true),
        Ok(_) => {
            let message = format!("{} is not a regular file", to.display());
            Err(io::Error::new(ErrorKind::InvalidInput, message))
        }
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
