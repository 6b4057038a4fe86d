//! Three nodes in one process, and a subscriber on a follower that hears of what is published at the leader.
use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use coracle::{
    client::Client,
    server::{MemberOptions, Options, Server},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("coracle-cluster-{}", std::process::id()));
    let mut members = BTreeMap::new();
    for id in 1..=3 {
        // Free now; the node binds it in a moment.
        members.insert(id, TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
    }
    let mut servers = Vec::new();
    for id in 1..=3 {
        let member = MemberOptions::new(id, members.clone())?;
        servers.push(Server::start(Options::member(&directory.join(id.to_string()), member)).await?);
    }
    let leader = loop {
        match servers[0].status().leader {
            Some(leader) => break leader,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    println!("node {leader} leads");
    let at = |id: u64| servers[id as usize - 1].http_address().to_string();
    let follower = leader % 3 + 1;

    let publisher = Client::builder().server(at(leader)).build()?;
    let subscriber = Client::builder().server(at(follower)).build()?;
    let mut watch = subscriber.watch("app.yaml");
    assert_eq!(watch.next().await?, None);
    publisher.publish("app.yaml", "greeting: hello").await?;
    let changed = tokio::time::timeout(Duration::from_secs(5), watch.next()).await??;
    println!("node {follower} told its subscriber: {changed:?}");
    assert_eq!(changed.as_deref(), Some("greeting: hello"));

    drop(watch);
    for server in servers {
        server.stop().await;
    }
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
