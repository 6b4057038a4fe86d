//! Replays what was recorded from a real Nacos 3.0.3 over a socket, and compares. The recordings are in a folder of their
//! own: `CORACLE_GOLDEN`, or `../shared/golden`; without it the test says that it has nothing to compare with.
#![allow(clippy::unwrap_used)]

#[path = "support/process.rs"]
mod process;

use std::{collections::BTreeMap, fs, path::PathBuf, thread};

use coracle::server::{Options, Server};
use process::{Answer, Http};
use serde_json::Value;

/// One scenario on a fresh store.
struct Recording {
    file: &'static str,
    /// Groups of calls that later versions serve; a star stands for the rest of a name.
    later: &'static [&'static str],
    /// Where we answer otherwise on purpose, by the name of the case: what is expected instead, and why.
    deviations: &'static [(&'static str, u16, Option<&'static str>, &'static str)],
    /// Cases that make no sense here, with the reason.
    skipped: &'static [(&'static str, &'static str)],
    /// So many exchanges are compared.
    compared: usize,
}

const V1: Recording = Recording {
    file: "http-v1.jsonl",
    later: &["history", "export", "import", "clone", "capacity", "ops", "cluster"],
    deviations: V1_DEVIATIONS,
    skipped: V1_SKIPPED,
    compared: 215,
};

const V2: Recording = Recording {
    file: "http-v2.jsonl",
    later: &["history", "cluster", "ops"],
    deviations: V2_DEVIATIONS,
    skipped: V2_SKIPPED,
    compared: 70,
};

const V3: Recording = Recording {
    file: "http-v3.jsonl",
    later: &[
        "admin-export",
        "admin-import",
        "admin-clone",
        "admin-history",
        "admin-capacity",
        "admin-ops",
        "admin-core",
        "console-*",
    ],
    deviations: V3_DEVIATIONS,
    skipped: V3_SKIPPED,
    compared: 68,
};

const V1_DEVIATIONS: &[(&str, u16, Option<&str>, &str)] = &[
    ("content of 3000000 characters in a form", 200, Some("true"), "forms are bounded by the largest content"),
    ("the big one was not stored", 200, None, "it was"),
    ("appName of 129 characters", 400, None, "refused instead of answered true and not stored"),
    ("desc of 129 characters", 400, None, "the reason as text instead of `false`"),
    ("use of 33 characters", 400, None, "the reason as text instead of `false`"),
    ("effect of 33 characters", 400, None, "the reason as text instead of `false`"),
    ("schema of 32769 characters", 400, None, "the reason as text instead of `false`"),
    ("six config_tags", 400, None, "the reason as text instead of `false`"),
    ("config tag of 65 characters", 400, None, "the reason as text instead of `false`"),
    ("cas wrong", 500, None, "the reason as text instead of `false`"),
    ("second ip of a list with a blank", 200, Some("beta2"), "addresses are trimmed"),
    ("DELETE tag=t1", 200, Some("true"), "both spellings of a tag delete it"),
    ("tag=t1 after DELETE tag=t1", 404, None, "it is deleted"),
    ("malformed: no separators", 400, Some("caused: invalid probeModify;"), "a client's mistake is no 500"),
    ("malformed: five words", 400, Some("caused: invalid probeModify;"), "a client's mistake is no 500"),
    ("pageNo not a number", 400, None, "a plain sentence instead of Java types"),
    ("not a number", 400, None, "a plain sentence instead of Java types"),
    ("outside the context path", 404, None, "no page of Tomcat"),
    ("create, no name", 400, None, "a client's mistake is no 500"),
    ("detail, unknown", 404, None, "a client's mistake is no 500"),
    ("update, unknown", 200, Some("false"), "there is nothing to update"),
    ("delete, unknown", 200, Some("false"), "there is nothing to delete"),
    ("/v1/console/server/state on the console port", 200, None, "settings of another program"),
    ("unknown path", 404, None, "the same words in the envelope"),
];

