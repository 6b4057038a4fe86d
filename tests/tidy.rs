//! Rules about the source itself, run by `cargo test`.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

/// Every module and what it may import from the crate, from the bottom up.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("clock", &["types"]),
    ("metrics", &[]),
    ("net", &[]),
    ("planted", &[]),
    ("state_machine", &["types", "planted"]),
    ("storage", &["types", "state_machine", "metrics", "planted"]),
    ("watch", &["types"]),
    ("replication", &["types", "state_machine", "storage", "watch", "metrics", "planted"]),
    ("raft", &["types", "net", "storage", "watch", "replication", "metrics", "planted"]),
    ("service", &["types", "clock", "state_machine", "replication", "watch", "metrics", "planted"]),
    ("admin", &["types", "service", "replication", "metrics"]),
    ("nacos", &["types", "service", "metrics"]),
    ("settings", &[]),
    ("client", &["types"]),
    ("cli", &["types", "client"]),
    (
        "server",
        &[
            "types",
            "clock",
            "metrics",
            "state_machine",
            "storage",
            "watch",
            "replication",
            "raft",
            "service",
            "admin",
            "nacos",
            "settings",
        ],
    ),
    ("main", &["cli", "server", "settings"]),
];
/// Foreign crates and the only places that may name them.
const CRATES: &[(&str, &[&str])] = &[
    ("openraft", &["src/raft/"]),
    ("sled", &["src/storage/"]),
    ("moka", &["src/storage/"]),
    ("axum", &["src/nacos/http/", "src/admin/", "src/server/"]),
    (
        "tonic",
        &["src/raft/", "src/storage/codec.rs", "src/nacos/grpc/", "src/nacos/wire/payload.rs", "src/server/grpc.rs"],
    ),
    ("prost", &["src/raft/", "src/storage/", "src/nacos/wire/payload.rs"]),
    ("serde", &["src/nacos/", "src/admin/", "src/settings/", "src/client/", "src/cli/", "src/server/"]),
    ("clap", &["src/cli/", "src/main.rs"]),
];
/// Words that may not occur below a path, and what to write instead.
const BANNED: &[(&str, &str, &str)] = &[
    ("src/state_machine/", "HashMap", "BTreeMap: replicas must iterate in one order"),
    ("src/watch/", "HashMap", "BTreeMap: a simulation must wake in one order"),
    ("src/", "dbg!(", "nothing: it is a leftover"),
    ("src/", "super::super::", "crate::, so that the layer check sees it"),
];
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn source_is_tidy() {
    let mut complaints = Vec::new();
    let mut visited = 0;
    visit(Path::new("src"), &mut |path, text| {
        visited += 1;
        check(path, text, &mut complaints);
    });
    assert!(visited >= LAYERS.len(), "the walk found only {visited} files");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn layers_point_downwards() {
    for (at, (name, allowed)) in LAYERS.iter().enumerate() {
        for lower in *allowed {
            assert!(LAYERS[..at].iter().any(|(it, _)| it == lower), "{name} may import {lower}, which is not below it");
        }
    }
}

#[test]
fn the_checks_can_fail() {
    let cases = [
        ("src/types/key.rs", "use crate::watch::Hub;", "types may not import watch"),
        ("src/watch/hub.rs", "use crate::{\n    service::{A, B},\n    types::C,\n};", "watch may not import service"),
        ("src/service/x.rs", "fn f() { crate::nacos::names::key() }", "service may not import nacos"),
        ("src/other/x.rs", "", "other is not in LAYERS"),
        ("src/watch/x.rs", "use std::collections::HashMap;", "HashMap is banned"),
        ("src/service/x.rs", "use openraft::Raft;", "may use openraft"),
        ("src/types/key.rs", "#[derive(serde::Serialize)]", "may use serde"),
        ("src/types/x.rs", &"\n".repeat(501), "501 lines"),
        ("src/types/x.rs", &format!("fn long() {{\n{}}}\n", "    f();\n".repeat(69)), "long() has 71 lines"),
    ];
    for (path, text, expected) in cases {
        let mut complaints = Vec::new();
        check(Path::new(path), text, &mut complaints);
        assert!(complaints.iter().any(|it| it.contains(expected)), "{path}: expected {expected:?}, got {complaints:?}");
    }
}

fn check(path: &Path, text: &str, complaints: &mut Vec<String>) {
    let shown = path.display();
    let module =
        path.components().nth(1).map(|it| it.as_os_str().to_string_lossy().replace(".rs", "")).unwrap_or_default();
    if module != "lib" {
        match LAYERS.iter().find(|(name, _)| *name == module) {
            None => complaints.push(format!("{shown}: {module} is not in LAYERS")),
            Some((_, allowed)) => {
                for import in imports(text) {
                    if import != module && !allowed.contains(&import.as_str()) {
                        complaints.push(format!("{shown}: {module} may not import {import}"));
                    }
                }
            }
        }
    }
    for (name, places) in CRATES {
        let named = text.lines().any(|line| mentions_crate(line, name));
        if named && !places.iter().any(|place| path.starts_with(place)) {
            complaints.push(format!("{shown}: only {places:?} may use {name}"));
        }
    }
    for (place, word, instead) in BANNED {
        if path.starts_with(place) && text.contains(word) {
            complaints.push(format!("{shown}: {word} is banned, use {instead}"));
        }
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        complaints.push(format!("{shown}: {lines} lines"));
    }
    for (name, length) in functions(text) {
        if length > FUNCTION_LINES_MAX {
            complaints.push(format!("{shown}: {name}() has {length} lines"));
        }
    }
}

fn mentions_crate(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    !line.starts_with("//") && (line.contains(&format!("{name}::")) || line.starts_with(&format!("use {name};")))
}

/// First path segments after `crate::`, both in `crate::a::b` and in `use crate::{a::b, c};`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(identifier(rest));
            continue;
        };
        let (mut depth, mut start_of_item) = (0, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start_of_item = true,
                c if start_of_item && depth == 0 && c.is_alphabetic() => {
                    found.push(identifier(&group[i..]));
                    start_of_item = false;
                }
                _ => (),
            }
        }
    }
    found.retain(|name| name.starts_with(char::is_lowercase));
    found
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Names and lengths of functions, by the indentation that rustfmt guarantees.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(at) = line.find("fn ").filter(|at| {
            line[indent..*at].split(' ').all(|it| ["", "pub", "async", "const"].contains(&it) || it.starts_with("pub("))
        }) else {
            continue;
        };
        // A declaration without a body ends where a body would begin.
        let end_of_signature = lines[i..].iter().find(|line| line.ends_with(';') || line.ends_with('{'));
        if end_of_signature.is_some_and(|line| line.ends_with(';')) {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[i..].iter().position(|it| **it == close) {
            found.push((identifier(&line[at + 3..]), length + 1));
        }
    }
    found
}

fn visit(dir: &Path, f: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, f);
        } else if path.extension().is_some_and(|it| it == "rs") {
            f(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}
