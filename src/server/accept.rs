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
/// The most, however many there are: each takes memory.
const CONNECTIONS_MAX: u64 = 131_072;
/// Clients that keep their connections leave so many places to those that ask how this node is.
const LEFT_TO_OTHERS: usize = 64;
/// After running out of file descriptors the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections may be open, of all kinds together: each takes memory and a file descriptor.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    all: usize,
    /// So many are left to other kinds.
    left: usize,
}

impl Places {
    /// As many as so many file descriptors allow, within [`CONNECTIONS_MAX`].
    pub(super) fn within(descriptors: u64) -> Self {
        let all = descriptors.saturating_sub(DESCRIPTORS_KEPT).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        let all = usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all, left: 0 }
    }

    /// The same, without the last few.
    pub(super) fn but_a_few(&self) -> Self {
        Self { left: LEFT_TO_OTHERS.min(self.all / 8), ..self.clone() }
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        let is_free = self.free.available_permits() > self.left;
        is_free.then(|| self.free.clone().try_acquire_owned().ok()).flatten()
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
        let Some(permit) = places.take() else {
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
        for (descriptors, all) in [(131_072, 130_560), (20_000, 19_488), (1_024, 512), (256, 16), (0, 16)] {
            assert_eq!(Places::within(descriptors).all, all);
        }
        assert_eq!(Places::within(u64::MAX).all, 131_072);
        let places = Places::within(1_024);
        let (clients, mut taken) = (places.but_a_few(), Vec::new());
        taken.extend(std::iter::from_fn(|| clients.take()));
        assert_eq!(taken.len(), 448);
        taken.extend(std::iter::from_fn(|| places.take()));
        assert_eq!(taken.len(), 512, "probes have the rest");
    }
}
