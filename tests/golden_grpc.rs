//! Replays the exchanges over gRPC that were recorded from a real Nacos 3.0.3, and expects the same answers, but for the
//! deviations that are named here with their reasons. Runs where the recordings are: `CORACLE_GOLDEN`, or `../shared/golden`.
#![allow(clippy::unwrap_used)]

#[path = "support/grpc.rs"]
mod grpc;

use std::{collections::BTreeMap, path::PathBuf};

use coracle::{
    nacos::wire::payload::Payload,
    server::{Options, Server},
};
use grpc::{Client, raw_payload};
use serde_json::{Value, json};

/// Exchanges that are deliberately not as recorded, and the answer that is expected instead (a JSON merge of what differs).
const DEVIATIONS: &[(&str, &str, &str)] = &[
    ("query", "missing dataId", r#"{"errorCode":400,"message":"invalid dataId : null"}"#),
    ("query", "empty dataId", r#"{"errorCode":400,"message":"invalid dataId : "}"#),
    ("remove", "missing dataId", r#"{"errorCode":400}"#),
    ("tag", "tag t1", r#"{"resultCode":200,"errorCode":0,"message":null,"success":true}"#),
    ("remove", "tag t1", r#"{"resultCode":200,"errorCode":0,"message":null,"success":true}"#),
    // Clients in Go and Python cannot read a text there.
    ("tag", "query by label app_Vipserver-Tag", r#"{"tag":null}"#),
    (
        "listen",
        "contexts absent",
        r#"{"type":"ConfigChangeBatchListenResponse","errorCode":400,"message":"invalid configListenContexts : null","changedConfigs":[]}"#,
    ),
    ("listen", "missing key, md5 null", r#"{"changedConfigs":[]}"#),
    ("listen", "missing key, md5 absent", r#"{"changedConfigs":[]}"#),
    ("setup", "setup with abilityTable: SetupAckRequest", r#"{"abilityTable":{"fuzzyWatch":true}}"#),
    // Nacos watches what can never match, and says nothing.
    ("fuzzy", "bad pattern", BAD_PATTERN),
    ("fuzzy", "empty pattern", EMPTY_PATTERN),
];

const BAD_PATTERN: &str = r#"{"resultCode":500,"errorCode":400,"success":false,"message":"\"no-separators\" is no pattern; write namespace>>group>>dataId, such as public>>DEFAULT_GROUP>>app-*"}"#;
const EMPTY_PATTERN: &str = r#"{"resultCode":500,"errorCode":400,"success":false,"message":"\"\" is no pattern; write namespace>>group>>dataId, such as public>>DEFAULT_GROUP>>app-*"}"#;

/// Groups and cases that are compared elsewhere or not served, and why.
fn is_skipped(group: &str, case: &str) -> Option<&'static str> {
    match (group, case) {
        ("upkeep", _) => Some("tests/grpc.rs: here three questions are asked, not one"),
        ("push", "retries of an unacknowledged push" | "publish, not acknowledged") => Some("tests/grpc.rs"),
        (_, "query tag t1 after remove tag=t1") => Some("the removal before it worked here"),
        _ => None,
    }
}

/// What is recorded as a description: repeated texts and long lists.
fn expand(value: &mut Value) {
    if let Some(repeat) = value.get("repeat").and_then(Value::as_array) {
        *value = json!(repeat[0].as_str().unwrap().repeat(repeat[1].as_u64().unwrap() as usize));
    } else if value.get("repeat_note").is_some() {
        let context = |at| json!({ "group": "K0000", "dataId": format!("m{at}"), "md5": "", "tenant": "" });
        *value = (0..3000).map(context).collect();
    } else if let Value::Object(fields) = value {
        fields.values_mut().for_each(expand);
    }
}

fn request_of(exchange: &Value) -> Payload {
    let request = &exchange["request"];
    let headers: BTreeMap<String, String> = serde_json::from_value(request["headers"].clone()).unwrap_or_default();
    let kind = request["type"].as_str().unwrap_or_default();
    let mut payload = match request["raw"].as_str() {
        Some(raw) => raw_payload(kind, raw, &headers),
        None => {
            let mut json = request["json"].clone();
            expand(&mut json);
            raw_payload(kind, &json.to_string(), &headers)
        }
    };
    if request["no_metadata"] == true {
        payload.metadata = None;
    }
    payload
}

fn expected(exchange: &Value) -> (String, Value) {
    let response = &exchange["response"];
    let mut kind = response["type"].as_str().unwrap_or_default().to_owned();
    let mut json = response["json"].clone();
    let (group, case) = (exchange["group"].as_str().unwrap(), exchange["case"].as_str().unwrap());
    if let Some((_, _, other)) = DEVIATIONS.iter().find(|it| (it.0, it.1) == (group, case)) {
        let other: Value = serde_json::from_str(other).unwrap();
        for (name, value) in other.as_object().unwrap() {
            if value.is_null() {
                json.as_object_mut().unwrap().remove(name);
            } else if name == "type" {
                kind = value.as_str().unwrap().to_owned();
            } else {
                json[name] = value.clone();
            }
        }
    }
    (kind, normal(json))
}

/// Without what is different each time.
fn normal(mut json: Value) -> Value {
    if let Some(fields) = json.as_object_mut() {
        if fields.get("lastModified").is_some_and(|it| it.as_u64() > Some(0)) {
            fields.insert("lastModified".into(), json!("some time"));
        }
        if fields.contains_key("connectionId") {
            fields.insert("connectionId".into(), json!("some id"));
        }
        if fields.contains_key("requestId") {
            fields.insert("requestId".into(), json!("some id"));
        }
        if let Some(contexts) = fields.get_mut("contexts").and_then(Value::as_array_mut) {
            // The exchange that publishes it is skipped.
            contexts.retain(|it| it["groupKey"] != "push+K0000+public");
            contexts.sort_by_key(|it| it["groupKey"].as_str().unwrap().to_owned());
        }
    }
    json
}

/// How a listener of the group `push` is called in the recording.
const SPELLINGS: &[(&str, &str)] = &[
    ("listen, tenant blank", "listener tenant blank"),
    ("listen, tenant public", "listener tenant public"),
    ("listen, tenant null", "listener tenant null"),
    ("listen, tenant absent", "listener tenant absent"),
    ("listen, blank and public on one connection", "listener tenant blank and public"),
];

/// Pushes that this server sends where Nacos mixes up the spellings of its listeners: each hears its own.
fn own_spelling(listener: &str, recorded: usize) -> Vec<Option<&'static str>> {
    match (listener, recorded) {
        (_, 0) => Vec::new(),
        ("listener tenant public", _) => vec![Some("public")],
        ("listener tenant blank and public", _) => vec![None, Some("public")],
        _ => vec![None],
    }
}

/// Asks for what a message says to have changed, as every client does; who does not is reminded.
async fn look(client: &Client, message: &Value) {
    for changed in message["changedConfigs"].as_array().into_iter().flatten().chain([message]) {
        if changed["dataId"].is_string() {
            client.try_ask("ConfigQueryRequest", changed).await.unwrap();
        }
    }
}

async fn messages(client: &mut Client) -> Vec<(String, Value)> {
    let messages = client.messages().await;
    for (_, message) in &messages {
        look(client, message).await;
    }
    messages
}

struct Replay {
    address: String,
    main: Client,
    setup: Payload,
    labelled: Option<Client>,
    listeners: BTreeMap<&'static str, Client>,
    failures: Vec<String>,
    compared: usize,
}

impl Replay {
    async fn exchange(&mut self, exchange: &Value) {
        let (group, case) = (exchange["group"].as_str().unwrap(), exchange["case"].as_str().unwrap());
        if exchange["via"] == "stream" {
            return self.stream(exchange, group, case).await;
        }
        let listener = SPELLINGS.iter().find(|(name, _)| group == "push" && *name == case).map(|it| it.1);
        let got = if let Some(listener) = listener {
            let mut client = Client::connect(&self.address).await;
            client.setup(self.setup.clone()).await;
            drop(client.messages().await);
            let got = client.ask(request_of(exchange)).await;
            look(&client, &got.1).await;
            self.listeners.insert(listener, client);
            got
        } else if let (true, Some(client)) = (case.starts_with("query by label"), &self.labelled) {
            client.ask(request_of(exchange)).await
        } else {
            let got = self.main.ask(request_of(exchange)).await;
            if got.0 == "ConfigChangeBatchListenResponse" {
                look(&self.main, &got.1).await;
            }
            got
        };
        self.compare(exchange, expected(exchange), (got.0, normal(got.1)));
    }

    async fn stream(&mut self, exchange: &Value, group: &str, case: &str) {
        if exchange["request"].is_object() {
            if case.starts_with("setup with labels") {
                let mut client = Client::connect(&self.address).await;
                client.setup(request_of(exchange)).await;
                self.labelled = Some(client);
                return;
            }
            if case.starts_with("setup ") {
                self.main = Client::connect(&self.address).await;
                self.setup = request_of(exchange);
            }
            self.main.setup(request_of(exchange)).await;
            let got = self.main.messages().await;
            match got.into_iter().next() {
                Some((kind, json)) => self.compare(exchange, expected(exchange), (kind, normal(json))),
                None if exchange["response"].is_null() => self.compared += 1,
                None => self.failures.push(format!("{group}: {case}: nothing came")),
            }
            return;
        }
        let recorded = exchange["response"]["messages"].as_array().unwrap();
        if group == "fuzzy" {
            let typed = |kind: &Value, json: Value| json!({ "type": kind, "json": normal(json) });
            let wanted = recorded.iter().map(|it| typed(&it["type"], it["json"].clone())).collect();
            let got =
                messages(&mut self.main).await.into_iter().map(|(kind, json)| typed(&json!(kind), json)).collect();
            return self.compare(exchange, ("messages".into(), wanted), ("messages".into(), got));
        }
        let listener = case.split(", ").find(|it| it.starts_with("listener tenant"));
        let (got, tenants) = match listener {
            Some(listener) => {
                let got = messages(self.listeners.get_mut(listener).unwrap()).await;
                (got, own_spelling(listener, recorded.len()))
            }
            None => {
                let tenants = recorded.iter().map(|it| match it["json"]["tenant"].as_str() {
                    None => None,
                    Some("public") => Some("public"),
                    Some(_) => Some("ns0000"),
                });
                (messages(&mut self.main).await, tenants.collect())
            }
        };
        let mut wanted: Vec<Value> = Vec::new();
        for tenant in tenants {
            let mut json = normal(recorded[0]["json"].clone());
            json.as_object_mut().unwrap().remove("tenant");
            if let Some(tenant) = tenant {
                json["tenant"] = json!(tenant);
            }
            wanted.push(json);
        }
        let got: Vec<Value> = got.into_iter().map(|(_, json)| normal(json)).collect();
        self.compare(exchange, ("messages".into(), json!(wanted)), ("messages".into(), json!(got)));
    }

    fn compare(&mut self, exchange: &Value, wanted: (String, Value), got: (String, Value)) {
        self.compared += 1;
        if wanted != got {
            let (group, case) = (&exchange["group"], &exchange["case"]);
            self.failures
                .push(format!("{group} {case}:\n  wanted {} {}\n  got    {} {}", wanted.0, wanted.1, got.0, got.1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_exchanges_are_answered_alike() {
    let folder = std::env::var_os("CORACLE_GOLDEN").map_or_else(|| PathBuf::from("../shared/golden"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("grpc.jsonl")) else {
        eprintln!("skipped: there are no recordings in {}", folder.display());
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(&dir.path().join("data"))).await.unwrap();
    let address = format!("http://{}", server.grpc_address());
    let main = Client::connect(&address).await;
    let setup = Payload::default();
    let mut replay =
        Replay { address, main, setup, labelled: None, listeners: BTreeMap::new(), failures: Vec::new(), compared: 0 };
    let mut skipped = 0;
    for line in text.lines() {
        let exchange: Value = serde_json::from_str(line).unwrap();
        if is_skipped(exchange["group"].as_str().unwrap(), exchange["case"].as_str().unwrap()).is_some() {
            skipped += 1;
            continue;
        }
        replay.exchange(&exchange).await;
    }
    let Replay { failures, compared, .. } = replay;
    eprintln!("{compared} exchanges compared, {skipped} skipped");
    assert!(failures.is_empty(), "{} of {compared} differ:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 150);
    server.stop().await;
}
