//! Very many clients on one node that want nothing: they stay, a change reaches them, and memory is measured.
//!
//! With very many by hand, since that needs a limit of open files to match (`ulimit -Hn`; both sides raise their own as far
//! as they may): `CORACLE_PROGRAM=target/release/coracle cargo test --test idle_streams -- --ignored --nocapture`.
// The environment is how one asks for more or fewer, by hand.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/grpc.rs"]
mod grpc;
#[path = "support/process.rs"]
mod process;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coracle::nacos::wire::payload::{
    Payload, bi_request_stream_client::BiRequestStreamClient, request_client::RequestClient,
};
use grpc::payload_of;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");
const STREAMS: usize = 20_000;
/// So many can be opened whatever the limit.
const FEW_STREAMS: usize = 700;
const EACH_KIB_MAX: f64 = 34.0;
/// Descriptors that are not those of streams.
const OTHER_DESCRIPTORS: u64 = 200;
/// Connections that are being opened at once.
const OPENING: usize = 64;
/// Every so many streams one listens to the key that changes.
const LISTENS_EVERY: usize = 100;
/// Longer than it takes until every client has been asked whether it is there.
const HOLD: Duration = Duration::from_secs(45);

#[derive(Default)]
struct Counted {
    asked: AtomicUsize,
    told: AtomicUsize,
    ended: AtomicUsize,
}

struct Stream {
    _channel: Channel,
    send: mpsc::Sender<Payload>,
    incoming: Streaming<Payload>,
}

/// Comes as a client does, and is known when this returns.
async fn open(address: String, listens: bool) -> Stream {
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let (send, outgoing) = mpsc::channel(2);
    send.send(payload_of("ConnectionSetupRequest", &json!({ "clientVersion": "test" }))).await.unwrap();
    let mut streams = BiRequestStreamClient::new(channel.clone());
    let incoming = streams.request_bi_stream(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let mut unary = RequestClient::new(channel.clone());
    let contexts = json!([{ "dataId": "a", "group": "G", "tenant": "", "md5": "" }]);
    let (kind, request) = if listens {
        ("ConfigBatchListenRequest", json!({ "listen": true, "configListenContexts": contexts }))
    } else {
        ("HealthCheckRequest", json!({}))
    };
    loop {
        let answer = unary.request(payload_of(kind, &request)).await.unwrap().into_inner();
        if answer.kind() != "ErrorResponse" {
            return Stream { _channel: channel, send, incoming };
        }
        // The server has not read the introduction yet.
        sleep(Duration::from_millis(2)).await;
    }
}

/// Acknowledges what comes until the stream ends.
async fn stay(mut stream: Stream, counted: Arc<Counted>) {
    while let Ok(Some(payload)) = stream.incoming.message().await {
        let message: Value = serde_json::from_slice(&payload.json()).unwrap();
        let counter = match payload.kind() {
            "ClientDetectionRequest" => &counted.asked,
            "ConfigChangeNotifyRequest" => &counted.told,
            other => panic!("{other}"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let answer = json!({ "requestId": message["requestId"], "resultCode": 200 });
        if stream.send.send(payload_of("ClientDetectionResponse", &answer)).await.is_err() {
            break;
        }
    }
    counted.ended.fetch_add(1, Ordering::Relaxed);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A server with streams that stay.
struct Held {
    _dir: tempfile::TempDir,
    server: process::Server,
    counted: Arc<Counted>,
    /// Resident memory without them, in KiB.
    before: u64,
}

impl Held {
    async fn open(program: &str, streams: usize) -> Self {
        let wanted = streams as u64 + OTHER_DESCRIPTORS;
        let limit = rlimit::increase_nofile_limit(wanted).unwrap();
        assert!(limit >= wanted, "at most {limit} open files are allowed: raise `ulimit -Hn`, or set CORACLE_STREAMS");
        let dir = tempfile::tempdir().unwrap();
        let server = process::Server::start(program, &dir.path().join("data"), process::free_port(), &["--standalone"]);
        let address = format!("http://127.0.0.1:{}", server.port + 1000);
        let before = resident_kib(server.pid());
        let places = Arc::new(Semaphore::new(OPENING));
        let counted = Arc::<Counted>::default();
        let mut opening = JoinSet::new();
        for at in 0..streams {
            let place = places.clone().acquire_owned().await.unwrap();
            let (address, counted) = (address.clone(), counted.clone());
            opening.spawn(async move {
                let stream = open(address, at % LISTENS_EVERY == 0).await;
                drop(place);
                // At once: it is asked whether it is there while the others come.
                tokio::spawn(stay(stream, counted));
            });
        }
        opening.join_all().await;
        Self { _dir: dir, server, counted, before }
    }

    /// What each of so many streams takes, in KiB.
    fn each_kib(&self, streams: usize) -> f64 {
        let after = resident_kib(self.server.pid());
        println!("resident: {} KiB without, {after} KiB with {streams} streams", self.before);
        (after - self.before) as f64 / streams as f64
    }
}

/// Such a build has larger futures and checks; a buffer of the libraries too many for each stream is noticed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_takes_no_more_memory_than_it_should() {
    let held = Held::open(PROGRAM, FEW_STREAMS).await;
    let each = held.each_kib(FEW_STREAMS);
    println!("{each:.1} KiB each");
    assert!(each < EACH_KIB_MAX, "{each:.1} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by hand: see the head of this file"]
async fn idle_streams_stay_and_are_told() {
    let streams: usize = env::var("CORACLE_STREAMS").map_or(STREAMS, |it| it.parse().unwrap());
    let program = env::var("CORACLE_PROGRAM").unwrap_or_else(|_| PROGRAM.to_owned());
    let started = Instant::now();
    let held = Held::open(&program, streams).await;
    println!("{streams} streams opened in {:.1} s", started.elapsed().as_secs_f64());
    let Held { server, counted, .. } = &held;

    let began = Instant::now();
    while began.elapsed() < HOLD {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(counted.ended.load(Ordering::Relaxed), 0, "streams have ended");
    }
    let asked = counted.asked.load(Ordering::Relaxed);
    println!("held for {} s; asked whether they are there: {asked} times", HOLD.as_secs());
    println!("{:.1} KiB each", held.each_kib(streams));
    assert!(asked >= streams, "every one was asked, and is still there");

    let listeners = streams.div_ceil(LISTENS_EVERY);
    let published = Instant::now();
    let port = server.port;
    tokio::task::spawn_blocking(move || {
        let (status, _) = process::Http::connect(port).unwrap().publish("a", "news").unwrap();
        assert_eq!(status, 200);
    })
    .await
    .unwrap();
    let all_told = async {
        while counted.told.load(Ordering::Relaxed) < listeners {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), all_told).await.expect("who listens is told");
    println!("{listeners} listeners told within {:.0} ms", published.elapsed().as_secs_f64() * 1e3);
    assert_eq!(counted.ended.load(Ordering::Relaxed), 0, "streams have ended");
}
