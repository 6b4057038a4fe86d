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

/// Whether this is `host:port`, and the port is a number of one.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0))
}
