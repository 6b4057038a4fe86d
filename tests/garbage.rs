//! What no client and no member would say, to real servers: they answer 4xx or close the connection, write nothing, and go
//! on serving.
//!
//! `CORACLE_GARBAGE_REQUESTS` sets how many there are (1,200 unless told), `CORACLE_GARBAGE_SEED` repeats them.
#![allow(clippy::unwrap_used)]

#[path = "support/process.rs"]
mod process;
#[path = "support/random.rs"]
mod random;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use bytes::Bytes;
use coracle::{
    server::{MemberOptions, Options, Server},
    storage::codec::encode_proposal,
    types::{Command, Millis, Namespace, NamespaceId, Proposal},
};
use process::Http;
use random::Random;
use tokio::time::{Duration, Instant, sleep};

/// How long a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn setting(name: &str, default: u64) -> u64 {
    std::env::vars().find(|(it, _)| it == name).map_or(default, |(_, value)| value.parse().unwrap())
}

/// Bytes to send, and whether they are a whole request, which must be answered.
struct Garbage {
    what: &'static str,
    bytes: Vec<u8>,
    whole: bool,
}

const FORM: &str = "dataId=evil&group=G&content=x";

/// Heads of requests that would publish but for the line that comes in the middle of them.
const BAD_HEADERS: &[(&str, &str, bool)] = &[
    ("a length that is no number", "Content-Length: x", true),
    ("a negative length", "Content-Length: -1", true),
    ("a length with a sign", "Content-Length: +29", true),
    ("two lengths", "Content-Length: 29\r\nContent-Length: 30", true),
    ("a list of lengths", "Content-Length: 29, 30", true),
    ("a length beyond numbers", "Content-Length: 99999999999999999999999", true),
    ("a length beyond the body", "Content-Length: 4096", false),
    ("an unknown encoding", "Transfer-Encoding: xchunked", true),
    ("an encoding after chunked", "Transfer-Encoding: chunked, gzip", true),
    ("chunks that are none", "Transfer-Encoding: chunked", true),
    ("a length and chunks", "Content-Length: 29\r\nTransfer-Encoding: chunked", true),
    ("a space before the colon", "Content-Length : 29", true),
    ("a name with a space", "Content Length: 29", true),
    ("a name with a zero", "X\0Y: 1\r\nContent-Length: 29", true),
    ("a value with a zero", "X: a\0b\r\nContent-Length: 29", true),
    ("a line without a colon", "Content-Length 29", true),
    ("a folded line", "X: a\r\n b\r\nContent-Length: 29", true),
    ("a JSON body", "Content-Type: application/json\r\nContent-Length: 29", true),
    ("a boundary that does not come", "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 29", true),
    ("no boundary", "Content-Type: multipart/form-data\r\nContent-Length: 29", true),
];

/// Queries of a publish that must be refused.
const BAD_QUERIES: &[(&str, &str)] = &[
    ("a percent sign alone", "dataId=evil&group=G&content=%"),
    ("no hexadecimal digits", "dataId=evil&group=G&content=%zz"),
    ("half a byte", "dataId=evil&group=G&content=%4"),
    ("a sign for a digit", "dataId=evil&group=G&content=%+1"),
    ("bytes that are no UTF-8", "dataId=evil&group=G&content=%ff%fe"),
    ("an overlong slash", "dataId=evil%c0%af&group=G&content=x"),
    ("a zero in a name", "dataId=evil%00&group=G&content=x"),
    ("a path for a name", "dataId=..%2f..%2fetc%2fpasswd&group=G&content=x"),
    ("a path for a group", "dataId=evil&group=..%2f&content=x"),
    ("a path for a tenant", "dataId=evil&group=G&tenant=..&content=x"),
    ("a backslash", "dataId=evil%5c..&group=G&content=x"),
    ("a leader dot of another alphabet", "dataId=%e2%80%a4%e2%80%a4&group=G&content=x"),
    ("a line feed in a name", "dataId=evil%0a&group=G&content=x"),
    ("markup in a name", "dataId=%3Cscript%3E&group=G&content=x"),
    ("no name", "group=G&content=x"),
    ("a blank name", "dataId=+&group=G&content=x"),
    ("a blank content", "dataId=evil&group=G&content=%20%09"),
    ("a tag that is none", "dataId=evil&group=G&content=x&tag=%2e%2e%2f"),
];

