//! A client of Nacos's gRPC: an envelope with JSON in it, one method for requests and one for the stream.
use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Longer than a node's own patience with a write.
const REQUEST_MAX: Duration = Duration::from_secs(7);
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// A connection to a node that is stopped or gone is noticed after this long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(string, tag = "3")]
    kind: String,
    #[prost(string, tag = "8")]
    client_ip: String,
    #[prost(map = "string, string", tag = "7")]
    headers: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "3")]
    body: Option<Body>,
}

fn payload(kind: &str, json: &Json) -> Payload {
    let metadata = Metadata { kind: kind.to_owned(), ..Metadata::default() };
    let body = Body { value: json.to_string().into(), ..Body::default() };
    Payload { metadata: Some(metadata), body: Some(body) }
}

/// A message: its kind, and what it says.
pub type Message = (String, Json);

fn message(payload: Payload) -> Result<Message, String> {
    let kind = payload.metadata.unwrap_or_default().kind;
    let json = serde_json::from_slice(&payload.body.unwrap_or_default().value).map_err(|err| err.to_string())?;
    Ok((kind, json))
}

/// One client on one connection.
pub struct Client {
    requests: Grpc<Channel>,
    outgoing: mpsc::Sender<Payload>,
    incoming: Streaming<Payload>,
}

impl Client {
    /// Connects, introduces itself, and waits until it is known.
    pub async fn connect(address: SocketAddr) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|err| err.to_string())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(SIGN_OF_LIFE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|err| err.to_string())?;
        let mut stream = Grpc::new(channel.clone());
        let (outgoing, sent) = mpsc::channel(64);
        let setup = json!({ "clientVersion": "coracle-jepsen", "labels": {} });
        outgoing.send(payload("ConnectionSetupRequest", &setup)).await.map_err(|err| err.to_string())?;
        let opened = async {
            stream.ready().await.map_err(|err| err.to_string())?;
            let path = PathAndQuery::from_static("/BiRequestStream/requestBiStream");
            let codec = ProstCodec::<Payload, Payload>::default();
            let request = Request::new(ReceiverStream::new(sent));
            stream.streaming(request, path, codec).await.map_err(|err| err.to_string())
        };
        let incoming = timeout(REQUEST_MAX, opened).await.map_err(|_| "no stream in time".to_owned())??.into_inner();
        let mut client = Self { requests: Grpc::new(channel), outgoing, incoming };
        let deadline = Instant::now() + REQUEST_MAX;
        while client.ask("HealthCheckRequest", &json!({})).await?.0 != "HealthCheckResponse" {
            if Instant::now() > deadline {
                return Err("the server did not take this client".into());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(client)
    }

    /// Asks, and waits for the answer. An error leaves open whether it was heard.
    pub async fn ask(&mut self, kind: &str, json: &Json) -> Result<Message, String> {
        let asked = async {
            self.requests.ready().await.map_err(|err| err.to_string())?;
            let path = PathAndQuery::from_static("/Request/request");
            let request = Request::new(payload(kind, json));
            let codec = ProstCodec::<Payload, Payload>::default();
            self.requests.unary(request, path, codec).await.map_err(|err| err.to_string())
        };
        message(timeout(REQUEST_MAX, asked).await.map_err(|_| "no answer in time".to_owned())??.into_inner())
    }

    /// The next message that comes by itself. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Result<Message, String> {
        let next = self.incoming.message().await.map_err(|err| err.to_string())?;
        message(next.ok_or("the stream has ended")?)
    }

    /// Says that a message has come.
    pub async fn acknowledge(&mut self, kind: &str, message: &Json) -> Result<(), String> {
        let ack = json!({ "requestId": message["requestId"], "resultCode": 200 });
        self.outgoing.send(payload(kind, &ack)).await.map_err(|err| err.to_string())
    }
}
