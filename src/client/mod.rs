//! A client of the Nacos HTTP API: get, publish, remove, watch, and what administrators ask. A read goes to the next server
//! when one does not answer or fails, and the next call begins with the server that answered. A write goes on as long as
//! nothing was written; it has an id (`X-Request-Id`) that a Coracle server remembers: when its outcome is unknown it is sent
//! again, and done once.
mod connection;
mod watch;

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use self::connection::{Connection, Request, Response};
pub use self::watch::Watch;
use crate::types::is_address;

/// How long a request may take, a long poll aside.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Changes of members take as long as the new one needs to catch up.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(70);
/// A write that was not done, or of which nobody knows, is sent this often before the caller is told.
const WRITE_ATTEMPTS: usize = 4;
/// The wait before a write is sent again; it grows with each attempt.
const WRITE_PAUSE: Duration = Duration::from_millis(150);
/// What a server says, in a status 500, of a compare-and-set that did not hold.
const CAS_FAILED: &str = "Cas publish fail";

/// What went wrong, by what a caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no such configuration.
    NotFound,
    /// Somebody else changed the content: read, merge, try again.
    Conflict,
    /// The request is at fault; says how.
    Invalid(String),
    /// Nothing was written; trying again is safe.
    Unavailable(String),
    /// A write may or may not have happened: read back before trying again.
    OutcomeUnknown(String),
    /// No server answered.
    Unreachable(String),
    /// A server answered what no server should.
    Unexpected(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such configuration"),
            Self::Conflict => f.write_str("the content was changed by somebody else"),
            Self::Invalid(why) | Self::Unavailable(why) | Self::OutcomeUnknown(why) | Self::Unexpected(why) => {
                f.write_str(why)
            }
            Self::Unreachable(why) => write!(f, "no server answers: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// Makes a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    servers: Vec<String>,
    namespace: String,
    group: String,
}

impl Builder {
    /// Adds a server, `host:port`. Without any it is `127.0.0.1:8848`.
    #[must_use]
    pub fn server(mut self, address: impl Into<String>) -> Self {
        self.servers.push(address.into());
        self
    }

    /// The namespace of all calls; `public` unless told.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The group of all calls; `DEFAULT_GROUP` unless told.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        self
    }

    /// The client. Connects when it is first used.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that is not `host:port`.
    pub fn build(mut self) -> Result<Client, Error> {
        if self.servers.is_empty() {
            self.servers.push("127.0.0.1:8848".into());
        }
        for server in &self.servers {
            if !is_address(server) {
                return Err(Error::Invalid(format!("a server is named by HOST:PORT, not by {server:?}")));
            }
        }
        let answering = Arc::new(AtomicUsize::new(0));
        Ok(Client { servers: self.servers, namespace: self.namespace, group: self.group, answering })
    }
}

/// A client. Cheap to clone; each call opens a connection of its own, a [`Watch`] keeps one.
#[derive(Debug, Clone)]
pub struct Client {
    servers: Vec<String>,
    namespace: String,
    group: String,
    /// The server that answered last; all clones begin with it.
    answering: Arc<AtomicUsize>,
}

/// What a publish may say besides the content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// The type of the content: `yaml`, `json`, ….
    pub content_type: Option<String>,
    /// Publish only if the stored content has this MD5.
    pub if_md5: Option<String>,
}

impl Client {
    /// Begins to make a client.
    pub fn builder() -> Builder {
        Builder { servers: Vec::new(), namespace: String::new(), group: "DEFAULT_GROUP".into() }
    }

    fn names(&self, data_id: &str) -> String {
        let mut out = form("dataId", data_id);
        out += &format!("&{}", form("group", &self.group));
        if !self.namespace.is_empty() {
            out += &format!("&{}", form("tenant", &self.namespace));
        }
        out
    }

