//! What can go wrong in intake, and what it means for the caller: an [`IntakeError`] never fails a build, it
//! makes the task run here with that reason; a [`Doubt`] says that a result must not be remembered.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::layout::LayoutError;

/// Why intake could not do its work. The messages fit "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The error of the system names the file (fs-err).
    #[error("read the build's files: {0}")]
    Io(#[from] io::Error),
    /// REAPI strings are UTF-8; a task with such a path or argument runs here.
    #[error("send {0:?} to a helper: not UTF-8")]
    NotUtf8(OsString),
    #[error("lay out the input root: {0}")]
    Layout(LayoutError),
    #[error("understand the compiler {compiler}: {reason}")]
    Compiler { compiler: PathBuf, reason: String },
    #[error("use the near cache: {0}")]
    Store(#[from] dbuild_cache::CacheError),
}

impl From<LayoutError> for IntakeError {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::NotUtf8(path) => IntakeError::NotUtf8(path.into_os_string()),
            LayoutError::Io(error) => IntakeError::Io(error),
            other => IntakeError::Layout(other),
        }
    }
}

/// Why what was observed of a compile cannot be trusted: its result is right, but must not be remembered.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// The trace is damaged, overflowed, or was never begun.
    #[error("trust the trace: {0}")]
    Trace(String),
    /// A file changed while the compile ran, or too shortly before for a time stamp to tell.
    #[error("trust {0}: it is as new as the compile")]
    TooNew(PathBuf),
    /// A name that was looked for and not found is there now.
    #[error("trust the absence of {0}: it is there now")]
    Appeared(PathBuf),
    /// Something was read that is gone now.
    #[error("trust {0}: it was read and is gone")]
    Gone(PathBuf),
    /// Something that has no content to remember (a pipe, a socket, a device) was read.
    #[error("remember {0}: it is no regular file")]
    Special(PathBuf),
    #[error("read what the compile read: {0}")]
    Io(#[from] io::Error),
}
