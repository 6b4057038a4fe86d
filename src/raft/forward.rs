//! How a group of proposals gets into the leader's log: here, or by one message to the leader. One hop, never two, and
//! never a second time once it may have been written.
use std::{error::Error as _, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::error::{ClientWriteError, Fatal};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};
use tonic::Status;

use super::{
    EncodedProposal, TypeConfig,
    peers::Lane,
    replicator::{Core, Waiting},
    wire,
};
use crate::{
    planted::{self, Bug},
    replication::{ProposeError, wait_applied},
    storage::codec::decode_proposal,
    types::{Digest, Rejection, Reply, Revision, limits},
};

/// What became of one proposal.
pub(super) enum Placed {
    /// It was decided by the entry at this index.
    Decided(u64, Reply),
    /// Nothing was written: this node does not lead, or cannot now.
    NotWritten(String),
    /// It may have been written.
    Unknown(String),
    /// This node can write no more.
    Fatal(String),
}

/// Puts a group into this node's log, and answers. Returns what was not written.
pub(super) async fn place_here(
    core: &Arc<Core>,
    group: Vec<Waiting>,
    slot: &mut Option<OwnedSemaphorePermit>,
) -> Vec<Waiting> {
    let proposals: Vec<Bytes> = group.iter().map(|waiting| waiting.proposal.clone()).collect();
    let deadline = group.iter().map(|waiting| waiting.deadline).max().unwrap_or_else(Instant::now);
    let mut group = group.into_iter();
    let mut not_written = Vec::new();
    write(
        core,
        proposals,
        deadline,
        || drop(slot.take()),
        |placed| {
            if let Some(waiting) = group.next() {
                not_written.extend(settle(waiting, placed));
            }
        },
    )
    .await;
    not_written
}

/// What a follower sent: puts it into this node's log and tells what became of each.
pub(super) async fn place_for_follower(core: &Arc<Core>, proposals: Vec<Bytes>) -> Vec<Placed> {
    // An entry that cannot be read stops every node that comes to apply it, so none gets into the log.
    let (mut readable, mut refused) = (Vec::with_capacity(proposals.len()), Vec::new());
    for (at, proposal) in proposals.into_iter().enumerate() {
        match decode_proposal(proposal.clone()) {
            Ok(_) => readable.push(proposal),
            Err(err) => refused.push((at, format!("the leader cannot read the proposal: {err}"))),
        }
    }
    let mut all = Vec::with_capacity(readable.len() + refused.len());
    if !readable.is_empty() {
        let deadline = Instant::now() + limits::PROPOSE_TIMEOUT;
        write(core, readable, deadline, || (), |placed| all.push(placed)).await;
    }
    for (at, why) in refused {
        tracing::warn!(%why, "refuse what a follower sent");
        all.insert(at, Placed::NotWritten(why));
    }
    all
}

/// Writes a group as one message to the core of consensus; `accepted` is called when it has been taken, `each` once for
/// each proposal, in order.
async fn write(
    core: &Core,
    proposals: Vec<Bytes>,
    deadline: Instant,
    accepted: impl FnOnce(),
    mut each: impl FnMut(Placed),
) {
    let mut why = "consensus has stopped";
    let mut owed = proposals.len();
    match core.raft.client_write_many(proposals.into_iter().map(EncodedProposal)).await {
        Ok(mut results) => {
            accepted();
            while owed > 0 {
                let result = match timeout_at(deadline, results.next()).await {
                    Ok(Some(result)) => result,
                    Ok(None) => break,
                    Err(_) => {
                        why = "a majority has not confirmed the write in time";
                        break;
                    }
                };
                owed -= 1;
                each(match result {
                    Ok(Ok(response)) => Placed::Decided(response.log_id.index, response.response),
                    Ok(Err(err)) => not_written_or_unknown(err),
                    Err(fatal) => failed(&fatal),
                });
            }
        }
        Err(fatal) => {
            owed -= 1;
            each(failed(&fatal));
        }
    }
    for _ in 0..owed {
        each(Placed::Unknown(why.into()));
    }
}

fn not_written_or_unknown(err: ClientWriteError<TypeConfig>) -> Placed {
    match err {
        ClientWriteError::ForwardToLeader(_) => Placed::NotWritten("this node does not lead".into()),
        ClientWriteError::LogEntryDiscarded(_) => {
            Placed::Unknown("the leader changed before a majority had the write".into())
        }
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            Placed::Fatal("a proposal was taken for a change of membership".into())
        }
    }
}

fn failed(fatal: &Fatal<TypeConfig>) -> Placed {
    match fatal {
        Fatal::Stopped => Placed::Unknown("this node is stopping".into()),
        Fatal::StorageError(_) | Fatal::Panicked => Placed::Fatal(fatal.to_string()),
    }
}

/// Answers, unless nothing was written: then the proposal comes back.
fn settle(waiting: Waiting, placed: Placed) -> Option<Waiting> {
    match placed {
        Placed::Decided(_, reply) => waiting.answer(Ok(reply)),
        Placed::NotWritten(_) => return Some(waiting),
        Placed::Unknown(why) => waiting.answer(Err(ProposeError::OutcomeUnknown(why))),
        Placed::Fatal(why) => waiting.answer(Err(ProposeError::Fatal(why))),
    }
    None
}

