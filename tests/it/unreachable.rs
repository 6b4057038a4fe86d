//! A member that is not there costs the leader next to nothing.
use std::{
    future::{Future, ready},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use coracle::{
    net::{Connection, Dialer},
    raft::Options,
    replication::{Administration, Member},
};
use tokio::time::{Instant, sleep};

use crate::harness::lone_leader;

/// Nobody is there, as when a process is gone and its machine is not: the answer comes at once.
#[derive(Default)]
struct Refused(AtomicU32);

impl Dialer for Refused {
    fn dial(&self, _: String) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(ready(Err(io::ErrorKind::ConnectionRefused.into())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_refuses_connections_is_not_dialled_all_the_time() {
    let refused = Arc::new(Refused::default());
    let leader = lone_leader(&Options::new(1), refused.clone()).await;
    leader.publish_until_acknowledged("k", "before").await;
    let raft = leader.raft.clone().unwrap();
    let gone = Member { node: 2, member_address: "192.0.2.1:1".into(), http_address: String::new() };
    let adding = tokio::spawn(async move { raft.add(gone).await });
    while refused.0.load(Ordering::Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let (before, began) = (refused.0.load(Ordering::Relaxed), Instant::now());
    for at in 0..20 {
        leader.publish_until_acknowledged("k", &at.to_string()).await;
        sleep(Duration::from_millis(100)).await;
    }
    let dialled = refused.0.load(Ordering::Relaxed) - before;
    adding.abort();
    assert!(dialled > 0, "it may come back");
    // A sign of life every 150 ms, entries every 200 ms.
    let tenths = began.elapsed().as_millis() as u32 / 100;
    assert!(dialled < 10 + 4 * tenths, "dialled {dialled} times in {tenths} tenths of a second");
}