fn garbage(random: &mut Random) -> Garbage {
    let post = "POST /nacos/v1/cs/configs";
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let mut pick = |bound: usize| random.below(bound as u64) as usize;
    match pick(8) {
        0 | 1 => {
            let (what, line, whole) = BAD_HEADERS[pick(BAD_HEADERS.len())];
            let kind = if line.contains("Content-Type") { "" } else { form };
            let text = format!("{post} HTTP/1.1\r\nHost: x\r\n{kind}{line}\r\n\r\n{FORM}");
            Garbage { what, bytes: text.into(), whole }
        }
        2 | 3 => {
            let (what, query) = BAD_QUERIES[pick(BAD_QUERIES.len())];
            let text = if pick(2) == 0 {
                format!("{post}?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            } else {
                format!("{post} HTTP/1.1\r\nHost: x\r\n{form}Content-Length: {}\r\n\r\n{query}", query.len())
            };
            Garbage { what, bytes: text.into(), whole: true }
        }
        4 => {
            // The last byte is what makes it whole.
            let text = format!("{post} HTTP/1.1\r\nHost: x\r\n{form}Content-Length: {}\r\n\r\n{FORM}", FORM.len());
            let cut = pick(text.len());
            Garbage { what: "half a request", bytes: text[..cut].into(), whole: false }
        }
        5 => {
            let bytes = (0..1 + pick(300)).map(|_| pick(256) as u8).chain(*b"\r\n\r\n").collect();
            Garbage { what: "noise", bytes, whole: false }
        }
        6 => {
            let (what, head) = match pick(5) {
                0 => ("a long header", format!("{post} HTTP/1.1\r\nX: {}", "x".repeat(600_000))),
                1 => ("many headers", format!("{post} HTTP/1.1{}", "\r\nX: y".repeat(2_000))),
                2 => ("a long target", format!("{post}?{} HTTP/1.1\r\nHost: x", "x".repeat(70_000))),
                3 => ("an unknown method", "PUBLISH /nacos/v1/cs/configs HTTP/1.1\r\nHost: x".into()),
                _ => ("another version", format!("{post}?{FORM} HTTP/9.9\r\nHost: x")),
            };
            Garbage { what, bytes: format!("{head}\r\nContent-Length: 0\r\n\r\n").into(), whole: true }
        }
        _ => {
            let bytes: &[u8] = match pick(4) {
                0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                1 => b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
                2 => b"\r\n\r\n\r\n\r\n",
                _ => b"POST /nacos/v1/cs/configs?dataId=e\0vil&group=G&content=x HTTP/1.1\r\nHost: x\r\n\r\n",
            };
            Garbage { what: "another protocol", bytes: bytes.into(), whole: false }
        }
    }
}

/// The status of the answer; `None` when the connection was closed instead.
fn send(port: u16, garbage: &Garbage) -> Option<u16> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // A server may close before it has read everything.
    let sent = stream.write_all(&garbage.bytes);
    if !garbage.whole && sent.is_ok() {
        drop(stream.shutdown(Shutdown::Write));
    }
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while answer.len() < 12 {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend(&chunk[..read]),
            Err(err) if err.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(err) => panic!("{}: neither an answer nor an end: {err}", garbage.what),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    text.starts_with("HTTP/1.").then(|| text[9..12].parse().unwrap())
}

fn revision(http: &mut Http) -> u64 {
    let get = b"GET /nacos/v1/cs/configs?search=blur&dataId=&group=&pageNo=1&pageSize=9 HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = http.request(get).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("coracle-revision").unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_and_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(dir.path())).await.unwrap();
    let port = server.http_address().port();
    let sent = tokio::task::spawn_blocking(move || {
        let seed = setting("CORACLE_GARBAGE_SEED", u64::from(std::process::id()));
        let mut random = Random(seed);
        let mut good = Http::connect(port).unwrap();
        good.publish("good", "one").unwrap();
        let before = revision(&mut good);
        let mut seen: BTreeMap<(&str, Option<u16>), u32> = BTreeMap::new();
        for _ in 0..setting("CORACLE_GARBAGE_REQUESTS", 1_200) {
            let garbage = garbage(&mut random);
            let status = send(port, &garbage);
            let shown = String::from_utf8_lossy(&garbage.bytes[..garbage.bytes.len().min(300)]).into_owned();
            let what = garbage.what;
            assert!(status.is_none_or(|it| (400..500).contains(&it)), "seed {seed}: {what}: {status:?}: {shown:?}");
            assert_eq!(good.query("good").unwrap().as_deref(), Some("one"), "after {what}");
            assert_eq!(revision(&mut good), before, "seed {seed}: {what} wrote something: {shown:?}");
            *seen.entry((what, status)).or_default() += 1;
        }
        seen
    });
    for ((what, status), times) in sent.await.unwrap() {
        println!("{times:6} {what}: {status:?}");
    }
    server.stop().await;
}

/// `Caller` of `proto/raft.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Caller {
    #[prost(uint64, tag = "2")]
    from: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
}

