//! Accepting connections: a limit, a task for each, and an end that waits for them.
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};

/// File descriptors that are kept for files and for other members: whoever runs out of them can neither write its log nor
/// hear the others.
const DESCRIPTORS_KEPT: u64 = 512;
/// The least that a server takes, however few descriptors there are.
const CONNECTIONS_MIN: u64 = 16;
/// After running out of file descriptors the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections may be open, of all kinds together: each takes memory and a file descriptor.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    all: usize,
}

impl Places {
    /// As many as so many file descriptors allow.
    pub(super) fn within(descriptors: u64) -> Self {
        let all = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(CONNECTIONS_MIN);
        let all = usize::try_from(all).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }
}

/// The place of a connection among those that may be open; the end is waited for until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _alive: mpsc::Sender<Infallible>,
}

/// Serves every connection by a task of its own until `stopping` becomes `true`, then lets them end, within `drain`.
pub(super) async fn serve<F>(
    listener: TcpListener,
    places: Places,
    mut stopping: watch::Receiver<bool>,
    drain: Duration,
    connection: impl Fn(TcpStream, SocketAddr, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    // Every connection holds a sender; when all are gone, so are the connections.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    let take = |socket: TcpStream, peer| {
        let Ok(permit) = places.free.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "refuse a connection: there are {}, which is all that open files allow", places.all);
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
    match waiting(listener, places.all) {
        Ok(waiting) => waiting.into_iter().for_each(|(socket, peer)| take(socket, peer)),
        Err(err) => tracing::warn!(%err, "accept the last connections"),
    }
    drop(alive);
    if timeout(drain, all_gone.recv()).await.is_err() {
        tracing::warn!("requests were still in flight after {drain:?}");
    }
}

/// Those who wait to be accepted. For their clients these connections are open: the end of the listener would reset them.
fn waiting(listener: TcpListener, most: usize) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    let listener = listener.into_std()?;
    let mut waiting = Vec::new();
    // It does not block: an error is mostly that there is nobody.
    while waiting.len() < most
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files_and_members() {
        for (descriptors, places) in [(131_072, 130_560), (20_000, 19_488), (1_024, 512), (256, 16), (0, 16)] {
            assert_eq!(Places::within(descriptors).all, places);
        }
        assert!(Places::within(u64::MAX).all > 1 << 20);
    }
}