    /// The content of a configuration; `None` when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get(&self, data_id: &str) -> Result<Option<String>, Error> {
        let target = format!("/nacos/v1/cs/configs?{}", self.names(data_id));
        let request = Request { method: "GET", target: &target, headers: &[], body: "", limit: REQUEST_TIMEOUT };
        match text(self.any_server(self.first_server(), &request).await?) {
            Ok(content) => Ok(Some(content)),
            Err(Error::NotFound) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Publishes a content.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn publish(&self, data_id: &str, content: &str) -> Result<(), Error> {
        self.publish_with(data_id, content, &PublishOptions::default()).await
    }

    /// Publishes a content, with more to say.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Conflict`] when `if_md5` does not hold.
    pub async fn publish_with(&self, data_id: &str, content: &str, options: &PublishOptions) -> Result<(), Error> {
        let mut body = format!("{}&{}", self.names(data_id), form("content", content));
        if let Some(content_type) = &options.content_type {
            body += &format!("&{}", form("type", content_type));
        }
        let cas = options.if_md5.as_deref().map(|md5| ("casMd5", md5));
        let response = self.write("POST", "/nacos/v1/cs/configs", &body, cas).await?;
        text(response).map(drop)
    }

    /// Takes a configuration away; not an error when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove(&self, data_id: &str) -> Result<(), Error> {
        let target = format!("/nacos/v1/cs/configs?{}", self.names(data_id));
        text(self.write("DELETE", &target, "", None).await?).map(drop)
    }

    /// Follows a configuration.
    pub fn watch(&self, data_id: &str) -> Watch {
        Watch::new(self.clone(), data_id)
    }

    /// How the server that is asked stands, as JSON (`/coracle/v1/status`).
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self) -> Result<Value, Error> {
        self.admin("GET", "/coracle/v1/status", "").await
    }

    /// Adds a node to the cluster.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn add_member(&self, node: u64, member_address: &str) -> Result<(), Error> {
        let body = serde_json::json!({ "node": node, "memberAddress": member_address }).to_string();
        self.admin("POST", "/coracle/v1/cluster/members", &body).await.map(drop)
    }

    /// Takes a node out of the cluster.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_member(&self, node: u64) -> Result<(), Error> {
        self.admin("DELETE", &format!("/coracle/v1/cluster/members/{node}"), "").await.map(drop)
    }

    /// Makes another node the leader.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn transfer_leadership(&self, to: u64) -> Result<(), Error> {
        let body = serde_json::json!({ "node": to }).to_string();
        self.admin("POST", "/coracle/v1/cluster/leader", &body).await.map(drop)
    }

    async fn admin(&self, method: &str, target: &str, body: &str) -> Result<Value, Error> {
        let headers: &[_] = if body.is_empty() { &[] } else { &[("content-type", "application/json")] };
        let mut request = Request { method, target, headers, body, limit: MEMBERSHIP_TIMEOUT };
        if request.is_read() {
            request.limit = REQUEST_TIMEOUT;
        }
        let response = self.any_server(self.first_server(), &request).await?;
        let value: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        if response.status == 200 {
            return Ok(value);
        }
        let part = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let why = match (part("error"), part("hint")) {
            (error, hint) if hint.is_empty() => error,
            (error, hint) => format!("{error}; {hint}"),
        };
        Err(if response.status == 503 { Error::Unavailable(why) } else { Error::Invalid(why) })
    }

    /// Sends a write until it is known what became of it, a few times at most, each time to the next server.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] when one answer was lost, or was 504, and no later one settled what became of the write
    /// (see [`settles`]).
    async fn write(
        &self,
        method: &str,
        target: &str,
        body: &str,
        header: Option<(&str, &str)>,
    ) -> Result<Response, Error> {
        let id = request_id();
        let headers: Vec<_> = header.into_iter().chain([("x-request-id", &*id)]).collect();
        let request = Request { method, target, headers: &headers, body, limit: REQUEST_TIMEOUT };
        let first = self.first_server();
        let mut unknown = None;
        let mut attempt = 0;
        loop {
            let failed = match self.any_server(first + attempt, &request).await {
                Ok(response) if settles(&response, unknown.is_some()) => return Ok(response),
                Ok(response) => text(response).err(),
                Err(err @ (Error::OutcomeUnknown(_) | Error::Unreachable(_))) => Some(err),
                Err(err) => return Err(unknown.unwrap_or(err)),
            };
            let failed = failed.unwrap_or_else(|| Error::Unexpected("an answer without a reason".into()));
            attempt += 1;
            // What was not done the last time may have been done before.
            if attempt == WRITE_ATTEMPTS {
                return Err(unknown.unwrap_or(failed));
            }
            if matches!(failed, Error::OutcomeUnknown(_)) {
                unknown = Some(failed);
            }
            tokio::time::sleep(WRITE_PAUSE * attempt as u32).await;
        }
    }

    /// The server to begin with.
    fn first_server(&self) -> usize {
        self.answering.load(Ordering::Relaxed)
    }

    /// Asks one server after the other, beginning with that of this number, until one answers. A write goes to the next one
    /// only if it could not be connected to; a read, which does no harm twice, also if it breaks off, takes too long, or
    /// says that it cannot (5xx).
    async fn any_server(&self, first: usize, request: &Request<'_>) -> Result<Response, Error> {
        let mut last = Err(Error::Unreachable("no server is named".into()));
        let count = self.servers.len();
        for server in (first..first + count).map(|it| it % count) {
            let answer = match Connection::open(&self.servers[server]).await {
                Ok(mut connection) => connection.send(request).await,
                Err(err) => Err(err),
            };
            match answer {
                Ok(response) if response.status < 500 => {
                    self.answering.store(server, Ordering::Relaxed);
                    return Ok(response);
                }
                // One that says why it cannot tells more than another one that says nothing.
                Ok(response) if request.is_read() => last = Ok(response),
                Ok(response) => return Ok(response),
                Err(err @ Error::Unreachable(_)) => last = last.or(Err(err)),
                Err(err) => return Err(err),
            }
        }
        last
    }
}

