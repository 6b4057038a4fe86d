//! Nacos over gRPC, on the HTTP port + 1000: one unary method for requests and one stream on which changes are pushed.
//!
//! A client's connection is its identity: a request counts as that of the stream on the same TCP connection. A proxy that
//! spreads the two over several connections breaks the protocol.
mod connection;
mod detection;
mod dispatch;
mod farewell;
mod metrics;
mod patterns;
mod push;
mod questions;
mod requests;
mod transport;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Service, http},
};

use self::push::Pushes;
pub use self::{
    connection::Connections,
    farewell::SERVED_AFTER_END,
    transport::{Transport, Useless},
};
use super::wire::payload::{
    Payload,
    bi_request_stream_server::{BiRequestStream, BiRequestStreamServer},
    request_server::{Request as UnaryRequest, RequestServer},
};
use crate::{metrics::Metrics, service::Services, types::Consistency};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where a client opens its stream.
const STREAM_PATH: &str = "/BiRequestStream/requestBiStream";
/// JSON writes some characters as six; a message may be this much longer than the content in it.
const MESSAGE_TO_CONTENT: usize = 2;
/// The rest of a message.
const MESSAGE_BESIDE_CONTENT: usize = 12 << 20;

/// What all connections share.
pub struct Api {
    /// What requests translate to.
    pub services: Arc<Services>,
    /// What is counted.
    pub metrics: Metrics,
    /// What a read promises whose client does not say; none can, over gRPC.
    pub reads: Consistency,
    /// The largest content, in bytes.
    pub content_bytes_max: usize,
    /// The clients that are there.
    pub connections: Arc<Connections>,
    /// Numbers the requests to clients.
    pub next_request: AtomicU64,
}

impl Api {
    fn request_id(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends every client to another member and waits until they are gone, but no longer than `grace`. `false`: some did not
    /// go by themselves.
    pub async fn drain(&self, grace: Duration) -> bool {
        let others = self.services.contacts().await;
        let status = self.services.status();
        let own = status.members.iter().find(|(member, _)| member.node == status.node);
        let own = own.map_or("", |(member, _)| &*member.member_address);
        self.connections.drain(grace, farewell::successors(own, &others)).await
    }
}

/// Both methods, served together.
#[derive(Clone)]
pub struct Methods {
    unary: RequestServer<Unary>,
    streams: BiRequestStreamServer<Streams>,
}

impl Methods {
    /// The methods of this.
    pub fn new(api: &Arc<Api>) -> Self {
        let bytes = api.content_bytes_max * MESSAGE_TO_CONTENT + MESSAGE_BESIDE_CONTENT;
        let unary = RequestServer::new(Unary(api.clone()));
        let streams = BiRequestStreamServer::new(Streams(api.clone()));
        Self {
            unary: unary.max_decoding_message_size(bytes).max_encoding_message_size(usize::MAX),
            streams: streams.max_decoding_message_size(bytes).max_encoding_message_size(usize::MAX),
        }
    }

    /// Answers a request, whose extensions name its [`Transport`].
    pub fn call<B>(&self, request: http::Request<B>) -> impl Future<Output = http::Response<Body>> + Send + use<B>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        // Each knows its own method, and refuses every other.
        let answer = if request.uri().path() == STREAM_PATH {
            self.streams.clone().call(request)
        } else {
            self.unary.clone().call(request)
        };
        answer.map(|Ok(answer)| answer)
    }
}

/// `/Request/request`.
pub struct Unary(Arc<Api>);

/// `/BiRequestStream/requestBiStream`.
pub struct Streams(Arc<Api>);

fn transport_of<T>(request: &Request<T>) -> Result<Arc<Transport>, Status> {
    let transport = request.extensions().get::<Arc<Transport>>();
    transport.cloned().ok_or_else(|| Status::internal("the connection has no name"))
}

#[tonic::async_trait]
impl UnaryRequest for Unary {
    async fn request(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let transport = transport_of(&request)?;
        transport.asked();
        Ok(Response::new(dispatch::answer(&self.0, &transport, request.into_inner()).await))
    }
}

#[tonic::async_trait]
impl BiRequestStream for Streams {
    type requestBiStreamStream = Pushes;

    async fn request_bi_stream(&self, request: Request<Streaming<Payload>>) -> Result<Response<Pushes>, Status> {
        let transport = transport_of(&request)?;
        Ok(Response::new(Pushes::new(self.0.clone(), transport, request.into_inner())))
    }
}
