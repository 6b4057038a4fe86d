//! Names, units and handles of all metrics, in one table.
use std::sync::Arc;

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The handles. Cheap to clone; counted where things happen, never per key or client.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

impl std::ops::Deref for Metrics {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident : $kind:ident = $name:literal;)+) => {
        /// What is counted and measured.
        pub struct Inner {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl Metrics {
            /// All metrics, at zero.
            pub fn new() -> Self {
                let mut registry = Registry::default();
                $(let $field = new::$kind(); registry.register($name, concat!($($help),+).trim().trim_end_matches('.'), $field.clone());)+
                Self(Arc::new(Inner { registry, $($field),+ }))
            }
        }
    };
}

/// Constructors by the name of the type.
#[allow(non_snake_case)]
mod new {
    use super::{Counter, Gauge, Histogram, exponential_buckets};

    pub(super) fn Counter() -> Counter {
        Counter::default()
    }
    pub(super) fn Gauge() -> Gauge {
        Gauge::default()
    }
    /// For seconds: 50 µs to 26 s, doubling.
    pub(super) fn Histogram() -> Histogram {
        Histogram::new(exponential_buckets(50e-6, 2.0, 20))
    }
}

metrics! {
    /// Writes that were applied.
    writes_applied: Counter = "coracle_config_writes_applied";
    /// Writes that were refused by a precondition or a limit.
    writes_rejected: Counter = "coracle_config_writes_rejected";
    /// Writes that failed with nothing written.
    writes_unavailable: Counter = "coracle_config_writes_unavailable";
    /// Writes whose outcome was reported as unknown.
    writes_unknown: Counter = "coracle_config_writes_unknown";
    /// Seconds from the acceptance of a write to its answer.
    publish_seconds: Histogram = "coracle_publish_seconds";
    /// Reads of a configuration.
    reads: Counter = "coracle_config_reads";
    /// Long polls that were answered because something changed.
    pushes: Counter = "coracle_push";
    /// Watchers that are registered now.
    watchers: Gauge = "coracle_listeners";
    /// Keys that somebody watches now.
    watched_keys: Gauge = "coracle_watched_keys";
    /// Configurations that are stored.
    configs: Gauge = "coracle_configs";
    /// The applied revision of this node.
    applied_revision: Gauge = "coracle_server_applied_revision";
    /// Whether this node knows a leader.
    has_leader: Gauge = "coracle_server_has_leader";
    /// Whether this node is the leader.
    is_leader: Gauge = "coracle_server_is_leader";
    /// Changes of the leader that this node has seen.
    leader_changes: Counter = "coracle_server_leader_changes_seen";
    /// Raft term of this node.
    raft_term: Gauge = "coracle_raft_term";
    /// Groups of entries that were applied.
    apply_groups: Counter = "coracle_apply_groups";
    /// Entries that were applied.
    apply_entries: Counter = "coracle_server_proposals_applied";
    /// Seconds to apply one group of entries.
    apply_seconds: Histogram = "coracle_apply_seconds";
    /// Seconds of one flush of the log to disk.
    log_fsync_seconds: Histogram = "coracle_disk_wal_fsync_duration_seconds";
    /// Bytes appended to the log.
    log_bytes: Counter = "coracle_log_appended_bytes";
    /// Proposals forwarded to the leader.
    forwarded: Counter = "coracle_proposals_forwarded";
    /// Messages that carried forwarded proposals.
    forward_batches: Counter = "coracle_forward_batches";
    /// Snapshots that were written.
    snapshots: Counter = "coracle_snapshots_written";
    /// Seconds to write one snapshot.
    snapshot_seconds: Histogram = "coracle_snapshot_seconds";
    /// Times that the state was rebuilt from snapshot and log because it was lost or damaged.
    state_rebuilds: Counter = "coracle_state_rebuilds";
    /// Whether the state is not being written because the disk stands still, or sled does.
    state_writer_stalled: Gauge = "coracle_state_writer_stalled";
}

impl Metrics {
    /// The Prometheus text format (OpenMetrics 1.0).
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Formatting into a String cannot fail; an encoder that reports failure leaves what it wrote so far.
        match encode(&mut out, &self.0.registry) {
            Ok(()) => out,
            Err(std::fmt::Error) => out,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
