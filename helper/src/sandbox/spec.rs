//! What the helper and a sandbox's first process say to each other over the control socket of one action.
//!
//! Wire: a frame is a `u32` little-endian length and that many bytes of protobuf. The helper sends one [`Spec`],
//! then perhaps the byte [`KILL`]; end of file means the same as KILL. The other side sends one [`Report`] when
//! no process of the action is left, and closes. Both ends are the same binary, so there is no version.

use std::io::{self, Read, Write};

/// After the spec: end the action now.
pub const KILL: u8 = b'K';

/// Frames are smaller than this: arguments and environment are bounded by the kernel's `ARG_MAX` anyway.
pub const MAX_FRAME: usize = 32 << 20;

/// The ids that actions have inside. Outside it is the helper's own user or, for a helper that is root,
/// [`OUTSIDE_ID`].
pub const INSIDE_ID: u32 = 1000;

/// `nobody`: owns nothing and may nothing.
pub const OUTSIDE_ID: u32 = 65534;

/// First byte of a request to the launcher: what kind of process to make.
pub mod mode {
    /// New user, mount, pid, net, ipc and uts namespaces.
    pub const NAMESPACES: u8 = 1;
    /// The action runs under [`super::OUTSIDE_ID`].
    pub const OTHER_UID: u8 = 2;
}

/// All that the first process must know. Paths are bytes as the kernel takes them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Spec {
    /// The laid-out tree on the machine's file system.
    #[prost(bytes = "vec", tag = "1")]
    pub root: Vec<u8>,
    /// The tree becomes `/`; otherwise it is the execution root in the machine's own file system.
    #[prost(bool, tag = "2")]
    pub root_is_root: bool,
    #[prost(message, repeated, tag = "3")]
    pub covers: Vec<Cover>,
    /// Size of a fresh `/tmp` in bytes; 0: the tree has its own.
    #[prost(uint64, tag = "4")]
    pub tmp_bytes: u64,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub argv: Vec<Vec<u8>>,
    /// `NAME=VALUE`.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub env: Vec<Vec<u8>>,
    /// Relative to the tree.
    #[prost(bytes = "vec", tag = "7")]
    pub cwd: Vec<u8>,
    /// Bytes, processes, bytes; 0: no limit.
    #[prost(uint64, tag = "8")]
    pub data_bytes: u64,
    #[prost(uint64, tag = "9")]
    pub processes: u64,
    #[prost(uint64, tag = "10")]
    pub file_bytes: u64,
    /// Directories of the machine that the action must not see, where it sees the machine's.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub hidden: Vec<Vec<u8>>,
    /// Bits of [`mode`], as in the request.
    #[prost(uint32, tag = "12")]
    pub mode: u32,
}

/// A mount over part of the tree.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Cover {
    /// A directory of the machine; empty: the place itself, with another access.
    #[prost(bytes = "vec", tag = "1")]
    pub source: Vec<u8>,
    /// Relative to the tree; a real directory all the way.
    #[prost(bytes = "vec", tag = "2")]
    pub target: Vec<u8>,
    #[prost(bool, tag = "3")]
    pub writable: bool,
}

/// How it ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// The program did not start: what was tried, and `errno`.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    #[prost(int32, tag = "2")]
    pub exit_code: i32,
    /// The signal that ended it; 0: it exited.
    #[prost(int32, tag = "3")]
    pub signal: i32,
    /// Processor time and largest resident set of all processes of the action.
    #[prost(uint64, tag = "4")]
    pub user_us: u64,
    #[prost(uint64, tag = "5")]
    pub system_us: u64,
    #[prost(uint64, tag = "6")]
    pub max_rss_kib: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Failure {
    /// Fits "failed to …".
    #[prost(string, tag = "1")]
    pub attempt: String,
    #[prost(int32, tag = "2")]
    pub errno: i32,
    /// It was the action's own program that could not be executed, not the sandbox that could not be made.
    #[prost(bool, tag = "3")]
    pub program: bool,
}

impl Failure {
    pub fn new(attempt: impl Into<String>, error: &io::Error) -> Failure {
        Failure { attempt: attempt.into(), errno: error.raw_os_error().unwrap_or(0), program: false }
    }

    /// `failed to …`'s rest, with the system's word for the error.
    pub fn sentence(&self) -> String {
        format!("{}: {}", self.attempt, io::Error::from_raw_os_error(self.errno))
    }
}

/// A frame ready to send.
pub fn frame(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    // Encoding into a vector cannot run out of room.
    let _ = message.encode(&mut bytes);
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Reads one frame.
pub fn read_frame<M: prost::Message + Default>(mut from: impl Read) -> io::Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; checked_length(length)?];
    from.read_exact(&mut bytes)?;
    M::decode(bytes.as_slice()).map_err(io::Error::other)
}

/// The length of the frame that begins with these bytes.
pub fn checked_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MAX_FRAME { Err(io::Error::other("frame too long")) } else { Ok(length) }
}

/// Sends one frame.
pub fn write_frame(mut to: impl Write, message: &impl prost::Message) -> io::Result<()> {
    to.write_all(&frame(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn frames_round_trip_and_garbage_is_an_error(root: Vec<u8>, garbage: Vec<u8>) {
            let spec = Spec { root, tmp_bytes: 7, ..Spec::default() };
            let sent = frame(&spec);
            proptest::prop_assert_eq!(read_frame::<Spec>(sent.as_slice()).unwrap(), spec);
            let _ = read_frame::<Spec>(garbage.as_slice());
        }
    }
}
