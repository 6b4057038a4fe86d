//! Accepting connections: a limit, a task for each, and an end that waits for them.
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};

/// More connections are closed at once: each takes memory and a file descriptor.
const CONNECTIONS_MAX: usize = 65_536;
/// After running out of file descriptors the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The place of a connection among those that may be open; the end is waited for until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _alive: mpsc::Sender<Infallible>,
}

/// Serves every connection by a task of its own until `stopping` becomes `true`, then lets them end, within `drain`.
pub(super) async fn serve<F>(
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
    drain: Duration,
    connection: impl Fn(TcpStream, SocketAddr, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Every connection holds a sender; when all are gone, so are the connections.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    let take = |socket: TcpStream, peer| {
        let Ok(permit) = places.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "refuse a connection: there are {CONNECTIONS_MAX}");
            return;
        };
        if let Err(err) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %err, "set TCP_NODELAY");
        }
        // Nothing around it: a future in a future takes its memory twice.
        tokio::spawn(connection(socket, peer, Place { _permit: permit, _alive: alive.clone() }));
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        match accepted {
            Ok((socket, peer)) => take(socket, peer),
            Err(err) => {
                tracing::warn!(%err, "accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    match waiting(listener) {
        Ok(waiting) => waiting.into_iter().for_each(|(socket, peer)| take(socket, peer)),
        Err(err) => tracing::warn!(%err, "accept the last connections"),
    }
    drop(alive);
    if timeout(drain, all_gone.recv()).await.is_err() {
        tracing::warn!("requests were still in flight after {drain:?}");
    }
}

/// Those who wait to be accepted. For their clients these connections are open: the end of the listener would reset them.
fn waiting(listener: TcpListener) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    let listener = listener.into_std()?;
    let mut waiting = Vec::new();
    // It does not block: an error is mostly that there is nobody.
    while waiting.len() < CONNECTIONS_MAX
        && let Ok((socket, peer)) = listener.accept()
    {
        socket.set_nonblocking(true)?;
        waiting.push((TcpStream::from_std(socket)?, peer));
    }
    Ok(waiting)
}

/// Resolves when the server stops.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error: the server is gone, which is to have stopped.
    drop(stopping.wait_for(|it| *it).await);
}
