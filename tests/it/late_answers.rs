//! A leader that was held up while the others elected one in its place, and then gets their old answers.
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use coracle::{
    net::{Connection, Dialer},
    raft::Options,
    storage::{memory::MemoryState, memory_log::MemoryLog},
    types::{Consistency, Revision},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::harness::{Node, PATIENCE, free_address, start_member_with};

/// What one node gets through to another one.
#[derive(Default)]
struct Way {
    /// Answers wait where they are.
    holds_answers: AtomicBool,
    /// What is said is taken and lost.
    loses_requests: AtomicBool,
}

impl Way {
    fn set(flag: &AtomicBool, on: bool) {
        flag.store(on, Ordering::SeqCst);
    }
}

/// The ways from one node, by the address of the other.
struct Ways(BTreeMap<String, Arc<Way>>);

impl Dialer for Ways {
    fn dial(&self, address: String) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>> {
        let way = self.0[&address].clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Gated { stream, way, poll: None }) as Connection)
        })
    }
}

struct Gated {
    stream: TcpStream,
    way: Arc<Way>,
    /// Looks again whether answers come through.
    poll: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.way.holds_answers.load(Ordering::SeqCst) {
            let poll = self.poll.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(1))));
            std::task::ready!(poll.as_mut().poll(context));
            self.poll = None;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.way.loses_requests.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

struct Three {
    nodes: BTreeMap<u64, Node>,
    ways: BTreeMap<(u64, u64), Arc<Way>>,
}

impl Three {
    async fn start() -> Self {
        let mut members = BTreeMap::new();
        for id in 1..=3 {
            members.insert(id, free_address().await);
        }
        let mut three = Self { nodes: BTreeMap::new(), ways: BTreeMap::new() };
        for (id, address) in &members {
            let others = members.iter().filter(|(other, _)| *other != id);
            let ways: BTreeMap<u64, Arc<Way>> = others.map(|(other, _)| (*other, Arc::default())).collect();
            three.ways.extend(ways.iter().map(|(other, way)| ((*id, *other), way.clone())));
            let dialer = Ways(ways.into_iter().map(|(other, way)| (members[&other].to_string(), way)).collect());
            // Heartbeats so slow that a stream is given up long after others have elected a leader.
            let options = Options {
                heartbeat: Duration::from_millis(400),
                election_min: Duration::from_millis(700),
                election_max: Duration::from_millis(900),
                ..Options::new(*id)
            };
            let (log, state) = (Arc::new(MemoryLog::new()), Arc::new(MemoryState::new()));
            let node = start_member_with(&options, *address, log, state, Some(Arc::new(dialer))).await;
            three.nodes.insert(*id, node);
        }
        let members = members.iter().map(|(id, address)| (*id, address.to_string())).collect();
        three.nodes[&1].raft.as_ref().unwrap().form(&members).await.unwrap();
        three
    }

    fn way(&self, from: u64, to: u64) -> &Way {
        &self.ways[&(from, to)]
    }

    async fn leader_other_than(&self, old: u64) -> u64 {
        let found = timeout(PATIENCE, async {
            loop {
                let stands = self.nodes.values().filter(|it| it.id != old).map(|it| it.replicator.status());
                if let Some(leader) = stands.filter_map(|it| it.leader).find(|it| *it != old) {
                    return leader;
                }
                sleep(Duration::from_millis(2)).await;
            }
        });
        found.await.expect("a leader is elected")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_answer_does_not_make_a_linearizable_read() {
    let three = Three::start().await;
    three.nodes[&1].publish_until_acknowledged("k", "before").await;
    let old = three.leader_other_than(0).await;
    let others: Vec<u64> = three.nodes.keys().copied().filter(|id| *id != old).collect();
    let leader = &three.nodes[&old];
    leader.publish_until_acknowledged("k", "settled").await;

    // The others have this entry, but the leader does not hear of it, and then nobody hears it any more.
    for other in &others {
        Way::set(&three.way(old, *other).holds_answers, true);
        Way::set(&three.way(*other, old).loses_requests, true);
        Way::set(&three.way(*other, old).holds_answers, true);
    }
    let replicator = leader.replicator.clone();
    let proposed = leader.publish("k", "in flight");
    let (_, newest) = tokio::join!(timeout(Duration::from_secs(9), proposed), async {
        sleep(Duration::from_millis(100)).await;
        for other in &others {
            Way::set(&three.way(old, *other).loses_requests, true);
        }
        // They elect another one and go on.
        let next = three.leader_other_than(old).await;
        let newest = three.nodes[&next].publish_until_acknowledged("k", "newest").await;
        let reading = tokio::spawn(async move { replicator.read_barrier(Consistency::Linearizable).await });
        sleep(Duration::from_millis(50)).await;
        // Now the old answers come, one after the other.
        for other in &others {
            Way::set(&three.way(old, *other).holds_answers, false);
            sleep(Duration::from_millis(30)).await;
        }
        let read = timeout(PATIENCE, reading).await.unwrap().unwrap();
        // An error is honest.
        let stale = read.as_ref().is_ok_and(|read| *read < newest);
        assert!(!stale, "{read:?}, although {newest} was acknowledged before");
        newest
    });
    assert!(newest > Revision(0));
}
