//! A request, read: method, path, parameters, headers, and who sent it.
use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderMap, Method, StatusCode, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{
    Api,
    answer::{Answer, caused, illegal_name, plain, spring},
    params::{BadParams, Params, multipart},
};
use crate::{
    nacos::names,
    service::ClientLabels,
    types::{ConfigKey, Consistency, RequestId, Revision, Tag},
};

/// A form encodes a byte of content in up to three, and carries more than the content.
const FORM_OVERHEAD_BYTES: usize = 1 << 20;

/// A request whose body has arrived.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) params: Params,
    pub(super) now: crate::types::Millis,
    peer: Option<SocketAddr>,
}

impl Call {
    /// Reads a request to its end.
    ///
    /// # Errors
    /// The answer for one that is too large or cannot be read.
    pub(super) async fn read(api: &Api, request: Request) -> Result<Self, Answer> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        let has_body =
            parts.headers.contains_key(header::CONTENT_LENGTH) || parts.headers.contains_key(header::TRANSFER_ENCODING);
        let params = if has_body {
            let limit = api.content_bytes_max * 3 + FORM_OVERHEAD_BYTES;
            let body = match Limited::new(body, limit).collect().await {
                Ok(body) => body.to_bytes(),
                Err(err) if err.is::<LengthLimitError>() => {
                    let why = format!("caused: invalid content, over {};", api.content_bytes_max);
                    return Err(plain(StatusCode::PAYLOAD_TOO_LARGE, why));
                }
                Err(err) => return Err(caused(&format!("the body did not arrive: {err}"))),
            };
            let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
            read_body(query, content_type.unwrap_or_default(), body).await
        } else {
            Params::parse(query, b"")
        };
        let params = params.map_err(|BadParams(why)| caused(&why))?;
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|it| it.0);
        let path = parts.uri.path().to_owned();
        Ok(Self { method: parts.method, path, headers: parts.headers, params, now: api.services.now(), peer })
    }

    /// The header of that name, if it is text that is not blank.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|it| it.to_str().ok()).filter(|it| !it.trim().is_empty())
    }

    /// A parameter that must be there, if only empty.
    pub(super) fn required(&self, name: &str) -> Result<&str, Box<Answer>> {
        self.params.get(name).ok_or_else(|| {
            let message = format!("Required parameter '{name}' is not present.");
            Box::new(spring(StatusCode::BAD_REQUEST, self.now, &message, &self.path))
        })
    }

    /// The key that the request names. Illegal names are refused before missing ones, as Nacos's filters stand in that
    /// order.
    pub(super) fn key(&self) -> Result<ConfigKey, Box<Answer>> {
        self.check_names()?;
        let (data_id, group) = (self.required("dataId")?, self.required("group")?);
        let tenant = self.params.get("tenant").unwrap_or_default();
        names::key(data_id, group, tenant).map_err(|err| illegal_name(&err))
    }

    /// Refuses names that break the rules; what is blank or missing is another matter.
    pub(super) fn check_names(&self) -> Result<(), Box<Answer>> {
        let name = |name| self.params.get(name);
        names::check(name("dataId"), name("group"), name("tenant").unwrap_or_default())
            .map_err(|err| illegal_name(&err))
    }

    /// The address of the client, as Nacos takes it (`RequestUtil.getRemoteIp`).
    pub(super) fn ip(&self) -> String {
        let forwarded = self.header("x-forwarded-for").and_then(|it| it.split(',').next());
        let declared = forwarded.and_then(names::address).or_else(|| self.header("x-real-ip").and_then(names::address));
        match (declared, self.peer) {
            (Some(declared), _) => declared.to_owned(),
            (None, Some(peer)) => peer.ip().to_string(),
            (None, None) => String::new(),
        }
    }

    /// The id of the request, if its client named it: one that comes again is done once.
    pub(super) fn request_id(&self) -> Result<Option<RequestId>, Box<Answer>> {
        let Some(text) = self.headers.get("x-request-id") else { return Ok(None) };
        // What is not text breaks the rules too.
        let id = RequestId::parse(text.to_str().unwrap_or_default());
        id.map(Some).map_err(|err| Box::new(caused(&format!("X-Request-Id: {err}"))))
    }

    /// What decides which version the client sees. A tag that breaks the rules is one that no version has.
    pub(super) fn labels(&self) -> Result<ClientLabels, Box<Answer>> {
        let asked_tag = self.params.filled("tag").map(Tag::parse).transpose().map_err(|err| illegal_name(&err))?;
        let carried_tag = self.header("vipserver-tag").and_then(|it| Tag::parse(it).ok());
        Ok(ClientLabels { ip: self.ip(), asked_tag, carried_tag })
    }

    /// How new the read must be; `unsaid` where the client does not say. A client that names a revision gets no less than
    /// one that does not.
    pub(super) fn consistency(&self, unsaid: Consistency) -> Result<Consistency, Box<Answer>> {
        let asked = self.params.get("consistency").or_else(|| self.header("coracle-consistency"));
        let min_revision = self.params.get("minRevision").or_else(|| self.header("coracle-min-revision"));
        let asked = match asked.map(Consistency::from_name) {
            None => unsaid,
            Some(Some(named)) => named,
            Some(None) => {
                let asked = asked.unwrap_or_default();
                return Err(Box::new(caused(&format!("consistency is 'local' or 'linearizable', not {asked:?}"))));
            }
        };
        match (asked, min_revision) {
            (Consistency::Linearizable, _) | (_, None) => Ok(asked),
            (Consistency::Local | Consistency::AtLeast(_), Some(revision)) => match revision.parse() {
                Ok(revision) => Ok(Consistency::AtLeast(Revision(revision))),
                Err(_) => Err(Box::new(caused(&format!("minRevision is not a number: {revision:?}")))),
            },
        }
    }
}

async fn read_body(query: &str, content_type: &str, body: bytes::Bytes) -> Result<Params, BadParams> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("multipart/form-data") {
        let mut params = Params::parse(query, b"")?;
        multipart(&mut params, content_type, body).await?;
        return Ok(params);
    }
    // Every spelling of a form, and none at all, is a form; JSON and the like are not.
    let form = kind.is_empty() || kind.eq_ignore_ascii_case("application/x-www-form-urlencoded");
    Params::parse(query, if form { &body } else { b"" })
}
