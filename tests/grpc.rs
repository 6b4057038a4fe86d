//! gRPC at its worst: clients that do not acknowledge, do not read, do not answer; nodes that go away.
#![allow(clippy::unwrap_used)]

#[path = "support/grpc.rs"]
mod grpc;
#[path = "support/process.rs"]
mod process;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use coracle::server::{Options, Server};
use grpc::{Client, PATIENCE, payload_of};
use serde_json::{Value, json};
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
    client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await.unwrap();
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
    let mut client = Client::introduced(&address).await.unwrap();
    for (request, response) in [
        ("InstanceRequest", "InstanceResponse"),
        ("PersistentInstanceRequest", "InstanceResponse"),
        ("BatchInstanceRequest", "BatchInstanceResponse"),
        ("SubscribeServiceRequest", "SubscribeServiceResponse"),
        ("ServiceQueryRequest", "QueryServiceResponse"),
        ("ServiceListRequest", "ServiceListResponse"),
        ("NamingFuzzyWatchRequest", "NamingFuzzyWatchResponse"),
    ] {
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
    // Refused as a whole, and what was listened to before still is.
    let contexts = json!([{ "dataId": "k0-0", "group": "G" }, { "dataId": "new", "group": "G" }]);
    let asked = json!({ "listen": true, "configListenContexts": contexts });
    let (_, answer) = client.try_ask("ConfigBatchListenRequest", &asked).await.unwrap();
    assert_eq!(answer["success"], false, "{answer}");
    client.publish("new", "1").await;
    client.publish("k0-0", "1").await;
    let (_, message) = timeout(PATIENCE, client.next()).await.expect("it is told").unwrap();
    assert_eq!(message["dataId"], "k0-0");
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

/// Three nodes that are ready.
fn cluster(dir: &Path) -> Vec<process::Server> {
    let ports: Vec<u16> = (0..3).map(|_| process::free_port()).collect();
    let members: Vec<String> =
        ports.iter().zip(1..).map(|(port, id)| format!("{id}=127.0.0.1:{}", port - 1000)).collect();
    let members = members.join(",");
    let start = |(port, id): (&u16, i32)| {
        let id = id.to_string();
        process::Server::spawn(PROGRAM, &dir.join(&id), *port, &["--node-id", &id, "--members", &members])
    };
    let mut nodes: Vec<process::Server> = ports.iter().zip(1..).map(start).collect();
    nodes.iter_mut().for_each(process::Server::wait_ready);
    nodes
}

/// The place of the one that leads.
fn leader_of(nodes: &[process::Server]) -> usize {
    let (_, status) = process::Http::connect(nodes[0].port).unwrap().get("/coracle/v1/status").unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    status["leader"].as_u64().unwrap() as usize - 1
}

fn grpc_addresses(nodes: &[process::Server]) -> Vec<String> {
    nodes.iter().map(|it| format!("http://127.0.0.1:{}", it.port + 1000)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_at_a_follower_is_told_as_soon_as_at_the_leader() {
    const CHANGES: usize = 31;
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path());
    let leader = leader_of(&nodes);
    let addresses = grpc_addresses(&nodes);
    let publisher = Client::introduced(&addresses[leader]).await.unwrap();
    let (told, mut is_told) = tokio::sync::mpsc::unbounded_channel();
    for (node, address) in addresses.iter().enumerate() {
        let mut client = Client::introduced(address).await.unwrap();
        client.listen("a", "").await.unwrap();
        let told = told.clone();
        tokio::spawn(async move {
            while let Some((_, message)) = client.next().await {
                let at = Instant::now();
                client.acknowledge(&message).await;
                let looked = client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await;
                // At the end of the test both may be gone.
                if looked.is_err() || told.send((node, at)).is_err() {
                    return;
                }
            }
        });
    }
    let mut waited = vec![Vec::new(); nodes.len()];
    for change in 0..CHANGES {
        // Between two signs of life from the leader, which come every 150 ms or so.
        tokio::time::sleep(Duration::from_millis(40)).await;
        let began = Instant::now();
        publisher.publish("a", &change.to_string()).await;
        for _ in &nodes {
            let (node, at) = timeout(PATIENCE, is_told.recv()).await.expect("everybody is told").unwrap();
            waited[node].push(at.saturating_duration_since(began));
        }
    }
    waited.iter_mut().for_each(|it| it.sort());
    let usual: Vec<Duration> = waited.iter().map(|it| it[CHANGES / 2]).collect();
    println!("told after {usual:?}, the leader is {leader}");
    assert!(
        usual.iter().all(|it| *it < usual[leader] + Duration::from_millis(40)),
        "{usual:?}, the leader is {leader}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_no_change_for_a_thousand_streams() {
    const STREAMS: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path());
    let addresses = Arc::new(grpc_addresses(&nodes));
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

    let leader = leader_of(&nodes);
    nodes[leader].kill();
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

/// The keys of a pattern that a client knows, as a client in Java keeps them; acknowledges whatever comes.
struct PatternClient {
    client: Client,
    known: BTreeSet<String>,
    finished: bool,
    notices: usize,
}

impl PatternClient {
    async fn watch(address: &str, pattern: &str) -> Self {
        let client = Client::introduced(address).await.unwrap();
        let mut it = Self { client, known: BTreeSet::new(), finished: false, notices: 0 };
        assert_eq!(it.ask(pattern, "WATCH", true).await["resultCode"], 200);
        it
    }

    async fn ask(&mut self, pattern: &str, watch_type: &str, initializing: bool) -> Value {
        let asked = json!({
            "groupKeyPattern": pattern, "receivedGroupKeys": self.known, "watchType": watch_type,
            "initializing": initializing,
        });
        let (kind, answer) = self.client.try_ask("ConfigFuzzyWatchRequest", &asked).await.unwrap();
        assert_eq!(kind, "ConfigFuzzyWatchResponse");
        answer
    }

    fn take(&mut self, kind: &str, message: &Value) {
        let mut change = |key: &Value, what: &Value| {
            let key = key.as_str().unwrap().to_owned();
            match what.as_str().unwrap() {
                "ADD_CONFIG" | "CONFIG_CHANGED" => self.known.insert(key),
                "DELETE_CONFIG" => self.known.remove(&key),
                other => panic!("{other}"),
            };
        };
        match kind {
            "ConfigFuzzyWatchSyncRequest" if message["syncType"] == "FINISH_FUZZY_WATCH_INIT_NOTIFY" => {
                self.finished = true;
            }
            "ConfigFuzzyWatchSyncRequest" => {
                let contexts = message["contexts"].as_array().unwrap();
                assert!(contexts.len() <= 20);
                contexts.iter().for_each(|it| change(&it["groupKey"], &it["changedType"]));
            }
            "ConfigFuzzyWatchChangeNotifyRequest" => {
                change(&message["groupKey"], &message["changeType"]);
                self.notices += 1;
            }
            other => panic!("{other}: {message}"),
        }
    }

    /// Takes what comes until it knows exactly these.
    async fn until(&mut self, wanted: &BTreeSet<String>) {
        timeout(PATIENCE, async {
            while self.known != *wanted || !self.finished {
                let (kind, message) = self.client.next().await.unwrap();
                self.client.acknowledge(&message).await;
                self.take(&kind, &message);
            }
        })
        .await
        .unwrap_or_else(|_| panic!("it knows {} keys, not {}", self.known.len(), wanted.len()));
    }
}

fn group_keys(names: impl IntoIterator<Item = u32>) -> BTreeSet<String> {
    names.into_iter().map(|it| format!("app-{it}+G+public")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_tells_what_is_there_and_what_comes_and_goes() {
    let (_dir, server, address) = server().await;
    let writer = Client::introduced(&address).await.unwrap();
    for at in 0..45 {
        writer.publish(&format!("app-{at}"), "x").await;
        writer.publish(&format!("other-{at}"), "x").await;
    }
    let mut client = PatternClient::watch(&address, "public>>G>>app-*").await;
    client.until(&group_keys(0..45)).await;
    assert_eq!(client.notices, 0, "what was there came in parts");
    // A new content is no news; a key that comes or goes is.
    writer.publish("app-1", "y").await;
    writer.publish("other-99", "y").await;
    writer.publish("app-45", "y").await;
    client.until(&group_keys(0..46)).await;
    assert_eq!(client.notices, 1);
    let gone = json!({ "dataId": "app-0", "group": "G" });
    assert_eq!(writer.try_ask("ConfigRemoveRequest", &gone).await.unwrap().1["success"], true);
    client.until(&group_keys(1..46)).await;
    // A client that comes back with what it knew is told the difference only.
    client.known.remove("app-7+G+public");
    client.known.insert("app-1000+G+public".into());
    assert_eq!(client.ask("public>>G>>app-*", "WATCH", false).await["resultCode"], 200);
    client.until(&group_keys(1..46)).await;
    assert_eq!(client.notices, 2);
    // No longer watched: silence.
    assert_eq!(client.ask("public>>G>>app-*", "CANCEL_WATCH", false).await["resultCode"], 200);
    writer.publish("app-77", "y").await;
    assert!(client.client.messages().await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_not_acknowledged_comes_again_as_things_are_then() {
    let (_dir, server, address) = server().await;
    let writer = Client::introduced(&address).await.unwrap();
    writer.publish("app-1", "x").await;
    let mut client = PatternClient::watch(&address, "public>>G>>app-*").await;
    let (_, first) = client.client.next().await.unwrap();
    assert_eq!(first["contexts"][0]["changedType"], "ADD_CONFIG");
    // Not acknowledged; and meanwhile the key goes.
    let gone = json!({ "dataId": "app-1", "group": "G" });
    assert_eq!(writer.try_ask("ConfigRemoveRequest", &gone).await.unwrap().1["success"], true);
    let (kind, notice) = client.client.next().await.unwrap();
    assert_eq!((&*kind, notice["changeType"].as_str()), ("ConfigFuzzyWatchChangeNotifyRequest", Some("DELETE_CONFIG")));
    client.client.acknowledge(&notice).await;
    let again = timeout(PATIENCE, client.client.next()).await.unwrap().unwrap().1;
    assert_eq!(again["contexts"][0]["changedType"], "DELETE_CONFIG", "the old part must not bring it back");
    client.client.acknowledge(&again).await;
    let last = timeout(PATIENCE, client.client.next()).await.unwrap().unwrap().1;
    assert_eq!(last["syncType"], "FINISH_FUZZY_WATCH_INIT_NOTIFY");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_watches_a_bounded_number_of_patterns() {
    let (_dir, server, address) = server().await;
    let mut client = PatternClient::watch(&address, "public>>G>>a0*").await;
    for at in 1..20 {
        assert_eq!(client.ask(&format!("public>>G>>a{at}*"), "WATCH", false).await["resultCode"], 200);
    }
    let refused = client.ask("public>>G>>b*", "WATCH", false).await;
    assert_eq!((refused["resultCode"].as_i64(), refused["errorCode"].as_i64()), (Some(500), Some(50310)));
    // One that is watched already may be asked for again, and one given up makes room.
    assert_eq!(client.ask("public>>G>>a3*", "WATCH", false).await["resultCode"], 200);
    assert_eq!(client.ask("public>>G>>a3*", "CANCEL_WATCH", false).await["resultCode"], 200);
    assert_eq!(client.ask("public>>G>>b*", "WATCH", false).await["resultCode"], 200);
    let unknown = client.ask("public>>G>>c*", "LOOK", false).await;
    assert_eq!(unknown["errorCode"], 400, "{unknown}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_never_overtakes_the_answer_to_a_listen_request() {
    // A client in Go that handles the push first believes the answer, and misses the change.
    let (_dir, server, address) = server().await;
    let writer = Client::introduced(&address).await.unwrap();
    let mut client = Client::introduced(&address).await.unwrap();
    let mut pauses = Vec::new();
    for at in 0..60 {
        let key = format!("k{at}");
        // The writer may be answered much later: that is not what counts.
        let listen = async { (client.listen(&key, "").await, Instant::now()) };
        let ((stale, answered), ()) = tokio::join!(listen, writer.publish(&key, "x"));
        if stale.unwrap() {
            continue;
        }
        let (_, message) = timeout(PATIENCE, client.next()).await.expect("the change is told").unwrap();
        pauses.push(answered.elapsed());
        client.acknowledge(&message).await;
    }
    // Not each of them: a busy machine keeps an answer from this test for longer than the pause, now and then.
    pauses.sort_unstable();
    let most = pauses.get(pauses.len() * 3 / 4).copied();
    let most = most.expect("the change came after the comparison at least once");
    assert!(most >= Duration::from_millis(5), "told {most:?} after the answer: {pauses:?}");
    server.stop().await;
}

/// How many changes are told until nothing came for a while, all of them acknowledged.
async fn told_until_silence(client: &mut Client, silence: Duration) -> usize {
    let mut told = 0;
    while let Ok(Some((_, message))) = timeout(silence, client.next()).await {
        client.acknowledge(&message).await;
        told += 1;
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_acknowledges_and_does_not_look_is_reminded_a_few_times() {
    // A client in Go that handles a push while it works through the answer to a listen request forgets it again.
    let (_dir, server, address) = server().await;
    let mut forgetful = Client::introduced(&address).await.unwrap();
    let mut client = Client::introduced(&address).await.unwrap();
    for listener in [&forgetful, &client] {
        assert!(!listener.listen("a", "").await.unwrap());
    }
    client.publish("a", "one").await;
    let looks = async {
        let (_, message) = timeout(PATIENCE, client.next()).await.expect("the change is told").unwrap();
        client.acknowledge(&message).await;
        client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await.unwrap();
        told_until_silence(&mut client, Duration::from_secs(5)).await
    };
    let forgets = told_until_silence(&mut forgetful, Duration::from_secs(9));
    let (reminded, told) = tokio::join!(looks, forgets);
    assert_eq!((reminded, told), (0, 8), "reminders of who looked, and tellings of who did not");
    // Whoever is not interested is told of the next change all the same.
    // (The other client has been silent for too long by now.)
    Client::introduced(&address).await.unwrap().publish("a", "two").await;
    let (_, message) = timeout(PATIENCE, forgetful.next()).await.expect("the next change is told").unwrap();
    assert_eq!(message["dataId"], "a");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_application_reads_is_no_look_of_its_listener() {
    // In Go both ask alike, but a listener lists again what it has read. Whoever asks for a tag reads another version.
    let (_dir, server, address) = server().await;
    let mut go = Client::connect(&address).await;
    let setup = json!({ "clientVersion": "Nacos-Go-Client:v2.2.7" });
    go.setup(payload_of("ConnectionSetupRequest", &setup)).await;
    let mut tagged = Client::introduced(&address).await.unwrap();
    for client in [&go, &tagged] {
        assert!(!client.listen("a", "").await.unwrap());
    }
    Client::introduced(&address).await.unwrap().publish("a", "one").await;
    for (client, tag) in [(&mut go, None), (&mut tagged, Some("t"))] {
        let (_, message) = timeout(PATIENCE, client.next()).await.expect("the change is told").unwrap();
        client.acknowledge(&message).await;
        let asked = json!({ "dataId": "a", "group": "G", "tag": tag });
        client.try_ask("ConfigQueryRequest", &asked).await.unwrap();
    }
    for client in [&mut go, &mut tagged] {
        let (_, message) = timeout(PATIENCE, client.next()).await.expect("it is reminded").unwrap();
        client.acknowledge(&message).await;
        assert!(!client.listen("a", &md5_of("one")).await.unwrap());
        assert_eq!(told_until_silence(client, Duration::from_secs(4)).await, 0, "it has the content now");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_look_at_what_a_listen_request_was_answered_is_pushed_to() {
    // nacos_rust_client never does: what changed while it was between two servers it would hear with the next change.
    let (_dir, server, address) = server().await;
    let mut client = Client::introduced(&address).await.unwrap();
    client.publish("a", "one").await;
    client.publish("b", "one").await;
    assert!(client.listen("a", &md5_of("zero")).await.unwrap());
    assert!(!client.listen("b", &md5_of("one")).await.unwrap());
    let (_, message) = timeout(PATIENCE, client.next()).await.expect("what was not looked at is told").unwrap();
    assert_eq!(message["dataId"], "a");
    client.acknowledge(&message).await;
    client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await.unwrap();
    assert_eq!(told_until_silence(&mut client, Duration::from_secs(5)).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_and_was_refused_has_not_looked() {
    let (_dir, server, address) = server().await;
    let mut client = Client::introduced(&address).await.unwrap();
    assert!(!client.listen("a", "").await.unwrap());
    client.publish("a", "one").await;
    let (_, message) = timeout(PATIENCE, client.next()).await.expect("the change is told").unwrap();
    client.acknowledge(&message).await;
    let asked = json!({ "dataId": "a", "group": "G", "tag": "x".repeat(17) });
    let (_, answer) = client.try_ask("ConfigQueryRequest", &asked).await.unwrap();
    assert_eq!(answer["success"], false, "{answer}");
    let (_, again) = timeout(PATIENCE, client.next()).await.expect("it is reminded").unwrap();
    assert_eq!(again["dataId"], "a");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_longer_than_any_is_none() {
    let (_dir, server, address) = server().await;
    let client = client_at(&address, &"1".repeat(100_000)).await;
    let beta = json!({ "dataId": "a", "group": "G", "content": "b", "additionMap": { "betaIps": "127.0.0.1" } });
    let (_, answer) = client.try_ask("ConfigPublishRequest", &beta).await.unwrap();
    assert_eq!(answer["success"], true, "{answer}");
    let (_, found) = client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G" })).await.unwrap();
    assert_eq!((&found["content"], &found["beta"]), (&json!("b"), &json!(true)), "{found}");
    server.stop().await;
}

/// What `GET` of this target answers.
async fn http_get(server: &Server, target: &str) -> (u16, Value) {
    let (port, target) = (server.http_address().port(), target.to_owned());
    let got = tokio::task::spawn_blocking(move || process::Http::connect(port).unwrap().get(&target).unwrap());
    let (status, body) = got.await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// A client that calls itself by an address, and says what it is asked.
async fn client_at(address: &str, ip: &str) -> Client {
    let mut setup = payload_of("ConnectionSetupRequest", &json!({ "clientVersion": "test" }));
    setup.metadata.as_mut().unwrap().client_ip = ip.to_owned();
    let mut client = Client::connect(address).await;
    client.setup(setup).await;
    client
}

/// Answers one question by its name and the keys in it.
async fn tell_metrics(client: &mut Client, name: &str) -> Value {
    let (kind, question) = timeout(PATIENCE, client.next()).await.unwrap().unwrap();
    assert_eq!(kind, "ClientConfigMetricRequest");
    let answer = json!({ "requestId": question["requestId"], "resultCode": 200, "metrics": { name: "fine" } });
    let (send, _) = client.stream.as_ref().unwrap();
    send.send(payload_of("ClientConfigMetricResponse", &answer)).await.unwrap();
    question
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_told_what_clients_say_of_themselves() {
    let (_dir, server, address) = server().await;
    let mut first = client_at(&address, "10.1.1.1").await;
    let mut second = client_at(&address, "10.1.1.1").await;
    let mut other = client_at(&address, "10.2.2.2").await;
    let mute = client_at(&address, "10.3.3.3").await;

    let asked = "/nacos/v1/cs/metrics/ip?ip=10.1.1.1&dataId=a&group=G";
    let (told, one, two) =
        tokio::join!(http_get(&server, asked), tell_metrics(&mut first, "one"), tell_metrics(&mut second, "two"));
    assert_eq!(told, (200, json!({ "one": "fine", "two": "fine" })), "both of that address, and nobody else");
    let key = |kind: &str, key: &str| json!({ "type": kind, "key": key });
    let keys = json!([
        key("cacheData", "a+G+public"),
        key("cacheData", "a+G"),
        key("snapshotData", "a+G+public"),
        key("snapshotData", "a+G"),
    ]);
    assert_eq!((&one["metricsKeys"], &two["metricsKeys"]), (&keys, &keys));

    let asked = "/nacos/v3/admin/cs/metrics/cluster?ip=10.2.2.2&dataId=a&groupName=G&namespaceId=n";
    let (told, question) = tokio::join!(http_get(&server, asked), tell_metrics(&mut other, "other"));
    assert_eq!(told, (200, json!({ "code": 0, "message": "success", "data": { "other": "fine" } })));
    assert_eq!(question["metricsKeys"], json!([key("cacheData", "a+G+n"), key("snapshotData", "a+G+n")]));

    // Who does not answer is left out, and is served as before.
    assert_eq!(http_get(&server, "/nacos/v1/cs/metrics/ip?ip=10.3.3.3").await, (200, json!({})));
    mute.publish("a", "still there").await;
    assert_eq!(http_get(&server, "/nacos/v1/cs/metrics/ip?ip=10.9.9.9").await, (200, json!({})), "nobody is there");
    for wrong in [
        "/nacos/v1/cs/metrics/ip",
        "/nacos/v1/cs/metrics/ip?ip=1&dataId=a",
        "/nacos/v1/cs/metrics/ip?ip=1&dataId=%2B&group=G",
    ] {
        assert_eq!(http_get(&server, wrong).await.0, 400, "{wrong}");
    }
    assert_eq!(http_get(&server, "/nacos/v1/cs/metrics/else?ip=1").await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_said_of_a_configuration_can_be_read_again() {
    let (_dir, server, address) = server().await;
    let client = client_at(&address, "10.1.1.1").await;
    let said = json!({
        "appName": "shop", "config_tags": "red,blue", "desc": "what it is", "use": "how", "effect": "when",
        "type": "json", "schema": "{}", "encryptedDataKey": "sealed", "src_user": "ann",
    });
    let asked = json!({ "dataId": "a", "group": "G", "content": "{}", "additionMap": said });
    assert_eq!(client.try_ask("ConfigPublishRequest", &asked).await.unwrap().1["success"], true);
    let (status, found) = http_get(&server, "/nacos/v1/cs/configs?show=all&dataId=a&group=G").await;
    assert_eq!(status, 200, "{found}");
    let read = ["appName", "configTags", "desc", "use", "effect", "type", "schema", "encryptedDataKey", "createUser"];
    let read = json!(read.map(|name| found[name].clone()));
    assert_eq!(
        read,
        json!(["shop", "red,blue", "what it is", "how", "when", "json", "{}", "sealed", "ann"]),
        "{found}"
    );
    assert_eq!(found["createIp"], "10.1.1.1");
    assert_eq!(client.try_ask("PushAckRequest", &json!({ "requestId": "1" })).await.unwrap().0, "PushAckResponse");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_named_only_to_who_asks_for_it() {
    let (_dir, server, address) = server().await;
    let plain = Client::introduced(&address).await.unwrap();
    let labelled = async |label: &str| {
        let mut client = Client::connect(&address).await;
        let setup = json!({ "clientVersion": "test", "labels": { label: "t1" } });
        client.setup(payload_of("ConnectionSetupRequest", &setup)).await;
        client
    };
    plain.publish("a", "formal").await;
    let asked = json!({ "dataId": "a", "group": "G", "content": "gray", "additionMap": { "tag": "t1" } });
    assert_eq!(plain.try_ask("ConfigPublishRequest", &asked).await.unwrap().1["success"], true);
    let query = async |client: &Client, tag: Value| {
        let (_, found) =
            client.try_ask("ConfigQueryRequest", &json!({ "dataId": "a", "group": "G", "tag": tag })).await.unwrap();
        (found["content"].clone(), found.get("tag").cloned())
    };
    assert_eq!(query(&plain, Value::Null).await, (json!("formal"), None));
    assert_eq!(query(&plain, json!("t1")).await, (json!("gray"), Some(json!("t1"))));
    for label in ["app_Vipserver-Tag", "Vipserver-Tag"] {
        // Clients in Go and Python take a boolean there, and lose the answer by a text.
        assert_eq!(query(&labelled(label).await, Value::Null).await, (json!("gray"), None), "{label}");
    }
    server.stop().await;
}