const V1_SKIPPED: &[(&str, &str)] = &[
    ("naming switches", "a call of service discovery"),
    ("/v1/console/health/liveness on the main port", "served on the main port too, as Nacos 2 did"),
    ("/v1/console/health/readiness on the main port", "served on the main port too, as Nacos 2 did"),
    ("/v1/console/server/state on the main port", "served on the main port too, as Nacos 2 did"),
    ("/v1/console/server/announcement?language=en-US on the console port", "a text of the console"),
    ("/v1/console/server/announcement?language=en-US on the main port", "a text of the console"),
    ("/v1/console/server/guide on the console port", "a text of the console"),
    ("/v1/console/server/guide on the main port", "a text of the console"),
    ("list on the main port", "served on the main port too, as Nacos 2 did"),
    ("subscribers of a key, v3 admin", "HTTP v3 comes later"),
    ("subscribers by ip, v3 admin", "HTTP v3 comes later"),
    ("delete the other one", "made by an import"),
    ("unchanged, Long-Pulling-Timeout 30000", "the same rule as 15000, and half a minute long"),
];

/// What is refused by the parameter check: Nacos answers a text without a type.
const ENVELOPED: &str = "the same words in an envelope";
const ILLEGAL_DATA_ID: &str = r#"{"code":20002,"message":"parameter validate error","data":"Param 'dataId' is illegal, illegal characters should not appear in the param."}"#;
const ILLEGAL_GROUP: &str = r#"{"code":20002,"message":"parameter validate error","data":"Param 'group' is illegal, illegal characters should not appear in the param."}"#;
const ILLEGAL_NAMESPACE: &str = r#"{"code":20002,"message":"parameter validate error","data":"Param 'namespaceId/tenant' is illegal, illegal characters should not appear in the param."}"#;
const NO_DATA_ID: &str =
    r#"{"code":10000,"message":"parameter missing","data":"Required parameter 'dataId' type String is not present"}"#;
const NOT_THERE: &str = r#"{"code":20004,"message":"resource not found","data":"config data not exist"}"#;
const DONE: &str = r#"{"code":0,"message":"success","data":true}"#;

