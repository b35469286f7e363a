//! One shim's connection: frames in, frames out. At first it is a thread's ([`First`]), later the runtime's.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as Blocking;
use std::time::{Duration, Instant};

use dbuild_shims::frame::{self, FromShim, ToShim};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A shim sends its call at once; one that has not sent it by then is left to itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection on which a thread waits.
pub struct First {
    stream: Blocking,
    until: Instant,
}

/// Reading ends with an error when time is up, however little comes at a time.
impl Read for First {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(bytes)
    }
}

impl First {
    pub fn new(stream: Blocking) -> io::Result<Self> {
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(First { stream, until: Instant::now() + PATIENCE })
    }

    pub fn receive(&mut self) -> io::Result<FromShim> {
        let mut header = [0; 4];
        self.read_exact(&mut header)?;
        let length = frame::body_length(header)?;
        // Grown by what comes, not by what is announced.
        let mut body = Vec::with_capacity(length.min(64 << 10));
        self.take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(FromShim::decode(&body)?)
    }

    pub fn send(&mut self, message: &ToShim) -> io::Result<()> {
        self.stream.write_all(&message.encode())
    }

    /// Hands the connection to the runtime, in whose context this must be called.
    pub fn go_on(self) -> io::Result<Connection> {
        self.stream.set_nonblocking(true)?;
        Ok(Connection(UnixStream::from_std(self.stream)?))
    }
}

pub struct Connection(UnixStream);

impl Connection {
    /// The next frame; `None` when the shim is gone.
    pub async fn receive(&mut self) -> io::Result<Option<FromShim>> {
        let mut header = [0; 4];
        match self.0.read_exact(&mut header).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        let length = frame::body_length(header)?;
        let mut body = Vec::new();
        (&mut self.0).take(length as u64).read_to_end(&mut body).await?;
        if body.len() < length {
            return Ok(None);
        }
        Ok(Some(FromShim::decode(&body)?))
    }

    pub async fn send(&mut self, message: &ToShim) -> io::Result<()> {
        self.0.write_all(&message.encode()).await
    }

    /// Resolves when the shim (or what it became) is gone. Nothing is expected from it meanwhile.
    pub async fn closed(&mut self) {
        let mut byte = [0];
        // An error is an end, too; a byte is a shim out of step, with which there is nothing to talk about.
        let _ = self.0.read(&mut byte).await;
    }
}
