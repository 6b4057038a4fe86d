//! Nacos over HTTP: requests in, service calls, answers out. Context path `/nacos`.
mod answer;
mod call;
mod config;
mod config_v2;
mod console;
mod listener;
mod metrics;
mod namespaces_v2;
mod params;
mod parking;
mod result;
mod search;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::IntoResponse,
    routing::{any, get},
};
use tokio::sync::watch;
use tower_service::Service;

pub use self::{
    answer::Answer,
    parking::{Parked, Parking},
};
use self::{
    answer::{caused, plain, spring, with_revision},
    call::Call,
};
use crate::{metrics::Metrics, service::Services};

/// The level of the protocol that is spoken here, as clients may ask for it.
const NACOS_VERSION: &str = "3.0.3";

/// What the handlers share.
pub struct Api {
    /// What they translate to.
    pub services: Arc<Services>,
    /// The clients over gRPC.
    pub clients: Arc<super::grpc::Api>,
    /// What they count.
    pub metrics: Metrics,
    /// The largest content, in bytes.
    pub content_bytes_max: usize,
    /// The port that is served, for what names it.
    pub port: u16,
    /// Becomes `true` when the server stops: polls that wait are answered.
    pub stopping: watch::Receiver<bool>,
}

impl Api {
    /// Resolves when the server stops.
    async fn stopping(&self) {
        let mut stopping = self.stopping.clone();
        if stopping.wait_for(|it| *it).await.is_err() {
            // Nobody is left who could say so: it never stops.
            std::future::pending::<()>().await;
        }
    }
}

/// Nacos, and what is served beside it.
#[derive(Clone)]
pub struct Site {
    api: Arc<Api>,
    router: Router,
}

impl Site {
    /// Nacos and these routes beside it.
    pub fn new(api: Arc<Api>, beside: Router) -> Self {
        Self { router: router(api.clone()).merge(beside), api }
    }

    /// Answers a request. Nearly all are for one of two paths, which are not looked for among the others: the way through
    /// the router, with its boxes and clones, is an eighth of the server's time for a read.
    pub async fn answer(mut self, request: Request) -> Answer {
        let usual = request.method() == Method::GET || request.method() == Method::POST;
        match request.uri().path() {
            CONFIGS if usual => configs(State(self.api), request).await,
            LISTENER if usual => listener(State(self.api), request).await,
            // A router is always ready, and never fails.
            _ => Box::pin(self.router.call(request)).await.unwrap_or_else(|never| match never {}),
        }
    }
}

const CONFIGS: &str = "/nacos/v1/cs/configs";
const LISTENER: &str = "/nacos/v1/cs/configs/listener";

/// All routes. Every answer has a sentence for a person in it when it is not what was asked for.
fn router(api: Arc<Api>) -> Router {
    let liveness = || get(|| async { console::result_ok() });
    let readiness = || get(|State(api): State<Arc<Api>>| async move { console::readiness(&api) });
    /// The configuration API of v2 and v3: a call that is read, then one of their handlers.
    macro_rules! enveloped {
        ($handler:path) => {
            any(|State(api): State<Arc<Api>>, request: Request| async move {
                let answer = match Call::read(&api, request).await {
                    Ok(call) => $handler(&api, call).await.unwrap_or_else(|refused| *refused),
                    Err(answer) => answer,
                };
                stamp(&api, answer)
            })
        };
    }
    Router::new()
        .route(CONFIGS, any(configs))
        .route("/nacos/v1/cs/configs/catalog", any(catalog))
        .route(LISTENER, any(listener))
        .route("/nacos/v1/cs/listener", any(subscribers))
        .route("/nacos/v1/cs/metrics/{whose}", any(client_metrics))
        .route("/nacos/v3/admin/cs/metrics/{whose}", any(client_metrics))
        .route("/nacos/v1/cs/health", get(|State(api): State<Arc<Api>>| async move { console::health(&api) }))
        .route("/nacos/v1/ns/operator/metrics", get(|| async { console::naming_metrics() }))
        .route("/nacos/v1/console/health/liveness", get(|| async { plain(StatusCode::OK, "OK") }))
        .route(
            "/nacos/v1/console/health/readiness",
            get(|State(api): State<Arc<Api>>| async move { console::readiness_v1(&api) }),
        )
        .route(
            "/nacos/v1/console/server/state",
            get(|State(api): State<Arc<Api>>| async move { console::server_state(&api) }),
        )
        .route("/nacos/v1/console/namespaces", any(namespaces))
        .route(
            "/nacos/v1/core/cluster/health",
            get(|State(api): State<Arc<Api>>| async move { console::cluster_health(&api) }),
        )
        .route("/nacos/v2/console/health/liveness", liveness())
        .route("/nacos/v2/console/health/readiness", readiness())
        .route("/nacos/v2/cs/config", enveloped!(config_v2::v2))
        .route("/nacos/v2/cs/config/searchDetail", enveloped!(config_v2::search_detail))
        .route("/nacos/v2/console/namespace", enveloped!(namespaces_v2::one))
        .route("/nacos/v2/console/namespace/list", enveloped!(namespaces_v2::list))
        .route("/nacos/v3/client/cs/config", enveloped!(config_v2::client))
        .route("/nacos/v3/admin/cs/config", enveloped!(config_v2::admin))
        .route("/nacos/v3/admin/cs/config/list", enveloped!(config_v2::list))
        .route("/nacos/v3/admin/cs/config/batch", enveloped!(config_v2::batch))
        .route("/nacos/v3/admin/cs/config/beta", enveloped!(config_v2::beta))
        .route("/nacos/v3/admin/core/namespace", enveloped!(namespaces_v2::one))
        .route("/nacos/v3/admin/core/namespace/list", enveloped!(namespaces_v2::list))
        .route("/nacos/v3/admin/core/namespace/check", enveloped!(namespaces_v2::check))
        .route(
            "/nacos/v3/admin/core/state",
            get(|State(api): State<Arc<Api>>| async move { console::server_state_v3(&api) }),
        )
        .route("/nacos/v3/admin/core/state/liveness", liveness())
        .route("/nacos/v3/admin/core/state/readiness", readiness())
        .route("/nacos/{*rest}", any(unknown))
        .with_state(api)
}

