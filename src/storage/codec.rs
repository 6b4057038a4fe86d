//! Domain values ⇄ versioned protobuf bytes. The log, the state and the messages between members share it.
//!
//! Decoding checks everything: what a damaged or newer peer sends becomes a [`DecodeError`], never a panic.
use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::{Applied, Witness};
use crate::types::{
    Attributes, Author, Command, ConfigKey, ConfigRecord, Content, ContentType, Digest, LogId, Millis, Namespace,
    NamespaceId, Precondition, Proposal, Publication, RememberedRequest, Request, RequestId, Revision, Tag, Variant,
};

/// The generated messages of `proto/log.proto`.
#[allow(missing_docs, clippy::doc_markdown, clippy::large_enum_variant)]
pub mod wire {
    tonic::include_proto!("coracle.log");
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError(pub String);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "decode: {}", self.0)
    }
}

impl std::error::Error for DecodeError {}

impl From<prost::DecodeError> for DecodeError {
    fn from(err: prost::DecodeError) -> Self {
        Self(err.to_string())
    }
}

fn missing(what: &str) -> DecodeError {
    DecodeError(format!("{what} is missing"))
}

fn invalid(err: impl fmt::Display) -> DecodeError {
    DecodeError(err.to_string())
}

/// A proposal, as the log stores it.
pub fn encode_proposal(proposal: &Proposal) -> Bytes {
    let command = match &proposal.command {
        Command::PublishConfig(it) => wire::proposal::Command::PublishConfig(publication_to_wire(it)),
        Command::RemoveConfig { key, variant, created } => wire::proposal::Command::RemoveConfig(wire::Removal {
            key: key.as_str().into(),
            variant: Some(variant_to_wire(variant)),
            created: created.map(|it| it.0),
        }),
        Command::CreateNamespace(it) => wire::proposal::Command::CreateNamespace(namespace_to_wire(it)),
        Command::UpdateNamespace(it) => wire::proposal::Command::UpdateNamespace(namespace_to_wire(it)),
        Command::DeleteNamespace(id) => wire::proposal::Command::DeleteNamespace(id.as_str().into()),
    };
    let request = proposal.request.as_ref().map(request_to_wire);
    encode(&wire::Proposal { proposed_at: proposal.proposed_at.0, command: Some(command), request })
}

/// # Errors
/// [`DecodeError`] when a field is missing, or breaks a rule of the domain.
pub fn decode_proposal(bytes: Bytes) -> Result<Proposal, DecodeError> {
    let message = wire::Proposal::decode(bytes)?;
    let command = match message.command.ok_or_else(|| missing("command"))? {
        wire::proposal::Command::PublishConfig(it) => Command::PublishConfig(Box::new(publication_from_wire(it)?)),
        wire::proposal::Command::RemoveConfig(it) => Command::RemoveConfig {
            key: ConfigKey::parse(&it.key).map_err(invalid)?,
            variant: variant_from_wire(it.variant)?,
            created: it.created.map(Revision),
        },
        wire::proposal::Command::CreateNamespace(it) => Command::CreateNamespace(namespace_from_wire(it)?),
        wire::proposal::Command::UpdateNamespace(it) => Command::UpdateNamespace(namespace_from_wire(it)?),
        wire::proposal::Command::DeleteNamespace(id) => {
            Command::DeleteNamespace(NamespaceId::parse(&id).map_err(invalid)?)
        }
    };
    let request = message.request.map(request_from_wire).transpose()?;
    Ok(Proposal { command, proposed_at: Millis(message.proposed_at), request })
}

/// A row of the state.
pub fn encode_record(record: &ConfigRecord) -> Bytes {
    encode(&wire::Record {
        content: Some(content_to_wire(&record.content)),
        attributes: Some(attributes_to_wire(&record.attributes)),
        beta_ips: record.beta_ips.clone(),
        created: record.created.0,
        created_at: record.created_at.0,
        modified: record.modified.0,
        modified_at: record.modified_at.0,
        author: Some(author_to_wire(&record.author)),
    })
}

/// # Errors
/// [`DecodeError`] when a field is missing, or breaks a rule of the domain.
pub fn decode_record(bytes: Bytes) -> Result<ConfigRecord, DecodeError> {
    let message = wire::Record::decode(bytes)?;
    Ok(ConfigRecord {
        content: content_from_wire(message.content)?,
        attributes: attributes_from_wire(message.attributes.unwrap_or_default())?,
        beta_ips: message.beta_ips,
        created: Revision(message.created),
        created_at: Millis(message.created_at),
        modified: Revision(message.modified),
        modified_at: Millis(message.modified_at),
        author: author_from_wire(message.author.unwrap_or_default()),
    })
}

