//! The body of a listen request.
//!
//! What is read, written in the same notation, is read again as the same; no field holds a separator; there are no more
//! lines than ends of lines. The second decoding agrees with a plain one of ours, and an answer decodes to its keys.
use coracle::{
    nacos::wire::listening::{Line, decode, decode_twice, encode_changed},
    types::{ConfigKey, NamespaceId},
};

pub const WORDS: &[&str] = &["\u{1}", "\u{2}", "%01", "%02", "%25", "%", "a\u{2}g\u{2}\u{1}", "public", "%+1", "%2B"];

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let twice = decode_twice(text);
    assert_eq!(twice, plain_decode(text), "{text:?}");
    for text in [text, &*twice] {
        check(text);
    }
}

fn check(text: &str) {
    let Ok(lines) = decode(text) else { return };
    assert!(lines.len() <= text.matches('\u{1}').count(), "{text:?}");
    let mut again = String::new();
    for line in &lines {
        let fields = [Some(line.data_id), Some(line.group), Some(line.md5), line.tenant];
        let fields: Vec<&str> = fields.into_iter().flatten().collect();
        assert!(fields.iter().all(|it| !it.contains(['\u{1}', '\u{2}'])), "{line:?}");
        again += &fields.join("\u{2}");
        again.push('\u{1}');
    }
    if !lines.is_empty() {
        assert_eq!(decode(&again).as_ref(), Ok(&lines), "{text:?}");
        assert!(text.starts_with(&again), "{text:?}");
    }
    answer(&lines);
}

/// The keys of an answer are those that changed, as an old client reads them.
fn answer(lines: &[Line<'_>]) {
    let key = |line: &Line<'_>| {
        let namespace = match line.tenant.unwrap_or_default() {
            "" => NamespaceId::public(),
            name => NamespaceId::parse(name).ok()?,
        };
        ConfigKey::new(&namespace, line.group, line.data_id).ok()
    };
    let keys: Vec<ConfigKey> = lines.iter().filter_map(key).collect();
    let answer = encode_changed(keys.iter().map(|it| (it.data_id(), it.group(), it.namespace())));
    assert!(answer.is_ascii() && answer.bytes().filter(|it| *it < b' ').eq((!keys.is_empty()).then_some(b'\n')));
    let decoded = plain_decode(answer.trim_end());
    let read: Vec<String> =
        decoded.split_terminator('\u{1}').map(|line| line.split('\u{2}').rev().collect::<Vec<_>>().join("/")).collect();
    assert_eq!(read, keys.iter().map(|it| it.as_str().to_owned()).collect::<Vec<_>>());
}

/// `%` and two hexadecimal digits are a byte, everything else is itself; the text as it was when that is no UTF-8.
fn plain_decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|it| char::from(*it).to_digit(16));
        rest = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                &after[2..]
            }
            (byte, _, _) => {
                out.push(*byte);
                after
            }
        };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
