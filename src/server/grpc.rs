//! Serving gRPC: connections in, limits, and an end that sends every client elsewhere first.
use std::{sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tonic::transport::Server;

use crate::nacos::grpc::{self, Api, Socket};

/// More connections are closed at once: each takes memory and a file descriptor.
const CONNECTIONS_MAX: usize = 65_536;
/// Requests in flight on one connection. Clients in Java send a few; a proxy for many clients is no client.
const STREAMS_MAX: u32 = 1_000;
/// All header fields of a request together.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// A connection sends this much before somebody has read it: so that a large content comes without waiting.
const WINDOW_BYTES: u32 = 1 << 20;
/// After running out of file descriptors the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients that were told to go elsewhere have this long.
const DRAIN: Duration = Duration::from_millis(800);
/// Requests in flight after that have this long.
const FINISH: Duration = Duration::from_millis(300);

/// A server that takes connections.
pub(super) struct Serving {
    api: Arc<Api>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Serving {
    pub(super) fn start(listener: TcpListener, api: Arc<Api>) -> Self {
        let (unary, streams) = grpc::services(&api);
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .add_service(unary)
            .add_service(streams)
            .serve_with_incoming_shutdown(incoming(listener, api.clone()), async {
                // An error: the server is gone, which is to have stopped.
                drop(stopped.await);
            });
        Self { api, stop, task: tokio::spawn(serve) }
    }

    /// Sends the clients to other members, and ends when they are gone, or after about a second.
    pub(super) async fn stop(self) {
        self.api.drain(DRAIN).await;
        drop(self.stop);
        let mut task = self.task;
        match timeout(FINISH, &mut task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(err))) => tracing::error!(%err, "serve gRPC"),
            Ok(Err(err)) => tracing::error!(%err, "serve gRPC"),
            Err(_) => task.abort(),
        }
    }
}

fn incoming(listener: TcpListener, api: Arc<Api>) -> impl Stream<Item = std::io::Result<Socket>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    stream::unfold((listener, places, api), async |(listener, places, api)| {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        tracing::warn!(%peer, "refuse a connection: there are {CONNECTIONS_MAX}");
                        continue;
                    };
                    if let Err(err) = socket.set_nodelay(true) {
                        tracing::debug!(%peer, %err, "set TCP_NODELAY");
                    }
                    let socket = Socket::new(socket, peer, api.services.now(), place);
                    return Some((Ok(socket), (listener, places, api)));
                }
                Err(err) => {
                    tracing::warn!(%err, "accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
