//! A server inside another program: start it, publish, be told of a change, stop it.
use std::time::Duration;

use coracle::{
    client::Client,
    server::{Options, Server},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("coracle-embedded-{}", std::process::id()));
    let server = Server::start(Options::standalone(&directory)).await?;
    println!("serving at {}", server.http_address());

    let client = Client::builder().server(server.http_address().to_string()).build()?;
    client.publish("app.yaml", "greeting: hello").await?;
    let mut watch = client.watch("app.yaml");
    println!("now: {:?}", watch.next().await?);

    client.publish("app.yaml", "greeting: hi").await?;
    let changed = tokio::time::timeout(Duration::from_secs(5), watch.next()).await??;
    println!("then: {changed:?}");
    assert_eq!(changed.as_deref(), Some("greeting: hi"));

    drop(watch);
    server.stop().await;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
