//! Consensus by openraft: the adapters between it and our log, state, peers and proposals. The only place that names it.
mod contact;
mod convert;
mod forward;
#[doc(hidden)]
pub mod garbled;
mod leadership;
mod log_storage;
mod membership;
mod network;
mod peers;
mod presence;
mod read_index;
mod replicator;
mod runtime;
mod service;
mod state_machine;

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;

pub use log_storage::RaftLog;
pub use membership::adopt_standalone;
pub use peers::{ClusterId, Peers};
pub use replicator::{RaftReplicator, StartError};
pub use state_machine::RaftState;

use crate::{replication::SnapshotPolicy, types::Reply};

/// The generated messages of `proto/raft.proto`.
#[allow(missing_docs, clippy::doc_markdown, clippy::wildcard_enum_match_arm, unreachable_pub, unused_qualifications)]
pub(crate) mod wire {
    tonic::include_proto!("coracle.raft");
}

openraft::declare_raft_types!(
    /// The types that openraft is used with.
    pub TypeConfig:
        D = EncodedProposal,
        R = Reply,
        NodeId = u64,
        Node = MemberNode,
        AsyncRuntime = runtime::Runtime,
);

type Raft = openraft::Raft<TypeConfig, RaftState>;

/// A proposal as the log stores it. Decoded only when it is applied: the leader passes on what a follower encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedProposal(pub Bytes);

impl fmt::Debug for EncodedProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of {} bytes", self.0.len())
    }
}

impl fmt::Display for EncodedProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a member is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberNode {
    /// Where it talks to members, `host:port`.
    pub member_address: String,
}

/// How a node takes part. The defaults are for a local network: a new leader within about 1.2 s.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node's id: never 0, never used again for another disk.
    pub node: u64,
    /// How often a leader says that it is there. Also how long it waits for an answer to that, so it must exceed the
    /// worst round trip.
    pub heartbeat: Duration,
    /// A follower that has heard nothing for this long and a random part of the difference to `election_max` campaigns.
    pub election_min: Duration,
    /// See `election_min`. Also how long a leader is believed to be one.
    pub election_max: Duration,
    /// When to write snapshots.
    pub snapshots: SnapshotPolicy,
    /// Only a simulation has one: all chance is drawn from it, and nothing runs on another thread.
    pub seed: Option<u64>,
    /// Where clients find this node: members that send theirs away may name it. `None`: nowhere.
    pub http: Option<SocketAddr>,
}

impl Options {
    /// The defaults for a node of this id.
    pub fn new(node: u64) -> Self {
        Self {
            node,
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(600),
            snapshots: SnapshotPolicy::default(),
            seed: None,
            http: None,
        }
    }

    fn config(&self) -> openraft::Config {
        let millis = |it: Duration| it.as_millis() as u64;
        openraft::Config {
            cluster_name: "coracle".into(),
            heartbeat_interval: millis(self.heartbeat),
            heartbeat_min_interval: Some(millis(self.heartbeat) / 2),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            enable_pre_vote: Some(true),
            // At least two election timeouts (openraft #2080: a leader without quorum must not renew leases for ever).
            quorum_loss_probe_interval: Some(2 * millis(self.election_max)),
            install_snapshot_timeout: 60_000,
            max_payload_entries: 512,
            max_append_entries: Some(4096),
            api_batch_capacity: 4096,
            api_batch_linger_ms: 0,
            // Replicate before the local flush: nothing is acknowledged before a majority has flushed.
            broadcast_submitted_on_append: Some(true),
            // Therefore a leader that restarts may have lost entries of its term that others have; as leader of that term
            // it would write other ones in their place. It must be elected anew.
            enable_leader_restore: Some(false),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshots.entries),
            max_in_snapshot_log_to_keep: self.snapshots.entries_kept,
            // In steps, but no larger than what is kept: else a short log is never purged.
            purge_batch_size: self.snapshots.entries_kept.clamp(1, 1_000),
            replication_lag_threshold: 5_000,
            removed_leader_step_down: openraft::StepDownPolicy::After(400),
            allow_log_reversion: None,
            ..openraft::Config::default()
        }
    }
}
