//! A member behind a slow link: it gets everything in the end, though no message of a megabyte is there within a second.
use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use coracle::{
    net::{Connection, Dialer},
    raft::Options,
    replication::{Administration, Member},
    storage::{memory::MemoryState, memory_log::MemoryLog},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::harness::{PATIENCE, free_address, start_member_with};

/// What one connection carries in a second, in bytes: somewhat more than the least that members need.
const RATE: usize = 400 << 10;
/// What the sender's system takes at once, behind which everything else waits.
const SEND_BUFFER: usize = 4 << 20;
/// Steps are as long as this carries.
const STEP: usize = 16 << 10;

struct SlowLink;

impl Dialer for SlowLink {
    fn dial(&self, address: String) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>> {
        Box::pin(async move {
            let far = TcpStream::connect(address).await?;
            let (near, end) = tokio::io::duplex(SEND_BUFFER);
            tokio::spawn(carry(end, far));
            Ok(Box::new(near) as Connection)
        })
    }
}

/// What comes back is not held up.
async fn carry(near: DuplexStream, far: TcpStream) {
    let (mut from_near, mut to_near) = tokio::io::split(near);
    let (mut from_far, mut to_far) = far.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
    let mut buffer = vec![0; STEP];
    loop {
        match from_near.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                sleep(Duration::from_secs(1) * count as u32 / RATE as u32).await;
                if to_far.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_behind_a_slow_link_gets_large_contents() {
    let (one, two) = (free_address().await, free_address().await);
    let stores = || (Arc::new(MemoryLog::new()), Arc::new(MemoryState::open(Arc::default()).unwrap()));
    let (log, state) = stores();
    let leader = start_member_with(&Options::new(1), one, log, state, Some(Arc::new(SlowLink))).await;
    let raft = leader.raft.clone().unwrap();
    raft.form(&[(1, one.to_string())].into()).await.unwrap();
    // Both are on their way for longer than the ten heartbeats in which a follower must flush what is small.
    let content = "x".repeat(1 << 20);
    for at in 0..2 {
        leader.publish_until_acknowledged(&format!("k{at}"), &content).await;
    }
    let (log, state) = stores();
    let newcomer = start_member_with(&Options::new(2), two, log, state, None).await;
    let member = Member { node: 2, member_address: two.to_string(), http_address: String::new() };
    timeout(PATIENCE, raft.add(member)).await.expect("the new one catches up").unwrap();
    let arrived = async {
        while newcomer.text("k1").is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, arrived).await.expect("the new one has everything");
}
