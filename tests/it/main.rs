//! Tests of the parts together, from the state machine to a cluster of nodes in one process.
#![allow(clippy::unwrap_used)]

mod cluster;
mod conformance;
mod harness;
mod hooked;
mod late_answers;
mod openraft_suite;
mod order;
mod slow_link;
mod snapshots;
mod state_machine;
mod unreachable;
