//! A TCP connection that knows its name, so that both methods called on it find each other.
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::connection::Connection;
use crate::types::Millis;

/// What is known of a TCP connection.
pub struct Transport {
    /// Nacos: `<ms>_<ip>_<port>`.
    pub(super) id: Box<str>,
    pub(super) peer: SocketAddr,
    registered: Mutex<Option<Arc<Connection>>>,
}

impl Transport {
    /// A connection that was accepted at `now`.
    pub fn new(peer: SocketAddr, now: Millis) -> Arc<Self> {
        let id = format!("{}_{}_{}", now.0, peer.ip(), peer.port()).into();
        Arc::new(Self { id, peer, registered: Mutex::default() })
    }

    /// The client whose stream is on this connection.
    pub(super) fn registered(&self) -> Option<Arc<Connection>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names the client. `false`: there is one already.
    pub(super) fn register(&self, connection: &Arc<Connection>) -> bool {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        if registered.is_none() {
            *registered = Some(connection.clone());
            return true;
        }
        false
    }

    pub(super) fn deregister(&self) {
        *self.registered.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
