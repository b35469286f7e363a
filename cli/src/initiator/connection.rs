//! One shim's connection: frames in, frames out.

use std::io;

use dbuild_shims::frame::{self, FromShim, ToShim};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

pub struct Connection(UnixStream);

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Connection(stream)
    }

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
