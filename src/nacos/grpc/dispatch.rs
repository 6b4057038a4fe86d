//! From the name of a request to its handler, and the answers that need none.
//!
//! Nacos: `GrpcRequestAcceptor`. The type `ErrorResponse` is for what concerns the connection: clients in Java and Go send
//! the request again, three times, and then go to another server. An answer of the request's own type is final.
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use super::{Api, connection::Connection, requests, transport::Transport};
use crate::{
    nacos::wire::{
        messages::{Outcome, ServerCheckResponse},
        payload::Payload,
    },
    service::ServiceError,
};

/// Nacos: `NacosException` and `ErrorCode`.
pub(super) mod code {
    pub(crate) const STARTING: i32 = 300;
    /// In the answer to a query: there is no such configuration.
    pub(crate) const NOT_FOUND: i32 = 300;
    pub(crate) const UNREGISTERED: i32 = 301;
    pub(crate) const NO_HANDLER: i32 = 302;
    pub(crate) const INVALID: i32 = 400;
    pub(crate) const FAILED: i32 = 500;
    pub(crate) const NOT_IMPLEMENTED: i32 = 501;
    pub(crate) const BAD_GATEWAY: i32 = 502;
    pub(crate) const OVER_THRESHOLD: i32 = 503;
    pub(crate) const TOO_MANY_PATTERNS: i32 = 50_310;
    pub(crate) const TOO_MANY_MATCHES: i32 = 50_311;
}

/// What nodes of Nacos say to each other; a client may not.
const BETWEEN_SERVERS: &[&str] = &[
    "MemberReportRequest",
    "ConfigChangeClusterSyncRequest",
    "DistroDataRequest",
    "ServerLoaderInfoRequest",
    "ServerReloadRequest",
];

/// Service registration: request and the type of its answer.
const NAMING: &[(&str, &str)] = &[
    ("InstanceRequest", "InstanceResponse"),
    ("PersistentInstanceRequest", "InstanceResponse"),
    ("BatchInstanceRequest", "BatchInstanceResponse"),
    ("SubscribeServiceRequest", "SubscribeServiceResponse"),
    ("ServiceQueryRequest", "QueryServiceResponse"),
    ("ServiceListRequest", "ServiceListResponse"),
    ("NamingFuzzyWatchRequest", "NamingFuzzyWatchResponse"),
];

const STOPPING: &str = "this server is stopping; go to another one";

/// An answer of the type that concerns the connection.
pub(super) fn error(error_code: i32, message: impl Into<String>) -> Payload {
    Payload::new("ErrorResponse", &Outcome::failed(error_code, message))
}

/// What can be asked for.
#[derive(Debug, Clone, Copy)]
enum Handler {
    Health,
    PushAck,
    Query,
    Publish,
    Remove,
    Listen,
    FuzzyWatch,
    /// Refused, by an answer of this type.
    Naming(&'static str),
}

fn handler(kind: &str) -> Option<Handler> {
    match kind {
        "HealthCheckRequest" => Some(Handler::Health),
        "PushAckRequest" => Some(Handler::PushAck),
        "ConfigQueryRequest" => Some(Handler::Query),
        "ConfigPublishRequest" => Some(Handler::Publish),
        "ConfigRemoveRequest" => Some(Handler::Remove),
        "ConfigBatchListenRequest" => Some(Handler::Listen),
        "ConfigFuzzyWatchRequest" => Some(Handler::FuzzyWatch),
        _ => NAMING.iter().find(|(request, _)| *request == kind).map(|(_, answer)| Handler::Naming(answer)),
    }
}

pub(super) async fn answer(api: &Api, transport: &Transport, payload: Payload) -> Payload {
    let kind = payload.kind();
    if kind == "ServerCheckRequest" {
        return server_check(api, transport);
    }
    let Some(handler) = handler(kind) else {
        if BETWEEN_SERVERS.contains(&kind) {
            return error(code::BAD_GATEWAY, format!(" invoke {kind} from sdk is forbidden"));
        }
        return error(code::NO_HANDLER, "RequestHandler Not Found");
    };
    let Some(connection) = transport.registered() else {
        return error(code::UNREGISTERED, "Connection is unregistered.");
    };
    connection.touch();
    let answered = handle(api, &connection, handler, &payload).await;
    connection.touch();
    answered.unwrap_or_else(|refused| *refused)
}

async fn handle(
    api: &Api,
    connection: &Arc<Connection>,
    handler: Handler,
    payload: &Payload,
) -> Result<Payload, Box<Payload>> {
    match handler {
        // A client in Go that was told to go, but not where, asks this first and stays if it is answered.
        Handler::Health if api.connections.is_draining() => Err(Box::new(error(code::OVER_THRESHOLD, STOPPING))),
        Handler::Health => Ok(Payload::new("HealthCheckResponse", &Outcome::ok())),
        Handler::PushAck => Ok(Payload::new("PushAckResponse", &Outcome::ok())),
        Handler::Query => requests::query(api, connection, read(payload)?).await,
        Handler::Publish => requests::publish(api, connection, read(payload)?).await,
        Handler::Remove => requests::remove(api, read(payload)?).await,
        Handler::Listen => {
            let tag = payload.header("Vipserver-Tag").map(str::to_owned);
            requests::listen(api, connection, tag.as_deref(), read(payload)?).await
        }
        Handler::FuzzyWatch => requests::fuzzy_watch(api, connection, read(payload)?).await,
        Handler::Naming(answer) => {
            let why = "Coracle serves configuration only, no service registration: register with another server";
            Ok(Payload::new(answer, &Outcome::failed(code::NOT_IMPLEMENTED, why)))
        }
    }
}

fn server_check(api: &Api, transport: &Transport) -> Payload {
    // Not "starting": clients in Go and Python would wait here for a second, and this server is gone then.
    if api.connections.is_draining() {
        return error(code::OVER_THRESHOLD, STOPPING);
    }
    if !api.services.caught_up() {
        return error(code::STARTING, "Server is starting,please try later.");
    }
    let answer =
        ServerCheckResponse { outcome: Outcome::ok(), connection_id: &transport.id, support_ability_negotiation: true };
    Payload::new("ServerCheckResponse", &answer)
}

fn read<T: DeserializeOwned>(payload: &Payload) -> Result<T, Box<Payload>> {
    let json = payload.json();
    // An array would be read as a struct's fields in their order.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(unreadable());
    }
    serde_json::from_slice(&json).map_err(|err| {
        tracing::debug!(%err, kind = payload.kind(), "a request that cannot be read");
        unreadable()
    })
}

fn unreadable() -> Box<Payload> {
    Box::new(error(code::BAD_GATEWAY, "errCode: 101, errMsg: Nacos deserialize failed.  "))
}

/// The one table from service errors to answers. `typed` makes an answer of the request's own type.
pub(super) fn failure<T: Serialize>(err: &ServiceError, kind: &str, typed: impl FnOnce(Outcome) -> T) -> Payload {
    let message = match err {
        ServiceError::Rejected(crate::types::Rejection::PreconditionFailed { .. }) => {
            "Cas publish fail, server md5 may have changed.".to_owned()
        }
        // Nothing was written: the client may try again, here or elsewhere, and does so.
        ServiceError::Unavailable(_) => return error(code::OVER_THRESHOLD, err.to_string()),
        ServiceError::Rejected(_) | ServiceError::OutcomeUnknown(_) => err.to_string(),
        ServiceError::Internal(why) => {
            tracing::error!(%why, kind, "answer 500");
            err.to_string()
        }
    };
    Payload::new(kind, &typed(Outcome::failed(code::FAILED, message)))
}
