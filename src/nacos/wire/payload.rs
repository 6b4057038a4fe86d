//! The envelope of gRPC messages: a type name, headers, and JSON.
use bytes::Bytes;
use serde::Serialize;

pub use proto::{
    Body, Metadata, Payload, bi_request_stream_client, bi_request_stream_server, request_client, request_server,
};

/// The generated messages of `proto/nacos.proto`.
#[allow(
    missing_docs,
    clippy::doc_markdown,
    clippy::wildcard_enum_match_arm,
    non_camel_case_types,
    unreachable_pub,
    unused_qualifications
)]
mod proto {
    tonic::include_proto!("_");
}

impl Payload {
    /// A message of this type.
    pub fn new(kind: &str, message: &impl Serialize) -> Self {
        // Nothing that is sent has a map with keys that are no text, the only thing that JSON cannot say.
        let json = serde_json::to_vec(message).unwrap_or_default();
        let metadata = Metadata { r#type: kind.to_owned(), ..Metadata::default() };
        Self { metadata: Some(metadata), body: Some(Body { type_url: String::new(), value: json.into() }) }
    }

    /// The name of its type; empty when it has none.
    pub fn kind(&self) -> &str {
        self.metadata.as_ref().map_or("", |it| &it.r#type)
    }

    /// A header, if it is not blank.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = &self.metadata.as_ref()?.headers;
        headers.get(name).map(String::as_str).filter(|it| !it.trim().is_empty())
    }

    /// The JSON.
    pub fn json(&self) -> Bytes {
        self.body.as_ref().map_or_else(Bytes::new, |it| it.value.clone())
    }
}
