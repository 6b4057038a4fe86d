//! The envelope of v2 and v3: `{"code", "message", "data"}` (Nacos: `Result`, `ErrorCode`).
use axum::http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use super::answer::{self, Answer, with_revision};
use crate::{
    nacos::{names, publishing::Refusal},
    service::ServiceError,
    types::{InvalidName, Rejection, Revision},
};

/// What Nacos says of an error, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(u32, &'static str);

pub(super) const MISSING: Code = Code(10000, "parameter missing");
pub(super) const INVALID: Code = Code(20002, "parameter validate error");
pub(super) const NOT_FOUND: Code = Code(20004, "resource not found");
const CONFLICT: Code = Code(20005, "resource conflict");
const TOO_MANY_GRAY: Code = Code(20010, "config gray version over max count");
pub(super) const ILLEGAL_NAMESPACE: Code = Code(22000, "illegal namespace");
pub(super) const NO_NAMESPACE: Code = Code(22001, "namespace not exist");
pub(super) const NAMESPACE_EXISTS: Code = Code(22002, "namespace already exist");
const SERVER_ERROR: Code = Code(30000, "server error");

#[derive(Serialize)]
struct Envelope<'a, T> {
    code: u32,
    message: &'a str,
    data: T,
}

fn enveloped<T: Serialize>(status: StatusCode, code: u32, message: &str, data: T) -> Answer {
    let mut answer = bare(&Envelope { code, message, data });
    if answer.status() == StatusCode::OK {
        *answer.status_mut() = status;
    }
    answer
}

/// What one call of v2 answers without an envelope.
pub(super) fn bare(value: &impl Serialize) -> Answer {
    let mut answer = answer::json(value);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// It went well.
pub(super) fn ok<T: Serialize>(data: T) -> Answer {
    enveloped(StatusCode::OK, 0, "success", data)
}

/// The same, with the revision that it is of.
pub(super) fn ok_at<T: Serialize>(data: T, revision: Revision) -> Answer {
    with_revision(ok(data), revision)
}

/// What a handler that was asked to do nothing answers: no error, and not what was asked for.
pub(super) fn nothing_done(message: &str) -> Answer {
    enveloped(StatusCode::OK, SERVER_ERROR.0, message, false)
}

/// What is not there is no error of the protocol.
pub(super) fn absent() -> Answer {
    enveloped(StatusCode::OK, NOT_FOUND.0, NOT_FOUND.1, Value::Null)
}

/// A request that is refused, or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) status: StatusCode,
    pub(super) code: Code,
    /// For a person.
    pub(super) why: String,
}

impl Failed {
    pub(super) fn refused(code: Code, why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, why: why.into() }
    }

    pub(super) fn not_found(code: Code, why: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code, why: why.into() }
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::refused(MISSING, format!("Required parameter '{name}' type String is not present"))
    }

    pub(super) fn answer(&self) -> Answer {
        enveloped(self.status, self.code.0, self.code.1, &self.why)
    }
}

impl From<Failed> for Box<Answer> {
    fn from(failed: Failed) -> Self {
        Self::new(failed.answer())
    }
}

impl From<InvalidName> for Failed {
    fn from(err: InvalidName) -> Self {
        Self::refused(INVALID, names::complaint(&err))
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Name(err) => err.into(),
            Refusal::Content(why) | Refusal::Description(why) => Self::refused(INVALID, why),
        }
    }
}

impl From<ServiceError> for Failed {
    fn from(err: ServiceError) -> Self {
        let code = match &err {
            ServiceError::Rejected(Rejection::PreconditionFailed { .. }) => CONFLICT,
            ServiceError::Rejected(Rejection::TooManyGrayVersions) => TOO_MANY_GRAY,
            ServiceError::Rejected(Rejection::NamespaceExists) => NAMESPACE_EXISTS,
            ServiceError::Rejected(Rejection::NamespaceAbsent) => NO_NAMESPACE,
            ServiceError::Unavailable(_) | ServiceError::OutcomeUnknown(_) | ServiceError::Internal(_) => SERVER_ERROR,
        };
        let status = match code {
            NO_NAMESPACE => StatusCode::NOT_FOUND,
            _ => answer::status(&err),
        };
        Self { status, code, why: answer::why(&err) }
    }
}
