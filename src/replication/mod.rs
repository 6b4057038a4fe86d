//! The seam between "what should happen" and "who agrees on the order".
mod applier;
pub mod standalone;

use std::{fmt, future::Future, pin::Pin};

pub use applier::{Applier, ApplyError};
pub use standalone::{SnapshotPolicy, Standalone, wait_applied};

use crate::{
    storage::Witness,
    types::{Consistency, LogId, Proposal, Reply, Revision},
};

/// A future behind a `dyn` trait.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Puts proposals in order and has them applied. Nothing above this trait knows whether there are other nodes.
pub trait Replicator: Send + Sync + 'static {
    /// Resolves once the proposal is durable on a majority, committed and applied on this node.
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Reply, ProposeError>>;

    /// Resolves with the applied revision once a local read is at least as new as `consistency` asks for.
    fn read_barrier(&self, consistency: Consistency) -> BoxFuture<'_, Result<Revision, ProposeError>>;

    /// Whether this node has everything that was acknowledged before it started. Until then it can say what there is, but
    /// not that there is none.
    fn caught_up(&self) -> bool;

    /// How things stand now.
    fn status(&self) -> Status;
}

/// Changes who is in the cluster.
pub trait Administration: Send + Sync + 'static {
    /// Adds a node: first as a learner, and as a voter once it has caught up.
    fn add(&self, member: Member) -> BoxFuture<'_, Result<(), AdministrationError>>;
    /// Takes a node out.
    fn remove(&self, node: u64) -> BoxFuture<'_, Result<(), AdministrationError>>;
    /// Makes another voter the leader.
    fn transfer_leadership(&self, to: u64) -> BoxFuture<'_, Result<(), AdministrationError>>;
    /// Asks every other member where its clients find it, and whether it can serve them. Takes no longer than a moment: who
    /// does not answer in that cannot.
    fn contacts(&self) -> BoxFuture<'_, Vec<Contact>>;
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, never used again for another disk.
    pub node: u64,
    /// Where it talks to members, `host:port`.
    pub member_address: String,
    /// Where it serves HTTP, `host:port`; empty when it has not said so yet.
    pub http_address: String,
}

/// Another member, as this node reaches it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The member; `http_address` is empty unless it answered.
    pub member: Member,
    /// Whether it can serve clients.
    pub ready: bool,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes and follows.
    Follower,
    /// Follows without a vote.
    Learner,
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether consensus is skipped.
    pub standalone: bool,
    /// This node; 0 if standalone.
    pub node: u64,
    /// The leader that this node knows of.
    pub leader: Option<u64>,
    /// The term; 0 before the first election.
    pub term: u64,
    /// The last entry of this node's log.
    pub last_log: Option<LogId>,
    /// The last entry applied here.
    pub applied: Option<LogId>,
    /// Of the state after that entry: equal on all nodes at equal `applied`.
    pub witness: Witness,
    /// Everybody, with what they do.
    pub members: Vec<(Member, Role)>,
    /// Why this node cannot serve now, in a sentence; `None` when it can.
    pub not_ready: Option<String>,
}

/// Why a proposal or a read barrier did not resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// Nothing was written, and nothing will be: trying again is safe.
    Unavailable(String),
    /// The write may or may not happen: read back before trying again.
    OutcomeUnknown(String),
    /// This node has failed and must be looked at.
    Fatal(String),
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "not possible now: {why}"),
            Self::OutcomeUnknown(why) => write!(f, "the outcome is unknown: {why}"),
            Self::Fatal(why) => write!(f, "this node has failed: {why}"),
        }
    }
}

impl std::error::Error for ProposeError {}

/// Why the cluster was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdministrationError {
    /// The request makes no sense here; says why.
    Refused(String),
    /// It could not be done now; trying again is safe.
    Unavailable(String),
}

impl fmt::Display for AdministrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Unavailable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for AdministrationError {}
