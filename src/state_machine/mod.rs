//! (state, entry) → effects. Deterministic: no clock, no randomness, no I/O of its own. Nodes that applied the same
//! entries hold identical rows.
mod config;
mod gray;
mod namespace;
mod overlay;
mod request;

use std::{error::Error, fmt, sync::Arc};

pub use gray::{ClientLabels, Versions, Visible, visible};
pub use overlay::Overlay;

use crate::{
    planted::{self, Bug},
    types::{
        Command, ConfigKey, ConfigRecord, Head, LocalDataChangeEvent, Mutation, Namespace, NamespaceId, Proposal,
        RememberedRequest, Reply, RequestId, Revision, Variant,
    },
};

/// What may be asked of the state. Heads and versions are answered from memory; a record may be read from disk.
pub trait StateReader: Send + Sync {
    /// One version of a configuration.
    ///
    /// # Errors
    /// [`ReadError`] when the store is damaged or the disk fails; never for a missing record.
    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError>;

    /// The versions of a configuration, without their contents, and the revision that this is the state of; `None` when there
    /// are none.
    fn look(&self, key: &ConfigKey) -> (Revision, Option<Arc<Versions>>);

    /// The versions of a configuration, without their contents; `None` when there are none.
    fn versions(&self, key: &ConfigKey) -> Option<Arc<Versions>> {
        self.look(key).1
    }

    /// The namespace of that id, if somebody created it.
    fn namespace(&self, id: &NamespaceId) -> Option<Namespace>;

    /// All namespaces that somebody created, in the order of their ids.
    fn namespaces(&self) -> Vec<Namespace>;

    /// Heads of all formal versions whose key is wanted, in the order of keys. Answered from memory.
    fn list(&self, wanted: &dyn Fn(&ConfigKey) -> bool) -> Vec<(ConfigKey, Head)>;

    /// The request of that id, if it was done not too long ago.
    fn remembered_request(&self, id: RequestId) -> Option<RememberedRequest>;

    /// The request that was done first after `after`, of those that are remembered.
    fn oldest_request(&self, after: Revision) -> Option<RememberedRequest>;

    /// How many requests are remembered.
    fn remembered_count(&self) -> usize;

    /// The last applied revision.
    fn revision(&self) -> Revision;
}

/// The state could not be read. Applying must stop: skipping an entry would fork the replica.
#[derive(Debug)]
pub struct ReadError(pub Box<dyn Error + Send + Sync>);

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read state: {}", self.0)
    }
}

impl Error for ReadError {}

/// What an entry does.
#[derive(Debug, PartialEq, Eq)]
pub struct Effects {
    /// To be committed.
    pub writes: Vec<Mutation>,
    /// To be announced once committed.
    pub event: Option<LocalDataChangeEvent>,
    /// To be answered once announced.
    pub reply: Reply,
}

impl Effects {
    fn reply_only(reply: Reply) -> Self {
        Self { writes: Vec::new(), event: None, reply }
    }
}

/// Decides what the entry at `at` does to `state`.
///
/// # Errors
/// [`ReadError`] when the state could not be read; the node must stop applying.
pub fn apply(state: &dyn StateReader, at: Revision, proposal: &Proposal) -> Result<Effects, ReadError> {
    let Some(request) = &proposal.request else { return decide(state, at, proposal) };
    if let Some(reply) = request::answered_before(state, request).filter(|_| !planted::is(Bug::RequestIdIgnored)) {
        return Ok(Effects::reply_only(reply));
    }
    let mut effects = decide(state, at, proposal)?;
    request::remember(state, *request, &mut effects);
    Ok(effects)
}

fn decide(state: &dyn StateReader, at: Revision, proposal: &Proposal) -> Result<Effects, ReadError> {
    match &proposal.command {
        Command::PublishConfig(publication) => config::publish(state, at, proposal.proposed_at, publication),
        Command::RemoveConfig { key, variant, created } => Ok(config::remove(state, at, key, variant, *created)),
        Command::CreateNamespace(namespace) => Ok(namespace::create(state, at, namespace)),
        Command::UpdateNamespace(namespace) => Ok(namespace::update(state, at, namespace)),
        Command::DeleteNamespace(id) => Ok(namespace::delete(state, at, id)),
    }
}
