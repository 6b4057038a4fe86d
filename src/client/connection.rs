//! One HTTP/1.1 connection to one server.
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::Error;
use crate::types::Revision;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// No answer of a server is longer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// In every answer of a Coracle server: the revision that it is of.
const REVISION: &str = "coracle-revision";

/// What is asked.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// A form unless a header says otherwise.
    pub(super) body: &'a str,
    /// How long the answer may take.
    pub(super) limit: Duration,
}

impl Request<'_> {
    /// Whether it changes nothing, so that it may be asked as often as one likes.
    pub(super) fn is_read(&self) -> bool {
        self.method == "GET"
    }
}

/// An answer.
pub(super) struct Response {
    pub(super) status: u16,
    /// Of a read: the state that it is of, or an older one. `None`: the server is another one than Coracle.
    pub(super) revision: Option<Revision>,
    pub(super) body: Bytes,
}

/// A connection. Closed when dropped.
pub(super) struct Connection {
    server: String,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(super) async fn open(server: &str) -> Result<Self, Error> {
        let unreachable = |why: &dyn std::fmt::Display| Error::Unreachable(format!("{server}: {why}"));
        let socket = timeout(CONNECT_TIMEOUT, TcpStream::connect(server)).await;
        let socket = socket.map_err(|_| unreachable(&"timed out"))?.map_err(|err| unreachable(&err))?;
        socket.set_nodelay(true).map_err(|err| unreachable(&err))?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|err| unreachable(&err))?;
        tokio::spawn(async move {
            if let Err(err) = connection.await {
                tracing::debug!(%err, "a connection ended");
            }
        });
        Ok(Self { server: server.to_owned(), sender })
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when a read got no answer; [`Error::OutcomeUnknown`] when anything else got none: the server may
    /// have acted.
    pub(super) async fn send(&mut self, asked: &Request<'_>) -> Result<Response, Error> {
        let mut request =
            hyper::Request::builder().method(asked.method).uri(asked.target).header(header::HOST, &self.server);
        let typed = asked.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !asked.body.is_empty() && !typed {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        for (name, value) in asked.headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(asked.body.as_bytes())))
            .map_err(|err| Error::Invalid(format!("the request cannot be sent: {err}")))?;
        let server = self.server.clone();
        let lost = |why: &dyn std::fmt::Display| {
            let why = format!("{server} did not answer: {why}");
            if asked.is_read() { Error::Unreachable(why) } else { Error::OutcomeUnknown(why) }
        };
        let exchange = async {
            let response = self.sender.send_request(request).await.map_err(|err| lost(&err))?;
            let status = response.status().as_u16();
            let revision = response.headers().get(REVISION).and_then(|it| it.to_str().ok()?.parse().ok()).map(Revision);
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|err| lost(&err))?.to_bytes();
            Ok(Response { status, revision, body })
        };
        timeout(asked.limit, exchange).await.unwrap_or_else(|_| Err(lost(&"timed out")))
    }
}
