//! gRPC at its worst: clients that do not acknowledge, do not read, do not answer; nodes that go away.
#![allow(clippy::unwrap_used)]

#[path = "support/grpc.rs"]
mod grpc;
#[path = "support/process.rs"]
mod process;

use std::{sync::Arc, time::Duration};

use coracle::server::{Options, Server};
use grpc::{Client, PATIENCE, payload_of};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");

async fn server() -> (tempfile::TempDir, Server, String) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(&dir.path().join("data"))).await.unwrap();
    let address = format!("http://{}", server.grpc_address());
    (dir, server, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_repeated_until_it_is_acknowledged() {
    let (_dir, server, address) = server().await;
    let mut client = Client::introduced(&address).await.unwrap();
    assert!(!client.listen("a", "").await.unwrap());
    client.publish("a", "one").await;
    let started = Instant::now();
    let (kind, first) = client.next().await.unwrap();
    assert_eq!((&*kind, &first["dataId"]), ("ConfigChangeNotifyRequest", &json!("a")));
    let (_, second) = timeout(Duration::from_secs(10), client.next()).await.expect("it comes again").unwrap();
    assert_eq!(second["dataId"], "a");
    assert_ne!(first["requestId"], second["requestId"]);
    assert!(started.elapsed() > Duration::from_secs(3), "not before the acknowledgement is late");
    client.acknowledge(&second).await;
    assert!(timeout(Duration::from_secs(8), client.next()).await.is_err(), "acknowledged is delivered");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_nobody_up_and_misses_nothing() {
    let (_dir, server, address) = server().await;
    let mut slow = Client::introduced(&address).await.unwrap();
    slow.listen("a", "").await.unwrap();
    let other = Client::introduced(&address).await.unwrap();
    // More messages than the stream takes, if there were one for each change.
    for at in 0..3_000 {
        timeout(PATIENCE, other.publish("a", &at.to_string())).await.expect("a publish waits for nobody");
    }
    let mut told = 0;
    while let Ok(Some((_, message))) = timeout(Duration::from_millis(500), slow.next()).await {
        slow.acknowledge(&message).await;
        told += 1;
    }
    assert!(told > 0 && told < 1_500, "{told}");
    let (_, found) = slow.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await.unwrap();
    assert_eq!(found["content"], "2999");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_asked_and_then_let_go() {
    let (_dir, server, address) = server().await;
    let mut silent = Client::introduced(&address).await.unwrap();
    let mut answering = Client::introduced(&address).await.unwrap();
    let answers = tokio::spawn(async move {
        while let Some((kind, message)) = answering.next().await {
            assert_eq!(kind, "ClientDetectionRequest");
            answering.acknowledge(&message).await;
        }
    });
    let started = Instant::now();
    let (kind, _) = timeout(Duration::from_secs(25), silent.next()).await.expect("it is asked").unwrap();
    assert_eq!(kind, "ClientDetectionRequest");
    assert!(started.elapsed() > Duration::from_secs(19));
    let ended = async { while silent.next().await.is_some() {} };
    timeout(Duration::from_secs(20), ended).await.expect("the stream of a client that never answers ends");
    let (kind, answer) = silent.try_ask("HealthCheckRequest", &json!({})).await.unwrap();
    assert_eq!((&*kind, &answer["errorCode"]), ("ErrorResponse", &json!(301)));
    assert!(!answers.is_finished(), "who answers stays");
    server.stop().await;
    timeout(PATIENCE, answers).await.expect("the stream ends with the server").unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_sent_away_before_the_server_stops() {
    let (_dir, server, address) = server().await;
    let mut client = Client::introduced(&address).await.unwrap();
    let started = Instant::now();
    let stopping = tokio::spawn(server.stop());
    let (kind, _) = client.next().await.unwrap();
    assert_eq!(kind, "ConnectResetRequest");
    // Until it has found another server it is served here.
    let (kind, _) = client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await.unwrap();
    assert_eq!(kind, "ConfigQueryResponse");
    assert!(Client::introduced(&address).await.is_err(), "but no new ones are taken");
    drop(client);
    stopping.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_registration_is_refused_in_its_own_type_and_listening_has_a_bound() {
    let (_dir, server, address) = server().await;
    let client = Client::introduced(&address).await.unwrap();
    for (request, response) in
        [("InstanceRequest", "InstanceResponse"), ("SubscribeServiceRequest", "SubscribeServiceResponse")]
    {
        let (kind, answer) = client.ask(payload_of(request, &json!({ "serviceName": "s" }))).await;
        assert_eq!((&*kind, &answer["errorCode"]), (response, &json!(501)));
        assert!(answer["message"].as_str().unwrap().contains("configuration only"), "{answer}");
    }
    for batch in 0..4 {
        let contexts: Vec<_> =
            (0..10_000).map(|at| json!({ "dataId": format!("k{batch}-{at}"), "group": "G" })).collect();
        let asked = json!({ "listen": true, "configListenContexts": contexts });
        let (kind, answer) = client.try_ask("ConfigBatchListenRequest", &asked).await.unwrap();
        assert_eq!(kind, "ConfigChangeBatchListenResponse");
        assert_eq!(answer["success"], batch < 3, "{answer}");
    }
    server.stop().await;
}

/// A client as the SDKs are: it goes to the next server when one is gone, lists what it has, and reads what it is told of.
async fn follow(addresses: Arc<Vec<String>>, mut at: usize, has: watch::Sender<String>) {
    loop {
        let session = session(&addresses[at % addresses.len()], &has).await;
        if session.is_err() {
            at += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn session(address: &str, has: &watch::Sender<String>) -> Result<(), tonic::Status> {
    let mut client = timeout(Duration::from_secs(3), Client::introduced(address))
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("connect"))??;
    loop {
        let md5 = if has.borrow().is_empty() { String::new() } else { md5_of(&has.borrow()) };
        if client.listen("a", &md5).await? {
            let (kind, found) = client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await?;
            if kind != "ConfigQueryResponse" {
                return Err(tonic::Status::unavailable(found.to_string()));
            }
            let content = found["content"].as_str().unwrap_or_default().to_owned();
            let number = |text: &str| text.parse().unwrap_or(0_u64);
            assert!(number(&content) >= number(&has.borrow()), "told {content} after {}", *has.borrow());
            has.send_replace(content);
        }
        match client.next().await {
            Some((_, message)) => client.acknowledge(&message).await,
            None => return Err(tonic::Status::unavailable("the stream ended")),
        }
    }
}

fn md5_of(text: &str) -> String {
    coracle::types::Content::new(text.to_owned()).digest().to_hex()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_no_change_for_a_thousand_streams() {
    const STREAMS: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let ports: Vec<u16> = (0..3).map(|_| process::free_port()).collect();
    let members: Vec<String> =
        ports.iter().zip(1..).map(|(port, id)| format!("{id}=127.0.0.1:{}", port - 1000)).collect();
    let members = members.join(",");
    let mut nodes: Vec<process::Server> = Vec::new();
    for (id, port) in (1..).zip(&ports) {
        let id = id.to_string();
        nodes.push(process::Server::spawn(
            PROGRAM,
            &dir.path().join(&id),
            *port,
            &["--node-id", &id, "--members", &members],
        ));
    }
    nodes.iter_mut().for_each(process::Server::wait_ready);
    let addresses: Arc<Vec<String>> =
        Arc::new(ports.iter().map(|it| format!("http://127.0.0.1:{}", it + 1000)).collect());
    let mut subscribers = Vec::new();
    for at in 0..STREAMS {
        let (has, heard) = watch::channel(String::new());
        tokio::spawn(follow(addresses.clone(), at, has));
        subscribers.push(heard);
    }
    let publish = async |content: &str| {
        for at in 0..200 {
            let Ok(client) = Client::introduced(&addresses[at % 3]).await else { continue };
            let asked = json!({ "dataId": "a", "group": "G", "content": content });
            match client.try_ask("ConfigPublishRequest", &asked).await {
                Ok((_, answer)) if answer["success"] == true => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("nobody takes {content}");
    };
    publish("1").await;
    let everybody_has = async |subscribers: &mut Vec<watch::Receiver<String>>, content: &str, within: Duration| {
        let deadline = Instant::now() + within;
        let mut missing = 0;
        for heard in subscribers {
            let told = tokio::time::timeout_at(deadline, heard.wait_for(|it| it == content)).await;
            missing += usize::from(!matches!(told, Ok(Ok(_))));
        }
        assert_eq!(missing, 0, "{missing} of {STREAMS} were not told {content} within {within:?}");
    };
    everybody_has(&mut subscribers, "1", Duration::from_secs(30)).await;

    let mut http = process::Http::connect(ports[0]).unwrap();
    let (_, status) = http.get("/coracle/v1/status").unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let leader = status["leader"].as_u64().unwrap() as usize;
    nodes[leader - 1].kill();
    publish("2").await;
    everybody_has(&mut subscribers, "2", Duration::from_secs(5)).await;
    publish("3").await;
    everybody_has(&mut subscribers, "3", Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_of_what_is_no_longer_listened_to_does_not_hide_the_next_one() {
    let (_dir, server, address) = server().await;
    let mut client = Client::introduced(&address).await.unwrap();
    let other = Client::introduced(&address).await.unwrap();
    for data_id in ["a", "b"] {
        client.listen(data_id, "").await.unwrap();
    }
    // Until the stream takes no more and a mark has to wait.
    for at in 0..1_000 {
        other.publish("a", &at.to_string()).await;
    }
    client.unlisten("a").await;
    while timeout(Duration::from_millis(300), client.next()).await.is_ok() {}
    other.publish("b", "one").await;
    let told = timeout(Duration::from_secs(2), client.next()).await.expect("told of b at once");
    assert_eq!(told.unwrap().1["dataId"], "b");
    server.stop().await;
}
