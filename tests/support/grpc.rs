//! A client that says over gRPC exactly what a test wants.
#![allow(dead_code, unreachable_pub)]

use std::{collections::BTreeMap, time::Duration};

use coracle::nacos::wire::payload::{
    Body, Metadata, Payload, bi_request_stream_client::BiRequestStreamClient, request_client::RequestClient,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// How long a busy machine may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes on a stream that the server may send before they are read.
const STREAM_WINDOW: u32 = 65_535;
/// Nothing comes within this long: nothing comes.
pub const SILENCE: Duration = Duration::from_millis(150);

/// A client on one connection.
pub struct Client {
    pub unary: RequestClient<Channel>,
    pub stream: Option<(mpsc::Sender<Payload>, Streaming<Payload>)>,
    address: String,
}

impl Client {
    pub async fn connect(address: &str) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    pub async fn try_connect(address: &str) -> Result<Self, tonic::transport::Error> {
        let channel = Channel::from_shared(address.to_owned()).unwrap().connect().await?;
        let unary = RequestClient::new(channel).max_decoding_message_size(64 << 20);
        Ok(Self { unary, stream: None, address: address.to_owned() })
    }

    /// Introduces itself as a client with nothing special, and waits until it is known.
    pub async fn introduced(address: &str) -> Result<Self, Status> {
        let mut client = Self::try_connect(address).await.map_err(|err| Status::unavailable(err.to_string()))?;
        client.try_setup(payload_of("ConnectionSetupRequest", &json!({ "clientVersion": "test" }))).await?;
        Ok(client)
    }

    pub async fn setup(&mut self, payload: Payload) {
        self.try_setup(payload).await.unwrap();
    }

    pub async fn try_setup(&mut self, payload: Payload) -> Result<(), Status> {
        if let Some((send, _)) = &self.stream {
            send.send(payload).await.unwrap();
            return Ok(());
        }
        // The stream has to be on the connection of the requests, so both come from one channel.
        // A stream takes little before it is read; requests beside it go on.
        let channel = Channel::from_shared(self.address.clone()).unwrap();
        let channel = channel.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(16 << 20);
        let channel = channel.connect().await.map_err(|err| Status::unavailable(err.to_string()))?;
        self.unary = RequestClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let (send, outgoing) = mpsc::channel(8);
        send.send(payload).await.unwrap();
        let incoming = BiRequestStreamClient::new(channel).request_bi_stream(ReceiverStream::new(outgoing)).await?;
        self.stream = Some((send, incoming.into_inner()));
        // Until the server has read it, requests on the connection are refused.
        for _ in 0..500 {
            if self.try_ask("HealthCheckRequest", &json!({})).await?.0 == "HealthCheckResponse" {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Err(Status::unavailable("the server did not take this client"))
    }

    pub async fn ask(&self, payload: Payload) -> (String, Value) {
        let answer = timeout(PATIENCE, self.unary.clone().request(payload)).await.unwrap().unwrap().into_inner();
        (answer.kind().to_owned(), serde_json::from_slice(&answer.json()).unwrap())
    }

    pub async fn try_ask(&self, kind: &str, json: &Value) -> Result<(String, Value), Status> {
        let asked = timeout(PATIENCE, self.unary.clone().request(payload_of(kind, json))).await;
        let answer = asked.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
        Ok((answer.kind().to_owned(), serde_json::from_slice(&answer.json()).unwrap()))
    }

    pub async fn publish(&self, data_id: &str, content: &str) {
        let (_, answer) = self
            .try_ask("ConfigPublishRequest", &json!({ "dataId": data_id, "group": "G", "content": content }))
            .await
            .unwrap();
        assert_eq!(answer["success"], true, "{answer}");
    }

    /// Whether what is there differs from `md5`, and everything from now on is told.
    pub async fn listen(&self, data_id: &str, md5: &str) -> Result<bool, Status> {
        let contexts = json!([{ "dataId": data_id, "group": "G", "tenant": "", "md5": md5 }]);
        let asked = json!({ "listen": true, "configListenContexts": contexts });
        let (kind, answer) = self.try_ask("ConfigBatchListenRequest", &asked).await?;
        if kind != "ConfigChangeBatchListenResponse" {
            return Err(Status::unavailable(answer.to_string()));
        }
        Ok(!answer["changedConfigs"].as_array().unwrap().is_empty())
    }

    pub async fn unlisten(&self, data_id: &str) {
        let contexts = json!([{ "dataId": data_id, "group": "G", "tenant": "" }]);
        let asked = json!({ "listen": false, "configListenContexts": contexts });
        let (_, answer) = self.try_ask("ConfigBatchListenRequest", &asked).await.unwrap();
        assert_eq!(answer["success"], true, "{answer}");
    }

    /// The next message that came by itself; not acknowledged. `None`: the stream has ended.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        let (_, stream) = self.stream.as_mut()?;
        let payload = stream.message().await.ok()??;
        Some((payload.kind().to_owned(), serde_json::from_slice(&payload.json()).unwrap()))
    }

    pub async fn acknowledge(&self, message: &Value) {
        if let Some((send, _)) = &self.stream {
            let ack = json!({ "requestId": message["requestId"], "resultCode": 200 });
            drop(send.send(payload_of("ConfigChangeNotifyResponse", &ack)).await);
        }
    }

    pub async fn messages(&mut self) -> Vec<(String, Value)> {
        let mut messages = Vec::new();
        let Some((send, stream)) = &mut self.stream else { return messages };
        while let Ok(Ok(Some(payload))) = timeout(SILENCE, stream.message()).await {
            let json: Value = serde_json::from_slice(&payload.json()).unwrap();
            if let Some(id) = json.get("requestId") {
                let ack = json!({ "requestId": id, "resultCode": 200 });
                send.send(payload_of("NotifySubscriberResponse", &ack)).await.unwrap();
            }
            messages.push((payload.kind().to_owned(), json));
        }
        messages
    }
}

pub fn payload_of(kind: &str, json: &Value) -> Payload {
    raw_payload(kind, &json.to_string(), &BTreeMap::new())
}

pub fn raw_payload(kind: &str, text: &str, headers: &BTreeMap<String, String>) -> Payload {
    let headers = headers.clone().into_iter().collect();
    let metadata = Metadata { r#type: kind.to_owned(), headers, ..Metadata::default() };
    Payload { metadata: Some(metadata), body: Some(Body { value: text.to_owned().into(), ..Body::default() }) }
}
