//! Coracle, a configuration centre: every publish is an entry of a replicated log, applied on every node, and pushed to
//! whoever listens there.
//!
//! Modules, in reading order from the bottom up; an arrow may only point down (checked by `tests/tidy.rs`):
//!
//! ```text
//! server  cli  client  settings    composition, command line
//! nacos                            the dialect: translate, nothing else
//! service                          use cases in domain words
//! raft                             openraft adapters (implements Replicator)
//! replication                      the seam: Replicator, Applier, Standalone
//! storage   watch                  bytes on disk;  who wants to hear about which key
//! state_machine                    (state, entry) → effects; pure
//! types  clock  metrics  net  planted   words, and the doors to the world
//! ```
pub mod types;

pub mod clock;
pub mod metrics;
pub mod net;
mod planted;

pub mod state_machine;

pub mod storage;
pub mod watch;

pub mod replication;

pub mod raft;

pub mod service;

mod admin;
pub mod nacos;

pub mod cli;
pub mod client;
pub mod server;
pub mod settings;
