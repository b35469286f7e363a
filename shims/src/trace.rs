//! The trace of one compile: makes the empty file, and reads what the interceptor recorded in it.
//!
//! Says what was opened, looked at and found absent, and which variables were asked for, in the order in which it happened (threads and
//! processes interleaved). It does not know which of it is an input: that is for the initiator.

pub mod format;

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use format::*;

/// A capacity that holds the records of a very large compile (about 100,000 of them); costs no disk until used.
pub const DEFAULT_CAPACITY: u64 = 16 << 20;

/// What was done to the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Opened for reading; also directories and `O_PATH`.
    OpenRead,
    /// Opened so that it can be written, created or truncated; temporary files included.
    OpenWrite,
    /// `stat`, `lstat`, `fstatat`, `statx`.
    Stat,
    /// `access` and its like.
    Access,
    Readlink,
    Opendir,
    /// `second` is the new name.
    Rename,
    Unlink,
    /// About to be executed; recorded before the attempt, so the result is always `Found`.
    Exec,
    /// `realpath`: each link on the way was read, too.
    Realpath,
    /// `getenv`: the path is the variable's name. Each name is there once or a few times per process.
    Variable,
    /// A directory was made; one that was there already is [`Outcome::Failed`] (`EEXIST`).
    MakeDirectory,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Found,
    /// `ENOENT` or `ENOTDIR`.
    Absent,
    /// Any other `errno`.
    Failed(u16),
}

/// One look at, or change of, the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub kind: Kind,
    pub outcome: Outcome,
    /// Absolute, but otherwise as the program wrote it: `..` and symbolic links are still in it. A
    /// [`Kind::Variable`]'s name.
    pub path: &'a Path,
    /// The new name of a [`Kind::Rename`], absolute; empty for the other kinds.
    pub second: &'a Path,
}

/// Why a file is not a trace.
#[derive(Debug)]
pub enum TraceError {
    Io(io::Error),
    /// Not a trace file of this version, or of an impossible size.
    Header,
    /// The record at this offset contradicts the format.
    Record(u64),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceError::Io(_) => write!(f, "read or make a trace file"),
            TraceError::Header => write!(f, "understand a trace file's header"),
            TraceError::Record(offset) => write!(f, "understand the trace record at offset {offset}"),
        }
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TraceError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for TraceError {
    fn from(error: io::Error) -> TraceError {
        TraceError::Io(error)
    }
}

/// Makes an empty trace file, sparse; fails if `path` exists. `capacity` (bytes) is held to the format's limits.
pub fn create(path: &Path, capacity: u64) -> io::Result<()> {
    let capacity = capacity.clamp(MIN_CAPACITY as u64, MAX_CAPACITY as u64) & !7;
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[CAPACITY_AT..CAPACITY_AT + 8].copy_from_slice(&capacity.to_ne_bytes());
    header[NEXT_AT..NEXT_AT + 8].copy_from_slice(&(HEADER as u64).to_ne_bytes());
    let mut file = File::create_new(path)?;
    file.write_all(&header)?;
    file.set_len(capacity)
}

/// A trace, read after its last writer has ended. The processes that wrote it may have been anybody's: nothing
/// in it is believed before it was checked.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The used part of the file, header included.
    bytes: Vec<u8>,
    flags: u32,
}

impl Trace {
    /// Reads the used part of the file at `path`.
    pub fn read(path: &Path) -> Result<Trace, TraceError> {
        let mut file = File::open(path)?;
        let mut bytes = vec![0; HEADER];
        file.read_exact(&mut bytes)?;
        let used = used_size(&bytes)?;
        file.seek(SeekFrom::Start(HEADER as u64))?;
        file.take((used - HEADER) as u64).read_to_end(&mut bytes)?;
        Trace::parse(bytes)
    }