/// Every answer names a revision: its own, or what this node has applied by now.
fn stamp(api: &Api, answer: Answer) -> Answer {
    if answer.headers().contains_key(&answer::REVISION) {
        answer
    } else {
        with_revision(answer, api.services.revision())
    }
}

async fn configs(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let answer = match Call::read(&api, request).await {
        Ok(call) => configs_call(&api, call).await,
        Err(answer) => answer,
    };
    stamp(&api, answer)
}

async fn configs_call(api: &Api, call: Call) -> Answer {
    if call.method == Method::GET || call.method == Method::HEAD {
        match call.params.get("search") {
            Some("accurate") => return search::search(api, &call, false).await,
            Some("blur") => return search::search(api, &call, true).await,
            Some(_) | None => {}
        }
        if ["export", "exportV2"].iter().any(|it| call.params.get(it) == Some("true")) {
            return not_yet("export");
        }
        match (call.params.get("show"), call.params.get("beta")) {
            (Some("all"), _) => config::show_all(api, &call).await,
            (_, Some("true")) => config::query_beta(api, &call).await,
            (_, _) => config::query(api, &call).await,
        }
    } else if call.method == Method::POST {
        if ["import", "clone"].iter().any(|it| call.params.get(it) == Some("true")) {
            return not_yet("import and clone");
        }
        config::publish(api, call).await
    } else if call.method == Method::DELETE {
        match (call.params.get("delType"), call.params.get("beta")) {
            (Some("ids"), _) => config::remove_ids(api, &call).await,
            (_, Some("true")) => config::stop_beta(api, &call).await,
            (_, _) => config::remove(api, &call).await,
        }
    } else {
        wrong_method(api, &call, "DELETE, POST, GET")
    }
}

async fn catalog(State(api): State<Arc<Api>>, request: Request) -> Answer {
    match Call::read(&api, request).await {
        Ok(call) if call.method == Method::GET => config::catalog(&api, &call).await,
        Ok(call) => wrong_method(&api, &call, "GET"),
        Err(answer) => answer,
    }
}

async fn listener(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let parking = request.extensions().get::<Arc<Parking>>().cloned();
    let answer = match Call::read(&api, request).await {
        Ok(call) if call.method == Method::POST => match listener::prepare(call) {
            Ok(poll) => listen(&api, parking, poll).await,
            Err(answer) => *answer,
        },
        Ok(call) if call.method == Method::GET => listener::subscribers_of_key(&api, &call),
        Ok(call) => wrong_method(&api, &call, "POST, GET"),
        Err(answer) => answer,
    };
    stamp(&api, answer)
}

async fn listen(api: &Arc<Api>, parking: Option<Arc<Parking>>, poll: listener::Poll) -> Answer {
    if let Some(answer) = listener::answer_now(api, &poll) {
        return answer;
    }
    let Some(parking) = parking else { return listener::wait(api, &poll).await };
    parking.leave(api.clone(), poll);
    std::future::pending().await
}

async fn subscribers(State(api): State<Arc<Api>>, request: Request) -> Answer {
    match Call::read(&api, request).await {
        Ok(call) if call.method == Method::GET => listener::subscribers_by_ip(&api, &call),
        Ok(call) => wrong_method(&api, &call, "GET"),
        Err(answer) => answer,
    }
}

async fn client_metrics(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let call = match Call::read(&api, request).await {
        Ok(call) if call.method == Method::GET => call,
        Ok(call) => return wrong_method(&api, &call, "GET"),
        Err(answer) => return answer,
    };
    let dialect = if call.path.starts_with("/nacos/v1/") { &metrics::V1 } else { &metrics::V3 };
    match call.path.rsplit('/').next() {
        // Releases of Nacos name it by one word or the other.
        Some("ip" | "current") => metrics::here(&api, &call, dialect).await,
        Some("cluster") => metrics::everywhere(&api, &call, dialect).await,
        Some(_) | None => no_endpoint(&api, "GET", &call.path),
    }
}

async fn namespaces(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let answer = match Call::read(&api, request).await {
        Ok(call) => console::namespaces(&api, call).await,
        Err(answer) => answer,
    };
    stamp(&api, answer)
}

fn wrong_method(api: &Api, call: &Call, allowed: &'static str) -> Answer {
    let message = format!("Method '{}' is not supported.", call.method);
    let mut answer = spring(StatusCode::METHOD_NOT_ALLOWED, api.services.now(), &message, &call.path);
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    answer
}

async fn unknown(State(api): State<Arc<Api>>, request: Request) -> impl IntoResponse {
    no_endpoint(&api, request.method().as_str(), request.uri().path())
}

fn no_endpoint(api: &Api, method: &str, path: &str) -> Answer {
    spring(StatusCode::NOT_FOUND, api.services.now(), &format!("No endpoint {method} {path}."), path)
}

/// Real Nacos serves it; this server does not yet, and must not act as if it had.
fn not_yet(what: &str) -> Answer {
    let mut answer = caused(&format!("{what} is not served by this version of Coracle"));
    *answer.status_mut() = StatusCode::NOT_IMPLEMENTED;
    answer
}
