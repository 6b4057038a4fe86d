//! One HTTP/1.1 connection to one server.
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::Error;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// No answer of a server is longer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// An answer.
pub(super) struct Response {
    pub(super) status: u16,
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

    /// Sends a request and reads the answer. A body is a form unless a header says otherwise.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] when no answer came: the server may have acted.
    pub(super) async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
        limit: Duration,
    ) -> Result<Response, Error> {
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, &self.server);
        let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !body.is_empty() && !typed {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|err| Error::Invalid(format!("the request cannot be sent: {err}")))?;
        let server = self.server.clone();
        let lost = |why: &dyn std::fmt::Display| {
            let why = format!("{server} did not answer: {why}");
            if method == "GET" { Error::Unreachable(why) } else { Error::OutcomeUnknown(why) }
        };
        let exchange = async {
            let response = self.sender.send_request(request).await.map_err(|err| lost(&err))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|err| lost(&err))?.to_bytes();
            Ok(Response { status, body })
        };
        timeout(limit, exchange).await.unwrap_or_else(|_| Err(lost(&"timed out")))
    }
}