    /// Takes a trace file's bytes; they may stop after the last record.
    pub fn parse(mut bytes: Vec<u8>) -> Result<Trace, TraceError> {
        let used = used_size(&bytes)?;
        let mut flags = u32_at(&bytes, FLAGS_AT).ok_or(TraceError::Header)?;
        if used_offset(&bytes)? > used as u64 || bytes.len() < used {
            flags |= FLAG_OVERFLOW;
        }
        bytes.truncate(used);
        Ok(Trace { bytes, flags })
    }

    /// Records were lost, or a writer was killed within one: what the trace does not show may still have
    /// happened.
    pub fn overflowed(&self) -> bool {
        self.flags & FLAG_OVERFLOW != 0 || self.records().any(|record| record.is_err())
    }

    /// A program took part whose look-ups cannot be seen.
    pub fn blind(&self) -> bool {
        self.flags & FLAG_BLIND != 0
    }

    /// Whether the trace shows everything.
    pub fn complete(&self) -> bool {
        !self.overflowed() && !self.blind()
    }

    /// The records in order; ends after the first that is damaged.
    pub fn records(&self) -> Records<'_> {
        Records { bytes: &self.bytes, offset: HEADER }
    }
}

/// Iterator over a trace's records.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let at = self.offset as u64;
        match decode(rest) {
            Some((record, size)) => {
                self.offset += size;
                Some(Ok(record))
            }
            None => {
                self.offset = self.bytes.len();
                Some(Err(TraceError::Record(at)))
            }
        }
    }
}

fn decode(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let size = u32_at(bytes, 0)? as usize;
    let bytes = bytes.get(..size)?;
    let &[kind, result, errno_low, errno_high] = bytes.get(4..8)? else { return None };
    let (first, second) = (u32_at(bytes, 8)? as usize, u32_at(bytes, 12)? as usize);
    if record_size(first.checked_add(second)?) != size {
        return None;
    }
    let paths = bytes.get(RECORD..)?;
    let (path, rest) = paths.split_at_checked(first)?;
    let second = rest.get(..second)?;
    let named = if kind == VARIABLE { !path.is_empty() } else { path.first() == Some(&b'/') };
    if !named || path.contains(&0) || second.contains(&0) {
        return None;
    }
    let kind = match kind {
        OPEN_READ => Kind::OpenRead,
        OPEN_WRITE => Kind::OpenWrite,
        STAT => Kind::Stat,
        ACCESS => Kind::Access,
        READLINK => Kind::Readlink,
        OPENDIR => Kind::Opendir,
        RENAME => Kind::Rename,
        UNLINK => Kind::Unlink,
        EXEC => Kind::Exec,
        REALPATH => Kind::Realpath,
        VARIABLE => Kind::Variable,
        MAKE_DIRECTORY => Kind::MakeDirectory,
        _ => return None,
    };
    let outcome = match result {
        FOUND => Outcome::Found,
        ABSENT => Outcome::Absent,
        FAILED => Outcome::Failed(u16::from_ne_bytes([errno_low, errno_high])),
        _ => return None,
    };
    let as_path = |bytes| Path::new(OsStr::from_bytes(bytes));
    Some((Record { kind, outcome, path: as_path(path), second: as_path(second) }, size))
}

/// The offset after the last record: at most the capacity.
fn used_size(header: &[u8]) -> Result<usize, TraceError> {
    let capacity = u64_at(header, CAPACITY_AT).ok_or(TraceError::Header)?;
    let possible = (MIN_CAPACITY as u64..=MAX_CAPACITY as u64).contains(&capacity);
    if header.len() < HEADER || !header.starts_with(&MAGIC) || !possible {
        return Err(TraceError::Header);
    }
    let used = used_offset(header)?;
    if used < HEADER as u64 { Err(TraceError::Header) } else { Ok(used.min(capacity) as usize) }
}

fn used_offset(header: &[u8]) -> Result<u64, TraceError> {
    u64_at(header, NEXT_AT).ok_or(TraceError::Header)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
