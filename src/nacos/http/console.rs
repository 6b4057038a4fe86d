//! Health, state and namespaces, as probes, consoles and old clients ask for them.
use std::{collections::BTreeMap, sync::atomic::Ordering};

use axum::http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Api, NACOS_VERSION,
    answer::{Answer, caused, envelope, failure, illegal_name, json as json_answer, plain, with_revision},
    call::Call,
    result, wrong_method,
};
use crate::{
    nacos::names,
    service::{Read, ServiceError, Written},
    types::{Namespace, NamespaceId, RequestId},
};

/// Nacos: the quota that the list of namespaces shows.
const QUOTA_SHOWN: u32 = 200;
/// Nacos: `ParamCheckRule`, name of a namespace.
pub(super) const NAMESPACE_NAME_MAX: usize = 256;
/// Nacos: the width of its column.
pub(super) const NAMESPACE_DESCRIPTION_MAX: usize = 256;

pub(super) fn health(api: &Api) -> Answer {
    match api.services.status().not_ready {
        None => plain(StatusCode::OK, "UP"),
        Some(why) => plain(StatusCode::OK, format!("DOWN:{why}")),
    }
}

/// Asked by clients that also discover services, at their start.
pub(super) fn naming_metrics() -> Answer {
    let mut answer = plain(StatusCode::OK, "{\"status\":\"UP\"}");
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

pub(super) fn readiness_v1(api: &Api) -> Answer {
    match api.services.status().not_ready {
        None => plain(StatusCode::OK, "OK"),
        Some(why) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("config is not in readiness: {why}")),
    }
}

/// Liveness, in the envelope of v2 and v3.
pub(super) fn result_ok() -> Answer {
    result::ok("ok")
}

pub(super) fn readiness(api: &Api) -> Answer {
    match api.services.status().not_ready {
        None => result_ok(),
        Some(why) => {
            let body = json!({ "code": 30000, "message": format!("config is not in readiness: {why}"), "data": null });
            let mut answer = json_answer(&body);
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    }
}

pub(super) fn cluster_health(api: &Api) -> Answer {
    envelope(None, if api.services.status().not_ready.is_none() { "UP" } else { "DOWN" })
}

pub(super) fn server_state(api: &Api) -> Answer {
    json_answer(&state(api))
}

/// The same in the envelope of v3.
pub(super) fn server_state_v3(api: &Api) -> Answer {
    result::ok(state(api))
}

fn state(api: &Api) -> Value {
    let mode = if api.services.status().standalone { "standalone" } else { "cluster" };
    json!({
        "version": NACOS_VERSION,
        "startup_mode": mode,
        "standalone_mode": mode,
        "function_mode": null,
        "server_port": api.port.to_string(),
        "auth_enabled": "false",
        "auth_system_type": "nacos",
        "auth_admin_request": "false",
        "login_page_enabled": "false",
        "console_ui_enabled": "false",
        "maxContent": api.content_bytes_max.to_string(),
    })
}

pub(super) async fn namespaces(api: &Api, call: Call) -> Answer {
    let result = if call.method == Method::GET {
        get(api, &call).await
    } else if call.method == Method::POST {
        create(api, &call).await
    } else if call.method == Method::PUT {
        update(api, &call).await
    } else if call.method == Method::DELETE {
        delete(api, &call).await
    } else {
        Ok(wrong_method(api, &call, "GET, POST, PUT, DELETE"))
    };
    result.unwrap_or_else(|refused| *refused)
}

type Outcome = Result<Answer, Box<Answer>>;

fn id(text: &str) -> Result<NamespaceId, Box<Answer>> {
    names::namespace(text).map_err(|err| illegal_name(&err))
}

async fn get(api: &Api, call: &Call) -> Outcome {
    let read = api.services.namespaces(call.consistency(api.clients.reads)?).await;
    let Read { value, revision } = read.map_err(|err| Box::new(failure(&err)))?;
    Ok(with_revision(list(call, &Shown::new(&value))?, revision))
}

/// The namespaces, and how many configurations each has.
pub(super) struct Shown<'a> {
    created: &'a [Namespace],
    counts: &'a BTreeMap<String, usize>,
}

impl<'a> Shown<'a> {
    pub(super) fn new((created, counts): &'a (Vec<Namespace>, BTreeMap<String, usize>)) -> Self {
        Self { created, counts }
    }

    fn entry(&self, id: &str, name: &str, description: &str, kind: u8) -> Value {
        json!({
            "namespace": id,
            "namespaceShowName": name,
            "namespaceDesc": description,
            "quota": QUOTA_SHOWN,
            "configCount": self.counts.get(id).copied().unwrap_or_default(),
            "type": kind,
        })
    }

