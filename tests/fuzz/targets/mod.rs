//! What reads bytes that others wrote, one function each. Run by `cargo test --test fuzz_corpus` over the corpus and what a
//! seeded mutator makes of it, and by libFuzzer (`fuzz/run`), which includes this file.
//!
//! A target takes any bytes. It panics when a property does not hold; what the properties are is said above each.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod app;
mod form;
mod grpc;
mod http;
mod listen;
mod log;
mod names;
mod peer;
mod rows;
mod scratch;
mod settings;
mod snapshot;

/// A reader of foreign bytes.
pub struct Target {
    /// The name of its corpus.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Words of its language; libFuzzer has them from a file.
    #[allow(dead_code)]
    pub words: &'static [&'static str],
    /// Inputs that a debug build on one of two busy cores gets through in a second: with them a run of some seconds has the
    /// same inputs on every machine, and what one has passed another one does not fail. libFuzzer has a time instead.
    #[allow(dead_code)]
    pub rate: u32,
    /// What one input may allocate in all, in bytes: so much, and so much for each byte of it. Checked by `fuzz/run`.
    #[allow(dead_code)]
    pub allocates: (usize, usize),
}

pub const TARGETS: &[Target] = &[
    Target { name: "listen_body", run: listen::run, words: listen::WORDS, rate: 35_000, allocates: (16 << 10, 400) },
    Target { name: "names", run: names::run, words: names::WORDS, rate: 50_000, allocates: (64 << 10, 100) },
    Target { name: "form", run: form::run, words: form::WORDS, rate: 2_000, allocates: (512 << 10, 400) },
    Target { name: "http_request", run: http::run, words: http::WORDS, rate: 1_800, allocates: (2 << 20, 2_000) },
    Target { name: "grpc_payload", run: grpc::run, words: grpc::WORDS, rate: 900, allocates: (2 << 20, 2_000) },
    Target { name: "log_segment", run: log::run, words: &[], rate: 1_200, allocates: (8 << 20, 200) },
    // One that is installed is a database that is opened.
    Target { name: "snapshot", run: snapshot::run, words: snapshot::WORDS, rate: 20_000, allocates: (16 << 20, 200) },
    Target { name: "stored_rows", run: rows::run, words: snapshot::WORDS, rate: 20_000, allocates: (1 << 20, 200) },
    Target { name: "peer_message", run: peer::run, words: &[], rate: 100_000, allocates: (64 << 10, 2_000) },
    Target {
        name: "settings",
        run: settings::run,
        words: settings::WORDS,
        rate: 10_000,
        allocates: (256 << 10, 1_000),
    },
];

pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|it| it.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
}
