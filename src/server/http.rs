//! Serving HTTP: a connection is with the HTTP library while there is talk, and without it while a long poll waits.
//!
//! The library keeps 8 KiB to read and 8 KiB to write for as long as it has the connection. Thousands of polls wait at
//! once and need neither: the connection is taken back from the library, and given to it again when there is more to read.
//! So it is when a client has asked one thing and not yet the next: thousands that have come at once, or were told of a
//! change at once, must not hold those buffers all at the same time.
use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
use hyper::{
    Request, Version,
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use super::accept::{self, Place, Places, stopped};
use crate::nacos::http::{Parked, Parking, Site};

/// A connection that sends no whole request head for this long is closed. Longer than clients keep idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest request line with all headers. (A target beyond 64 KiB is refused with 414 by the HTTP library.)
const HEAD_BYTES_MAX: usize = 512 * 1024;
/// The answer to a poll names at most all keys of a request, whose names are bounded as well.
const POLL_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Requests in flight when the server stops have this long.
const DRAIN: Duration = Duration::from_millis(1_000);
/// What is on its way when the server stops has this long to come: a request on a connection that was opened a moment ago, or
/// is kept. Some clients do not ask again when they are hung up on.
const LATE: Duration = Duration::from_millis(100);
/// What the head of an answer to a poll takes, and some.
const ANSWER_HEAD_BYTES: usize = 512;

static CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Serves until `stopping` becomes `true`, then lets what is in flight end.
pub(super) async fn serve(listener: TcpListener, places: Places, site: Site, stopping: watch::Receiver<bool>) {
    accept::serve(listener, places, stopping.clone(), DRAIN, |socket, peer, place| {
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
    let mut wire = Wire { socket, read_ahead: Bytes::new(), signs: Arc::default() };
    let mut may_rest = true;
    loop {
        // In a box: a connection that waits gives back what talking takes.
        let Some((back, pause)) = Box::pin(talk(wire, peer, &site, may_rest, &mut stopping)).await else { return };
        wire = back;
        // Who asks again without waiting will do so again: rests would cost more than they save. After a poll a client
        // often asks one thing and waits again.
        may_rest = matches!(pause, Pause::Poll(_));
        if let Pause::Poll(poll) = pause
            && !wire.answer(poll, peer, &stopping).await
        {
            return;
        }
        tokio::select! {
            () = wire.more() => {}
            () = late(&mut stopping) => return,
            () = sleep(HEAD_TIMEOUT) => return,
        }
    }
}

/// Resolves when the server has stopped and what comes now comes too late.
async fn late(stopping: &mut watch::Receiver<bool>) {
    stopped(stopping).await;
    sleep(LATE).await;
}

/// Why a connection is not with the HTTP library any more.
enum Pause {
    /// It carries a poll that waits.
    Poll(Parked),
    /// All that came in is answered.
    Rest,
}

/// Leaves the connection to the HTTP library until it has ended (`None`) or pauses.
async fn talk(
    mut wire: Wire,
    peer: SocketAddr,
    site: &Site,
    may_rest: bool,
    stopping: &mut watch::Receiver<bool>,
) -> Option<(Wire, Pause)> {
    let (parking, signs) = (Arc::<Parking>::default(), Arc::<Signs>::default());
    wire.signs = signs.clone();
    let is_stopping = stopping.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let first = signs.requests.fetch_add(1, Ordering::Relaxed) == 0;
        // What is left of a body that nobody read would be taken for a request.
        let to_rest = (may_rest && first && is_bodiless(&request)).then(|| signs.clone());
        let may_park = may_park(&request);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        if may_park {
            request.extensions_mut().insert(parking.clone());
        }
        let is_stopping = is_stopping.clone();
        site.clone().answer(request).map(move |mut answer| {
            if *is_stopping.borrow() {
                answer.headers_mut().insert(header::CONNECTION, CLOSE.clone());
            }
            Ok::<_, Infallible>(answer.map(|body| LastWord { body, to_rest }))
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(wire), service);
    let mut told = false;
    loop {
        let served = tokio::select! {
            served = poll_fn(|context| poll_talk(&mut connection, &parking, &signs, context)) => served,
            () = last_request(&signs, stopping), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
                continue;
            }
        };
        match served {
            Ok(None) => return None,
            Ok(Some(pause)) => {
                let parts = connection.into_parts();
                // Often nothing, and then not to be kept: it is a part of the library's buffer.
                let read_ahead = Bytes::copy_from_slice(&parts.read_buf);
                return Some((Wire { read_ahead, ..parts.io.into_inner() }, pause));
            }
            Err(err) => {
                // Clients hang up as they like.
                tracing::debug!(%peer, %err, "connection ended");
                return None;
            }
        }
    }
}

/// Resolves when the server has stopped and no request is to be taken but the one that is under way. The library does not look
/// for one on a connection that has had none.
async fn last_request(signs: &Signs, stopping: &mut watch::Receiver<bool>) {
    stopped(stopping).await;
    if signs.requests.load(Ordering::Relaxed) == 0 {
        sleep(LATE).await;
    }
}

/// `Ready`: the connection has ended, or pauses. It does so only when it is silent: all answers are out (the library has
/// nothing left in its buffer), and nothing comes from the handler of a poll that waits.
fn poll_talk(
    connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
    parking: &Parking,
    signs: &Signs,
    context: &mut Context<'_>,
) -> Poll<hyper::Result<Option<Pause>>> {
    if let Poll::Ready(ended) = Pin::new(connection).poll(context) {
        return Poll::Ready(ended.map(|()| None));
    }
    if !signs.flushed.load(Ordering::Relaxed) {
        return Poll::Pending;
    }
    let pause = match parking.take() {
        Some(poll) => Pause::Poll(poll),
        None if signs.answered.load(Ordering::Relaxed) && signs.requests.load(Ordering::Relaxed) == 1 => Pause::Rest,
        None => return Poll::Pending,
    };
    Poll::Ready(Ok(Some(pause)))
}

/// What the HTTP library does not say of a talk.
#[derive(Default)]
struct Signs {
    /// Whether all that was to be written is written: the library asks for a flush when its buffer is empty.
    flushed: AtomicBool,
    requests: AtomicUsize,
    /// Whether a request after which the connection may rest has been answered.
    answered: AtomicBool,
}

/// The body of an answer; the library lets go of it when it has taken all of it.
struct LastWord {
    body: Body,
    to_rest: Option<Arc<Signs>>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if let Some(signs) = &self.to_rest {
            signs.answered.store(true, Ordering::Relaxed);
        }
    }
}

impl hyper::body::Body for LastWord {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn is_bodiless(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING)
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
    signs: Arc<Signs>,
}

impl Wire {
    /// Resolves when there is something to read, if only the end.
    async fn more(&self) {
        if self.read_ahead.is_empty()
            && let Err(err) = self.socket.readable().await
        {
            // Whoever reads finds it too.
            tracing::debug!(%err, "wait for a client");
        }
    }

    /// Waits for the answer to a poll and sends it. `false`: that was the last.
    async fn answer(&mut self, poll: Parked, peer: SocketAddr, stopping: &watch::Receiver<bool>) -> bool {
        let answer = tokio::select! {
            answer = poll.answer() => answer,
            () = self.hung_up() => return false,
        };
        let close = *stopping.borrow();
        match self.send(answer, close).await {
            Ok(()) => !close,
            Err(err) => {
                tracing::debug!(%peer, %err, "answer a poll");
                false
            }
        }
    }

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
        self.signs.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.signs.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.signs.flushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
