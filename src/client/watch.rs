//! Following one configuration by long polls.
use std::time::Duration;

use tokio::time::sleep;

use super::{Client, Connection, Error, form, text};
use crate::types::Content;

/// What a poll asks for.
const POLL: Duration = Duration::from_secs(30);
/// A server that has not answered a poll by then is gone.
const POLL_PATIENCE: Duration = Duration::from_secs(45);
/// After a failure the next try waits this long at first, then longer and longer.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A configuration that is followed. Goes on through restarts of servers; stops when it is dropped.
pub struct Watch {
    client: Client,
    data_id: String,
    /// What was given out last; `None` before the first time.
    known: Option<Option<Content>>,
    connection: Option<Connection>,
    /// Which server is asked.
    at: usize,
}

impl Watch {
    pub(super) fn new(client: Client, data_id: &str) -> Self {
        Self { client, data_id: data_id.to_owned(), known: None, connection: None, at: 0 }
    }

    /// The content now, the first time; afterwards the next content that differs from the last. `None`: there is none.
    /// Contents in between may be skipped, the last one is not. Waits as long as it takes, through failures too.
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
        let read = text(connection.send("GET", &target, &[], "", super::REQUEST_TIMEOUT).await?);
        let content = match read {
            Ok(content) => Some(Content::new(content)),
            Err(Error::NotFound) => None,
            Err(err) => return Err(err),
        };
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
        let headers = [("long-pulling-timeout", &*timeout)];
        let target = "/nacos/v1/cs/configs/listener";
        let response = connection.send("POST", target, &headers, &body, POLL_PATIENCE).await?;
        text(response).map(|changed| !changed.is_empty())
    }
}
