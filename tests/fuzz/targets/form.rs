//! Parameters as clients encode them: in the query, in a form, in a multipart body, in the query with a form beside it.
//!
//! A publish whose values are legal is taken and stores exactly these; one that is not is refused and stores nothing.
//! The first byte says how to encode; the values follow, with zeros between them.
use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use coracle::{
    state_machine::StateReader,
    types::{ConfigKey, Variant},
};

use super::app::{App, CONTENT_BYTES_MAX, block_on};

pub const WORDS: &[&str] = &["\0", "\r\n", "--edge", "--edge--", "&", "=", "%", "+", "配", "\u{1f600}"];
const BOUNDARY: &str = "edge";

#[derive(Clone, Copy)]
struct Style(u8);

impl Style {
    fn place(self) -> u8 {
        self.0 & 3
    }

    /// Bytes of a value, encoded as this style has it.
    fn escape(self, text: &str) -> String {
        let mut out = String::new();
        for byte in text.bytes() {
            let plain = byte.is_ascii_alphanumeric() || (self.0 & 16 != 0 && b"-._~!*'()/:@,;$".contains(&byte));
            match byte {
                b' ' if self.0 & 4 != 0 => out.push('+'),
                _ if plain && self.0 & 32 == 0 => out.push(char::from(byte)),
                _ if self.0 & 8 != 0 => out += &format!("%{byte:02x}"),
                _ => out += &format!("%{byte:02X}"),
            }
        }
        out
    }
}

pub fn run(input: &[u8]) {
    let Some((style, rest)) = input.split_first() else { return };
    let style = Style(*style);
    let text = String::from_utf8_lossy(rest);
    let mut values = text.split('\0');
    let mut value = || values.next();
    let (content, description, usage) = (value().unwrap_or_default(), value(), value());
    if [Some(content), description, usage].iter().flatten().any(|it| it.contains(BOUNDARY)) && style.place() == 2 {
        return;
    }
    let pairs: Vec<(&str, &str)> = [("dataId", Some("a.b")), ("group", Some("g")), ("content", Some(content))]
        .into_iter()
        .chain([("desc", description), ("use", usage)])
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let too_long = |it: Option<&str>, max| it.is_some_and(|it| it.chars().count() > max);
    let legal = !content.trim().is_empty()
        && content.len() <= CONTENT_BYTES_MAX
        && !too_long(description, 128)
        && !too_long(usage, 32);
    let Some(request) = request(style, &pairs) else { return };
    let mut app = App::new();
    let (status, _, body) = block_on(app.call(request));
    let key = ConfigKey::parse("public/g/a.b").unwrap();
    let record = app.state.record(&key, &Variant::Formal).unwrap();
    if !legal {
        assert!(status.is_client_error(), "{status} {body:?}");
        assert!(record.is_none() && app.revision() == 0);
        return;
    }
    assert_eq!((status, &*body), (StatusCode::OK, &b"true"[..]));
    let record = record.expect("it was published");
    assert_eq!(record.content.text(), content);
    assert_eq!((record.attributes.description.as_deref(), record.attributes.usage.as_deref()), (description, usage));
    let (status, body) = block_on(app.get("/nacos/v1/cs/configs?dataId=a.b&group=g"));
    assert_eq!((status, &*body), (StatusCode::OK, content.as_bytes()));
    app.check();
}

/// `None`: the query is longer than any client would have it go.
fn request(style: Style, pairs: &[(&str, &str)]) -> Option<Request<Body>> {
    let form = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", style.escape(value)));
        pairs.collect::<Vec<_>>().join("&")
    };
    let at = "/nacos/v1/cs/configs";
    let urlencoded = "application/x-www-form-urlencoded";
    let (target, kind, body) = match style.place() {
        0 => (format!("{at}?{}", form(pairs)), "", String::new()),
        1 => (at.into(), urlencoded, form(pairs)),
        2 => (at.into(), "multipart/form-data; boundary=edge", multipart(pairs)),
        _ => (format!("{at}?{}", form(&pairs[..2])), urlencoded, form(&pairs[2..])),
    };
    let request = Request::post(target).header("content-length", body.len());
    let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
    request.body(Body::from(body)).ok()
}

fn multipart(pairs: &[(&str, &str)]) -> String {
    let part = |(name, value): &(&str, &str)| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    pairs.iter().map(part).collect::<String>() + "--" + BOUNDARY + "--\r\n"
}
