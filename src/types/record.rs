//! What is stored.
use std::{fmt, sync::Arc};

use super::{ConfigKey, Content, ContentType, Digest, NamespaceId, RememberedRequest, Tag};

/// Unix time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Millis(pub u64);

/// The log index of the entry that wrote something: the order of all changes. 0: before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in the log: which leader wrote it, and where. Ordered as Raft orders logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct LogId {
    /// The term of the leader.
    pub term: u64,
    /// The leader; 0 for a standalone node.
    pub node: u64,
    /// The place.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.node, self.index)
    }
}

/// Which of a configuration's versions: the formal one, or a gray one for some clients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// What everybody gets.
    Formal,
    /// What clients at listed addresses get.
    Beta,
    /// What clients that carry this tag get.
    Tag(Tag),
}

/// Who wrote, and from where; as told, for people to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Author {
    /// The user, when one was named.
    pub user: Option<Arc<str>>,
    /// The address of the client.
    pub ip: Arc<str>,
}

/// What is known of a version besides its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// How to read the content.
    pub content_type: ContentType,
    /// The application it is for.
    pub app_name: Option<String>,
    /// Tags to search by, separated by commas.
    pub config_tags: Option<String>,
    /// A description.
    pub description: Option<String>,
    /// What it is used for.
    pub usage: Option<String>,
    /// What it takes effect on.
    pub effect: Option<String>,
    /// A schema of the content.
    pub schema: Option<String>,
    /// The data key of a content that its client encrypted.
    pub encrypted_data_key: Option<String>,
}

/// One version of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRecord {
    /// What it says.
    pub content: Content,
    /// What else is known.
    pub attributes: Attributes,
    /// Of a [`Variant::Beta`]: the addresses that get it. Empty otherwise.
    pub beta_ips: Vec<String>,
    /// The revision that created it. Unique over all versions, therefore also its id.
    pub created: Revision,
    /// When it was created.
    pub created_at: Millis,
    /// The revision that wrote it last.
    pub modified: Revision,
    /// When it was written last.
    pub modified_at: Millis,
    /// Who wrote it last.
    pub author: Author,
}

impl ConfigRecord {
    /// The part that fits in memory for every key.
    pub fn head(&self) -> Head {
        Head {
            digest: self.content.digest(),
            created: self.created,
            created_at: self.created_at,
            modified: self.modified,
            modified_at: self.modified_at,
            labelled: self.attributes.app_name.is_some() || self.attributes.config_tags.is_some(),
        }
    }
}

/// What is known of a version without loading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The digest of the content.
    pub digest: Digest,
    /// The revision that created it.
    pub created: Revision,
    /// When it was created.
    pub created_at: Millis,
    /// The revision that wrote it last.
    pub modified: Revision,
    /// When it was written last.
    pub modified_at: Millis,
    /// Whether it has an application name or tags, which an update may leave as they are.
    pub labelled: bool,
}

/// A namespace that somebody created. `public` exists always and has no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// Its name for people.
    pub name: String,
    /// A description.
    pub description: String,
}

/// One write to the state. `storage` gives it bytes; nobody else does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Writes one version.
    PutConfig(ConfigKey, Variant, Arc<ConfigRecord>),
    /// Takes one version away.
    DeleteConfig(ConfigKey, Variant),
    /// Writes a namespace.
    PutNamespace(Namespace),
    /// Takes a namespace away; its configurations stay.
    DeleteNamespace(NamespaceId),
    /// Notes that a request was done.
    RememberRequest(RememberedRequest),
    /// Forgets that a request was done.
    ForgetRequest(RememberedRequest),
}
