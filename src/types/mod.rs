//! The words of the domain. No I/O, no clock, no async, no wire format.
mod command;
mod content;
mod event;
mod key;
pub mod limits;
mod pattern;
mod record;
mod request;

pub use command::{Command, Consistency, Precondition, Proposal, Publication, Rejection, Reply};
pub use content::{Content, ContentType, Digest};
pub use event::{Change, LocalDataChangeEvent};
pub use key::{ConfigKey, InvalidName, NameField, NameProblem, NamespaceId, Tag};
pub use pattern::{InvalidPattern, KeyPattern};
pub use record::{Attributes, Author, ConfigRecord, Head, LogId, Millis, Mutation, Namespace, Revision, Variant};
pub use request::{InvalidRequestId, RememberedRequest, Request, RequestId};