    fn public(&self) -> Value {
        self.entry("public", "public", "Default Namespace", 0)
    }

    fn created(&self, it: &Namespace) -> Value {
        self.entry(it.id.as_str(), &it.name, &it.description, 1)
    }

    pub(super) fn find(&self, id: &NamespaceId) -> Option<Value> {
        if id.is_public() {
            return Some(self.public());
        }
        self.created.iter().find(|it| it.id == *id).map(|it| self.created(it))
    }

    pub(super) fn all(&self) -> Vec<Value> {
        let mut all = vec![self.public()];
        all.extend(self.created.iter().map(|it| self.created(it)));
        all
    }
}

fn list(call: &Call, shown: &Shown<'_>) -> Outcome {
    if call.params.get("checkNamespaceIdExist") == Some("true") {
        let id = id(call.required("customNamespaceId")?)?;
        return Ok(json_answer(&shown.find(&id).is_some()));
    }
    if call.params.get("show") == Some("all") {
        let id = id(call.required("namespaceId")?)?;
        return match shown.find(&id) {
            Some(namespace) => Ok(json_answer(&namespace)),
            None => {
                let why = format!("caused: namespaceId [ {id} ] not exist;");
                Ok(plain(StatusCode::NOT_FOUND, why))
            }
        };
    }
    Ok(envelope(None, shown.all()))
}

/// In the name of a namespace.
pub(super) fn has_illegal_character(name: &str) -> bool {
    name.chars().any(|it| "@#$%^&*".contains(it))
}

fn namespace(id: NamespaceId, name: &str, description: Option<&str>) -> Result<Namespace, Box<Answer>> {
    let refused = |why: String| Err(Box::new(plain(StatusCode::BAD_REQUEST, why)));
    if has_illegal_character(name) {
        return refused(
            "Param 'namespaceShowName' is illegal, illegal characters should not appear in the param.\r\n".into(),
        );
    }
    let description = description.unwrap_or_default();
    for (field, text, max) in
        [("namespaceShowName", name, NAMESPACE_NAME_MAX), ("namespaceDesc", description, NAMESPACE_DESCRIPTION_MAX)]
    {
        if text.chars().count() > max {
            return refused(format!("Param '{field}' is illegal, the param length should not exceed {max}.\r\n"));
        }
    }
    Ok(Namespace { id, name: name.into(), description: description.into() })
}

/// `true`, `false` for what is refused, an error for what failed.
fn outcome(result: Result<Written, ServiceError>) -> Answer {
    match result {
        Ok(written) => with_revision(plain(StatusCode::OK, "true"), written.revision),
        Err(ServiceError::Rejected(_)) => plain(StatusCode::OK, "false"),
        Err(err @ (ServiceError::Unavailable(_) | ServiceError::OutcomeUnknown(_) | ServiceError::Internal(_))) => {
            failure(&err)
        }
    }
}

/// An id that is left out is that of the request, or made from the time, the node, and a number that it gives once.
pub(super) fn made_id(api: &Api, call: &Call, request: Option<&RequestId>) -> String {
    match request {
        Some(request) => format!("ns-{}", request.digest()),
        None => {
            let (node, number) = (api.services.status().node, api.clients.next_request.fetch_add(1, Ordering::Relaxed));
            format!("ns-{:x}-{node:x}-{number:x}", call.now.0)
        }
    }
}

async fn create(api: &Api, call: &Call) -> Outcome {
    let Some(name) = call.params.filled("namespaceName") else {
        return Ok(caused("Required parameter 'namespaceName' is not present."));
    };
    let request = call.request_id()?;
    let made = made_id(api, call, request.as_ref());
    let custom = call.params.filled("customNamespaceId").unwrap_or(&made);
    let namespace = namespace(id(custom)?, name, call.params.get("namespaceDesc"))?;
    Ok(outcome(api.services.create_namespace(namespace, request).await))
}

async fn update(api: &Api, call: &Call) -> Outcome {
    let id = id(call.required("namespace")?)?;
    let namespace = namespace(id, call.required("namespaceShowName")?, call.params.get("namespaceDesc"))?;
    Ok(outcome(api.services.update_namespace(namespace, call.request_id()?).await))
}

async fn delete(api: &Api, call: &Call) -> Outcome {
    let id = id(call.required("namespaceId")?)?;
    Ok(outcome(api.services.delete_namespace(id, call.request_id()?).await))
}
