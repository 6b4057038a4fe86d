//! Messages of Nacos over gRPC, as they come off the connection of a client that has introduced itself: a type and
//! headers in one line, then the body; `---` stands between two, up to eight. A body that begins with a zero is the whole
//! message in its binary form instead.
//!
//! Every message is answered by one whose JSON has a result and no null; the answer to a refused one says so, and nothing
//! changed. The binary form, written again, is read as the same. What is pushed meanwhile is JSON too.
use std::{net::SocketAddr, sync::Arc};

use axum::http;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use coracle::{
    nacos::{
        grpc::{Api, Methods, Transport},
        wire::payload::{Body, Metadata, Payload},
    },
    storage::StateStore,
    types::{Consistency, Millis},
};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use prost::Message;
use serde_json::Value;
use tokio::time::{Duration, timeout};

use super::{
    app::{App, CONTENT_BYTES_MAX, block_on},
    http::split,
};

pub const WORDS: &[&str] = &[
    "ConfigQueryRequest\n",
    "ConfigPublishRequest\n",
    "ConfigRemoveRequest\n",
    "ConfigBatchListenRequest\n",
    "ConfigFuzzyWatchRequest\n",
    "HealthCheckRequest\n",
    "ServerCheckRequest\n",
    "InstanceRequest\n",
    "PushAckRequest\n",
    "\n---\n",
    "\"dataId\":\"a\"",
    "\"group\":\"g\"",
    "\"tenant\":",
    "\"content\":\"x\"",
    "\"additionMap\":{}",
    "\"configListenContexts\":[{}]",
    "\"listen\":",
    "\"md5\":",
    "\"groupKeyPattern\":\"public>>*>>*\"",
    "\"receivedGroupKeys\":[\"a+g+public\"]",
    "\"watchType\":\"WATCH\"",
    "null",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "Vipserver-Tag=t",
];
const MESSAGES_MAX: usize = 8;

pub fn run(input: &[u8]) {
    let app = App::new();
    let api = Arc::new(Api {
        services: app.services.clone(),
        metrics: app.metrics.clone(),
        reads: Consistency::Local,
        content_bytes_max: CONTENT_BYTES_MAX,
        connections: Arc::default(),
        next_request: 1.into(),
    });
    let methods = Methods::new(&api);
    // A connection, for the name that it has; nothing goes through it.
    let transport = Transport::new(SocketAddr::from(([127, 0, 0, 1], 1)), Millis(1));
    block_on(async {
        let setup = payload("ConnectionSetupRequest", b"{}");
        let opened = methods.call(request("/BiRequestStream/requestBiStream", &setup, &transport, true)).await;
        let mut pushes = opened.into_body();
        assert!(pushed(&mut pushes).await.is_empty(), "nothing is listened to yet");
        assert_eq!(api.connections.count(), 1, "the client is known");
        for text in split(input, b"\n---\n").into_iter().take(MESSAGES_MAX) {
            let Some(message) = message(text) else { continue };
            let before = app.state.witness();
            let answer = methods.call(request("/Request/request", &message, &transport, false)).await;
            let kind = message.kind().to_owned();
            let refused = check(&kind, answer).await;
            assert!(!refused || app.state.witness() == before, "{kind} was refused, but the state changed");
            for message in pushed(&mut pushes).await {
                json(&message);
            }
        }
    });
    app.check();
}

fn payload(kind: &str, body: &[u8]) -> Payload {
    Payload {
        metadata: Some(Metadata { r#type: kind.to_owned(), ..Metadata::default() }),
        body: Some(Body { type_url: String::new(), value: Bytes::copy_from_slice(body) }),
    }
}

fn message(text: &[u8]) -> Option<Payload> {
    if let Some(binary) = text.strip_prefix(b"\0") {
        let message = Payload::decode(binary).ok()?;
        let again = message.encode_to_vec();
        assert_eq!(Payload::decode(&*again).as_ref(), Ok(&message));
        return Some(message);
    }
    let (line, body) = match text.iter().position(|it| *it == b'\n') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[][..]),
    };
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let mut message = payload(words.next()?, body);
    for (name, value) in words.filter_map(|it| it.split_once('=')) {
        let metadata = message.metadata.as_mut()?;
        metadata.headers.insert(name.to_owned(), value.to_owned());
    }
    Some(message)
}

type Frames = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>>;

/// A call, with one message in it. The other end stays, or says no more.
fn request(
    path: &str,
    message: &Payload,
    transport: &Arc<Transport>,
    stays: bool,
) -> http::Request<StreamBody<Frames>> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    let first = stream::iter([Ok::<_, std::io::Error>(Frame::data(frame.freeze()))]);
    let frames: Frames = if stays { Box::pin(first.chain(stream::pending())) } else { Box::pin(first) };
    let mut request = http::Request::post(path).body(StreamBody::new(frames)).unwrap();
    request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    request.extensions_mut().insert(transport.clone());
    request
}

/// Whether the answer is a refusal.
async fn check<B>(kind: &str, answer: http::Response<B>) -> bool
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let header = answer.headers().get("grpc-status").cloned();
    let collected = answer.into_body().collect().await.unwrap();
    let trailer = collected.trailers().and_then(|it| it.get("grpc-status").cloned());
    let status = header.or(trailer).expect("a status");
    assert_eq!(status.as_bytes(), b"0", "{kind}: {status:?}");
    let message = Payload::decode(&collected.to_bytes()[5..]).unwrap();
    assert!(!message.kind().is_empty());
    let json = json(&message);
    let (result, success) = (json["resultCode"].as_i64().unwrap(), json["success"].as_bool().unwrap());
    assert!(json["errorCode"].is_i64() && (result == 200) == success, "{json}");
    let text = json["message"].as_str().unwrap_or_default();
    assert!(success || !text.is_empty(), "{kind}: refused without a word: {json}");
    assert!(!text.contains("this node has failed"), "{json}");
    !success
}

/// The JSON, in which nothing is null.
fn json(message: &Payload) -> Value {
    let json: Value = serde_json::from_slice(&message.json()).unwrap();
    let object = json.as_object().expect("an object");
    assert!(object.values().all(|it| !it.is_null()), "{json}");
    json
}

/// What the server says of itself meanwhile.
async fn pushed<B>(stream: &mut B) -> Vec<Payload>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut bytes = BytesMut::new();
    while let Ok(Some(frame)) = timeout(Duration::from_millis(30), stream.frame()).await {
        if let Ok(data) = frame.unwrap().into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u8(), 0, "not compressed");
        let length = bytes.get_u32() as usize;
        messages.push(Payload::decode(bytes.split_to(length)).unwrap());
    }
    messages
}
