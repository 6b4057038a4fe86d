//! A TCP connection that knows its name, so that both methods called on it find each other.
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::connection::Connection;
use crate::types::Millis;

/// A connection without a stream on which nothing is asked for this long is not worth its place.
const DESERTED: Duration = Duration::from_secs(60);
/// Nor one whose client takes nothing of what its stream says for this long. Nacos ends such connections after the same time.
const BLOCKED: Duration = Duration::from_secs(300);

/// What is known of a TCP connection.
pub struct Transport {
    /// Nacos: `<ms>_<ip>_<port>`.
    pub(super) id: Box<str>,
    pub(super) peer: SocketAddr,
    registered: Mutex<Option<Registered>>,
    accepted: Instant,
    /// Milliseconds from then to the last request.
    asked: AtomicU64,
    /// Milliseconds from then, plus one, to the moment when a stream was last asked for a message; 0: there is no stream.
    streamed: AtomicU64,
}

/// Why a connection should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Useless {
    /// There is no client on it, and it asks nothing.
    Deserted,
    /// Its client does not read.
    Blocked,
}

/// The client of a connection.
struct Registered {
    connection: Arc<Connection>,
    /// Its stream has ended; its requests are answered until then.
    until: Option<Instant>,
}

impl Transport {
    /// A connection that was accepted at `now`.
    pub fn new(peer: SocketAddr, now: Millis) -> Arc<Self> {
        let id = format!("{}_{}_{}", now.0, peer.ip(), peer.port()).into();
        Arc::new(Self {
            id,
            peer,
            registered: Mutex::default(),
            accepted: Instant::now(),
            asked: AtomicU64::new(0),
            streamed: AtomicU64::new(0),
        })
    }

    fn milliseconds(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64
    }

    /// Something is asked.
    pub(super) fn asked(&self) {
        self.asked.store(self.milliseconds(), Ordering::Relaxed);
    }

    /// The stream is asked for a message, which happens every half minute if only because of its timers, and does not happen
    /// while what it said before is in the way.
    pub(super) fn streamed(&self) {
        self.streamed.store(self.milliseconds() + 1, Ordering::Relaxed);
    }

    /// There is no stream any more.
    pub(super) fn stream_ended(&self) {
        self.streamed.store(0, Ordering::Relaxed);
    }

    /// Whether the connection should end, to be asked now and then.
    pub fn useless(&self) -> Option<Useless> {
        let now = self.milliseconds();
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        match self.streamed.load(Ordering::Relaxed) {
            0 if since(self.asked.load(Ordering::Relaxed)) > DESERTED => Some(Useless::Deserted),
            0 => None,
            streamed if since(streamed - 1) > BLOCKED => Some(Useless::Blocked),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Registered>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client whose stream is on this connection, or ended a moment ago because this server stops.
    pub(super) fn registered(&self) -> Option<Arc<Connection>> {
        let registered = self.lock();
        let Registered { connection, until } = registered.as_ref()?;
        until.is_none_or(|until| Instant::now() < until).then(|| connection.clone())
    }

    /// Names the client. `false`: there is one already.
    pub(super) fn register(&self, connection: &Arc<Connection>) -> bool {
        let mut registered = self.lock();
        if registered.is_none() {
            *registered = Some(Registered { connection: connection.clone(), until: None });
            return true;
        }
        false
    }

    pub(super) fn deregister(&self) {
        *self.lock() = None;
    }

    /// The stream ends, but what the client asks until then is answered all the same.
    pub(super) fn deregister_at(&self, until: Instant) {
        if let Some(registered) = &mut *self.lock() {
            registered.until = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn transport() -> Arc<Transport> {
        Transport::new(([127, 0, 0, 1], 1).into(), Millis(0))
    }

    #[tokio::test(start_paused = true)]
    async fn who_neither_comes_nor_asks_is_not_kept() {
        let transport = transport();
        advance(DESERTED).await;
        transport.asked();
        advance(DESERTED).await;
        assert_eq!(transport.useless(), None, "it asked something in time");
        advance(Duration::from_millis(1)).await;
        assert_eq!(transport.useless(), Some(Useless::Deserted));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_not_kept() {
        let transport = transport();
        transport.streamed();
        advance(BLOCKED).await;
        transport.asked();
        assert_eq!(transport.useless(), None);
        advance(Duration::from_millis(1)).await;
        assert_eq!(transport.useless(), Some(Useless::Blocked), "whatever it asks");
        transport.streamed();
        assert_eq!(transport.useless(), None, "it reads again");
        transport.stream_ended();
        advance(DESERTED).await;
        assert_eq!(transport.useless(), Some(Useless::Deserted));
    }
}