/// `ProposeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Propose {
    #[prost(message, optional, tag = "1")]
    caller: Option<Caller>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    proposals: Vec<Bytes>,
}

/// `Outcome`, as far as it matters.
#[derive(Clone, PartialEq, prost::Message)]
struct Outcome {
    #[prost(bool, optional, tag = "2")]
    applied: Option<bool>,
    #[prost(string, optional, tag = "8")]
    unavailable: Option<String>,
}

/// `ProposeReply`.
#[derive(Clone, PartialEq, prost::Message)]
struct Proposed {
    #[prost(message, repeated, tag = "1")]
    outcomes: Vec<Outcome>,
}

/// An entry that cannot be read stops every node that comes to apply it, now and at every start: it must not get into the
/// log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_that_cannot_be_read_does_not_get_into_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", process::free_port());
    let members = BTreeMap::from([(1, address.clone())]);
    let server = Server::start(Options::member(dir.path(), MemberOptions::new(1, members).unwrap())).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while let Some(why) = server.status().not_ready {
        assert!(Instant::now() < deadline, "{why}");
        sleep(Duration::from_millis(5)).await;
    }
    let namespace = Namespace { id: NamespaceId::parse("dev").unwrap(), name: "dev".into(), description: "d".into() };
    let sound = Proposal { command: Command::CreateNamespace(namespace), proposed_at: Millis(1), request: None };
    let proposals = vec![Bytes::from_static(b"no proposal"), encode_proposal(&sound), Bytes::new()];
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut peer = tonic::client::Grpc::new(channel);
    peer.ready().await.unwrap();
    let request = tonic::Request::new(Propose { caller: Some(Caller { from: 2, to: 1 }), proposals });
    let path = axum::http::uri::PathAndQuery::from_static("/coracle.raft.Peer/Propose");
    let codec = tonic_prost::ProstCodec::<Propose, Proposed>::default();
    let outcomes = peer.unary(request, path, codec).await.unwrap().into_inner().outcomes;
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
    for at in [0, 2] {
        let why = outcomes[at].unavailable.as_deref().unwrap_or_default();
        assert!(why.contains("cannot read"), "{outcomes:?}");
    }
    assert_eq!(outcomes[1].applied, Some(true), "{outcomes:?}");
    let port = server.http_address().port();
    let published = tokio::task::spawn_blocking(move || Http::connect(port).unwrap().publish("a", "1").unwrap());
    assert_eq!(published.await.unwrap().0, 200, "the node goes on");
    server.stop().await;
}