/// Sends a group to the leader, waits until this node has applied it, and answers. Returns what was not written.
pub(super) async fn place_there(core: &Arc<Core>, leader: u64, address: &str, group: Vec<Waiting>) -> Vec<Waiting> {
    let deadline = group.iter().map(|waiting| waiting.deadline).max().unwrap_or_else(Instant::now);
    core.metrics.forwarded.inc_by(group.len() as u64);
    core.metrics.forward_batches.inc();
    let request = wire::ProposeRequest {
        caller: core.peers.caller(leader),
        proposals: group.iter().map(|waiting| waiting.proposal.clone()).collect(),
    };
    let sent = async {
        let mut client = core.peers.client(address, Lane::Clients)?;
        client.propose(request).await
    };
    // A leader that was cut off never answers; what comes after it must not wait for that.
    let answered = tokio::select! {
        biased;
        answered = timeout_at(deadline, sent) => answered,
        () = core.leader_changes_from(leader) => return give_up(group, "the leader changed meanwhile"),
    };
    let outcomes = match answered {
        Ok(Ok(reply)) => reply.into_inner().outcomes,
        Ok(Err(status)) if never_sent(&status) => return group,
        Ok(Err(status)) => return give_up(group, &format!("the leader did not answer: {}", status.message())),
        Err(_) => return give_up(group, "the leader did not answer in time"),
    };
    let placed: Vec<Placed> = outcomes.into_iter().map(placed_from_wire).collect();
    let last = placed.iter().map(|it| if let Placed::Decided(index, _) = it { *index } else { 0 }).max();
    // Whoever reads here after the answer must find what was written.
    let patience = deadline.saturating_duration_since(Instant::now());
    let applied = wait_applied(&core.applier, Revision(last.unwrap_or_default()), patience).await;
    let mut placed = placed.into_iter();
    let mut not_written = Vec::new();
    for waiting in group {
        let placed = match (placed.next(), &applied) {
            (Some(Placed::Decided(index, _)), Err(_)) => {
                Placed::Unknown(format!("written as revision {index}, but this node has not applied it yet"))
            }
            (Some(placed), _) => placed,
            (None, _) => Placed::Unknown("the leader's answer is too short".into()),
        };
        not_written.extend(settle(waiting, placed));
    }
    not_written
}

/// Whether the message cannot have reached the other node.
fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(err) = cause {
        if err.is::<tonic::ConnectError>() {
            return true;
        }
        cause = err.source();
    }
    // The other node says so itself: it looked at the caller and went no further.
    status.code() == tonic::Code::FailedPrecondition
}

fn give_up(group: Vec<Waiting>, why: &str) -> Vec<Waiting> {
    if planted::is(Bug::ForwardedTwice) {
        return group;
    }
    for waiting in group {
        waiting.answer(Err(ProposeError::OutcomeUnknown(why.into())));
    }
    Vec::new()
}

pub(super) fn placed_to_wire(placed: Placed) -> wire::Outcome {
    use wire::outcome::Outcome;
    let (index, outcome) = match placed {
        Placed::Decided(index, Reply::Applied(at)) => (index, Outcome::Applied(at.0)),
        Placed::Decided(index, Reply::Unchanged(at)) => (index, Outcome::Unchanged(at.0)),
        Placed::Decided(index, Reply::Rejected(rejection)) => {
            let outcome = match rejection {
                Rejection::PreconditionFailed { current } => Outcome::PreconditionFailed(
                    current.map_or_else(Bytes::new, |it| Bytes::copy_from_slice(it.as_bytes())),
                ),
                Rejection::TooManyGrayVersions => Outcome::TooManyGrayVersions(true),
                Rejection::NamespaceExists => Outcome::NamespaceExists(true),
                Rejection::NamespaceAbsent => Outcome::NamespaceAbsent(true),
            };
            (index, outcome)
        }
        Placed::NotWritten(why) => (0, Outcome::Unavailable(why)),
        Placed::Unknown(why) => (0, Outcome::Unknown(why)),
        Placed::Fatal(why) => (0, Outcome::Fatal(why)),
    };
    wire::Outcome { index, outcome: Some(outcome) }
}

pub(super) fn placed_from_wire(it: wire::Outcome) -> Placed {
    use wire::outcome::Outcome;
    let rejected = |rejection| Placed::Decided(it.index, Reply::Rejected(rejection));
    match it.outcome {
        Some(Outcome::Applied(at)) => Placed::Decided(it.index, Reply::Applied(Revision(at))),
        Some(Outcome::Unchanged(at)) => Placed::Decided(it.index, Reply::Unchanged(Revision(at))),
        Some(Outcome::PreconditionFailed(digest)) => {
            let current = digest[..].try_into().ok().map(Digest::from_bytes);
            rejected(Rejection::PreconditionFailed { current })
        }
        Some(Outcome::TooManyGrayVersions(_)) => rejected(Rejection::TooManyGrayVersions),
        Some(Outcome::NamespaceExists(_)) => rejected(Rejection::NamespaceExists),
        Some(Outcome::NamespaceAbsent(_)) => rejected(Rejection::NamespaceAbsent),
        Some(Outcome::Unavailable(why)) => Placed::NotWritten(why),
        // The leader has failed; this node has not.
        Some(Outcome::Unknown(why) | Outcome::Fatal(why)) => Placed::Unknown(why),
        None => Placed::Unknown("the leader's answer cannot be understood".into()),
    }
}
