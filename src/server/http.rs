//! Serving HTTP: connections in, limits, and an end that cuts off nobody who can be answered.
use std::{convert::Infallible, future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tower_service::Service;

/// More connections are closed at once: each takes memory and a file descriptor.
const CONNECTIONS_MAX: usize = 65_536;
/// A connection that sends no whole request head for this long is closed. Longer than clients keep idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest request line with all headers. (A target beyond 64 KiB is refused with 414 by the HTTP library.)
const HEAD_BYTES_MAX: usize = 512 * 1024;
/// After running out of file descriptors the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests in flight when the server stops have this long.
const DRAIN: Duration = Duration::from_millis(1_000);

/// Serves until `stopping` becomes `true`, then lets what is in flight end.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Every connection holds a sender; when all are gone, so are the connections.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tracing::warn!(%peer, "refuse a connection: there are {CONNECTIONS_MAX}");
                    continue;
                };
                let connection = connection(socket, peer, router.clone(), stopping.clone(), place);
                let alive = alive.clone();
                tokio::spawn(async move {
                    connection.await;
                    drop(alive);
                });
            }
            Err(err) => {
                tracing::warn!(%err, "accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop((listener, alive));
    if timeout(DRAIN, all_gone.recv()).await.is_err() {
        tracing::warn!("requests were still in flight after {DRAIN:?}");
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    if let Err(err) = socket.set_nodelay(true) {
        tracing::debug!(%peer, %err, "set TCP_NODELAY");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        async move {
            // A router is always ready; asking is what its contract wants.
            poll_fn(|context| Service::<Request<Body>>::poll_ready(&mut router, context)).await?;
            router.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = served {
        // Clients hang up as they like.
        tracing::debug!(%peer, %err, "connection ended");
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error: the server is gone, which is to have stopped.
    drop(stopping.wait_for(|it| *it).await);
}
