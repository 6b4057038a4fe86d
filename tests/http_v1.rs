//! Nacos HTTP v1 through real sockets: what clients send at their worst, and what they must be told and when.
#![allow(clippy::unwrap_used)]

#[path = "support/process.rs"]
mod process;

use std::{thread, time::Duration};

use coracle::{
    server::{Options, Server},
    types::Content,
};
use process::Http;
use tokio::time::Instant;

/// Runs blocking code against a server of its own.
async fn with_server(test: impl FnOnce(u16) + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(dir.path())).await.unwrap();
    let port = server.http_address().port();
    tokio::task::spawn_blocking(move || test(port)).await.unwrap();
    server.stop().await;
}

fn listen(port: u16, lines: &str, timeout: &str) -> (u16, String, Duration) {
    let started = Instant::now();
    let body = format!("Listening-Configs={}", lines.replace('\u{1}', "%01").replace('\u{2}', "%02"));
    let headers = format!("Long-Pulling-Timeout: {timeout}\r\n");
    let answer = Http::connect(port).unwrap().post("/nacos/v1/cs/configs/listener", &headers, &body).unwrap();
    (answer.0, String::from_utf8(answer.1).unwrap(), started.elapsed())
}

fn md5(text: &str) -> String {
    Content::new(text).digest().to_string()
}

