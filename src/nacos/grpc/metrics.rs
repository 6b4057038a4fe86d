//! What clients say of themselves when an operator asks: Nacos's `ClientConfigMetricRequest`.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{Api, connection::Connection};
use crate::{
    nacos::wire::{
        messages::{ClientConfigMetricRequest, ClientConfigMetricResponse, MetricsKey, group_key},
        payload::Payload,
    },
    types::ConfigKey,
};

/// Clients have this long to answer. Nacos: one second each, one after the other.
const PATIENCE: Duration = Duration::from_secs(1);
/// No more clients of one address are asked: an answer is for a person to read.
const CLIENTS_MAX: usize = 100;

impl Api {
    /// What the clients that call themselves by this address say of themselves, and of a key, all in one. Only clients in
    /// Java answer; who does not answer in a moment is left out.
    pub async fn client_metrics(&self, ip: &str, key: Option<&ConfigKey>) -> Map<String, Value> {
        let clients = self.connections.with_ip(ip, CLIENTS_MAX);
        let answers = join_all(clients.iter().map(|it| self.metrics_of(it, key))).await;
        answers.into_iter().flatten().flatten().collect()
    }

    async fn metrics_of(&self, client: &Arc<Connection>, key: Option<&ConfigKey>) -> Option<Map<String, Value>> {
        let id = self.request_id();
        let message = ClientConfigMetricRequest {
            headers: BTreeMap::new(),
            request_id: id.to_string(),
            metrics_keys: key.map_or_else(Vec::new, metrics_keys),
            module: "config",
        };
        let mut question = client.questions.ask(id, Payload::new("ClientConfigMetricRequest", &message));
        client.watcher.wake();
        let answer = match timeout(PATIENCE, question.answer()).await {
            Ok(answer) => answer?,
            Err(_) => {
                tracing::debug!(ip = client.labels.ip, "a client does not tell its metrics");
                return None;
            }
        };
        match serde_json::from_slice::<ClientConfigMetricResponse>(&answer.json()) {
            Ok(response) => response.metrics,
            Err(err) => {
                tracing::debug!(ip = client.labels.ip, %err, "what a client tells of its metrics cannot be read");
                None
            }
        }
    }
}

/// What the client has of the key, in memory and on its disk; in both spellings of the default namespace, since it is not
/// known which one this client uses.
fn metrics_keys(key: &ConfigKey) -> Vec<MetricsKey> {
    let mut spelled = vec![group_key(key)];
    if key.namespace() == "public" {
        spelled.push([key.data_id(), "+", key.group()].concat());
    }
    let kinds = ["cacheData", "snapshotData"].into_iter();
    kinds.flat_map(|kind| spelled.iter().map(move |key| MetricsKey { kind, key: key.clone() })).collect()
}
