//! Nacos HTTP v2 and v3 through real sockets: the same store as v1, under other names and in an envelope.
#![allow(clippy::unwrap_used)]

#[path = "support/process.rs"]
mod process;

use coracle::server::{Options, Server};
use process::{Answer, Http};
use serde_json::{Value, json};

/// Runs blocking code against a server of its own.
async fn with_server(test: impl FnOnce(&mut Http) + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(dir.path())).await.unwrap();
    let port = server.http_address().port();
    tokio::task::spawn_blocking(move || test(&mut Http::connect(port).unwrap())).await.unwrap();
    server.stop().await;
}

/// Asks: a method and a target below `/nacos`, a form that needs no encoding, header lines.
fn ask(http: &mut Http, line: &str, form: &str, headers: &str) -> (u16, Value, Answer) {
    let (method, target) = line.split_once(' ').unwrap();
    let request = format!(
        "{method} /nacos{target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n{headers}\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let answer = http.request(request.as_bytes()).unwrap();
    let value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    (answer.status, value, answer)
}

/// The status, the code of the envelope, and what is in it.
fn outcome(http: &mut Http, line: &str, form: &str, headers: &str) -> (u16, u64, Value) {
    let (status, mut value, answer) = ask(http, line, form, headers);
    let code = value["code"].as_u64().unwrap_or_else(|| panic!("{line}: {status} {}", answer.text()));
    (status, code, value["data"].take())
}

const V2: &str = "/v2/cs/config";
const V3: &str = "/v3/admin/cs/config";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_version_writes_all_others_read() {
    with_server(|http| {
        let form = "dataId=a&group=G&namespaceId=n&content=k:1&type=yaml&srcUser=ann&configTags=x,y&desc=d";
        let (status, code, data) = outcome(http, &format!("POST {V2}"), form, "");
        assert_eq!((status, code, data), (200, 0, json!(true)));

        let (status, data, answer) = ask(http, &format!("GET {V2}?dataId=a&group=G&namespaceId=n"), "", "");
        assert_eq!((status, data["data"].clone()), (200, json!("k:1")));
        assert_eq!(answer.header("config-type"), Some("yaml"));
        let v1 = http.get("/nacos/v1/cs/configs?dataId=a&group=G&tenant=n").unwrap();
        assert_eq!(v1, (200, b"k:1".to_vec()));
        let (_, _, client) = outcome(http, "GET /v3/client/cs/config?dataId=a&groupName=G&namespaceId=n", "", "");
        assert_eq!((&client["content"], &client["contentType"]), (&json!("k:1"), &json!("yaml")));
        let (_, _, detail) = outcome(http, &format!("GET {V3}?dataId=a&groupName=G&namespaceId=n"), "", "");
        let told = ["content", "type", "configTags", "desc", "createUser", "groupName", "namespaceId"];
        assert_eq!(told.map(|name| detail[name].as_str().unwrap()), ["k:1", "yaml", "x,y", "d", "ann", "G", "n"]);

        let (status, code, _) = outcome(http, &format!("DELETE {V3}?dataId=a&groupName=G&namespaceId=n"), "", "");
        assert_eq!((status, code), (200, 0));
        let gone = outcome(http, &format!("GET {V2}?dataId=a&group=G&namespaceId=n"), "", "");
        assert_eq!(gone, (404, 20004, json!("config data not exist")));
        // A client's question is answered; there is just nothing.
        let gone = outcome(http, "GET /v3/client/cs/config?dataId=a&groupName=G&namespaceId=n", "", "");
        assert_eq!(gone, (200, 20004, Value::Null));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_changes_nothing_and_says_why() {
    with_server(|http| {
        for (path, group) in [(V2, "group"), (V3, "groupName")] {
            let first = format!("dataId=a&{group}=G&content=one");
            assert_eq!(outcome(http, &format!("POST {path}"), &first, "").1, 0);
            let cases = [
                (format!("{group}=G&content=x"), "", 400, 10000, "'dataId'"),
                ("dataId=a&content=x".into(), "", 400, 10000, group),
                (format!("dataId=a&{group}=G&content=%20"), "", 400, 10000, "'content'"),
                (format!("dataId=a+b&{group}=G&content=x"), "", 400, 20002, "'dataId' is illegal"),
                (format!("dataId=a&{group}=G&content=x&namespaceId=a+b"), "", 400, 20002, "'namespaceId/tenant'"),
                (format!("dataId=a&{group}=G&content=x&tag={}", "t".repeat(17)), "", 400, 20002, "too long tag"),
                (format!("dataId=a&{group}=G&content=x&grayName=g"), "", 400, 20002, "betaIps"),
                (format!("dataId=a&{group}=G&content=x"), "casMd5: 00\r\n", 500, 20005, "Cas publish fail"),
            ];
            for (form, headers, status, code, why) in cases {
                let (got, number, said) = outcome(http, &format!("POST {path}"), &form, headers);
                assert_eq!((got, number), (status, code), "{path} {form}: {said}");
                assert!(said.as_str().unwrap().contains(why), "{path} {form}: {said}");
            }
            assert_eq!(http.query("a").unwrap().as_deref(), Some("one"));
        }
        let long = format!("GET {V2}?dataId=a&group=G&tag={}", "t".repeat(17));
        assert_eq!(outcome(http, &long, "", "").1, 20002);
        let (status, _, answer) = ask(http, &format!("PATCH {V2}"), "", "");
        assert_eq!((status, answer.header("allow")), (405, Some("GET, POST, DELETE")));
        for query in [
            "dataId=a*&search=accurate",
            "pageNo=0",
            "pageSize=x",
            "pageSize=10001",
            &format!("configDetail={}", "*".repeat(257)),
        ] {
            assert_eq!(outcome(http, &format!("GET {V3}/list?{query}"), "", "").1, 20002, "{query}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_sent_again_is_done_once() {
    with_server(|http| {
        let id = "X-Request-Id: once\r\n";
        let form = "dataId=a&groupName=G&content=one";
        assert_eq!(outcome(http, &format!("POST {V3}"), form, id).1, 0);
        http.publish("a", "two").unwrap();
        assert_eq!(outcome(http, &format!("POST {V3}"), form, id).1, 0);
        assert_eq!(http.query("a").unwrap().as_deref(), Some("two"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beta_version_is_read_and_ended() {
    with_server(|http| {
        let target = format!("{V3}/beta?dataId=a&groupName=G");
        outcome(http, &format!("POST {V3}"), "dataId=a&groupName=G&content=one&type=yaml", "");
        assert_eq!(outcome(http, &format!("GET {target}"), "", "").1, 20004);
        outcome(http, &format!("POST {V3}"), "dataId=a&groupName=G&content=beta", "betaIps: 10.1.1.1, 10.1.1.2\r\n");
        let (_, _, beta) = outcome(http, &format!("GET {target}"), "", "");
        assert_eq!(beta["content"], "beta");
        let rule: Value = serde_json::from_str(beta["grayRule"].as_str().unwrap()).unwrap();
        assert_eq!((&rule["type"], &rule["expr"]), (&json!("beta"), &json!("10.1.1.1,10.1.1.2")));
        for (headers, content, is_beta) in [("X-Forwarded-For: 10.1.1.2\r\n", "beta", true), ("", "one", false)] {
            let (_, _, seen) = outcome(http, "GET /v3/client/cs/config?dataId=a&groupName=G", "", headers);
            assert_eq!((&seen["content"], &seen["beta"]), (&json!(content), &json!(is_beta)));
            // A client takes a content apart by its type, which is that of the formal version.
            assert_eq!(seen["contentType"], "yaml");
            for path in ["/v1/cs/configs", V2] {
                let (_, _, answer) = ask(http, &format!("GET {path}?dataId=a&group=G"), "", headers);
                assert_eq!(answer.header("config-type"), Some("yaml"), "{path}");
            }
        }
        assert_eq!(outcome(http, &format!("DELETE {target}"), "", ""), (200, 0, json!(true)));
        assert_eq!(outcome(http, &format!("DELETE {target}"), "", ""), (200, 30000, json!(false)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_filtered_by_name_and_content() {
    with_server(|http| {
        for (data_id, content) in [("a1", "port=1"), ("a2", "port=2"), ("b", "%E9%85%8D=%E5%80%BC")] {
            outcome(http, &format!("POST {V3}"), &format!("dataId={data_id}&groupName=G&content={content}"), "");
        }
        let mut listed = |query: &str| {
            let (_, _, page) = outcome(http, &format!("GET {V3}/list?{query}"), "", "");
            let items = page["pageItems"].as_array().unwrap_or_else(|| panic!("{query}: {page}")).clone();
            let names: Vec<String> = items.iter().map(|it| it["dataId"].as_str().unwrap().to_owned()).collect();
            assert!(items.iter().all(|it| it.get("content").is_none()), "a list is without contents");
            (page["totalCount"].as_u64().unwrap(), names.join(" "), items)
        };
        assert_eq!((listed("").0, &*listed("").1), (3, "a1 a2 b"));
        assert_eq!(listed("dataId=a*&pageSize=1&pageNo=2").1, "a2");
        assert_eq!(listed("dataId=a1&search=accurate").1, "a1");
        assert_eq!(listed("configDetail=*port*").1, "a1 a2");
        assert_eq!(listed("configDetail=%E9%85%8D*").1, "b");
        assert_eq!(listed("configDetail=port").0, 0, "all of the content");
        let ids: Vec<String> = listed("dataId=a*").2.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
        let detail = "/v2/cs/config/searchDetail?dataId=&group=G&config_detail=*port*&pageNo=1&pageSize=9";
        let (_, page, _) = ask(http, &format!("GET {detail}"), "", "");
        assert_eq!((&page["totalCount"], &page["pageItems"][1]["content"]), (&json!(2), &json!("port=2")));

        let batch = format!("DELETE {V3}/batch?ids={},99999", ids.join(","));
        assert_eq!(outcome(http, &batch, "", ""), (200, 0, json!(true)));
        assert_eq!(http.query("a1").unwrap(), None);
        assert_eq!(outcome(http, &format!("DELETE {V3}/batch?ids=x"), "", "").1, 20002);
        assert_eq!(outcome(http, &format!("DELETE {V3}/batch"), "", "").1, 10000);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_made_shown_and_deleted() {
    with_server(|http| {
        for path in ["/v2/console/namespace", "/v3/admin/core/namespace"] {
            let make = format!("POST {path}");
            assert_eq!(outcome(http, &make, "namespaceId=n&namespaceName=N&namespaceDesc=d", "").1, 0);
            assert_eq!(outcome(http, &make, "namespaceId=n&namespaceName=N", "").1, 22002);
            assert_eq!(outcome(http, &make, "namespaceId=a+b&namespaceName=N", "").1, 22000);
            assert_eq!(outcome(http, &make, "namespaceId=m&namespaceName=a@b", "").1, 22000);
            assert_eq!(outcome(http, &make, "namespaceId=m", "").1, 10000);
            let changed = outcome(http, &format!("PUT {path}"), "namespaceId=n&namespaceName=N2", "");
            assert_eq!(changed, (200, 0, json!(true)));
            let (_, _, one) = outcome(http, &format!("GET {path}?namespaceId=n"), "", "");
            assert_eq!((&one["namespaceShowName"], &one["type"]), (&json!("N2"), &json!(1)));
            let (_, _, all) = outcome(http, &format!("GET {path}/list"), "", "");
            let all: Vec<_> = all.as_array().unwrap().iter().map(|it| it["namespace"].as_str().unwrap()).collect();
            assert_eq!(all, ["public", "n"]);
            assert_eq!(outcome(http, &format!("DELETE {path}?namespaceId=n"), "", ""), (200, 0, json!(true)));
            for gone in [format!("GET {path}?namespaceId=n"), format!("DELETE {path}?namespaceId=n")] {
                let (status, code, _) = outcome(http, &gone, "", "");
                assert_eq!((status, code), (404, 22001), "{gone}");
            }
        }
        // One without an id gets one.
        assert_eq!(outcome(http, "POST /v3/admin/core/namespace", "namespaceName=N", "").1, 0);
        for (id, count) in [("public", 1), ("nobody", 0)] {
            let asked = format!("GET /v3/admin/core/namespace/check?namespaceId={id}");
            assert_eq!(outcome(http, &asked, "", ""), (200, 0, json!(count)));
        }
        let (_, _, state) = outcome(http, "GET /v3/admin/core/state", "", "");
        assert_eq!(state["startup_mode"], "standalone");
    })
    .await;
}
