//! What an HTTP/2 connection writes, sent once a turn.
//!
//! The HTTP library ends every write behind a content, so the trailers of an answer would be a packet and a system call of
//! their own, and one more wake-up for the client. Here what is written is kept until the task of the connection has done
//! all that it can, and sent then.
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWrite,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// With so many bytes waiting nothing more is taken before the socket has taken some.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// So many bytes at once are not worth keeping.
const WRITTEN_THROUGH_BYTES: usize = 8 * 1024;

struct State<W> {
    socket: W,
    waiting: Vec<u8>,
    /// What of it was sent.
    sent: usize,
    /// Why nothing can be sent any more.
    broken: Option<io::ErrorKind>,
}

impl<W: AsyncWrite + Unpin> State<W> {
    /// Sends what waits, as far as the socket takes it.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole()?;
        while self.sent < self.waiting.len() {
            match ready!(Pin::new(&mut self.socket).poll_write(context, &self.waiting[self.sent..])) {
                Ok(0) => self.broken = Some(io::ErrorKind::WriteZero),
                Ok(sent) => self.sent += sent,
                Err(err) => self.broken = Some(err.kind()),
            }
            self.whole()?;
        }
        // Connections are idle most of the time: nothing is kept.
        (self.waiting, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn whole(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.whole()?;
        let bytes = slices.iter().map(|it| it.len()).sum();
        if self.waiting.len() + bytes > WAITING_BYTES_MAX {
            ready!(self.poll_send(context))?;
        }
        if self.waiting.is_empty() && bytes >= WRITTEN_THROUGH_BYTES {
            return Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        }
        self.waiting.reserve(bytes);
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(bytes))
    }
}

/// The outgoing side of a connection: who drives the connection sends with it what was written.
pub(super) struct Outgoing<W = OwnedWriteHalf>(Arc<Mutex<State<W>>>);

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    fn new(socket: W) -> Self {
        Self(Arc::new(Mutex::new(State { socket, waiting: Vec::new(), sent: 0, broken: None })))
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what was written. What the socket does not take yet is sent when this is called again; `context` is woken then.
    /// An error is for the connection, which is woken and meets it when it writes or flushes.
    pub(super) fn send(&self, context: &mut Context<'_>) {
        let mut state = self.state();
        let was_whole = state.broken.is_none();
        if let Poll::Ready(Err(_)) = state.poll_send(context)
            && was_whole
        {
            context.waker().wake_by_ref();
        }
    }
}

/// A socket, as the HTTP library sees it.
pub(super) struct Socket {
    incoming: TokioIo<OwnedReadHalf>,
    outgoing: Outgoing,
}

/// Takes a connection apart.
pub(super) fn split(socket: TcpStream) -> (Socket, Outgoing) {
    let (incoming, outgoing) = socket.into_split();
    let outgoing = Outgoing::new(outgoing);
    let same = Outgoing(outgoing.0.clone());
    (Socket { incoming: TokioIo::new(incoming), outgoing: same }, outgoing)
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(context, buffer)
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.state().poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outgoing.state().poll_write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Sends nothing: see [`Outgoing::send`].
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.outgoing.state().whole())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.outgoing.state();
        ready!(state.poll_send(context))?;
        Pin::new(&mut state.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;

    fn bytes(count: usize, at: usize) -> Vec<u8> {
        (0..count).map(|it| ((it + at) % 251) as u8).collect()
    }

    async fn write(outgoing: &Outgoing<tokio::io::DuplexStream>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let half = bytes.len() / 2;
            let slices = [IoSlice::new(&bytes[..half]), IoSlice::new(&bytes[half..])];
            let written = poll_fn(|context| outgoing.state().poll_write(context, &slices)).await.unwrap();
            bytes = &bytes[written..];
        }
    }

    #[tokio::test]
    async fn everything_arrives_in_order_however_slowly_it_is_read() {
        let (socket, mut other) = tokio::io::duplex(1_000);
        let outgoing = Outgoing::new(socket);
        let sizes = [1, 10, 497, 8_191, 8_192, 3, 40_000, 40_000, 200_000, 7, 0, 16_384, 1];
        let wanted: Vec<u8> = sizes.iter().enumerate().flat_map(|(at, size)| bytes(*size, at)).collect();
        let total = wanted.len();
        let reading = tokio::spawn(async move {
            let mut got = vec![0; total];
            other.read_exact(&mut got).await.unwrap();
            got
        });
        for (at, size) in sizes.into_iter().enumerate() {
            write(&outgoing, &bytes(size, at)).await;
            let waiting = outgoing.state().waiting.len();
            assert!(waiting <= WAITING_BYTES_MAX, "{waiting} bytes wait");
        }
        let all_sent = |context: &mut Context<'_>| {
            outgoing.send(context);
            if outgoing.state().waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        };
        poll_fn(all_sent).await;
        assert!(reading.await.unwrap() == wanted);
        assert_eq!(outgoing.state().waiting.capacity(), 0, "an idle connection keeps no buffer");
    }

    #[tokio::test]
    async fn what_is_written_in_a_turn_is_one_write() {
        let mut socket = Writes(Vec::new());
        let outgoing = Outgoing::new(&mut socket);
        let mut context = Context::from_waker(std::task::Waker::noop());
        for part in [&b"head"[..], b"content", b"trailers"] {
            assert!(outgoing.state().poll_write(&mut context, &[IoSlice::new(part)]).is_ready());
        }
        outgoing.send(&mut context);
        outgoing.send(&mut context);
        drop(outgoing);
        assert_eq!(socket.0, [b"headcontenttrailers".to_vec()]);
    }

    /// Keeps each write by itself.
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}
