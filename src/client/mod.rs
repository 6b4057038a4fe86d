//! A client of the Nacos HTTP API: get, publish, remove, watch, and what administrators ask. Goes to the next server when
//! one does not answer. A write has an id (`X-Request-Id`) that a Coracle server remembers: when its outcome is unknown it is
//! sent again, and done once.
mod connection;
mod watch;

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use serde_json::Value;

use self::connection::{Connection, Response};
pub use self::watch::Watch;

/// How long a request may take, a long poll aside.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A write that was not done, or of which nobody knows, is sent this often before the caller is told.
const WRITE_ATTEMPTS: usize = 4;
/// The wait before a write is sent again; it grows with each attempt.
const WRITE_PAUSE: Duration = Duration::from_millis(150);

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
            if server.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
                return Err(Error::Invalid(format!("a server is named by HOST:PORT, not by {server:?}")));
            }
        }
        Ok(Client { servers: self.servers, namespace: self.namespace, group: self.group })
    }
}

/// A client. Cheap to clone; each call opens a connection of its own, a [`Watch`] keeps one.
#[derive(Debug, Clone)]
pub struct Client {
    servers: Vec<String>,
    namespace: String,
    group: String,
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
        match text(self.any_server(REQUEST_TIMEOUT, 0, "GET", &target, "", &[]).await?) {
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

    /// How the server stands, as JSON (`/coracle/v1/status`).
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
        let json: &[_] = if body.is_empty() { &[] } else { &[("content-type", "application/json")] };
        // Changes of members take as long as the new one needs to catch up.
        let response = self.any_server(Duration::from_secs(70), 0, method, target, body, json).await?;
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

    /// Sends a write until it is known what became of it, a few times at most.
    async fn write(
        &self,
        method: &str,
        target: &str,
        body: &str,
        header: Option<(&str, &str)>,
    ) -> Result<Response, Error> {
        let id = request_id();
        let headers: Vec<_> = header.into_iter().chain([("x-request-id", &*id)]).collect();
        let mut unknown = None;
        let mut attempt = 0;
        loop {
            let sent = self.any_server(REQUEST_TIMEOUT, attempt, method, target, body, &headers).await;
            let failed = match sent {
                Ok(response) if response.status == 503 || response.status == 504 => text(response).err(),
                Ok(response) => return Ok(response),
                Err(err @ (Error::OutcomeUnknown(_) | Error::Unreachable(_))) => Some(err),
                Err(err) => return Err(err),
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

    /// Asks one server after the other, beginning with that of this number, until one can be connected to.
    async fn any_server(
        &self,
        limit: Duration,
        first: usize,
        method: &str,
        target: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response, Error> {
        let mut last = Error::Unreachable("no server is named".into());
        let count = self.servers.len();
        for server in self.servers.iter().cycle().skip(first % count.max(1)).take(count) {
            match Connection::open(server).await {
                Ok(mut connection) => return connection.send(method, target, headers, body, limit).await,
                Err(err) => last = err,
            }
        }
        Err(last)
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
        500 if text.contains("Cas publish fail") => Err(Error::Conflict),
        400..=499 => Err(Error::Invalid(text)),
        503 => Err(Error::Unavailable(text)),
        504 => Err(Error::OutcomeUnknown(text)),
        other => Err(Error::Unexpected(format!("{other}: {text}"))),
    }
}