fn gauge(port: u16, name: &str) -> u64 {
    let (_, body) = Http::connect(port).unwrap().get("/metrics").unwrap();
    let text = String::from_utf8(body).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn wait_for_watchers(port: u16, count: u64) {
    let started = Instant::now();
    while gauge(port, "coracle_listeners") != count {
        assert!(started.elapsed() < Duration::from_secs(30), "{} watchers", gauge(port, "coracle_listeners"));
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_is_answered_within_milliseconds_of_a_change() {
    with_server(|port| {
        let mut http = Http::connect(port).unwrap();
        http.publish("a", "1").unwrap();
        for (publish, expected) in [(Some("2"), "a%02G%01\n"), (None, "a%02G%01\n")] {
            let known = md5(if publish.is_some() { "1" } else { "2" });
            let poll =
                thread::spawn(move || listen(port, &format!("a\u{2}G\u{2}{known}\u{1}b\u{2}G\u{2}\u{1}"), "30000"));
            wait_for_watchers(port, 1);
            let changed = Instant::now();
            match publish {
                Some(text) => assert_eq!(http.publish("a", text).unwrap().0, 200),
                None => {
                    let delete = b"DELETE /nacos/v1/cs/configs?dataId=a&group=G HTTP/1.1\r\nHost: x\r\n\r\n";
                    assert_eq!(http.exchange(delete).unwrap().0, 200);
                }
            }
            let (status, body, _) = poll.join().unwrap();
            assert_eq!((status, &*body), (200, expected));
            assert!(changed.elapsed() < Duration::from_millis(500), "told after {:?}", changed.elapsed());
            wait_for_watchers(port, 0);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_taken_back_and_equal_content_wake_nobody() {
    with_server(|port| {
        let mut http = Http::connect(port).unwrap();
        http.publish("a", "1").unwrap();
        let known = md5("1");
        let poll = thread::spawn(move || listen(port, &format!("a\u{2}G\u{2}{known}\u{1}"), "10000"));
        wait_for_watchers(port, 1);
        http.publish("a", "1").unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(!poll.is_finished(), "equal content answered the poll");
        let (status, body, took) = poll.join().unwrap();
        assert_eq!((status, &*body), (200, ""), "an empty answer at the end");
        assert!((9.5..11.0).contains(&took.as_secs_f64()), "held for {took:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_leaves_nothing_behind() {
    with_server(|port| {
        for _ in 0..20 {
            let mut http = Http::connect(port).unwrap();
            let body = "Listening-Configs=a%02G%02%01";
            let head = "POST /nacos/v1/cs/configs/listener HTTP/1.1\r\nHost: x\r\nLong-Pulling-Timeout: 30000\r\n\
                        Content-Type: application/x-www-form-urlencoded\r\n";
            http.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
            wait_for_watchers(port, 1);
            drop(http);
            wait_for_watchers(port, 0);
        }
        assert_eq!(gauge(port, "coracle_watched_keys"), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_keys_in_one_request() {
    with_server(|port| {
        let mut http = Http::connect(port).unwrap();
        http.publish("k2999", "x").unwrap();
        let known = |at: usize| if at == 2999 { md5("x") } else { String::new() };
        let lines: String = (0..3000).map(|at| format!("k{at}\u{2}G\u{2}{}\u{2}\u{1}", known(at))).collect();
        let again = lines.clone();
        let poll = thread::spawn(move || listen(port, &again, "30000"));
        wait_for_watchers(port, 1);
        assert_eq!(gauge(port, "coracle_watched_keys"), 3000);
        http.publish("k1500", "new").unwrap();
        let (status, body, took) = poll.join().unwrap();
        assert_eq!((status, &*body), (200, "k1500%02G%01\n"));
        assert!(took < Duration::from_secs(2), "{took:?}");
        let (_, body, _) = listen(port, &lines, "30000");
        assert_eq!(body, "k1500%02G%01\n", "at once, with what is stale");
        let too_many: String = (0..10_001).map(|at| format!("k{at}\u{2}G\u{2}\u{1}")).collect();
        assert_eq!(listen(port, &too_many, "30000").0, 400);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_hears_its_own_spelling_of_the_default_namespace() {
    with_server(|port| {
        Http::connect(port).unwrap().publish("a", "1").unwrap();
        let lines = "a\u{2}G\u{2}\u{1}a\u{2}G\u{2}\u{2}public\u{1}a\u{2}G\u{2}\u{2}\u{1}";
        let (status, body, _) = listen(port, lines, "30000");
        assert_eq!((status, &*body), (200, "a%02G%01a%02G%02public%01a%02G%01\n"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_a_sentence_and_change_nothing() {
    with_server(|port| {
        let big = "x".repeat(33 << 20);
        let cases: Vec<(String, u16, &str)> = vec![
            ("POST /nacos/v1/cs/configs?dataId=a&group=G&content=%zz HTTP/1.1\r\n\r\n".into(), 400, "hexadecimal"),
            ("POST /nacos/v1/cs/configs?dataId=a&group=G&content=%ff HTTP/1.1\r\n\r\n".into(), 400, "UTF-8"),
            ("PATCH /nacos/v1/cs/configs HTTP/1.1\r\n\r\n".into(), 405, "not supported"),
            ("GET /nacos/v1/cs/configs?dataId=a&group=G&minRevision=x HTTP/1.1\r\n\r\n".into(), 400, "not a number"),
            ("GET /nacos/v1/cs/configs?dataId=a&group=G&consistency=x HTTP/1.1\r\n\r\n".into(), 400, "linearizable"),
            ("GET /nacos/v1/cs/configs?dataId=a&group=G&export=true HTTP/1.1\r\n\r\n".into(), 501, "not served"),
            ("GET /nothing HTTP/1.1\r\n\r\n".into(), 404, "Nacos is served below /nacos"),
            (format!("POST /nacos/v1/cs/configs HTTP/1.1\r\nContent-Length: {}\r\n\r\n{big}", big.len()), 413, "over"),
            (
                format!(
                    "POST /nacos/v1/cs/configs HTTP/1.1\r\nContent-Length: {}\r\n\r\ndataId=a&group=G&content={}",
                    26 + (11 << 20) - 1,
                    &big[..11 << 20]
                ),
                400,
                "invalid content, over 10485760",
            ),
        ];
        for (request, status, expected) in cases {
            let mut http = Http::connect(port).unwrap();
            let request = request.replacen("HTTP/1.1\r\n", "HTTP/1.1\r\nHost: x\r\n", 1);
            // A server may answer before it has read everything.
            drop(http.send(request.as_bytes()));
            let answer = http.answer(false).unwrap();
            let shown = &request[..request.len().min(90)];
            assert_eq!(answer.status, status, "{shown}: {}", answer.text());
            assert!(answer.text().contains(expected), "{shown}: {}", answer.text());
        }
        let mut http = Http::connect(port).unwrap();
        http.send(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", &big[..1 << 20]).as_bytes()).unwrap_or_default();
        assert!(http.answer(false).is_ok_and(|it| it.status == 431), "too long a head");
        let mut half = Http::connect(port).unwrap();
        half.send(b"POST /nacos/v1/cs/configs HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\ndataId=a&gro").unwrap();
        drop(half);
        assert_eq!(Http::connect(port).unwrap().query("a").unwrap(), None, "nothing was written by halves");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_the_query_and_requests_in_pieces() {
    with_server(|port| {
        // As the old Python client does: the content in the query, no body.
        let content = "k%3A+1%0A".repeat(5_000);
        let target = format!("/nacos/v1/cs/configs?tenant=&dataId=q&group=G&content={content}");
        let mut http = Http::connect(port).unwrap();
        let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(http.exchange(request.as_bytes()).unwrap(), (200, b"true".to_vec()));
        assert_eq!(http.query("q").unwrap().unwrap(), "k: 1\n".repeat(5_000));
        let body = "dataId=p&group=G&content=pieces";
        let request = format!(
            "POST /nacos/v1/cs/configs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded; \
             charset=utf8\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        for piece in request.as_bytes().chunks(7) {
            http.send(piece).unwrap();
            thread::sleep(Duration::from_micros(300));
        }
        assert_eq!(http.answer(false).unwrap().text(), "true");
        assert_eq!(http.query("p").unwrap().as_deref(), Some("pieces"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_name_their_revision_and_reads_may_ask_for_one() {
    with_server(|port| {
        let mut http = Http::connect(port).unwrap();
        let revision = |answer: &process::Answer| answer.header("coracle-revision").unwrap().parse::<u64>().unwrap();
        let publish =
            "POST /nacos/v1/cs/configs?dataId=a&group=G&content=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        let written = revision(&http.request(publish.as_bytes()).unwrap());
        let read =
            |target: &str| format!("GET /nacos/v1/cs/configs?dataId=a&group=G{target} HTTP/1.1\r\nHost: x\r\n\r\n");
        for target in ["", "&consistency=linearizable", &format!("&minRevision={written}")] {
            let answer = http.request(read(target).as_bytes()).unwrap();
            assert_eq!((answer.status, &*answer.text()), (200, "1"), "{target}");
            assert!(revision(&answer) >= written);
        }
        let search = "&search=accurate&pageNo=1&pageSize=5";
        let poll = "POST /nacos/v1/cs/configs/listener?Listening-Configs=a%02G%02%01 HTTP/1.1\r\nHost: x\r\n\
                    Long-Pulling-Timeout: 30000\r\nContent-Length: 0\r\n\r\n";
        let namespaces = "GET /nacos/v1/console/namespaces HTTP/1.1\r\nHost: x\r\n\r\n";
        for request in [&*read(search), &*read("&dataId=none"), poll, namespaces] {
            assert!(revision(&http.request(request.as_bytes()).unwrap()) >= written, "{request}");
        }
        let answer = http.request(read(&format!("&minRevision={}", written + 1000)).as_bytes()).unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().contains("has not reached this node"), "{}", answer.text());
    })
    .await;
}

/// A poll of `a` by somebody who has nothing, as it goes over the wire.
fn poll_of_a(version: &str, headers: &str) -> String {
    let body = "Listening-Configs=a%02G%02%01";
    format!(
        "POST /nacos/v1/cs/configs/listener {version}\r\nHost: x\r\nLong-Pulling-Timeout: 30000\r\n{headers}\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_behind_a_poll_are_answered_after_it() {
    with_server(|port| {
        let mut other = Http::connect(port).unwrap();
        other.publish("b", &"b".repeat(4 << 20)).unwrap();
        let get_b = "GET /nacos/v1/cs/configs?dataId=b&group=G HTTP/1.1\r\nHost: x\r\n\r\n";
        let poll = poll_of_a("HTTP/1.1", "Connection: Keep-Alive\r\n");
        let mut http = Http::connect(port).unwrap();
        // Before the poll, with it and while it waits.
        http.send(format!("{get_b}{poll}{get_b}").as_bytes()).unwrap();
        let first = http.answer(false).unwrap();
        assert_eq!((first.status, first.body.len()), (200, 4 << 20), "what came before a poll is sent to its end");
        wait_for_watchers(port, 1);
        http.send(get_b.as_bytes()).unwrap();
        other.publish("a", "1").unwrap();
        let told = http.answer(false).unwrap();
        assert_eq!((told.status, &*told.text()), (200, "a%02G%01\n"));
        for (name, expected) in [
            ("content-type", "application/json;charset=UTF-8"),
            ("cache-control", "no-cache,no-store"),
            ("pragma", "no-cache"),
            ("content-length", "9"),
        ] {
            assert_eq!(told.header(name), Some(expected), "{name}");
        }
        let date = |answer: &process::Answer| httpdate::parse_http_date(answer.header("date").unwrap()).unwrap();
        assert!(date(&told).duration_since(date(&first)).unwrap() < Duration::from_secs(60));
        assert!(told.header("coracle-revision").is_some() && told.header("connection").is_none());
        for _ in 0..2 {
            let answer = http.answer(false).unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 4 << 20));
        }
        // The connection is as good as new: it waits and is told again.
        for _ in 0..3 {
            http.exchange(b"DELETE /nacos/v1/cs/configs?dataId=a&group=G HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            http.send(poll.as_bytes()).unwrap();
            wait_for_watchers(port, 1);
            other.publish("a", "1").unwrap();
            assert_eq!(http.answer(false).unwrap().text(), "a%02G%01\n");
        }
        http.exchange(b"DELETE /nacos/v1/cs/configs?dataId=a&group=G HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        http.send(poll.as_bytes()).unwrap();
        wait_for_watchers(port, 1);
        drop(http);
        wait_for_watchers(port, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_behind_an_answered_one_is_kept() {
    with_server(|port| {
        Http::connect(port).unwrap().publish("a", "1").unwrap();
        let get = "GET /nacos/v1/cs/configs?dataId=a&group=G HTTP/1.1\r\nHost: x\r\n\r\n";
        for cut in [1, 10, get.len() - 1] {
            let mut http = Http::connect(port).unwrap();
            http.send(format!("{get}{}", &get[..cut]).as_bytes()).unwrap();
            assert_eq!(http.answer(false).unwrap().text(), "1");
            http.send(format!("{}{get}", &get[cut..]).as_bytes()).unwrap();
            for _ in 0..2 {
                assert_eq!(http.answer(false).unwrap().text(), "1", "cut at {cut}");
            }
            assert_eq!(http.query("a").unwrap().as_deref(), Some("1"));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_ends_its_connection_is_answered_and_ends_it() {
    with_server(|port| {
        let mut other = Http::connect(port).unwrap();
        for (version, headers, closes) in [
            ("HTTP/1.1", "Connection: close\r\n", true),
            ("HTTP/1.0", "", true),
            ("HTTP/1.0", "Connection: keep-alive\r\n", false),
            ("HTTP/1.1", "Connection: keep-alive, x\r\n", false),
        ] {
            other.exchange(b"DELETE /nacos/v1/cs/configs?dataId=a&group=G HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut http = Http::connect(port).unwrap();
            http.send(poll_of_a(version, headers).as_bytes()).unwrap();
            wait_for_watchers(port, 1);
            other.publish("a", "1").unwrap();
            assert_eq!(http.answer(false).unwrap().text(), "a%02G%01\n", "{version} {headers}");
            let ended = http.query("a").is_err_and(|it| it.kind() != std::io::ErrorKind::WouldBlock);
            assert_eq!(ended, closes, "{version} {headers}");
        }
    })
    .await;
}

/// The HTTP library's buffers alone are 16 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_waits_takes_little_memory() {
    const POLLS: usize = 1_000;
    const KIB_MAX: usize = 12;
    rlimit::increase_nofile_limit(4_096).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = process::Server::start(env!("CARGO_BIN_EXE_coracle"), &data, process::free_port(), &["--standalone"]);
    let port = server.port;
    let resident_kib = || -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // All are there before the first one waits, as after a restart of all clients.
    let wait = |count: usize| -> Vec<Http> {
        let ask = |_| {
            let mut http = Http::connect(port).unwrap();
            assert_eq!(http.query("a").unwrap(), None);
            http
        };
        let mut all: Vec<Http> = (0..count).map(ask).collect();
        all.iter_mut().for_each(|http| http.send(poll_of_a("HTTP/1.1", "").as_bytes()).unwrap());
        all
    };
    let first = wait(100);
    wait_for_watchers(port, 100);
    let before = resident_kib();
    let rest = wait(POLLS);
    wait_for_watchers(port, 100 + POLLS as u64);
    let each = resident_kib().saturating_sub(before) as f64 / POLLS as f64;
    assert!(each < KIB_MAX as f64, "{each:.1} KiB for each poll");
    drop((first, rest));
    wait_for_watchers(port, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_names_the_revision_that_wrote_it_and_the_status_tells_states_apart() {
    with_server(|port| {
        let mut http = Http::connect(port).unwrap();
        let status = |http: &mut Http| -> serde_json::Value {
            serde_json::from_slice(&http.get("/coracle/v1/status").unwrap().1).unwrap()
        };
        let revision = |answer: &process::Answer, name: &str| -> u64 { answer.header(name).unwrap().parse().unwrap() };
        let empty = status(&mut http);
        http.publish("a", "1").unwrap();
        let one = status(&mut http);
        http.publish("b", "2").unwrap();
        let two = status(&mut http);
        let query = b"GET /nacos/v1/cs/configs?dataId=a&group=G HTTP/1.1\r\nHost: test\r\n\r\n";
        let answer = http.request(query).unwrap();
        assert_eq!(revision(&answer, "coracle-content-revision"), one["applied"].as_u64().unwrap());
        assert_eq!(revision(&answer, "coracle-revision"), two["applied"].as_u64().unwrap());
        assert_eq!([&empty, &one, &two].map(|it| it["rows"].as_u64().unwrap()), [0, 1, 2]);
        let hashes = [&empty, &one, &two].map(|it| it["stateHash"].as_str().unwrap().to_owned());
        assert!(
            hashes.iter().all(|it| it.len() == 32) && hashes[0] != hashes[1] && hashes[1] != hashes[2],
            "{hashes:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_answers_the_polls_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Options::standalone(dir.path())).await.unwrap();
    let port = server.http_address().port();
    let (waits, waiting) = tokio::sync::oneshot::channel();
    let poll = tokio::task::spawn_blocking(move || {
        let mut http = Http::connect(port).unwrap();
        http.send(poll_of_a("HTTP/1.1", "").as_bytes()).unwrap();
        wait_for_watchers(port, 1);
        waits.send(()).unwrap();
        let answer = http.answer(false).unwrap();
        (answer.status, answer.text(), answer.header("connection").map(str::to_owned), http.answer(false).is_err())
    });
    waiting.await.unwrap();
    let stopping = Instant::now();
    server.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(2), "stopped after {:?}", stopping.elapsed());
    assert_eq!(poll.await.unwrap(), (200, String::new(), Some("close".to_owned()), true));
}

/// The ids of what a search for this pattern finds, by data id.
fn ids(http: &mut Http, pattern: &str) -> Vec<(String, String)> {
    let target = format!("/nacos/v1/cs/configs?search=blur&dataId={pattern}&group=&pageNo=1&pageSize=100");
    let (status, body) = http.get(&target).unwrap();
    assert_eq!(status, 200);
    let page: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let text = |item: &serde_json::Value, name: &str| item[name].as_str().unwrap().to_owned();
    page["pageItems"].as_array().unwrap().iter().map(|it| (text(it, "dataId"), text(it, "id"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_anew_is_not_removed_by_the_id_that_it_had() {
    with_server(|port| {
        let mut http = Http::connect(port).unwrap();
        ["a", "b", "c"].iter().for_each(|name| drop(http.publish(name, "1").unwrap()));
        let found = ids(&mut http, "*");
        let all: Vec<&str> = found.iter().map(|(_, id)| id.as_str()).collect();
        let delete = |http: &mut Http, target: &str| {
            let request = format!("DELETE /nacos/v1/cs/configs?{target} HTTP/1.1\r\nHost: x\r\n\r\n");
            http.request(request.as_bytes()).unwrap()
        };
        delete(&mut http, "dataId=b&group=G");
        http.publish("b", "2").unwrap();
        let answer = delete(&mut http, &format!("delType=ids&ids={}", all.join(",")));
        assert_eq!((answer.status, answer.text().contains("\"data\":true")), (200, true), "{}", answer.text());
        let left: Vec<String> = ids(&mut http, "*").into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["b"]);
        let many = (0..10_001).map(|it| it.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(delete(&mut http, &format!("delType=ids&ids={many}")).status, 400);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused_by_name() {
    with_server(|port| {
        let mut http = Http::connect(port).unwrap();
        let publish = |field: &str, chars: usize| format!("dataId=a&group=G&content=x&{field}={}", "k".repeat(chars));
        for (path, body, expected) in [
            ("cs/configs", publish("encryptedDataKey", 4_097), "encryptedDataKey"),
            ("cs/configs", publish("src_user", 129), "src_user"),
            (
                "console/namespaces",
                format!("customNamespaceId=n&namespaceName=n&namespaceDesc={}", "d".repeat(257)),
                "namespaceDesc",
            ),
        ] {
            let (status, said) = http.post(&format!("/nacos/v1/{path}"), "", &body).unwrap();
            let said = String::from_utf8(said).unwrap();
            assert!(status == 400 && said.contains(expected), "{status} {said}");
        }
        let pattern = "*".repeat(259);
        let search = format!("/nacos/v1/cs/configs?search=blur&dataId={pattern}&group=&pageNo=1&pageSize=1");
        let (status, said) = http.get(&search).unwrap();
        assert_eq!((status, String::from_utf8(said).unwrap().contains("dataId")), (400, true));
        // An address is none when it is longer than any: the client's own counts.
        let headers = format!("X-Forwarded-For: {}\r\n", "1".repeat(65));
        assert_eq!(http.post("/nacos/v1/cs/configs", &headers, &publish("appName", 128)).unwrap().0, 200);
        let (_, catalog) = http.get("/nacos/v1/cs/configs/catalog?dataId=a&group=G").unwrap();
        assert!(String::from_utf8(catalog).unwrap().contains("\"createIp\":\"127.0.0.1\""));
    })
    .await;
}
