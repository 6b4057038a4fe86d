//! Requests of Nacos over HTTP, up to eight on one state, as text: `METHOD target`, headers, an empty line, the body; `---`
//! stands between two. Whatever they are: every one is answered, a client's mistake with 4xx; a refused one changes
//! nothing; nothing illegal is stored; every answer that names a revision names one that is there.
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, Uri, header},
};
use coracle::storage::StateStore;

use super::app::{App, block_on};

pub const WORDS: &[&str] = &[
    "GET /nacos/v1/cs/configs?dataId=a&group=g",
    "POST /nacos/v1/cs/configs?dataId=a&group=g&content=x",
    "DELETE /nacos/v1/cs/configs?dataId=a&group=g",
    "POST /nacos/v1/cs/configs/listener?Listening-Configs=a%02g%02%01",
    "&search=blur&pageNo=1&pageSize=10",
    "&search=accurate&pageNo=1&pageSize=10",
    "18446744073709551615",
    "&tenant=",
    "&tag=t",
    "&show=all",
    "&beta=true",
    "&delType=ids&ids=1,2",
    "&casMd5=",
    "&appName=",
    "&config_tags=",
    "&minRevision=1",
    "&consistency=linearizable",
    "/nacos/v1/console/namespaces",
    "customNamespaceId=",
    "namespaceName=",
    "\n---\n",
    "Long-Pulling-Timeout: 30000",
    "Content-Type: multipart/form-data; boundary=x",
    "--x\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\n",
    "betaIps: 1.2.3.4",
    "Vipserver-Tag: t",
    "casMd5: ",
    "X-Forwarded-For: 1.2.3.4",
];
const REQUESTS_MAX: usize = 8;

pub fn run(input: &[u8]) {
    let mut app = App::new();
    for text in split(input, b"\n---\n").into_iter().take(REQUESTS_MAX) {
        let Some(request) = request(text) else { continue };
        let shown = format!("{} {}", request.method(), request.uri());
        let (asks_for_newer, method) = (asks_for_newer(&request), request.method().clone());
        let before = app.state.witness();
        let (status, headers, body) = block_on(app.call(request));
        let text = String::from_utf8_lossy(&body);
        let expected = match status.as_u16() {
            200..=499 => true,
            500 => text.contains("Cas publish fail"),
            501 => text.contains("not served"),
            503 => asks_for_newer,
            _ => false,
        };
        assert!(expected, "{shown}: {status} {text}");
        if let Some(revision) = headers.get("coracle-revision") {
            assert!(revision.to_str().unwrap().parse::<u64>().unwrap() <= app.revision(), "{shown}: {revision:?}");
        }
        if app.state.witness() != before {
            let writes = [Method::POST, Method::PUT, Method::DELETE].contains(&method);
            assert!(writes && status.is_success(), "{shown}: {status}, but the state changed");
        }
    }
    app.check();
}

/// Whether it says how new the answer must be, which may be newer than all there is. The name may be encoded.
fn asks_for_newer(request: &Request<Body>) -> bool {
    let all = format!("{:?}{:?}", request.uri(), request.headers()).to_ascii_lowercase();
    all.contains("revision") || all.contains('%') || request.headers().contains_key(header::CONTENT_LENGTH)
}

pub fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(separator.len()).position(|it| it == separator) {
        parts.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    parts.push(rest);
    parts
}

/// What a server's HTTP library would make of it; `None` when it would refuse it itself.
fn request(text: &[u8]) -> Option<Request<Body>> {
    let (head, body) = match text.windows(2).position(|it| it == b"\n\n") {
        Some(at) => (&text[..at], &text[at + 2..]),
        None => (text, &[][..]),
    };
    let mut lines = head.split(|it| *it == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|it| *it == b' ')?;
    let method = Method::from_bytes(&first[..space]).ok()?;
    let target = Uri::try_from(&first[space + 1..]).ok()?;
    let mut request = Request::new(Body::from(body.to_vec()));
    (*request.method_mut(), *request.uri_mut()) = (method, target);
    for line in lines {
        let colon = line.iter().position(|it| *it == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    if !body.is_empty() {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    Some(request)
}
