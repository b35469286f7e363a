//! The socket between supervisor and worker: frames both ways (`supervisor.proto`). Its end is the other side's end.

use std::io;
use std::os::unix::net::UnixStream as StdStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::sandbox::spec::{checked_length, frame};

/// Reads messages.
#[derive(Debug)]
pub struct Reader(OwnedReadHalf);

/// Writes messages.
#[derive(Debug)]
pub struct Writer(OwnedWriteHalf);

/// Both ends of a socket that is connected already.
pub fn link(socket: StdStream) -> io::Result<(Reader, Writer)> {
    socket.set_nonblocking(true)?;
    let (reader, writer) = UnixStream::from_std(socket)?.into_split();
    Ok((Reader(reader), Writer(writer)))
}

impl Reader {
    /// The next message; an error at the end, too.
    pub async fn next<M: prost::Message + Default>(&mut self) -> io::Result<M> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).await?;
        let mut bytes = vec![0; checked_length(length)?];
        self.0.read_exact(&mut bytes).await?;
        M::decode(bytes.as_slice()).map_err(io::Error::other)
    }
}

impl Writer {
    /// Sends one message; waits as long as the other side does not read.
    pub async fn send(&mut self, message: &impl prost::Message) -> io::Result<()> {
        self.0.write_all(&frame(message)).await
    }
}