/// A row of the state.
pub fn encode_namespace(namespace: &Namespace) -> Bytes {
    encode(&namespace_to_wire(namespace))
}

/// # Errors
/// [`DecodeError`] when the id breaks its rule.
pub fn decode_namespace(bytes: Bytes) -> Result<Namespace, DecodeError> {
    namespace_from_wire(wire::Namespace::decode(bytes)?)
}

/// A row of the state.
pub fn encode_request(remembered: &RememberedRequest) -> Bytes {
    let RememberedRequest { request, revision, changed } = remembered;
    encode(&wire::RememberedRequest {
        request: Some(request_to_wire(request)),
        revision: revision.0,
        changed: *changed,
    })
}

/// # Errors
/// [`DecodeError`] when a field is missing or has a wrong length.
pub fn decode_request(bytes: Bytes) -> Result<RememberedRequest, DecodeError> {
    let message = wire::RememberedRequest::decode(bytes)?;
    let request = request_from_wire(message.request.ok_or_else(|| missing("request"))?)?;
    Ok(RememberedRequest { request, revision: Revision(message.revision), changed: message.changed })
}

/// The row that says where a state stands.
pub fn encode_meta(applied: &Applied, witness: Witness) -> Bytes {
    let (membership_at, membership) = match &applied.membership {
        Some((at, bytes)) => (Some(id_to_wire(*at)), bytes.clone()),
        None => (None, Bytes::new()),
    };
    encode(&wire::StateMeta {
        last: applied.last.map(id_to_wire),
        membership_at,
        membership,
        rows: witness.rows,
        hash: Bytes::copy_from_slice(&witness.hash.to_be_bytes()),
    })
}

/// # Errors
/// [`DecodeError`] when the hash has not 16 bytes.
pub fn decode_meta(bytes: Bytes) -> Result<(Applied, Witness), DecodeError> {
    let message = wire::StateMeta::decode(bytes)?;
    let hash: [u8; 16] = message.hash[..].try_into().map_err(|_| missing("hash"))?;
    let membership = message.membership_at.map(|at| (id_from_wire(at), message.membership));
    let applied = Applied { last: message.last.map(id_from_wire), membership };
    Ok((applied, Witness { rows: message.rows, hash: u128::from_be_bytes(hash) }))
}

/// A log id, as messages carry it.
pub fn id_to_wire(id: LogId) -> wire::Id {
    wire::Id { term: id.term, node: id.node, index: id.index }
}

/// A log id, as messages carry it.
pub fn id_from_wire(id: wire::Id) -> LogId {
    LogId { term: id.term, node: id.node, index: id.index }
}

fn encode(message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(message.encoded_len());
    // Encoding fails only for want of room, and there is room for exactly this message.
    match message.encode(&mut out) {
        Ok(()) => out.freeze(),
        Err(err) => unreachable!("{err}"),
    }
}

fn publication_to_wire(it: &Publication) -> wire::Publication {
    let precondition = match it.precondition {
        Precondition::None => None,
        Precondition::Absent => Some(wire::precondition::Kind::Absent(true)),
        Precondition::DigestIsOrAbsent(digest) => {
            Some(wire::precondition::Kind::DigestIsOrAbsent(Bytes::copy_from_slice(digest.as_bytes())))
        }
        Precondition::DigestUnknown => Some(wire::precondition::Kind::DigestUnknown(true)),
    };
    wire::Publication {
        key: it.key.as_str().into(),
        variant: Some(variant_to_wire(&it.variant)),
        content: Some(content_to_wire(&it.content)),
        attributes: Some(attributes_to_wire(&it.attributes)),
        beta_ips: it.beta_ips.clone(),
        precondition: precondition.map(|kind| wire::Precondition { kind: Some(kind) }),
        author: Some(author_to_wire(&it.author)),
    }
}

