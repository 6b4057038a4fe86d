//! Serving HTTP: connections in, limits, and an end that cuts off nobody who can be answered.
use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
    time::{sleep, timeout},
};

use super::connection;

/// More connections are closed at once: each takes memory and a file descriptor.
const CONNECTIONS_MAX: usize = 65_536;
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
                let (router, stopping, alive) = (router.clone(), stopping.clone(), alive.clone());
                tokio::spawn(async move {
                    connection::serve(socket, peer, router, stopping).await;
                    drop((place, alive));
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

/// Resolves when the server stops.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error: the server is gone, which is to have stopped.
    drop(stopping.wait_for(|it| *it).await);
}
