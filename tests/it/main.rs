//! Tests of the parts together, from the state machine to a cluster of nodes in one process.
#![allow(clippy::unwrap_used)]

mod cluster;
mod conformance;
mod half_a_snapshot;
mod harness;
mod late_answers;
mod openraft_suite;
mod order;
mod slow_link;
mod state_machine;
