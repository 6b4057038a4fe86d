//! What happened.
use super::{ConfigKey, Digest, Revision, Variant};

/// Raised on every node when an applied entry changed what some client of a key may see. Nacos calls the same
/// `LocalDataChangeEvent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDataChangeEvent {
    /// The entry that did it.
    pub revision: Revision,
    /// The configuration.
    pub key: ConfigKey,
    /// Which of its versions.
    pub variant: Variant,
    /// What became of it.
    pub change: Change,
}

/// What became of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was created, or says something else now.
    Put(Digest),
    /// It is gone.
    Deleted,
}
