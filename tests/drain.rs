//! What a member that stops says to its clients: where to go, if there is somewhere.
#![allow(clippy::unwrap_used)]

#[path = "support/grpc.rs"]
mod grpc;
#[path = "support/process.rs"]
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    path::Path,
    time::Duration,
};

use coracle::server::{MemberOptions, Options, Server};
use grpc::{Client, PATIENCE};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tonic::Code;

/// Members on these hosts, that serve clients there too.
async fn members(dir: &Path, hosts: [&str; 3]) -> Vec<Server> {
    let addresses: BTreeMap<u64, String> =
        (1..).zip(hosts).map(|(id, host)| (id, format!("{host}:{}", process::free_port()))).collect();
    let mut servers = Vec::new();
    for (id, host) in (1..).zip(hosts) {
        let member = MemberOptions::new(id, addresses.clone()).unwrap();
        let mut options = Options::member(&dir.join(id.to_string()), member);
        let host: IpAddr = host.parse().unwrap();
        options.http.set_ip(host);
        options.grpc.set_ip(host);
        servers.push(Server::start(options).await.unwrap());
    }
    for server in &servers {
        is_ready(server).await;
    }
    servers
}

async fn is_ready(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(why) = server.status().not_ready {
        assert!(Instant::now() < deadline, "{why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn client_of(server: &Server) -> Client {
    let address = format!("http://{}", server.grpc_address());
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::introduced(&address).await {
            Ok(client) => return client,
            Err(err) => assert!(Instant::now() < deadline, "{err}"),
        }
    }
}

/// What a client of a server that is stopping is told.
async fn reset(client: &mut Client) -> Value {
    let (kind, message) = timeout(PATIENCE, client.next()).await.unwrap().unwrap();
    assert_eq!(kind, "ConnectResetRequest");
    message
}

fn named(message: &Value) -> String {
    format!("{}:{}", message["serverIp"].as_str().unwrap(), message["serverPort"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_sent_to_members_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = members(dir.path(), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    let (third, second, first) = (servers.pop().unwrap(), servers.pop().unwrap(), servers.pop().unwrap());
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(client_of(&second).await);
    }
    let others: BTreeSet<String> = [&first, &third].map(|it| it.http_address().to_string()).into();
    let stopping = tokio::spawn(second.stop());
    let mut told = BTreeSet::new();
    for mut client in clients {
        told.insert(named(&reset(&mut client).await));
    }
    assert_eq!(told, others, "all of the others, and nobody else");
    timeout(PATIENCE, stopping).await.unwrap().unwrap();

    // One is gone: who comes next names the one that is left.
    is_ready(&third).await;
    let mut client = client_of(&first).await;
    let left = third.http_address().to_string();
    let stopping = tokio::spawn(first.stop());
    assert_eq!(named(&reset(&mut client).await), left);
    drop(client);
    timeout(PATIENCE, stopping).await.unwrap().unwrap();

    // Nobody is left, and the last one, without a majority, is asked no less.
    let mut client = client_of(&third).await;
    let stopping = tokio::spawn(third.stop());
    let message = reset(&mut client).await;
    assert!(message.get("serverIp").is_none() && message.get("serverPort").is_none(), "{message}");
    drop(client);
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_is_pushed_nothing_more_and_who_stays_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = members(dir.path(), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    let stops = servers.remove(0);
    let (mut goes, mut stays) = (client_of(&stops).await, client_of(&stops).await);
    for client in [&goes, &stays] {
        client.listen("a", "").await.unwrap();
    }
    let next = client_of(&servers[0]).await;
    let stopping = tokio::spawn(stops.stop());
    let told = reset(&mut goes).await;
    goes.acknowledge(&told).await;
    // As nacos-sdk for Rust, which does not know the word.
    reset(&mut stays).await;
    next.publish("a", "meanwhile").await;
    let (kind, _) = timeout(PATIENCE, stays.next()).await.unwrap().expect("it is told before its end");
    assert_eq!(kind, "ConfigChangeNotifyRequest");
    let (_send, mut stream) = goes.stream.take().unwrap();
    let heard = timeout(PATIENCE, stream.message()).await.unwrap();
    assert_eq!(heard.unwrap_err().code(), Code::Unavailable, "it is cut off without another word");
    assert!(next.listen("a", "").await.unwrap(), "it is told that this has changed");
    stopping.await.unwrap();
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_while_the_clients_of_the_leader_are_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = members(dir.path(), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    let leader = servers[0].status().leader.unwrap();
    let leader = servers.remove(leader as usize - 1);
    let client = client_of(&servers[0]).await;
    client.publish("a", "before").await;
    // It does not go by itself, so that stopping takes its time.
    let mut stays = client_of(&leader).await;
    let stopping = tokio::spawn(leader.stop());
    reset(&mut stays).await;
    let mut written = 0;
    while !stopping.is_finished() {
        let asked = json!({ "dataId": "a", "group": "G", "content": written.to_string() });
        let (_, answer) = client.try_ask("ConfigPublishRequest", &asked).await.unwrap();
        if answer["success"] == true && !stopping.is_finished() {
            written += 1;
        }
    }
    assert!(written > 0, "the others could write nothing until the leader was gone");
    stopping.await.unwrap();
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_stop_together_do_not_send_clients_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = members(dir.path(), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    let (third, second, first) = (servers.pop().unwrap(), servers.pop().unwrap(), servers.pop().unwrap());
    let mut stays = client_of(&first).await;
    let mut clients = [client_of(&second).await, client_of(&second).await];
    let left = third.http_address().to_string();
    let first = tokio::spawn(first.stop());
    // It waits for its client from here on.
    reset(&mut stays).await;
    let second = tokio::spawn(second.stop());
    for client in &mut clients {
        assert_eq!(named(&reset(client).await), left);
    }
    drop(clients);
    timeout(PATIENCE, first).await.unwrap().unwrap();
    timeout(PATIENCE, second).await.unwrap().unwrap();
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_share_a_host_are_not_named_and_a_health_check_says_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = members(dir.path(), ["127.0.0.1"; 3]).await;
    let stops = servers.remove(0);
    let mut client = client_of(&stops).await;
    let stopping = tokio::spawn(stops.stop());
    let message = reset(&mut client).await;
    assert!(message.get("serverIp").is_none() && message.get("serverPort").is_none(), "{message}");
    let (kind, answer) = client.try_ask("HealthCheckRequest", &json!({})).await.unwrap();
    assert_eq!((&*kind, &answer["errorCode"]), ("ErrorResponse", &json!(503)));
    // Who comes now is not told to wait.
    let (kind, answer) = client.try_ask("ServerCheckRequest", &json!({})).await.unwrap();
    assert_eq!((&*kind, &answer["errorCode"]), ("ErrorResponse", &json!(503)));
    drop(client);
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
    for server in servers {
        server.stop().await;
    }
}

/// How the stream of a client ended, and its requests, and how long after its stream.
struct Ended {
    stream: Option<Code>,
    refused: Option<Value>,
    served_for: Duration,
}

/// A client that does not know the word, and asks until it is refused or cut off.
async fn ignore(mut client: Client) -> Ended {
    // Both halves stay: a stream whose sender is gone is a client that is gone.
    let (_send, mut stream) = client.stream.take().unwrap();
    let ended = tokio::spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return (None, Instant::now()),
                Err(status) => return (Some(status.code()), Instant::now()),
            }
        }
    });
    let refused = loop {
        match client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await {
            Ok((kind, _)) if kind == "ConfigQueryResponse" => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok((_, answer)) => break Some(answer["errorCode"].clone()),
            Err(_) => break None,
        }
    };
    let refused_at = Instant::now();
    let (stream, ended_at) = timeout(PATIENCE, ended).await.unwrap().unwrap();
    Ended { stream, refused, served_for: refused_at.saturating_duration_since(ended_at) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_go_hears_of_it_by_its_next_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(&dir.path().join("data"))).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(tokio::spawn(ignore(client_of(&server).await)));
    }
    let stopping = tokio::spawn(server.stop());
    let (mut refused, mut served_for) = (0, Duration::ZERO);
    for client in clients {
        let ended = timeout(PATIENCE, client).await.unwrap().unwrap();
        assert_eq!(ended.stream, Some(Code::Unavailable), "not just an end, which some clients do not mind");
        refused += usize::from(ended.refused == Some(json!(301)));
        served_for = served_for.max(ended.served_for);
    }
    // As clients in Python: a refusal sends them elsewhere, where a connection that broke does not. On a machine that does
    // something else for a while one may find its connection closed.
    assert!(refused > 0, "nobody was refused");
    // nacos-sdk for Rust hears of the end of its stream a moment later, and passes on what it is refused until then.
    assert!(served_for > Duration::from_millis(100), "refused {served_for:?} after the end of the stream");
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

/// What a server says on a connection until it closes it.
fn answers(mut socket: TcpStream) -> String {
    let mut said = String::new();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.read_to_string(&mut said).expect("the connection is cut off");
    said
}

// One thread: while it connects and asks, the server does nothing.
#[tokio::test]
async fn who_has_connected_when_the_server_stops_is_answered() {
    const ASKED: &[u8] = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(&dir.path().join("data"))).await.unwrap();
    let http = server.http_address();
    let connect = || TcpStream::connect(http).unwrap();
    let (mut silent, mut kept) = (connect(), connect());
    kept.write_all(ASKED).unwrap();
    // Long enough for the server to have answered, and to wait for the next request.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let mut fresh: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    for socket in &mut fresh {
        socket.write_all(ASKED).unwrap();
    }
    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(30)).await;
    silent.write_all(ASKED).unwrap();
    kept.write_all(ASKED).unwrap();
    let started = Instant::now();
    stopping.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());

    for (who, count, sockets) in [("kept", 2, vec![kept]), ("silent", 1, vec![silent]), ("fresh", 1, fresh)] {
        for socket in sockets {
            let said = answers(socket);
            assert_eq!(said.matches("HTTP/1.1 200 OK").count(), count, "{who}: {said:?}");
            assert_eq!(said.to_lowercase().matches("connection: close").count(), 1, "{who}: {said:?}");
        }
    }
}