const V2_DEVIATIONS: &[(&str, u16, Option<&str>, &str)] = &[
    ("illegal dataId", 400, Some(ILLEGAL_DATA_ID), ENVELOPED),
    ("illegal group", 400, Some(ILLEGAL_GROUP), ENVELOPED),
    ("illegal namespace", 400, Some(ILLEGAL_NAMESPACE), ENVELOPED),
    (
        "dataId of 257 characters",
        400,
        Some(
            r#"{"code":20002,"message":"parameter validate error","data":"Param 'dataId' is illegal, the param length should not exceed 256."}"#,
        ),
        ENVELOPED,
    ),
    (
        "namespace of 65 characters",
        400,
        Some(
            r#"{"code":20002,"message":"parameter validate error","data":"Param 'namespaceId/tenant' is illegal, the param length should not exceed 64."}"#,
        ),
        ENVELOPED,
    ),
    ("tenant was used as namespace", 404, Some(NOT_THERE), "with a type"),
    ("query/missing", 404, Some(NOT_THERE), "with a type"),
    ("wrong namespace", 404, Some(NOT_THERE), "with a type"),
    ("tag missing", 404, Some(NOT_THERE), "with a type"),
    ("missing parameter", 400, Some(NO_DATA_ID), "one wording for what is missing"),
    (
        "missing config_detail",
        400,
        Some(
            r#"{"code":10000,"message":"parameter missing","data":"Required parameter 'config_detail' type String is not present"}"#,
        ),
        "one wording for what is missing",
    ),
    (
        "missing pageNo",
        400,
        Some(
            r#"{"code":10000,"message":"parameter missing","data":"Required parameter 'pageNo' type String is not present"}"#,
        ),
        "one wording for what is missing",
    ),
    ("delete tag=t1", 200, Some(DONE), "both spellings of a tag delete it"),
    (
        "create again",
        400,
        Some(r#"{"code":22002,"message":"namespace already exist","data":"namespaceId [nk0000] already exist."}"#),
        "as in v3",
    ),
    (
        "create, bad id",
        400,
        Some(r#"{"code":22000,"message":"illegal namespace","data":"namespaceId [a b] mismatch the pattern"}"#),
        "as in v3",
    ),
    ("create, long id", 400, None, "as in v3"),
    (
        "create, bad name",
        400,
        Some(r#"{"code":22000,"message":"illegal namespace","data":"namespaceName [a@b] contains illegal char"}"#),
        "as in v3",
    ),
    (
        "update, unknown",
        404,
        Some(r#"{"code":22001,"message":"namespace not exist","data":"namespaceId [ nonono0000 ] not exist"}"#),
        "there is nothing to update",
    ),
    (
        "delete, unknown",
        404,
        Some(r#"{"code":22001,"message":"namespace not exist","data":"namespaceId [ nk0000 ] not exist"}"#),
        "there is nothing to delete",
    ),
];

const V2_SKIPPED: &[(&str, &str)] = &[
    ("main port", "served on the main port too, as Nacos 2 did"),
    ("/v2/console/health/liveness on the main port", "served on the main port too, as Nacos 2 did"),
    ("/v2/console/health/readiness on the main port", "served on the main port too, as Nacos 2 did"),
];

const V3_DEVIATIONS: &[(&str, u16, Option<&str>, &str)] = &[
    ("illegal dataId", 400, Some(ILLEGAL_DATA_ID), ENVELOPED),
    ("illegal group", 400, Some(ILLEGAL_GROUP), ENVELOPED),
    ("illegal namespace", 400, Some(ILLEGAL_NAMESPACE), ENVELOPED),
    ("list, blur", 200, None, "patterns are what is meant unless something else is said"),
    ("delete tag=t1", 200, Some(DONE), "both spellings of a tag delete it"),
    ("publish a named gray version, type beta", 400, None, "refused instead of written over the formal version"),
    (
        "update, unknown",
        404,
        Some(r#"{"code":22001,"message":"namespace not exist","data":"namespaceId [ nons0000 ] not exist"}"#),
        "there is nothing to update",
    ),
    (
        "delete, unknown",
        404,
        Some(r#"{"code":22001,"message":"namespace not exist","data":"namespaceId [ na0000 ] not exist"}"#),
        "there is nothing to delete",
    ),
    ("POST is not a method", 405, None, "with a charset"),
];

const V3_SKIPPED: &[(&str, &str)] = &[
    ("listeners of a key", "comes later"),
    ("listeners by ip", "comes later"),
    ("listeners by ip, missing ip", "comes later"),
    ("client query after it", "of the named gray version that was refused"),
];

/// Headers that clients read.
const HEADERS: &[&str] = &[
    "content-type",
    "content-md5",
    "config-type",
    "encrypted-data-key",
    "isbeta",
    "tag",
    "probe-modify-response",
    "probe-modify-response-new",
];

fn recorded(file: &str) -> Option<String> {
    let set = std::env::vars().find(|(name, _)| name == "CORACLE_GOLDEN").map(|(_, path)| PathBuf::from(path));
    let dir = set.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"));
    fs::read_to_string(dir.join(file)).ok()
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|it| if it.is_ascii_alphanumeric() { char::from(it).to_string() } else { format!("%{it:02X}") })
        .collect()
}

/// A value, with repetitions written out and captures put in.
fn text(value: &Value, captures: &BTreeMap<String, String>) -> String {
    let mut text = match value["repeat"].as_array() {
        Some(repeat) => repeat[0].as_str().unwrap().repeat(repeat[1].as_u64().unwrap() as usize),
        None => value.as_str().unwrap_or_default().to_owned(),
    };
    for (name, captured) in captures {
        text = text.replace(&format!("${{{name}}}"), captured);
    }
    text
}

fn pairs(value: &Value, captures: &BTreeMap<String, String>) -> String {
    let pair = |pair: &Value| format!("{}={}", encode(&text(&pair[0], captures)), encode(&text(&pair[1], captures)));
    value.as_array().map_or(String::new(), |it| it.iter().map(pair).collect::<Vec<_>>().join("&"))
}

fn request(case: &Value, captures: &BTreeMap<String, String>) -> Vec<u8> {
    let request = &case["request"];
    let prefix = if request["port"] == "console" { "/nacos" } else { "" };
    let mut target = format!("{prefix}{}", request["path"].as_str().unwrap());
    let query = pairs(&request["query"], captures);
    if !query.is_empty() {
        target += &format!("?{query}");
    }
    let body = &request["body"];
    let (content_type, body) = if body["form"].is_array() {
        ("application/x-www-form-urlencoded", pairs(&body["form"], captures))
    } else if !body["json"].is_null() {
        ("application/json", body["json"].to_string())
    } else if let Some(parts) = body["multipart"].as_array() {
        let part = |it: &Value| {
            let (name, value) = (it["name"].as_str().unwrap(), text(&it["value"], captures));
            format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        ("multipart/form-data; boundary=xx", parts.iter().map(part).collect::<String>() + "--xx--\r\n")
    } else {
        ("", String::new())
    };
    let mut head = format!("{} {target} HTTP/1.1\r\nHost: golden\r\n", request["method"].as_str().unwrap());
    let headers = request["headers"].as_object().unwrap();
    for (name, value) in headers {
        head += &format!("{name}: {}\r\n", text(value, captures));
    }
    if !content_type.is_empty() && !headers.keys().any(|it| it.eq_ignore_ascii_case("content-type")) {
        head += &format!("Content-Type: {content_type}\r\n");
    }
    if !body.is_empty() || request["method"] == "POST" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    format!("{head}\r\n{body}").into_bytes()
}

/// Takes out what differs from run to run.
fn settle(value: &mut Value, path: &str, volatile: &[&str]) {
    if volatile.contains(&path) {
        *value = "volatile".into();
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if ["id", "createTime", "modifyTime", "lastModified", "timestamp", "configCount"].contains(&&**name) {
                    *field = "volatile".into();
                } else {
                    settle(field, &format!("{path}/{name}"), volatile);
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                settle(item, &format!("{path}/{at}"), volatile);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a page holds all there is of the few types that were published.
fn expected_total(items: &[Value]) -> bool {
    items.len() < 3
}

fn compare(recording: &Recording, case: &Value, answer: &Answer) -> Result<(), String> {
    let name = case["case"].as_str().unwrap();
    let full = format!("{}/{name}", case["group"].as_str().unwrap());
    let recorded = &case["response"];
    let got = answer.text();
    if let Some((_, status, body, why)) = recording.deviations.iter().find(|(it, _, _, _)| *it == name || *it == full) {
        let fits = answer.status == *status && body.is_none_or(|body| got == body);
        return if fits {
            Ok(())
        } else {
            Err(format!("{why}: expected {status} {body:?}, got {} {got:?}", answer.status))
        };
    }
    if recorded["status"] != answer.status {
        return Err(format!("expected status {}, got {} {got:?}", recorded["status"], answer.status));
    }
    let volatile: Vec<&str> = case["volatile"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let expected = recorded["body"].as_str().unwrap_or_default();
    match (serde_json::from_str::<Value>(expected), serde_json::from_str::<Value>(&got)) {
        (Ok(mut expected), Ok(mut got)) if expected.is_object() || expected.is_array() => {
            // The order of such a search is not defined.
            let unordered = name.starts_with("blur");
            for value in [&mut expected, &mut got] {
                settle(value, "", &volatile);
                if let (true, Some(items)) = (unordered, value["pageItems"].as_array_mut()) {
                    items.sort_by_key(|item| item["dataId"].to_string());
                    // Which of them are on a page depends on the order.
                    items.truncate(if expected_total(items) { items.len() } else { 0 });
                }
                if volatile.iter().any(|it| it.starts_with("whole list")) {
                    value.as_object_mut().unwrap().remove("data");
                }
            }
            if expected != got {
                return Err(format!("expected {expected}\n     got {got}"));
            }
        }
        _ if expected != got => return Err(format!("expected body {expected:?}, got {got:?}")),
        _ => {}
    }
    for header in HEADERS {
        let expected = recorded["headers"][*header].as_str();
        // The console port of Nacos leaves the charset out.
        let same = expected == answer.header(header)
            || *header == "content-type" && case["request"]["port"] == "console"
            || volatile.contains(&&*format!("header:{header}"));
        if !same {
            return Err(format!("header {header}: expected {expected:?}, got {:?}", answer.header(header)));
        }
    }
    Ok(())
}

fn replay(recording: &'static Recording, port: u16, cases: &[Value]) -> (usize, BTreeMap<String, usize>, Vec<String>) {
    let (mut compared, mut skipped, mut failures) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    let mut captures = BTreeMap::new();
    let mut holding = Vec::new();
    let mut http = Http::connect(port).unwrap();
    for case in cases {
        let (group, name) = (case["group"].as_str().unwrap(), case["case"].as_str().unwrap());
        let is_of = |it: &&str| it.strip_suffix('*').map_or(*it == group, |beginning| group.starts_with(beginning));
        if recording.later.iter().any(is_of) || recording.skipped.iter().any(|(it, _)| *it == name) {
            *skipped.entry(group.to_owned()).or_default() += 1;
            continue;
        }
        let mut request = request(case, &captures);
        if name == "two ids and an unknown one" {
            // Our ids are small numbers: 1 would be a known one.
            request = String::from_utf8(request).unwrap().replacen("%2C1 ", "%2C99999999 ", 1).into_bytes();
        }
        if group == "listener-hold" {
            let case = case.clone();
            holding.push(thread::spawn(move || {
                let started = tokio::time::Instant::now();
                let answer = Http::connect(port).unwrap().request(&request).unwrap();
                let took = started.elapsed().as_secs_f64();
                let expected = case["response"]["seconds"].as_f64().unwrap();
                let late = (took - expected).abs() > 0.7;
                let held = if late { Err(format!("expected {expected} s, took {took:.2} s")) } else { Ok(()) };
                compare(recording, &case, &answer).and(held).map_err(|why| format!("{}: {why}", case["case"]))
            }));
            continue;
        }
        let answer = http.request(&request).unwrap_or_else(|err| panic!("{group}/{name}: {err}"));
        compared += 1;
        if let Err(why) = compare(recording, case, &answer) {
            failures.push(format!("{group} / {name}: {why}"));
        }
        for (capture, pointer) in case["capture"].as_object().into_iter().flatten() {
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let value = body.pointer(pointer.as_str().unwrap()).and_then(Value::as_str).unwrap_or_default();
            captures.insert(capture.clone(), value.to_owned());
        }
        if name == "the big one was not stored" {
            http.request(b"DELETE /nacos/v1/cs/configs?dataId=big.0000&group=G0000 HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
        }
    }
    for held in holding {
        compared += 1;
        failures.extend(held.join().unwrap().err());
    }
    (compared, skipped, failures)
}

async fn answers_are_those_of(recording: &'static Recording) {
    let Some(recorded) = recorded(recording.file) else {
        println!("skipped: no recordings at CORACLE_GOLDEN or ../shared/golden");
        return;
    };
    let cases: Vec<Value> = recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(dir.path())).await.unwrap();
    let port = server.http_address().port();
    let replayed = tokio::task::spawn_blocking(move || replay(recording, port, &cases)).await;
    let (compared, skipped, failures) = replayed.unwrap();
    println!("{compared} exchanges compared; left out: {skipped:?}");
    assert!(failures.is_empty(), "{} of {compared} differ:\n{}", failures.len(), failures.join("\n"));
    assert!(compared >= recording.compared, "only {compared} exchanges were compared");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_a_recorded_nacos() {
    answers_are_those_of(&V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_v2_are_those_of_a_recorded_nacos() {
    answers_are_those_of(&V2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_v3_are_those_of_a_recorded_nacos() {
    answers_are_those_of(&V3).await;
}
