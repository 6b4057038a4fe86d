//! Following one configuration by long polls. Never goes back: a server that is behind what was given out is passed over.
use std::time::Duration;

use tokio::time::sleep;

use super::{Client, Connection, Error, Request, form, text};
use crate::types::{Content, Revision};

/// What a poll asks for.
const POLL: Duration = Duration::from_secs(30);
/// A server that has not answered a poll by then is gone.
const POLL_PATIENCE: Duration = Duration::from_secs(45);
/// After a failure the next try waits this long at first, then longer and longer.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Asks for a state that is at least as new: a server that is behind waits for it, and answers 503 if it does not come.
const MIN_REVISION: &str = "coracle-min-revision";

/// A configuration that is followed. Goes on through restarts of servers; stops when it is dropped.
pub struct Watch {
    client: Client,
    data_id: String,
    /// What was given out last; `None` before the first time.
    known: Option<Option<Content>>,
    /// The state that `known` was read from last: no later read may be of an older one. `None` before the first time, and
    /// where servers do not say.
    floor: Option<Revision>,
    connection: Option<Connection>,
    /// Which server is asked.
    at: usize,
}

impl Watch {
    pub(super) fn new(client: Client, data_id: &str) -> Self {
        let at = client.first_server();
        Self { client, data_id: data_id.to_owned(), known: None, floor: None, connection: None, at }
    }

    /// The content now, the first time; afterwards the next content that differs from the last. `None`: there is none.
    /// Contents in between may be skipped, the last one is not. Waits as long as it takes, through failures too.
    ///
    /// What is given out is never older than what was given out before, whichever server it comes from. As long as all
    /// servers that answer are behind that, this goes from one to the next and waits. After servers were put back to an older
    /// state on purpose, from a backup, say, begin another watch.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the request itself is at fault.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.step().await {
                Ok(Some(content)) => return Ok(content),
                Ok(None) => pause = PAUSE_MIN,
                Err(err @ Error::Invalid(_)) => return Err(err),
                Err(err) => {
                    tracing::debug!(%err, "a watch goes on with the next server");
                    self.connection = None;
                    self.at += 1;
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Reads, or waits for one poll and then reads.
    async fn step(&mut self) -> Result<Option<Option<String>>, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.client.servers[self.at % self.client.servers.len()]).await?,
        };
        if let Some(known) = &self.known
            && !self.changed(&mut connection, known.as_ref()).await?
        {
            self.connection = Some(connection);
            return Ok(None);
        }
        let target = format!("/nacos/v1/cs/configs?{}", self.client.names(&self.data_id));
        let floor = self.floor.map(|it| it.to_string());
        let headers = floor.as_deref().map(|it| (MIN_REVISION, it));
        let request = Request {
            method: "GET",
            target: &target,
            headers: headers.as_slice(),
            body: "",
            limit: super::REQUEST_TIMEOUT,
        };
        let response = connection.send(&request).await?;
        let revision = response.revision;
        let content = match text(response) {
            Ok(content) => Some(Content::new(content)),
            Err(Error::NotFound) => None,
            Err(err) => return Err(err),
        };
        // What stands between may drop the header, or answer in the place of the server: `None` is less than any revision.
        if revision < self.floor {
            return Err(Error::Unavailable("the answer is older than what was read before, or does not say".into()));
        }
        self.floor = revision;
        self.connection = Some(connection);
        if self.known.as_ref() == Some(&content) {
            return Ok(None);
        }
        let text = content.as_ref().map(|it| it.text().to_owned());
        self.known = Some(content);
        Ok(Some(text))
    }

    /// Polls until something changes or the poll ends.
    async fn changed(&self, connection: &mut Connection, known: Option<&Content>) -> Result<bool, Error> {
        let md5 = known.map_or(String::new(), |it| it.digest().to_hex());
        let mut line = format!("{}\u{2}{}\u{2}{md5}", self.data_id, self.client.group);
        if !self.client.namespace.is_empty() {
            line += &format!("\u{2}{}", self.client.namespace);
        }
        let body = form("Listening-Configs", &format!("{line}\u{1}"));
        let timeout = POLL.as_millis().to_string();
        let request = Request {
            method: "POST",
            target: "/nacos/v1/cs/configs/listener",
            headers: &[("long-pulling-timeout", &*timeout)],
            body: &body,
            limit: POLL_PATIENCE,
        };
        text(connection.send(&request).await?).map(|changed| !changed.is_empty())
    }
}
