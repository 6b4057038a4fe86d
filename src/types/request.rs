//! Which request a change came with, so that one that is repeated is done once.
use std::fmt;

use super::{Attributes, Command, Digest, Namespace, Precondition, Publication, Revision, Variant, limits};

/// A name that a client gave to one request. Kept as its digest: short, whatever the client writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Digest);

/// A request id that breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRequestId;

impl fmt::Display for InvalidRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a request id has 1 to {} visible ASCII characters; a UUID is a good one",
            limits::REQUEST_ID_BYTES_MAX
        )
    }
}

impl std::error::Error for InvalidRequestId {}

impl RequestId {
    /// Takes 1 to [`limits::REQUEST_ID_BYTES_MAX`] visible ASCII characters.
    ///
    /// # Errors
    /// [`InvalidRequestId`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidRequestId> {
        let legal =
            (1..=limits::REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_graphic());
        if legal { Ok(Self(Digest::of(text.as_bytes()))) } else { Err(InvalidRequestId) }
    }

    /// An id that was stored.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// What is stored of it.
    pub const fn digest(&self) -> Digest {
        self.0
    }
}

/// A request that may come again: its id, and what tells it from another one for which somebody used the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The name that the client gave it.
    pub id: RequestId,
    /// Of the command, without who asks: a client may come again from another address.
    pub fingerprint: Digest,
}

impl Request {
    /// Names this command.
    pub fn new(id: RequestId, command: &Command) -> Self {
        Self { id, fingerprint: fingerprint(command) }
    }
}

/// A request that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedRequest {
    /// Which one.
    pub request: Request,
    /// The entry that did it.
    pub revision: Revision,
    /// Whether there was anything to change.
    pub changed: bool,
}

/// Fields one after the other, each with its length in front, so that no two lists of fields give the same bytes.
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, field: &[u8]) {
        self.0.extend((field.len() as u64).to_le_bytes());
        self.0.extend(field);
    }

    fn text(&mut self, field: &str) {
        self.bytes(field.as_bytes());
    }

    fn optional(&mut self, field: Option<&str>) {
        self.0.push(u8::from(field.is_some()));
        self.text(field.unwrap_or_default());
    }

    fn variant(&mut self, variant: &Variant) {
        match variant {
            Variant::Formal => self.text("formal"),
            Variant::Beta => self.text("beta"),
            Variant::Tag(tag) => {
                self.text("tag");
                self.text(tag.as_str());
            }
        }
    }

    fn precondition(&mut self, precondition: Precondition) {
        match precondition {
            Precondition::None => self.text("none"),
            Precondition::Absent => self.text("absent"),
            Precondition::DigestIsOrAbsent(digest) => self.bytes(digest.as_bytes()),
            Precondition::DigestUnknown => self.text("unknown"),
        }
    }

    fn attributes(&mut self, attributes: &Attributes) {
        let Attributes { content_type, app_name, config_tags, description, usage, effect, schema, encrypted_data_key } =
            attributes;
        self.text(content_type.as_str());
        for field in [app_name, config_tags, description, usage, effect, schema, encrypted_data_key] {
            self.optional(field.as_deref());
        }
    }

    fn publication(&mut self, publication: &Publication) {
        let Publication { key, variant, content, attributes, beta_ips, precondition, author: _ } = publication;
        self.text(key.as_str());
        self.variant(variant);
        self.bytes(content.digest().as_bytes());
        self.attributes(attributes);
        beta_ips.iter().for_each(|ip| self.text(ip));
        self.precondition(*precondition);
    }

    fn namespace(&mut self, namespace: &Namespace) {
        let Namespace { id, name, description } = namespace;
        [id.as_str(), name, description].into_iter().for_each(|it| self.text(it));
    }
}

fn fingerprint(command: &Command) -> Digest {
    let mut fields = Fields(Vec::with_capacity(256));
    match command {
        Command::PublishConfig(publication) => {
            fields.text("publish");
            fields.publication(publication);
        }
        Command::RemoveConfig { key, variant, created } => {
            fields.text("remove");
            fields.text(key.as_str());
            fields.variant(variant);
            if let Some(created) = created {
                fields.text(&created.0.to_string());
            }
        }
        Command::CreateNamespace(namespace) => {
            fields.text("create namespace");
            fields.namespace(namespace);
        }
        Command::UpdateNamespace(namespace) => {
            fields.text("update namespace");
            fields.namespace(namespace);
        }
        Command::DeleteNamespace(id) => {
            fields.text("delete namespace");
            fields.text(id.as_str());
        }
    }
    Digest::of(&fields.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Author, ConfigKey, Content, NamespaceId, Tag};

    fn publication() -> Publication {
        Publication {
            key: ConfigKey::new(&NamespaceId::public(), "g", "a").unwrap(),
            variant: Variant::Formal,
            content: Content::new("1"),
            attributes: Attributes::default(),
            beta_ips: Vec::new(),
            precondition: Precondition::None,
            author: Author::default(),
        }
    }

    #[test]
    fn ids_are_visible_and_not_too_long() {
        for good in ["a", "5f2c-…".trim_end_matches('…'), "6ba7b810-9dad-11d1-80b4-00c04fd430c8", &"x".repeat(128)]
        {
            assert!(RequestId::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a b", "a\n", "é", &"x".repeat(129)] {
            assert_eq!(RequestId::parse(bad), Err(InvalidRequestId), "{bad:?}");
        }
    }

    #[test]
    fn whatever_is_asked_for_makes_another_request_but_who_asks_does_not() {
        let with = |change: &dyn Fn(&mut Publication)| {
            let mut publication = publication();
            change(&mut publication);
            fingerprint(&Command::PublishConfig(Box::new(publication)))
        };
        let key = publication().key;
        let namespace = |name: &str| Namespace {
            id: NamespaceId::parse("dev").unwrap(),
            name: name.into(),
            description: String::new(),
        };
        let all = [
            with(&|_| {}),
            with(&|it| it.key = ConfigKey::new(&NamespaceId::public(), "g", "b").unwrap()),
            with(&|it| it.variant = Variant::Beta),
            with(&|it| it.variant = Variant::Tag(Tag::parse("beta").unwrap())),
            with(&|it| it.content = Content::new("2")),
            with(&|it| it.attributes.description = Some(String::new())),
            with(&|it| it.attributes.effect = Some(String::new())),
            with(&|it| it.beta_ips = vec!["1".into()]),
            with(&|it| it.beta_ips = vec!["1".into(), String::new()]),
            with(&|it| it.precondition = Precondition::Absent),
            with(&|it| it.precondition = Precondition::DigestIsOrAbsent(Digest::of(b"1"))),
            fingerprint(&Command::RemoveConfig { key: key.clone(), variant: Variant::Formal, created: None }),
            fingerprint(&Command::RemoveConfig {
                key: key.clone(),
                variant: Variant::Formal,
                created: Some(Revision(1)),
            }),
            fingerprint(&Command::RemoveConfig { key, variant: Variant::Beta, created: None }),
            fingerprint(&Command::CreateNamespace(namespace("a"))),
            fingerprint(&Command::CreateNamespace(namespace("b"))),
            fingerprint(&Command::UpdateNamespace(namespace("a"))),
            fingerprint(&Command::DeleteNamespace(namespace("a").id)),
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(one == other, at == other_at, "{at} and {other_at}");
            }
        }
        assert_eq!(all[0], with(&|it| it.author = Author { user: Some("u".into()), ip: "10.0.0.1".into() }));
    }
}
