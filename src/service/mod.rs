//! Use cases, in the words of the domain. Knows neither Nacos, nor Raft, nor sled, nor HTTP.
mod config;
mod listen;
mod namespace;

use std::{fmt, sync::Arc};

pub use config::{Filter, Found, Listed, Page, Read, Written};
pub use listen::{Interest, Seen};
use tokio::sync::Semaphore;

pub use crate::{
    replication::{Contact, Member},
    state_machine::ClientLabels,
    watch::Watcher,
};

use crate::{
    clock::Clock,
    metrics::Metrics,
    replication::{Administration, ProposeError, Replicator, Status},
    state_machine::{ReadError, StateReader},
    types::{Command, Proposal, Rejection, Reply, Request, RequestId, limits},
    watch::Hub,
};

/// What dialects may ask for.
pub struct Services {
    clock: Arc<dyn Clock>,
    replicator: Arc<dyn Replicator>,
    administration: Option<Arc<dyn Administration>>,
    state: Arc<dyn StateReader>,
    hub: Arc<Hub>,
    metrics: Metrics,
    /// The places of listings.
    listings: Arc<Semaphore>,
}

/// So many listings are made at once.
const LISTINGS_MAX: usize = 4;

impl Services {
    /// Services over these parts. `administration` is `None` where there are no members.
    pub fn new(
        clock: Arc<dyn Clock>,
        replicator: Arc<dyn Replicator>,
        administration: Option<Arc<dyn Administration>>,
        state: Arc<dyn StateReader>,
        hub: Arc<Hub>,
        metrics: Metrics,
    ) -> Self {
        let listings = Arc::new(Semaphore::new(LISTINGS_MAX));
        Self { clock, replicator, administration, state, hub, metrics, listings }
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        self.replicator.status()
    }

    /// Changes of the cluster, where there is one.
    pub fn administration(&self) -> Option<&Arc<dyn Administration>> {
        self.administration.as_ref()
    }

    /// The other members, as this node reaches them now; none where there are no others.
    pub async fn contacts(&self) -> Vec<Contact> {
        match &self.administration {
            Some(administration) => administration.contacts().await,
            None => Vec::new(),
        }
    }

    /// The last revision that this node has applied.
    pub fn revision(&self) -> crate::types::Revision {
        self.state.revision()
    }

    /// Unix time now, for what is shown to people.
    pub fn now(&self) -> crate::types::Millis {
        self.clock.now()
    }

    /// Brings those metrics up to date that are read off rather than counted.
    pub fn refresh_gauges(&self) {
        let status = self.status();
        let (metrics, flag) = (&self.metrics, |it: bool| i64::from(it));
        metrics.watchers.set(self.hub.watcher_count() as i64);
        metrics.watched_keys.set(self.hub.watched_key_count() as i64);
        metrics.applied_revision.set(self.state.revision().0 as i64);
        metrics.configs.set(self.state.list(&|_| true).len() as i64);
        metrics.has_leader.set(flag(status.leader.is_some()));
        metrics.is_leader.set(flag(status.leader == Some(status.node)));
        metrics.raft_term.set(status.term as i64);
    }

    /// Proposes a command and waits for its outcome, within [`limits::PROPOSE_TIMEOUT`]. One that comes again with the
    /// same id, here or elsewhere, is done once.
    async fn propose(&self, command: Command, id: Option<RequestId>) -> Result<Reply, ServiceError> {
        let started = tokio::time::Instant::now();
        let request = id.map(|id| Request::new(id, &command));
        let proposal = Proposal { command, proposed_at: self.clock.now(), request };
        let outcome = tokio::time::timeout(limits::PROPOSE_TIMEOUT, self.replicator.propose(proposal)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(ProposeError::OutcomeUnknown("it took too long".into())));
        let metrics = &self.metrics;
        match &outcome {
            Ok(Reply::Applied(_) | Reply::Unchanged(_)) => drop(metrics.writes_applied.inc()),
            Ok(Reply::Rejected(_)) => drop(metrics.writes_rejected.inc()),
            Err(ProposeError::Unavailable(_) | ProposeError::Fatal(_)) => drop(metrics.writes_unavailable.inc()),
            Err(ProposeError::OutcomeUnknown(_)) => drop(metrics.writes_unknown.inc()),
        }
        metrics.publish_seconds.observe(started.elapsed().as_secs_f64());
        match outcome? {
            Reply::Rejected(rejection) => Err(ServiceError::Rejected(rejection)),
            reply @ (Reply::Applied(_) | Reply::Unchanged(_)) => Ok(reply),
        }
    }
}

/// What a caller can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceError {
    /// Refused, by everyone alike: trying the same again will be refused again.
    Rejected(Rejection),
    /// Nothing was written; trying again is safe.
    Unavailable(String),
    /// The write may or may not happen: read back before trying again.
    OutcomeUnknown(String),
    /// This node has failed; somebody must look at it.
    Internal(String),
}

impl From<ProposeError> for ServiceError {
    fn from(err: ProposeError) -> Self {
        match err {
            ProposeError::Unavailable(why) => Self::Unavailable(why),
            ProposeError::OutcomeUnknown(why) => Self::OutcomeUnknown(why),
            ProposeError::Fatal(why) => Self::Internal(why),
        }
    }
}

impl From<ReadError> for ServiceError {
    fn from(err: ReadError) -> Self {
        Self::Internal(err.to_string())
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(Rejection::PreconditionFailed { .. }) => {
                f.write_str("the content was changed by somebody else")
            }
            Self::Rejected(Rejection::TooManyGrayVersions) => {
                write!(f, "a configuration has at most {} gray versions", limits::GRAY_VERSIONS_MAX)
            }
            Self::Rejected(Rejection::NamespaceExists) => f.write_str("there is a namespace of that id"),
            Self::Rejected(Rejection::NamespaceAbsent) => f.write_str("there is no namespace of that id"),
            Self::Unavailable(why) => write!(f, "not possible now, and nothing was written: {why}"),
            Self::OutcomeUnknown(why) => {
                write!(f, "the outcome is unknown ({why}); read back before trying again")
            }
            Self::Internal(why) => write!(f, "this node has failed: {why}"),
        }
    }
}

impl std::error::Error for ServiceError {}
