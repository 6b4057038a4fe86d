//! Serving gRPC: connections in, limits, and an end that sends every client elsewhere first.
use std::{convert::Infallible, future::poll_fn, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioTimer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    accept::{self, Place, Places, stopped},
    outgoing,
    streams::Streams,
};
use crate::nacos::grpc::{Api, Methods, SERVED_AFTER_END, Transport, Useless};

/// Requests in flight on one connection. Clients in Java send a few; a proxy for many clients is no client.
const STREAMS_MAX: u32 = 1_000;
/// All header fields of a request together.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// A connection sends this much before somebody has read it: so that a large content comes without waiting.
const WINDOW_BYTES: u32 = 1 << 20;
/// Who says nothing for this long is asked for a sign of life, below the clients' own: a host that is gone holds no place.
const PING_AFTER: Duration = Duration::from_secs(60);
/// It has this long to give one.
const PING_ANSWER: Duration = Duration::from_secs(20);
/// How often a connection is looked at: whether it is worth its place.
const LOOK: Duration = Duration::from_secs(30);
/// Clients that were told to go elsewhere have this long.
const DRAIN: Duration = Duration::from_millis(800);
/// Then the streams of those that did not go are ended, and a moment later ([`SERVED_AFTER_END`]) their requests are refused
/// for this long: clients in Python know neither the word nor the end of a stream, only a request that is refused because
/// they are not registered any more.
const LINGER: Duration = Duration::from_millis(400);
/// Requests in flight after that have this long.
const FINISH: Duration = Duration::from_millis(300);

/// A server that takes connections.
pub(super) struct Serving {
    api: Arc<Api>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Serving {
    pub(super) fn start(listener: TcpListener, places: Places, api: Arc<Api>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let methods = Methods::new(&api);
        let task = tokio::spawn({
            let api = api.clone();
            async move {
                accept::serve(listener, places, stopping.clone(), FINISH, |socket, peer, place| {
                    let transport = Transport::new(peer, api.services.now());
                    connection(socket, peer, transport, methods.clone(), stopping.clone(), place)
                })
                .await;
            }
        });
        Self { api, stop, task }
    }

    /// Sends the clients to other members, and ends when they are gone, or after about a second and a half.
    pub(super) async fn stop(self) {
        if !self.api.drain(DRAIN).await {
            sleep(SERVED_AFTER_END + LINGER).await;
        }
        self.stop.send_replace(true);
        if let Err(err) = self.task.await {
            tracing::error!(%err, "serve gRPC");
        }
    }
}

/// Serves until the client is gone, or the server stops and what came in is answered.
async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    transport: Arc<Transport>,
    methods: Methods,
    mut stopping: watch::Receiver<bool>,
    _place: Place,
) {
    let service = service_fn({
        let transport = transport.clone();
        move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(transport.clone());
            methods.call(request).map(Ok::<_, Infallible>)
        }
    });
    let (socket, outgoing) = outgoing::split(socket);
    let mut streams = Streams::default();
    let connection = http2::Builder::new(streams.begun.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_ANSWER)
        .serve_connection(socket, service);
    let mut connection = pin!(connection);
    let mut told = false;
    let mut useless = None;
    let mut look = pin!(sleep(LOOK));
    let served = loop {
        tokio::select! {
            served = poll_fn(|context| streams.poll_with(connection.as_mut(), |it| outgoing.send(it), context)) => break served,
            () = stopped(&mut stopping), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = look.as_mut() => {
                look.as_mut().reset(Instant::now() + LOOK);
                let was = std::mem::replace(&mut useless, transport.useless());
                match (was, useless) {
                    (_, None) => {}
                    // What is being asked is answered. Who has not even begun does not hear it, and is hung up on next time.
                    (None, Some(Useless::Deserted)) => connection.as_mut().graceful_shutdown(),
                    (Some(_), Some(why)) | (None, Some(why @ Useless::Blocked)) => {
                        tracing::debug!(%peer, ?why, "hang up");
                        break Ok(());
                    }
                }
            }
        }
    };
    if let Err(err) = served {
        // Clients hang up as they like.
        tracing::debug!(%peer, %err, "connection ended");
    }
}
