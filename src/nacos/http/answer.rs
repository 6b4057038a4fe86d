//! The shapes of Nacos's answers, and the one table from our errors to them.
use std::time::{Duration, UNIX_EPOCH};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use serde::Serialize;

use crate::{
    nacos::names,
    service::ServiceError,
    types::{InvalidName, Millis, Rejection, Revision},
};

/// In every answer: the revision that it is of.
pub(super) static REVISION: HeaderName = HeaderName::from_static("coracle-revision");

/// What goes out.
pub type Answer = Response<Body>;

const JSON: HeaderValue = HeaderValue::from_static("application/json;charset=UTF-8");

/// The last moment of the year 9999: a header can name none after it.
const HTTP_DATE_MAX: Duration = Duration::from_secs(253_402_300_799);

/// A moment, as headers name it.
pub(super) fn http_date(at: Millis) -> Option<HeaderValue> {
    let at = UNIX_EPOCH + Duration::from_millis(at.0).min(HTTP_DATE_MAX);
    HeaderValue::from_str(&httpdate::fmt_http_date(at)).ok()
}

/// Bytes under Nacos's usual type.
pub(super) fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::from(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, JSON);
    answer
}

/// The answer of a write or a read, with its revision.
pub(super) fn with_revision(mut answer: Answer, revision: Revision) -> Answer {
    answer.headers_mut().insert(&REVISION, HeaderValue::from(revision.0));
    answer
}

/// JSON, status 200.
pub(super) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => plain(StatusCode::OK, body),
        Err(err) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("caused: {err};")),
    }
}

/// The envelope of v1 answers (`RestResult`).
#[derive(Serialize)]
pub(super) struct Envelope<T> {
    pub(super) code: u16,
    pub(super) message: Option<&'static str>,
    pub(super) data: T,
    #[serde(rename = "noRight")]
    pub(super) no_right: bool,
}

/// A successful [`Envelope`].
pub(super) fn envelope<T: Serialize>(message: Option<&'static str>, data: T) -> Answer {
    json(&Envelope { code: 200, message, data, no_right: false })
}

/// What Spring says of a request that reached no handler.
#[derive(Serialize)]
struct SpringError<'a> {
    timestamp: String,
    status: u16,
    error: &'a str,
    message: &'a str,
    path: &'a str,
}

/// The same shape.
pub(super) fn spring(status: StatusCode, now: Millis, message: &str, path: &str) -> Answer {
    let at = UNIX_EPOCH + Duration::from_millis(now.0);
    let timestamp = humantime::format_rfc3339_millis(at).to_string().replace('Z', "+00:00");
    let error = status.canonical_reason().unwrap_or_default();
    let mut answer = json(&SpringError { timestamp, status: status.as_u16(), error, message, path });
    *answer.status_mut() = status;
    answer
}

/// A refusal in the words of v1 handlers.
pub(super) fn caused(why: &str) -> Answer {
    plain(StatusCode::BAD_REQUEST, format!("caused: {why};"))
}

/// A refused name: the filter answers in lines, the handlers as `caused`.
pub(super) fn illegal_name(err: &InvalidName) -> Box<Answer> {
    let why = names::complaint(err);
    if names::is_found_by_filter(err) {
        return Box::new(plain(StatusCode::BAD_REQUEST, format!("{why}\r\n")));
    }
    Box::new(caused(&why))
}

/// Nacos says so, and clients look for it.
const CAS_FAILED: &str = "Cas publish fail, server md5 may have changed.";

/// The one table from service errors to statuses. Clients rotate servers on 500, 502 and 503 only.
pub(super) fn status(err: &ServiceError) -> StatusCode {
    match err {
        // Nacos: 500 for a failed compare-and-set; the text says what it was.
        ServiceError::Rejected(Rejection::PreconditionFailed { .. }) => StatusCode::INTERNAL_SERVER_ERROR,
        ServiceError::Rejected(
            Rejection::TooManyGrayVersions | Rejection::NamespaceExists | Rejection::NamespaceAbsent,
        ) => StatusCode::BAD_REQUEST,
        ServiceError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        ServiceError::OutcomeUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
        ServiceError::Internal(why) => {
            tracing::error!(%why, "answer 500");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// What is said of one, in all versions.
pub(super) fn why(err: &ServiceError) -> String {
    match err {
        ServiceError::Rejected(Rejection::PreconditionFailed { .. }) => CAS_FAILED.to_owned(),
        ServiceError::Rejected(Rejection::TooManyGrayVersions) => {
            format!("gray config version is over max count :{}", crate::types::limits::GRAY_VERSIONS_MAX)
        }
        ServiceError::Rejected(Rejection::NamespaceExists | Rejection::NamespaceAbsent)
        | ServiceError::Unavailable(_)
        | ServiceError::OutcomeUnknown(_)
        | ServiceError::Internal(_) => err.to_string(),
    }
}

/// Its answer in v1.
pub(super) fn failure(err: &ServiceError) -> Answer {
    plain(status(err), format!("caused: {};", why(err)))
}
