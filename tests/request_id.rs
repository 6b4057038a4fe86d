//! `X-Request-Id`: a write that comes again after nobody knew what became of it is done once.
#![allow(clippy::unwrap_used)]

#[path = "support/process.rs"]
mod process;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use coracle::client::{Client, PublishOptions};
use process::{Answer, Http, Server, free_port};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");

fn send(port: u16, method: &str, id: &str, form: &str, headers: &str) -> Answer {
    let (target, body) = match method {
        "POST" => ("/nacos/v1/cs/configs".to_owned(), form),
        _ => (format!("/nacos/v1/cs/configs?{form}"), ""),
    };
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: test\r\nX-Request-Id: {id}\r\n{headers}Content-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
        body.len()
    );
    Http::connect(port).unwrap().request(request.as_bytes()).unwrap()
}

fn revision(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("coracle-revision").unwrap().parse().unwrap()
}

fn query(port: u16, data_id: &str) -> Option<String> {
    Http::connect(port).unwrap().query(data_id).unwrap()
}

#[test]
fn a_repeated_request_is_done_once_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (data, port) = (dir.path().join("data"), free_port());
    let mut server = Server::start(PROGRAM, &data, port, &["--standalone"]);
    let form = "dataId=a&group=G&content=1";
    let first = revision(&send(port, "POST", "r1", form, ""));
    assert_eq!(revision(&send(port, "POST", "r1", form, "")), first, "the same answer");
    let other = revision(&send(port, "POST", "r2", "dataId=a&group=G&content=2", ""));
    assert!(other > first);
    server.kill();
    let mut server = Server::start(PROGRAM, &data, port, &["--standalone"]);
    assert_eq!(revision(&send(port, "POST", "r1", form, "")), first, "a crash does not make it forget");
    assert_eq!(query(port, "a"), Some("2".into()), "what came after is not overwritten");

    // A compare-and-set that was done is not refused when it comes again.
    let (cas, md5) = ("dataId=a&group=G&content=3", "casMd5: c81e728d9d4c2f636f067f89cc14862c\r\n");
    let done = revision(&send(port, "POST", "r3", cas, md5));
    assert_eq!(revision(&send(port, "POST", "r3", cas, md5)), done);
    assert_eq!(send(port, "POST", "r4", cas, md5).status, 500, "one that is not a repetition is");

    let removed = revision(&send(port, "DELETE", "r5", "dataId=a&group=G", ""));
    send(port, "POST", "r6", form, "");
    assert_eq!(revision(&send(port, "DELETE", "r5", "dataId=a&group=G", "")), removed);
    assert_eq!(query(port, "a"), Some("1".into()), "it was removed once");
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn ids_that_break_the_rules_are_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = Server::start(PROGRAM, &dir.path().join("data"), port, &["--standalone"]);
    let long = "x".repeat(129);
    for id in ["", "a b", "\u{e9}", &*long] {
        for (method, form) in [("POST", "dataId=bad&group=G&content=1"), ("DELETE", "dataId=bad&group=G")] {
            let answer = send(port, method, id, form, "");
            assert_eq!(answer.status, 400, "{method} {id:?}");
            assert!(answer.text().contains("X-Request-Id"), "{}", answer.text());
        }
    }
    assert_eq!(query(port, "bad"), None);
    assert_eq!(send(port, "POST", &"x".repeat(128), "dataId=bad&group=G&content=1", "").status, 200);
}

#[test]
fn whichever_node_is_asked_again_it_is_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let members: Vec<String> =
        ports.iter().zip(1..).map(|(port, id)| format!("{id}=127.0.0.1:{}", port - 1000)).collect();
    let members = members.join(",");
    let mut servers: Vec<Server> = (0..3)
        .map(|at| {
            let arguments = ["--node-id", &(at + 1).to_string(), "--members", &members];
            Server::spawn(PROGRAM, &dir.path().join(format!("d{at}")), ports[at], &arguments)
        })
        .collect();
    servers.iter_mut().for_each(Server::wait_ready);
    for round in 0..20 {
        let (id, form) = (format!("round-{round}"), format!("dataId=a&group=G&content={round}"));
        let first = revision(&send(ports[round % 3], "POST", &id, &form, ""));
        for port in &ports {
            assert_eq!(revision(&send(*port, "POST", &id, &form, "")), first, "round {round}");
        }
    }
    assert!(ports.iter().all(|port| query(*port, "a") == Some("19".into())));
}

/// Passes connections on to a server, and cuts those of this many writes when they have been answered.
fn lossy_proxy(server: u16, mut losses: u32) -> u16 {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut upstream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], server))).unwrap();
            // One request a connection, in one piece: what the client of this project sends.
            let mut request = vec![0; 16 * 1024];
            let length = client.read(&mut request).unwrap();
            request.truncate(length);
            upstream.write_all(&request).unwrap();
            let mut answer = vec![0; 16 * 1024];
            let length = upstream.read(&mut answer).unwrap();
            if losses > 0 && !request.starts_with(b"GET") {
                losses -= 1;
                continue;
            }
            client.write_all(&answer[..length]).unwrap();
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_asks_again_when_an_answer_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = Server::start(PROGRAM, &dir.path().join("data"), port, &["--standalone"]);
    let client = |losses| {
        let proxy = lossy_proxy(port, losses);
        Client::builder().server(format!("127.0.0.1:{proxy}")).group("G").build().unwrap()
    };
    client(1).publish("a", "1").await.unwrap();
    assert_eq!(client(0).get("a").await.unwrap().as_deref(), Some("1"));
    // A compare-and-set that is done again would fail.
    let options = PublishOptions { if_md5: Some("c4ca4238a0b923820dcc509a6f75849b".into()), content_type: None };
    client(3).publish_with("a", "2", &options).await.unwrap();
    client(2).remove("a").await.unwrap();
    assert_eq!(client(0).get("a").await.unwrap(), None);
    // In the end it says that it does not know.
    let started = tokio::time::Instant::now();
    let lost = client(u32::MAX).publish("b", "1").await;
    assert!(matches!(lost, Err(coracle::client::Error::OutcomeUnknown(_))), "{lost:?}");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(client(0).get("b").await.unwrap().as_deref(), Some("1"));
}
