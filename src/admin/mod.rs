//! What operators and their tools ask over HTTP: probes, metrics, the state of the cluster and changes of it.
use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    metrics::Metrics,
    replication::{AdministrationError, Member, Role},
    service::Services,
};

#[derive(Clone)]
struct Admin {
    services: Arc<Services>,
    metrics: Metrics,
}

/// All routes.
pub(crate) fn router(services: Arc<Services>, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/nacos/actuator/prometheus", get(scrape))
        .route("/coracle/v1/status", get(status))
        .route("/coracle/v1/cluster/members", post(add))
        .route("/coracle/v1/cluster/members/{node}", delete(remove))
        .route("/coracle/v1/cluster/leader", post(transfer))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "there is nothing here", "Nacos is served below /nacos") })
        .with_state(Admin { services, metrics })
}

fn failure(status: StatusCode, error: &str, hint: &str) -> Response {
    (status, Json(json!({ "error": error, "hint": hint }))).into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.services.status().not_ready {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "reason": reason }))).into_response(),
    }
}

async fn scrape(State(admin): State<Admin>) -> Response {
    admin.services.refresh_gauges();
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.metrics.render()).into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    let status = admin.services.status();
    let members = status.members.iter().map(|(member, role)| {
        let role = match role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Learner => "learner",
        };
        json!({ "node": member.node, "memberAddress": member.member_address, "role": role })
    });
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "mode": if status.standalone { "standalone" } else { "member" },
        "node": status.node,
        "leader": status.leader,
        "term": status.term,
        "lastLog": status.last_log.map(|it| it.index),
        "applied": status.applied.map(|it| it.index),
        "rows": status.witness.rows,
        "stateHash": format!("{:032x}", status.witness.hash),
        "ready": status.not_ready.is_none(),
        "notReady": status.not_ready,
        "members": members.collect::<Vec<_>>(),
    }))
    .into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddRequest {
    node: u64,
    member_address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferRequest {
    node: u64,
}

async fn add(
    State(admin): State<Admin>,
    request: Result<Json<AddRequest>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let Json(AddRequest { node, member_address }) = match request {
        Ok(request) => request,
        Err(err) => {
            return failure(err.status(), &err.body_text(), r#"send {"node": 4, "memberAddress": "HOST:PORT"}"#);
        }
    };
    let member = Member { node, member_address, http_address: String::new() };
    match admin.services.administration() {
        Some(administration) => outcome(administration.add(member).await),
        None => not_clustered(),
    }
}

async fn remove(
    State(admin): State<Admin>,
    node: Result<Path<u64>, axum::extract::rejection::PathRejection>,
) -> Response {
    let Ok(Path(node)) = node else {
        return failure(StatusCode::BAD_REQUEST, "a node is named by a number", "see GET /coracle/v1/status");
    };
    match admin.services.administration() {
        Some(administration) => outcome(administration.remove(node).await),
        None => not_clustered(),
    }
}

async fn transfer(
    State(admin): State<Admin>,
    request: Result<Json<TransferRequest>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let Json(TransferRequest { node }) = match request {
        Ok(request) => request,
        Err(err) => return failure(err.status(), &err.body_text(), r#"send {"node": 2}"#),
    };
    match admin.services.administration() {
        Some(administration) => outcome(administration.transfer_leadership(node).await),
        None => not_clustered(),
    }
}

fn not_clustered() -> Response {
    failure(
        StatusCode::CONFLICT,
        "this server is standalone",
        "start it with --node-id and --members to make a cluster of it; see docs/OPERATIONS.md",
    )
}

fn outcome(result: Result<(), AdministrationError>) -> Response {
    match result {
        Ok(()) => Json(json!({ "done": true })).into_response(),
        Err(AdministrationError::Refused(why)) => failure(StatusCode::CONFLICT, &why, "see `coracle cluster status`"),
        Err(AdministrationError::Unavailable(why)) => {
            failure(StatusCode::SERVICE_UNAVAILABLE, &why, "see `coracle cluster status`, then try again")
        }
    }
}
