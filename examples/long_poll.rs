//! What a Nacos 1.x client does on the wire: one long poll by hand, answered by a publish.
use std::time::{Duration, Instant};

use coracle::server::{Options, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends one request on a connection of its own and reads the answer to its end.
async fn exchange(address: std::net::SocketAddr, head: &str, body: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!(
        "{head}\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::main]
#[allow(clippy::disallowed_methods, reason = "an example has a clock of its own")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("coracle-poll-{}", std::process::id()));
    let server = Server::start(Options::standalone(&directory)).await?;
    let address = server.http_address();

    // "I have nothing of a.yaml in group G": data id, group and md5 end with 0x02, the line with 0x01.
    let poll = "POST /nacos/v1/cs/configs/listener HTTP/1.1\r\nLong-Pulling-Timeout: 30000";
    let waiting = tokio::spawn(exchange(address, poll, "Listening-Configs=a.yaml%02G%02%01"));
    tokio::time::sleep(Duration::from_millis(200)).await;

    let started = Instant::now();
    let publish = "POST /nacos/v1/cs/configs HTTP/1.1";
    let answer = exchange(address, publish, "dataId=a.yaml&group=G&content=greeting%3A+hello").await?;
    assert!(answer.ends_with("true"), "{answer}");
    let told = waiting.await??;
    println!("told after {:?}:\n{told}", started.elapsed());
    assert!(told.ends_with("a.yaml%02G%01\n"));

    server.stop().await;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
