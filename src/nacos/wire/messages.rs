//! The JSON of gRPC messages. Read tolerantly: any field may be missing or null, and unknown ones are ignored. Written as the
//! strictest clients want it: `resultCode`, `errorCode` and `success` always, and never a null.
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize};

use crate::types::{ConfigKey, NamespaceId};

/// The four names of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigQueryRequest {
    /// The data id.
    pub data_id: Option<String>,
    /// The group.
    pub group: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// That gray version or none.
    pub tag: Option<String>,
}

/// Takes one version away; the names are those of a query.
pub type ConfigRemoveRequest = ConfigQueryRequest;

/// Publishes one version.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigPublishRequest {
    /// The data id.
    pub data_id: Option<String>,
    /// The group.
    pub group: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The content.
    pub content: Option<String>,
    /// Only if the content now has this md5.
    pub cas_md5: Option<String>,
    /// Everything else: `tag`, `type`, `betaIps`, `config_tags`, …
    pub addition_map: Option<HashMap<String, Option<String>>>,
}

/// Listens to keys, or no longer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigBatchListenRequest {
    /// Missing means true; null means false, as a Java server reads it.
    #[serde(default = "yes", deserialize_with = "null_is_false")]
    pub listen: bool,
    /// The keys.
    #[serde(default)]
    pub config_listen_contexts: Option<Vec<ConfigListenContext>>,
}

fn yes() -> bool {
    true
}

fn null_is_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or(false))
}

/// One key, and what the client has.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigListenContext {
    /// The data id.
    pub data_id: Option<String>,
    /// The group.
    pub group: Option<String>,
    /// The tenant, as this client spells it.
    pub tenant: Option<String>,
    /// The md5 of what it has.
    pub md5: Option<String>,
}

/// The first message of a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionSetupRequest {
    /// Which client, in which version.
    pub client_version: Option<String>,
    /// What describes the client.
    pub labels: Option<HashMap<String, Option<String>>>,
    /// Present when the client waits for a [`SetupAckRequest`].
    pub ability_table: Option<serde_json::Value>,
}

/// What of an acknowledgement counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Acknowledgement {
    /// Of what was sent.
    pub request_id: Option<String>,
}

/// An answer without anything of its own; also the beginning of every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// 200 or 500.
    pub result_code: i32,
    /// 0, or what went wrong.
    pub error_code: i32,
    /// Why, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether `resultCode` is 200.
    pub success: bool,
}

impl Outcome {
    /// It worked.
    pub fn ok() -> Self {
        Self { result_code: 200, error_code: 0, message: None, success: true }
    }

    /// It did not.
    pub fn failed(error_code: i32, message: impl Into<String>) -> Self {
        Self { result_code: 500, error_code, message: Some(message.into()), success: false }
    }
}

/// The server is there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerCheckResponse<'a> {
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The name of the connection.
    pub connection_id: &'a str,
    /// Whether [`SetupAckRequest`] will come.
    pub support_ability_negotiation: bool,
}

/// A configuration.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigQueryResponse<'a> {
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    /// How the content is encrypted, as the client said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_data_key: Option<&'a str>,
    /// `yaml`, `json`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<&'a str>,
    /// Of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// Unix time in milliseconds; 0 when there is nothing.
    pub last_modified: u64,
    /// The gray version that was found, or asked for in vain. A client in Go takes no other text here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<&'a str>,
    /// Whether it is the beta version.
    pub beta: bool,
}

/// Names of keys that are not what the client has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigChangeBatchListenResponse<'a> {
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The keys; empty when there are none.
    pub changed_configs: Vec<ChangedConfig<'a>>,
}

/// A key, spelled as the client did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedConfig<'a> {
    /// The group.
    pub group: &'a str,
    /// The data id.
    pub data_id: &'a str,
    /// The tenant, if it named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
}

/// To a client: this key changed. Without its content.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigChangeNotifyRequest<'a> {
    /// Always there, and empty: a client in Rust demands it.
    pub headers: BTreeMap<String, String>,
    /// What the acknowledgement will name.
    pub request_id: String,
    /// The data id.
    pub data_id: &'a str,
    /// The group.
    pub group: &'a str,
    /// The tenant, if the client spelled one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
    /// `config`.
    pub module: &'static str,
}

/// Watches all keys that match a pattern, or no longer.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigFuzzyWatchRequest {
    /// `namespace>>group>>dataId`.
    pub group_key_pattern: Option<String>,
    /// What the client has, in the spelling of [`group_key`].
    pub received_group_keys: Option<Vec<Option<String>>>,
    /// `WATCH` or `CANCEL_WATCH`.
    pub watch_type: Option<String>,
    /// Whether the client waits for being told that it knows all.
    pub initializing: Option<bool>,
}

