//! Namespaces in v2 (`/v2/console/namespace`) and v3 (`/v3/admin/core/namespace`), which are alike.
use axum::http::Method;

use super::{
    Api,
    answer::{Answer, with_revision},
    call::Call,
    console::{NAMESPACE_DESCRIPTION_MAX, NAMESPACE_NAME_MAX, Shown, has_illegal_character, made_id},
    result::{self, Failed},
    wrong_method,
};
use crate::{
    nacos::names,
    service::ServiceError,
    types::{Namespace, NamespaceId, Rejection},
};

type Outcome = Result<Answer, Box<Answer>>;

fn illegal(why: impl Into<String>) -> Failed {
    Failed::refused(result::ILLEGAL_NAMESPACE, why)
}

fn unknown(id: &NamespaceId) -> Failed {
    Failed::not_found(result::NO_NAMESPACE, format!("namespaceId [ {id} ] not exist"))
}

fn id(call: &Call) -> Result<NamespaceId, Failed> {
    let text = call.params.filled("namespaceId").ok_or_else(|| Failed::missing("namespaceId"))?;
    parsed(text)
}

fn parsed(id: &str) -> Result<NamespaceId, Failed> {
    names::namespace(id).map_err(|_| illegal(format!("namespaceId [{id}] mismatch the pattern")))
}

fn failed(err: ServiceError, id: &NamespaceId) -> Failed {
    match err {
        ServiceError::Rejected(Rejection::NamespaceExists) => {
            Failed::refused(result::NAMESPACE_EXISTS, format!("namespaceId [{id}] already exist."))
        }
        ServiceError::Rejected(Rejection::NamespaceAbsent) => unknown(id),
        ServiceError::Rejected(_)
        | ServiceError::Unavailable(_)
        | ServiceError::OutcomeUnknown(_)
        | ServiceError::Internal(_) => err.into(),
    }
}

/// One of them.
pub(super) async fn one(api: &Api, call: Call) -> Outcome {
    match call.method {
        Method::GET | Method::HEAD => {
            let id = id(&call)?;
            let read = api.services.namespaces(call.consistency(api.clients.reads)?).await.map_err(Failed::from)?;
            let found = Shown::new(&read.value).find(&id).ok_or_else(|| unknown(&id));
            Ok(with_revision(found.map_or_else(|failed| failed.answer(), result::ok), read.revision))
        }
        Method::POST => {
            let request = call.request_id()?;
            let made = made_id(api, &call, request.as_ref());
            let id = parsed(call.params.filled("namespaceId").unwrap_or(&made))?;
            let namespace = namespace(id.clone(), &call)?;
            let written = api.services.create_namespace(namespace, request).await;
            let written = written.map_err(|err| failed(err, &id))?;
            Ok(result::ok_at(true, written.revision))
        }
        Method::PUT => {
            let id = id(&call)?;
            let namespace = namespace(id.clone(), &call)?;
            let written = api.services.update_namespace(namespace, call.request_id()?).await;
            let written = written.map_err(|err| failed(err, &id))?;
            Ok(result::ok_at(true, written.revision))
        }
        Method::DELETE => {
            let id = id(&call)?;
            let written = api.services.delete_namespace(id.clone(), call.request_id()?).await;
            let written = written.map_err(|err| failed(err, &id))?;
            Ok(result::ok_at(true, written.revision))
        }
        _ => Ok(wrong_method(api, &call, "GET, POST, PUT, DELETE")),
    }
}

fn namespace(id: NamespaceId, call: &Call) -> Result<Namespace, Failed> {
    let name = call.params.filled("namespaceName");
    let name = name.ok_or_else(|| Failed::refused(result::MISSING, "required parameter 'namespaceName' is missing"))?;
    if has_illegal_character(name) {
        return Err(illegal(format!("namespaceName [{name}] contains illegal char")));
    }
    let description = call.params.get("namespaceDesc").unwrap_or_default();
    for (field, text, max) in
        [("namespaceName", name, NAMESPACE_NAME_MAX), ("namespaceDesc", description, NAMESPACE_DESCRIPTION_MAX)]
    {
        if text.chars().count() > max {
            return Err(illegal(format!("too long {field}, over {max}")));
        }
    }
    Ok(Namespace { id, name: name.into(), description: description.into() })
}

/// All of them.
pub(super) async fn list(api: &Api, call: Call) -> Outcome {
    if call.method != Method::GET {
        return Ok(wrong_method(api, &call, "GET"));
    }
    let read = api.services.namespaces(call.consistency(api.clients.reads)?).await.map_err(Failed::from)?;
    Ok(result::ok_at(Shown::new(&read.value).all(), read.revision))
}

/// How many there are of that id.
pub(super) async fn check(api: &Api, call: Call) -> Outcome {
    if call.method != Method::GET {
        return Ok(wrong_method(api, &call, "GET"));
    }
    let id = id(&call)?;
    let read = api.services.namespaces(call.consistency(api.clients.reads)?).await.map_err(Failed::from)?;
    Ok(result::ok_at(u8::from(Shown::new(&read.value).find(&id).is_some()), read.revision))
}
