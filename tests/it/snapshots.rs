//! Snapshots that are on their way while something else happens.
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    time::Duration,
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

use crate::{
    harness::{Node, PATIENCE, lone_leader, lone_leader_on, stores_in_memory},
    hooked::Hooked,
};

/// More than anything but the snapshot.
const VANISHES_AFTER: usize = 64 << 10;

/// The connections of a member, of which the first one that carries a snapshot stops half way, as when its machine loses
/// power: nothing more comes, and nobody says that the connection has ended. Or they are cut.
#[derive(Default)]
struct Vanishing {
    vanished: AtomicBool,
    opened: AtomicUsize,
    /// So many of those that were opened first are cut.
    cut: AtomicUsize,
    /// What has vanished is not closed.
    half_open: Mutex<Vec<TcpStream>>,
}

struct Dialing(Arc<Vanishing>);

impl Dialer for Dialing {
    fn dial(&self, address: String) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>> {
        let ways = self.0.clone();
        Box::pin(async move {
            let stream = Some(TcpStream::connect(address).await?);
            let number = ways.opened.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Way { stream, ways, number, written: 0, silent: false }) as Connection)
        })
    }
}

struct Way {
    stream: Option<TcpStream>,
    ways: Arc<Vanishing>,
    number: usize,
    written: usize,
    silent: bool,
}

impl Way {
    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().unwrap())
    }

    fn whole(&self) -> io::Result<()> {
        let is_cut = self.number < self.ways.cut.load(Ordering::SeqCst);
        if is_cut { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Way {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.whole()?;
        if self.silent { Poll::Pending } else { self.stream().poll_read(context, to) }
    }
}

impl AsyncWrite for Way {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.whole()?;
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

fn options(node: u64) -> Options {
    Options { snapshots: SnapshotPolicy { entries: 20, bytes: 1 << 30, entries_kept: 5 }, ..Options::new(node) }
}

async fn leader_with_a_snapshot(ways: &Arc<Vanishing>) -> Node {
    let leader = lone_leader(&options(1), Arc::new(Dialing(ways.clone()))).await;
    for at in 0..60 {
        leader.publish_until_acknowledged(&format!("k{at}"), &"x".repeat(8 << 10)).await;
    }
    leader.has_purged(20).await;
    leader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_stops_half_way_does_not_keep_the_next_one_out() {
    let ways = Arc::<Vanishing>::default();
    let leader = leader_with_a_snapshot(&ways).await;
    leader.joined_by(&options(2), "k59").await;
    assert!(ways.vanished.load(Ordering::SeqCst), "a snapshot has stopped half way");
}

/// A moment that is waited for, and does not pass before it may.
fn moment() -> (impl Fn() + Send + Sync, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((reached, is_reached), (goes_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let may_go_on = Mutex::new(may_go_on);
    let hook = move || {
        // The test may be over.
        reached.send(()).unwrap_or_default();
        may_go_on.lock().unwrap().recv().unwrap_or_default();
    };
    (hook, is_reached, goes_on)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_snapshot_that_is_being_installed_is_not_written_over_by_the_next_one() {
    let ways = Arc::new(Vanishing { vanished: AtomicBool::new(true), ..Vanishing::default() });
    let leader = leader_with_a_snapshot(&ways).await;
    let (log, state) = stores_in_memory();
    let received = Arc::<AtomicUsize>::default();
    let (installs, installing, go_on) = moment();
    let count = received.clone();
    let receives = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let state = Arc::new(Hooked { installs: Arc::new(installs), receives: Arc::new(receives), ..Hooked::of(state) });
    let meanwhile = tokio::task::spawn_blocking(move || {
        installing.recv_timeout(PATIENCE).expect("a snapshot comes");
        ways.cut.store(ways.opened.load(Ordering::SeqCst), Ordering::SeqCst);
        // The leader notices within seconds, and sends it again.
        std::thread::sleep(Duration::from_secs(5));
        let received = received.load(Ordering::SeqCst);
        drop(go_on);
        received
    });
    leader.joined_by_one_on(&options(2), log, state, "k59").await;
    assert_eq!(
        meanwhile.await.unwrap(),
        1,
        "snapshots that were written to the disk while the first one was installed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_snapshot_that_is_due_for_its_bytes_is_written_after_the_one_under_way() {
    let options =
        Options { snapshots: SnapshotPolicy { entries: 30, bytes: 1 << 20, entries_kept: 10_000 }, ..Options::new(1) };
    let (log, state) = stores_in_memory();
    let (writes, writing, go_on) = moment();
    let state = Arc::new(Hooked { writes_snapshot: Arc::new(writes), ..Hooked::of(state) });
    let leader = lone_leader_on(&options, log, state, None).await;
    for at in 0..40 {
        leader.publish_until_acknowledged("small", &at.to_string()).await;
    }
    tokio::task::spawn_blocking(move || writing.recv_timeout(PATIENCE)).await.unwrap().expect("one for the entries");
    for at in 0..4 {
        leader.publish_until_acknowledged("large", &at.to_string().repeat(400_000)).await;
    }
    // Longer than it takes to see that so many bytes came.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(go_on);
    leader.has_purged(41).await;
}
