//! What clients say of themselves. Nacos: `ClientMetricsController`.
use axum::http::StatusCode;
use serde_json::json;

use super::{
    Api,
    answer::{Answer, caused, illegal_name, json as json_answer},
    call::Call,
};
use crate::nacos::names;

/// How a version of the API names its parameters, and whether its answers have an envelope.
pub(super) struct Dialect {
    group: &'static str,
    namespace: &'static str,
    envelope: bool,
}

pub(super) const V1: Dialect = Dialect { group: "group", namespace: "tenant", envelope: false };
pub(super) const V3: Dialect = Dialect { group: "groupName", namespace: "namespaceId", envelope: true };

/// Of the clients that are here.
pub(super) async fn here(api: &Api, call: &Call, dialect: &Dialect) -> Answer {
    ask(api, call, dialect).await.unwrap_or_else(|refused| *refused)
}

/// Of the clients of all nodes. A part must not look like the whole.
pub(super) async fn everywhere(api: &Api, call: &Call, dialect: &Dialect) -> Answer {
    if api.services.status().members.len() > 1 {
        let mut answer = caused("a node tells only of its own clients: ask each one at .../metrics/ip");
        *answer.status_mut() = StatusCode::NOT_IMPLEMENTED;
        return answer;
    }
    here(api, call, dialect).await
}

async fn ask(api: &Api, call: &Call, dialect: &Dialect) -> Result<Answer, Box<Answer>> {
    let ip = call.required("ip")?;
    let key = match call.params.filled("dataId") {
        None => None,
        Some(data_id) => {
            let namespace = call.params.get(dialect.namespace).unwrap_or_default();
            let key = names::key(data_id, call.required(dialect.group)?, namespace);
            Some(key.map_err(|err| illegal_name(&err))?)
        }
    };
    let metrics = api.clients.client_metrics(ip.trim(), key.as_ref()).await;
    if dialect.envelope {
        return Ok(json_answer(&json!({ "code": 0, "message": "success", "data": metrics })));
    }
    Ok(json_answer(&metrics))
}
