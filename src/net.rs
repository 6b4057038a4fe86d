//! Byte streams between nodes: the door through which a simulation brings a network of its own.
use std::{future::Future, io, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection, as far as those know it who speak over it.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// A connection of any kind.
pub type Connection = Box<dyn ByteStream>;

/// Opens connections. Where there is none, TCP is used.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `host:port`.
    fn dial(&self, address: String) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;
}