/// Whether this answer tells what became of a write. `unknown`: an earlier copy of it may have been written, or may be on its
/// way; then only an answer that speaks for all copies does.
///
/// - 200 does: this copy was done, or was taken by its id for the repetition of one that had been.
/// - A failed compare-and-set does if the server knows ids, which is one that names a revision. The log decided it, and there
///   a copy that follows one that was done is answered 200 (as long as its id is remembered, for 32,768 more): so none had
///   been done. One that is still on its way is held to the same condition when it comes: it can write over nothing but the
///   very content that the caller named, or where there is none. Where ids are not known it does not: what changed the content
///   may be an earlier copy.
/// - Nothing else does. 4xx and 503 are said of this copy alone, which got no further than to the server; any other 500 says
///   that the server has failed, not what it did before.
fn settles(answer: &Response, unknown: bool) -> bool {
    match answer.status {
        200 => true,
        503 | 504 => false,
        _ if !unknown => true,
        500 => answer.revision.is_some() && String::from_utf8_lossy(&answer.body).contains(CAS_FAILED),
        _ => false,
    }
}

/// A name that no other request has: 128 bits of the keys that the standard library draws for its maps.
fn request_id() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// `name=value`, percent-encoded.
fn form(name: &str, value: &str) -> String {
    let mut out = format!("{name}=");
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// The body of a good answer, or what the status means.
fn text(response: Response) -> Result<String, Error> {
    let text = String::from_utf8_lossy(&response.body).trim_end_matches(['\r', '\n']).to_owned();
    match response.status {
        200 => String::from_utf8(response.body.into())
            .map_err(|_| Error::Unexpected("the server sent a content that is not UTF-8".into())),
        404 => Err(Error::NotFound),
        500 if text.contains(CAS_FAILED) => Err(Error::Conflict),
        400..=499 => Err(Error::Invalid(text)),
        503 => Err(Error::Unavailable(text)),
        504 => Err(Error::OutcomeUnknown(text)),
        other => Err(Error::Unexpected(format!("{other}: {text}"))),
    }
}
