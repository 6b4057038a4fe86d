//! A TCP connection that knows its name, so that both methods called on it find each other.
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tonic::transport::server::Connected;

use super::connection::Connection;
use crate::types::Millis;

/// What is known of a TCP connection.
pub struct Transport {
    /// Nacos: `<ms>_<ip>_<port>`.
    pub(super) id: Box<str>,
    pub(super) peer: SocketAddr,
    registered: Mutex<Option<Arc<Connection>>>,
}

impl Transport {
    /// The client whose stream is on this connection.
    pub(super) fn registered(&self) -> Option<Arc<Connection>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names the client. `false`: there is one already.
    pub(super) fn register(&self, connection: &Arc<Connection>) -> bool {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        if registered.is_none() {
            *registered = Some(connection.clone());
            return true;
        }
        false
    }

    pub(super) fn deregister(&self) {
        *self.registered.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A TCP connection, for a tonic server.
pub struct Socket {
    stream: TcpStream,
    transport: Arc<Transport>,
    _place: OwnedSemaphorePermit,
}

impl Socket {
    /// A connection that was accepted at `now`, and its place among those that may be open.
    pub fn new(stream: TcpStream, peer: SocketAddr, now: Millis, place: OwnedSemaphorePermit) -> Self {
        let id = format!("{}_{}_{}", now.0, peer.ip(), peer.port()).into();
        Self { stream, transport: Arc::new(Transport { id, peer, registered: Mutex::default() }), _place: place }
    }
}

impl Connected for Socket {
    type ConnectInfo = Arc<Transport>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.transport.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
