//! Serving HTTP: a connection is with the HTTP library while there is talk, and without it while a long poll waits.
//!
//! The library keeps 8 KiB to read and 8 KiB to write for as long as a request is in flight. Thousands of polls wait at
//! once and need neither: the connection is taken back from the library, and given to it again when the poll was answered.
use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{HeaderValue, Response, header},
};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::{Request, Version, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::accept::{self, Place, stopped};
use crate::nacos::http::{Parked, Parking, Site};

/// A connection that sends no whole request head for this long is closed. Longer than clients keep idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest request line with all headers. (A target beyond 64 KiB is refused with 414 by the HTTP library.)
const HEAD_BYTES_MAX: usize = 512 * 1024;
/// The answer to a poll names at most all keys of a request, whose names are bounded as well.
const POLL_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Requests in flight when the server stops have this long.
const DRAIN: Duration = Duration::from_millis(1_000);
/// What the head of an answer to a poll takes, and some.
const ANSWER_HEAD_BYTES: usize = 512;

static CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Serves until `stopping` becomes `true`, then lets what is in flight end.
pub(super) async fn serve(listener: TcpListener, site: Site, stopping: watch::Receiver<bool>) {
    accept::serve(listener, stopping.clone(), DRAIN, |socket, peer, place| {
        connection(socket, peer, site.clone(), stopping.clone(), place)
    })
    .await;
}

/// Serves until the client is gone, or the server stops and all that came in is answered.
async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    site: Site,
    mut stopping: watch::Receiver<bool>,
    _place: Place,
) {
    let mut wire = Wire { socket, read_ahead: Bytes::new(), flushed: Arc::default() };
    loop {
        // In a box: a connection that waits gives back what talking takes.
        let Some((back, poll)) = Box::pin(talk(wire, peer, &site, &mut stopping)).await else { return };
        wire = back;
        let answer = tokio::select! {
            answer = poll.answer() => answer,
            () = wire.hung_up() => return,
        };
        let close = *stopping.borrow();
        if let Err(err) = wire.send(answer, close).await {
            tracing::debug!(%peer, %err, "answer a poll");
            return;
        }
        if close {
            return;
        }
    }
}

/// Leaves the connection to the HTTP library until it has ended (`None`) or carries a poll that waits.
async fn talk(
    wire: Wire,
    peer: SocketAddr,
    site: &Site,
    stopping: &mut watch::Receiver<bool>,
) -> Option<(Wire, Parked)> {
    let (parking, flushed) = (Arc::<Parking>::default(), wire.flushed.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let may_park = may_park(&request);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        if may_park {
            request.extensions_mut().insert(parking.clone());
        }
        site.clone().answer(request).map(Ok::<_, Infallible>)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(wire), service);
    let mut told = false;
    loop {
        let served = tokio::select! {
            served = poll_fn(|context| poll_talk(&mut connection, &parking, &flushed, context)) => served,
            () = stopped(stopping), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
                continue;
            }
        };
        match served {
            Ok(None) => return None,
            Ok(Some(poll)) => {
                let parts = connection.into_parts();
                // Often nothing, and then not to be kept: it is a part of the library's buffer.
                return Some((
                    Wire { read_ahead: Bytes::copy_from_slice(&parts.read_buf), ..parts.io.into_inner() },
                    poll,
                ));
            }
            Err(err) => {
                // Clients hang up as they like.
                tracing::debug!(%peer, %err, "connection ended");
                return None;
            }
        }
    }
}

/// `Ready`: the connection has ended, or carries a poll that waits and is silent: the answers to earlier requests are out
/// (the library has nothing left in its buffer), and of this one nothing comes from its handler.
fn poll_talk(
    connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
    parking: &Parking,
    flushed: &AtomicBool,
    context: &mut Context<'_>,
) -> Poll<hyper::Result<Option<Parked>>> {
    if let Poll::Ready(ended) = Pin::new(connection).poll(context) {
        return Poll::Ready(ended.map(|()| None));
    }
    let parked = if flushed.load(Ordering::Relaxed) { parking.take() } else { None };
    parked.map_or(Poll::Pending, |poll| Poll::Ready(Ok(Some(poll))))
}

/// Whether a poll may be taken from the library: whatever is said about the connection, or is older, is left to it.
fn may_park(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let keep_alive = |it: &HeaderValue| it.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    request.version() == Version::HTTP_11
        && !headers.contains_key(header::UPGRADE)
        && headers.get_all(header::CONNECTION).iter().all(keep_alive)
}

/// A socket, and what was read from it but belongs to a request that comes later.
struct Wire {
    socket: TcpStream,
    read_ahead: Bytes,
    /// Whether all that was to be written is written: the library asks for a flush when its buffer is empty.
    flushed: Arc<AtomicBool>,
}

impl Wire {
    /// Resolves when the client is gone. What it sends meanwhile stays where it is; as with the library, nobody looks for
    /// an end behind it before the poll is answered.
    async fn hung_up(&self) {
        if self.read_ahead.is_empty() && !matches!(self.socket.peek(&mut [0]).await, Ok(1)) {
            return;
        }
        pending::<Infallible>().await;
    }

    /// Sends an answer as the library does.
    async fn send(&mut self, answer: Response<Body>, close: bool) -> io::Result<()> {
        let (head, body) = answer.into_parts();
        let body = to_bytes(body, POLL_ANSWER_BYTES_MAX).await.map_err(io::Error::other)?;
        let mut out = Vec::with_capacity(ANSWER_HEAD_BYTES + body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(head.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        let length = HeaderValue::from(body.len());
        let connection = close.then_some((&header::CONNECTION, &CLOSE));
        for (name, value) in head.headers.iter().chain([(&header::CONTENT_LENGTH, &length)]).chain(connection) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&body);
        self.socket.write_all(&out).await?;
        if close { self.socket.shutdown().await } else { Ok(()) }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buf);
        }
        let taken = self.read_ahead.len().min(buf.remaining());
        buf.put_slice(&self.read_ahead.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