fn publication_from_wire(it: wire::Publication) -> Result<Publication, DecodeError> {
    let precondition = match it.precondition {
        None => Precondition::None,
        Some(precondition) => match precondition.kind.ok_or_else(|| missing("precondition"))? {
            wire::precondition::Kind::Absent(_) => Precondition::Absent,
            wire::precondition::Kind::DigestIsOrAbsent(bytes) => Precondition::DigestIsOrAbsent(digest(&bytes)?),
            wire::precondition::Kind::DigestUnknown(_) => Precondition::DigestUnknown,
        },
    };
    Ok(Publication {
        key: ConfigKey::parse(&it.key).map_err(invalid)?,
        variant: variant_from_wire(it.variant)?,
        content: content_from_wire(it.content)?,
        attributes: attributes_from_wire(it.attributes.unwrap_or_default())?,
        beta_ips: it.beta_ips,
        precondition,
        author: author_from_wire(it.author.unwrap_or_default()),
    })
}

fn request_to_wire(it: &Request) -> wire::Request {
    let bytes = |digest: Digest| Bytes::copy_from_slice(digest.as_bytes());
    wire::Request { id: bytes(it.id.digest()), fingerprint: bytes(it.fingerprint) }
}

fn request_from_wire(it: wire::Request) -> Result<Request, DecodeError> {
    Ok(Request { id: RequestId::from_digest(digest(&it.id)?), fingerprint: digest(&it.fingerprint)? })
}

fn variant_to_wire(variant: &Variant) -> wire::Variant {
    let kind = match variant {
        Variant::Formal => wire::variant::Kind::Formal(true),
        Variant::Beta => wire::variant::Kind::Beta(true),
        Variant::Tag(tag) => wire::variant::Kind::Tag(tag.as_str().into()),
    };
    wire::Variant { kind: Some(kind) }
}

fn variant_from_wire(variant: Option<wire::Variant>) -> Result<Variant, DecodeError> {
    match variant.and_then(|it| it.kind).ok_or_else(|| missing("variant"))? {
        wire::variant::Kind::Formal(_) => Ok(Variant::Formal),
        wire::variant::Kind::Beta(_) => Ok(Variant::Beta),
        wire::variant::Kind::Tag(tag) => Ok(Variant::Tag(Tag::parse(&tag).map_err(invalid)?)),
    }
}

fn content_to_wire(content: &Content) -> wire::Content {
    wire::Content { text: content.bytes(), digest: Bytes::copy_from_slice(content.digest().as_bytes()) }
}

fn content_from_wire(content: Option<wire::Content>) -> Result<Content, DecodeError> {
    let content = content.ok_or_else(|| missing("content"))?;
    let digest = digest(&content.digest)?;
    Content::restore(content.text, digest).ok_or_else(|| DecodeError("content is not UTF-8".into()))
}

fn digest(bytes: &[u8]) -> Result<Digest, DecodeError> {
    bytes.try_into().map(Digest::from_bytes).map_err(|_| DecodeError("a digest has 16 bytes".into()))
}

fn attributes_to_wire(it: &Attributes) -> wire::Attributes {
    let number = ContentType::ALL.iter().position(|other| *other == it.content_type).unwrap_or_default();
    wire::Attributes {
        content_type: number as u32,
        app_name: it.app_name.clone(),
        config_tags: it.config_tags.clone(),
        description: it.description.clone(),
        usage: it.usage.clone(),
        effect: it.effect.clone(),
        schema: it.schema.clone(),
        encrypted_data_key: it.encrypted_data_key.clone(),
    }
}

fn attributes_from_wire(it: wire::Attributes) -> Result<Attributes, DecodeError> {
    let content_type = usize::try_from(it.content_type).ok().and_then(|number| ContentType::ALL.get(number));
    Ok(Attributes {
        content_type: *content_type.ok_or_else(|| DecodeError(format!("content type {}", it.content_type)))?,
        app_name: it.app_name,
        config_tags: it.config_tags,
        description: it.description,
        usage: it.usage,
        effect: it.effect,
        schema: it.schema,
        encrypted_data_key: it.encrypted_data_key,
    })
}

fn author_to_wire(author: &Author) -> wire::Author {
    wire::Author { user: author.user.as_deref().map(Into::into), ip: (*author.ip).into() }
}

fn author_from_wire(author: wire::Author) -> Author {
    Author { user: author.user.map(Arc::from), ip: author.ip.into() }
}

fn namespace_to_wire(it: &Namespace) -> wire::Namespace {
    wire::Namespace { id: it.id.as_str().into(), name: it.name.clone(), description: it.description.clone() }
}

fn namespace_from_wire(it: wire::Namespace) -> Result<Namespace, DecodeError> {
    let id = NamespaceId::parse(&it.id).map_err(invalid)?;
    Ok(Namespace { id, name: it.name, description: it.description })
}
