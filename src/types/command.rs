//! What clients ask for, and what they are answered.
use super::{
    Attributes, Author, ConfigKey, Content, Digest, Millis, Namespace, NamespaceId, Request, Revision, Variant,
};

/// A change that somebody wants. Decided by `state_machine::apply`, on every node alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Writes one version of a configuration.
    PublishConfig(Box<Publication>),
    /// Takes one version away.
    RemoveConfig {
        /// Which configuration.
        key: ConfigKey,
        /// Which of its versions.
        variant: Variant,
        /// Only the one that this revision created: not one that was published anew after it was removed.
        created: Option<Revision>,
    },
    /// Creates a namespace, unless one of that id exists.
    CreateNamespace(Namespace),
    /// Renames a namespace that exists.
    UpdateNamespace(Namespace),
    /// Takes a namespace away; its configurations stay, as in Nacos.
    DeleteNamespace(NamespaceId),
}

/// The publishing of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Which configuration.
    pub key: ConfigKey,
    /// Which of its versions.
    pub variant: Variant,
    /// What it shall say.
    pub content: Content,
    /// What else is told of it. An application or tags left out keep what is stored.
    pub attributes: Attributes,
    /// Of a [`Variant::Beta`]: the addresses that shall get it.
    pub beta_ips: Vec<String>,
    /// What must hold, or nothing is written.
    pub precondition: Precondition,
    /// Who asks.
    pub author: Author,
}

/// What must hold of a version for a publish to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// There is no such version.
    Absent,
    /// The version has this digest, or there is none (Nacos: `insertOrUpdateCas`).
    DigestIsOrAbsent(Digest),
    /// A digest that no content has was named: holds only when there is no such version.
    DigestUnknown,
}

/// What the log stores: a command and the time at which it was proposed, so that applying needs no clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The change.
    pub command: Command,
    /// When it was proposed, by the clock of the node that took it.
    pub proposed_at: Millis,
    /// Which request it came with, if its client named it: one that comes again is done once.
    pub request: Option<Request>,
}

/// What applying a proposal says. A rejection is a replicated outcome, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The change was made, at this revision.
    Applied(Revision),
    /// There was nothing to change; true as of this revision.
    Unchanged(Revision),
    /// The change was refused, and nothing was written.
    Rejected(Rejection),
}

/// Why a change was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The precondition did not hold.
    PreconditionFailed {
        /// The digest that is stored, if any.
        current: Option<Digest>,
    },
    /// The configuration has as many gray versions as it may have.
    TooManyGrayVersions,
    /// There is a namespace of that id.
    NamespaceExists,
    /// There is no namespace of that id.
    NamespaceAbsent,
}

/// How new a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// What this node has applied so far; may be behind other nodes.
    Local,
    /// At least this revision.
    AtLeast(Revision),
    /// At least everything that was acknowledged anywhere before the read began.
    Linearizable,
}

impl Consistency {
    /// By the name that people give it; `None` for one that is none.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "local" => Some(Self::Local),
            "linearizable" => Some(Self::Linearizable),
            _ => None,
        }
    }
}
