//! A TCP connection that knows its name, so that both methods called on it find each other.
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::connection::Connection;
use crate::types::Millis;

/// What is known of a TCP connection.
pub struct Transport {
    /// Nacos: `<ms>_<ip>_<port>`.
    pub(super) id: Box<str>,
    pub(super) peer: SocketAddr,
    registered: Mutex<Option<Registered>>,
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
        Arc::new(Self { id, peer, registered: Mutex::default() })
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
