//! The envelope of gRPC messages: a type name, headers, and JSON.
use bytes::Bytes;
use serde::Serialize;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

pub use proto::{
    Body, Metadata, Payload, bi_request_stream_client, bi_request_stream_server, request_client, request_server,
};

/// The generated messages of `proto/nacos.proto`.
#[allow(
    missing_docs,
    clippy::default_constructed_unit_structs,
    clippy::doc_markdown,
    clippy::wildcard_enum_match_arm,
    non_camel_case_types,
    unreachable_pub,
    unused_qualifications
)]
mod proto {
    tonic::include_proto!("_");
}

/// Each stream keeps a buffer to read and one to write, waiting or not. Most messages fit; these grow for what does not.
const BUFFER_BYTES: usize = 1_000;
/// Messages that are ready are sent together up to this many bytes.
const YIELD_BYTES: usize = 32 * 1024;

/// Payloads on the wire.
#[derive(Debug, Clone, Default)]
pub struct PayloadCodec;

type Plain = ProstCodec<Payload, Payload>;

impl Codec for PayloadCodec {
    type Encode = Payload;
    type Decode = Payload;
    type Encoder = <Plain as Codec>::Encoder;
    type Decoder = <Plain as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        Plain::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        Plain::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
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