/// To a client: how what it knows of a pattern differs from what there is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFuzzyWatchSyncRequest<'a> {
    /// Empty.
    pub headers: BTreeMap<String, String>,
    /// What the acknowledgement will name.
    pub request_id: String,
    /// As the client spelled it.
    pub group_key_pattern: &'a str,
    /// The keys; missing in the last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contexts: Option<Vec<ConfigFuzzyWatchContext>>,
    /// `FUZZY_WATCH_INIT_NOTIFY`, `FUZZY_WATCH_DIFF_SYNC_NOTIFY` or `FINISH_FUZZY_WATCH_INIT_NOTIFY`.
    pub sync_type: &'static str,
    /// How many messages there are; 0 in the last one.
    pub total_batch: usize,
    /// Which one this is, from 1.
    pub current_batch: usize,
    /// `config`.
    pub module: &'static str,
}

/// A key that a client does not know, or that is gone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFuzzyWatchContext {
    /// See [`group_key`].
    pub group_key: String,
    /// `ADD_CONFIG` or `DELETE_CONFIG`.
    pub changed_type: &'static str,
}

/// To a client: a key that a pattern matches came or went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigFuzzyWatchChangeNotifyRequest {
    /// Empty.
    pub headers: BTreeMap<String, String>,
    /// What the acknowledgement will name.
    pub request_id: String,
    /// See [`group_key`].
    pub group_key: String,
    /// `CONFIG_CHANGED` or `DELETE_CONFIG`.
    pub change_type: &'static str,
    /// `config`.
    pub module: &'static str,
}

/// A key in the spelling of pattern watches: `dataId+group+namespace`, always three parts. (Nacos: `GroupKey`, which escapes
/// what a name cannot contain here.)
pub fn group_key(key: &ConfigKey) -> String {
    [key.data_id(), "+", key.group(), "+", key.namespace()].concat()
}

/// The key of that spelling; `None` when it is none.
pub fn parse_group_key(text: &str) -> Option<ConfigKey> {
    let mut parts = text.split('+');
    let (data_id, group, tenant) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
    let namespace = if tenant.is_empty() { NamespaceId::public() } else { NamespaceId::parse(tenant).ok()? };
    ConfigKey::new(&namespace, group, data_id).ok()
}

/// To a client: how is it with you, and with these keys.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientConfigMetricRequest {
    /// Empty.
    pub headers: BTreeMap<String, String>,
    /// What the answer will name.
    pub request_id: String,
    /// Of which keys it is to tell.
    pub metrics_keys: Vec<MetricsKey>,
    /// `config`.
    pub module: &'static str,
}

/// Of which key, and what.
#[derive(Debug, Serialize)]
pub struct MetricsKey {
    /// `cacheData`: what the client has in memory; `snapshotData`: on its disk.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `dataId+group` or `dataId+group+namespace`.
    pub key: String,
}

/// What a client says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClientConfigMetricResponse {
    /// By names that each client chooses.
    pub metrics: Option<serde_json::Map<String, serde_json::Value>>,
}

/// To a client: what this server can do beyond the basics.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetupAckRequest {
    /// Empty.
    pub headers: BTreeMap<String, String>,
    /// Abilities by name.
    pub ability_table: BTreeMap<String, bool>,
    /// `internal`.
    pub module: &'static str,
}

/// To a client: go to another server.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectResetRequest<'a> {
    /// Empty.
    pub headers: BTreeMap<String, String>,
    /// What the acknowledgement will name.
    pub request_id: String,
    /// The client's connection.
    pub connection_id: &'a str,
    /// The other server's host; left out, the client chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_ip: Option<&'a str>,
    /// Its HTTP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_port: Option<&'a str>,
    /// `internal`.
    pub module: &'static str,
}

/// To a client: are you there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InternalRequest {
    /// Empty.
    pub headers: BTreeMap<String, String>,
    /// What the acknowledgement will name.
    pub request_id: String,
    /// `internal`.
    pub module: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_listen_means_yes_and_null_means_no() {
        let listens = |text: &str| serde_json::from_str::<ConfigBatchListenRequest>(text).unwrap().listen;
        assert!(listens("{}"));
        assert!(listens(r#"{"listen":true}"#));
        assert!(!listens(r#"{"listen":null}"#));
        assert!(!listens(r#"{"listen":false}"#));
    }

    #[test]
    fn nothing_that_is_written_has_a_null() {
        let missing = ConfigQueryResponse {
            outcome: Outcome::failed(300, "config data not exist"),
            content: None,
            encrypted_data_key: None,
            content_type: None,
            md5: None,
            last_modified: 0,
            tag: None,
            beta: false,
        };
        let text = serde_json::to_string(&missing).unwrap();
        assert_eq!(
            text,
            r#"{"resultCode":500,"errorCode":300,"message":"config data not exist","success":false,"lastModified":0,"beta":false}"#
        );
    }
}
