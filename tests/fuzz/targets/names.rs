//! Names, keys, patterns and digests: three lines of text, each taken for everything.
//!
//! What is a name obeys its rule, and its text is read again as the same. A pattern matches what a slow matcher matches.
use std::sync::Arc;

use coracle::{
    nacos::wire::messages::{group_key, parse_group_key},
    types::{ConfigKey, Content, ContentType, Digest, KeyPattern, NamespaceId, Tag, limits},
};

pub const WORDS: &[&str] =
    &["public", ">>", "*", "+", "/", "public>>*>>*", "public/g/a", "a+g+public", "..", "%2e", "\n", "yaml"];

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (first, second, third) = (line(), line(), line());
    let namespace = NamespaceId::parse(first);
    if let Ok(namespace) = &namespace {
        legal(namespace.as_str(), first, limits::NAMESPACE_BYTES_MAX, "_-");
    }
    let namespace = namespace.unwrap_or_else(|_| NamespaceId::public());
    let key = ConfigKey::new(&namespace, second, third);
    if let Ok(key) = &key {
        assert_eq!((key.namespace(), key.group(), key.data_id()), (namespace.as_str(), second, third));
        legal(key.group(), second, limits::GROUP_BYTES_MAX, "_-.:");
        legal(key.data_id(), third, limits::DATA_ID_BYTES_MAX, "_-.:");
        same_everywhere(key);
    }
    if let Ok(tag) = Tag::parse(first) {
        legal(tag.as_str(), first, limits::TAG_BYTES_MAX, "_-.:");
    }
    for text in [first, third] {
        if let Ok(key) = ConfigKey::parse(text) {
            assert_eq!(key.as_str(), text);
            same_everywhere(&key);
        }
        if let Some(key) = parse_group_key(text) {
            same_everywhere(&key);
        }
        digest(text);
    }
    pattern(first, key.as_ref().ok());
    pattern(first, ConfigKey::parse(third).ok().as_ref());
}

fn legal(name: &str, sent: &str, max: usize, also: &str) {
    assert_eq!(name, sent);
    assert!(!name.is_empty() && name.len() <= max, "{name:?}");
    assert!(name.chars().all(|it| it.is_ascii_alphanumeric() || also.contains(it)), "{name:?}");
}

fn same_everywhere(key: &ConfigKey) {
    assert_eq!(ConfigKey::parse(key.as_str()).as_ref(), Ok(key));
    assert_eq!(parse_group_key(&group_key(key)).as_ref(), Some(key));
}

fn digest(text: &str) {
    if let Some(digest) = Digest::from_hex(text) {
        assert_eq!(digest.to_hex(), text);
    }
    let content = Content::new(text);
    let restored = Content::restore(content.bytes(), content.digest()).expect("it is UTF-8");
    assert_eq!((restored.text(), Digest::from_hex(&content.digest().to_hex())), (text, Some(content.digest())));
    assert!(text == ContentType::parse(text).as_str() || ContentType::parse(text) == ContentType::Text);
}

fn pattern(text: &str, key: Option<&ConfigKey>) {
    let Ok(pattern) = KeyPattern::parse(text) else {
        return;
    };
    let parts: Vec<&str> = text.split(">>").collect();
    assert!(parts.len() == 3 && text.len() < 500, "{text:?}");
    let Some(key) = key else { return };
    let namespace = if parts[0].trim().is_empty() { "public" } else { parts[0].trim() };
    let expected = namespace == key.namespace() && slow(parts[1], key.group()) && slow(parts[2], key.data_id());
    assert_eq!(pattern.matches(key), expected, "{text:?} {key}");
    let all: Arc<str> = format!("{}>>*>>*", key.namespace()).into();
    assert!(KeyPattern::parse(&all).unwrap().matches(key));
}

/// A star at an end stands for any text; one elsewhere for itself, which is in no name.
fn slow(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let (from, pattern) = pattern.strip_prefix('*').map_or((0..=0, pattern), |rest| (0..=name.len(), rest));
    let (open, part) = pattern.strip_suffix('*').map_or((false, pattern), |rest| (true, rest));
    from.into_iter()
        .any(|at| name.get(at..).is_some_and(|rest| if open { rest.starts_with(part) } else { rest == part }))
}
