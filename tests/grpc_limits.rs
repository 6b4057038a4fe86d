//! What a gRPC connection may take, and when it has to end.
#![allow(clippy::unwrap_used)]

#[path = "support/grpc.rs"]
mod grpc;

use std::{net::SocketAddr, time::Duration};

use coracle::server::{Options, Server};
use grpc::{Client, payload_of};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Instant, pause, sleep, timeout},
};
use tonic::{Code, Request};

/// Begins an HTTP/2 connection: the preface and a SETTINGS frame without settings (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn server(options: impl FnOnce(&mut Options)) -> (tempfile::TempDir, Server, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = Options::standalone(&dir.path().join("data"));
    options(&mut wanted);
    let server = Server::start(wanted).await.unwrap();
    let address = format!("http://{}", server.grpc_address());
    (dir, server, address)
}

/// How long the server leaves a connection open on which this is all that is said.
async fn left_open(server: &Server, said: &[u8]) -> Duration {
    let mut socket = TcpStream::connect(server.grpc_address()).await.unwrap();
    socket.write_all(said).await.unwrap();
    let started = Instant::now();
    let mut answer = Vec::new();
    let end = timeout(Duration::from_secs(3_600), socket.read_to_end(&mut answer)).await.expect("it is left open");
    assert!(end.is_ok() || said.is_empty(), "{end:?}");
    started.elapsed()
}

// The clock is stopped once the server is there: it goes on to the next timer whenever nobody has anything to do.
#[tokio::test]
async fn a_connection_without_a_client_ends() {
    let (_dir, server, _) = server(|_| {}).await;
    pause();
    for said in [&b""[..], &PREFACE[..10], PREFACE] {
        let open = left_open(&server, said).await;
        assert!((Duration::from_secs(60)..Duration::from_secs(200)).contains(&open), "{said:?}: {open:?}");
    }
    tokio::time::resume();
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_stopped_reading_ends_and_one_that_reads_stays() {
    let (_dir, server, address) = server(|_| {}).await;
    let mut stuck = Client::introduced(&address).await.unwrap();
    let mut other = Client::introduced(&address).await.unwrap();
    // Repeated for want of an acknowledgement, more than a client's stream takes before it is read.
    let names: Vec<String> = (0..300).map(|at| format!("{at:0>250}")).collect();
    let contexts: Vec<_> = names.iter().map(|name| json!({ "dataId": name, "group": "G", "md5": "" })).collect();
    let listen = json!({ "listen": true, "configListenContexts": contexts });
    stuck.try_ask("ConfigBatchListenRequest", &listen).await.unwrap();
    for name in &names {
        other.publish(name, "x").await;
    }
    pause();
    let reads = tokio::spawn(async move {
        while let Some((_, message)) = other.next().await {
            other.acknowledge(&message).await;
        }
    });
    sleep(Duration::from_secs(400)).await;
    assert!(!reads.is_finished(), "who is idle stays");
    tokio::time::resume();
    // What has come before the end is there; who is only asked for a sign of life has longer than this.
    let ended = timeout(Duration::from_secs(5), async { while stuck.next().await.is_some() {} });
    ended.await.expect("it was not hung up on");
    server.stop().await;
}

/// Passes on what is said, until it is told to stop; then it takes what the server says, as long as that keeps the
/// connection, and resolves with how long that was.
async fn proxy(listener: TcpListener, to: SocketAddr, mut stop: oneshot::Receiver<()>) -> Duration {
    let connection = async || (listener.accept().await.unwrap().0, TcpStream::connect(to).await.unwrap());
    // A client introduces itself on its second one.
    let (mut client, mut server) = connection().await;
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
    let (mut client, mut server) = connection().await;
    let stopped = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => None,
        _ = &mut stop => Some(Instant::now()),
    };
    let stopped = stopped.expect("the connection ended before its time");
    // An error is an end, too.
    drop(server.read_to_end(&mut Vec::new()).await);
    stopped.elapsed()
}

#[tokio::test]
async fn a_client_whose_host_is_gone_ends() {
    let (_dir, server, _) = server(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel();
    let kept = tokio::spawn(proxy(listener, server.grpc_address(), stopped));
    let client = Client::introduced(&address).await.unwrap();
    pause();
    stop.send(()).unwrap();
    let kept = timeout(Duration::from_secs(3_600), kept).await.expect("it is kept for ever").unwrap();
    assert!((Duration::from_secs(30)..Duration::from_secs(100)).contains(&kept), "{kept:?}");
    drop(client);
    tokio::time::resume();
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_connection_goes_on() {
    let (_dir, server, address) = server(|options| options.content_bytes_max = 1_000).await;
    let client = Client::introduced(&address).await.unwrap();
    let publish = |bytes: usize| {
        payload_of("ConfigPublishRequest", &json!({ "dataId": "a", "group": "G", "content": "x".repeat(bytes) }))
    };
    let (_, answer) = client.ask(publish(1_001)).await;
    assert_eq!((&answer["success"], &answer["errorCode"]), (&json!(false), &json!(400)), "{answer}");
    let refused = client.unary.clone().request(publish(13 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let mut request = Request::new(payload_of("HealthCheckRequest", &json!({})));
    request.metadata_mut().insert("x-large", "x".repeat(70_000).parse().unwrap());
    client.unary.clone().request(request).await.expect_err("70,000 bytes of header fields");
    let (_, answer) = client.ask(publish(1_000)).await;
    assert_eq!(answer["success"], true, "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn more_requests_than_a_connection_may_have_at_once_wait() {
    let (_dir, server, address) = server(|_| {}).await;
    let client = Client::introduced(&address).await.unwrap();
    let asked = (0..3_000).map(|_| client.ask(payload_of("HealthCheckRequest", &json!({}))));
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|(kind, _)| kind == "HealthCheckResponse"));
    server.stop().await;
}
