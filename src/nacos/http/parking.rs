//! Where a long poll goes that has to wait. Its request has been read and let go of; what is left is small, and whoever
//! serves the connection can keep it without all that a request in flight takes.
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::header;

use super::{
    Api,
    answer::{Answer, http_date},
    listener, stamp,
};

/// A long poll that waits.
pub struct Parked {
    api: Arc<Api>,
    poll: listener::Poll,
}

impl Parked {
    /// The answer: when something has changed, the time is over or the server stops. It has a `Date`.
    pub async fn answer(self) -> Answer {
        let answer = listener::wait(&self.api, &self.poll).await;
        let mut answer = stamp(&self.api, answer);
        answer.headers_mut().extend(http_date(self.api.services.now()).map(|date| (header::DATE, date)));
        answer
    }
}

/// The place for the poll of one connection. A request that carries one (`Arc<Parking>`, an extension) need not be answered:
/// a poll that has to wait is left here instead, and nothing comes from its handler any more.
#[derive(Default)]
pub struct Parking(Mutex<Option<Parked>>);

impl Parking {
    /// Takes the poll that waits here.
    pub fn take(&self) -> Option<Parked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Leaves a poll. To be followed by nothing.
    pub(super) fn leave(&self, api: Arc<Api>, poll: listener::Poll) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Parked { api, poll });
    }
}
