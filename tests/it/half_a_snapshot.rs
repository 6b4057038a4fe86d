//! A member that vanishes in the middle of sending a snapshot, as a machine that loses power does: nothing more comes, and
//! nobody says that the connection has ended.
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use coracle::{
    net::{Connection, Dialer},
    raft::Options,
    replication::SnapshotPolicy,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::harness::lone_leader;

/// More than anything but the snapshot.
const VANISHES_AFTER: usize = 64 << 10;

/// The connections of a member, of which the first one that carries a snapshot stops half way.
#[derive(Default)]
struct Vanishing {
    vanished: AtomicBool,
    /// What has vanished is not closed.
    half_open: Mutex<Vec<TcpStream>>,
}

struct Dialing(Arc<Vanishing>);

impl Dialer for Dialing {
    fn dial(&self, address: String) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>> {
        let ways = self.0.clone();
        Box::pin(async move {
            let stream = Some(TcpStream::connect(address).await?);
            Ok(Box::new(Way { stream, ways, written: 0, silent: false }) as Connection)
        })
    }
}

struct Way {
    stream: Option<TcpStream>,
    ways: Arc<Vanishing>,
    written: usize,
    silent: bool,
}

impl Way {
    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().unwrap())
    }
}

impl AsyncRead for Way {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.silent { Poll::Pending } else { self.stream().poll_read(context, to) }
    }
}

impl AsyncWrite for Way {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.written > VANISHES_AFTER && !self.ways.vanished.swap(true, Ordering::SeqCst) {
            self.silent = true;
        }
        if self.silent {
            return Poll::Ready(Ok(bytes.len()));
        }
        let bytes = &bytes[..bytes.len().min(16 << 10)];
        let written = std::task::ready!(self.stream().poll_write(context, bytes))?;
        self.written += written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.silent { Poll::Ready(Ok(())) } else { self.stream().poll_shutdown(context) }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take().filter(|_| self.silent) {
            self.ways.half_open.lock().unwrap().push(stream);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_stops_half_way_does_not_keep_the_next_one_out() {
    let ways = Arc::<Vanishing>::default();
    let options =
        |id| Options { snapshots: SnapshotPolicy { entries: 20, bytes: 1 << 30, entries_kept: 5 }, ..Options::new(id) };
    let leader = lone_leader(&options(1), Arc::new(Dialing(ways.clone()))).await;
    for at in 0..60 {
        leader.publish_until_acknowledged(&format!("k{at}"), &"x".repeat(8 << 10)).await;
    }
    leader.has_purged(20).await;
    leader.joined_by(&options(2), "k59").await;
    assert!(ways.vanished.load(Ordering::SeqCst), "a snapshot has stopped half way");
}
