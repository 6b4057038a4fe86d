//! Byte streams between nodes: the door through which a simulation brings a network of its own.
use std::{future::Future, io, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

/// Whether this is `host:port`, and the port is a number of one.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0))
}

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
