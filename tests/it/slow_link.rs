//! A member behind a slow link: it gets everything in the end, though no message of a megabyte is there within a second.
use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use coracle::{
    net::{Connection, Dialer},
    raft::Options,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::sleep,
};

use crate::harness::lone_leader;

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
    let leader = lone_leader(&Options::new(1), Arc::new(SlowLink)).await;
    // Both are on their way for longer than the ten heartbeats in which a follower must flush what is small.
    let content = "x".repeat(1 << 20);
    for at in 0..2 {
        leader.publish_until_acknowledged(&format!("k{at}"), &content).await;
    }
    leader.joined_by(&Options::new(2), "k1").await;
}
