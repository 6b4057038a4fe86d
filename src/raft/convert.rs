//! openraft's values ⇄ ours ⇄ messages. Checks what comes from a peer.
use openraft::{
    EntryPayload, Membership, StoredMembership,
    alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf},
    impls::leader_id_adv::LeaderId,
};
use prost::Message;

use super::{EncodedProposal, MemberNode, TypeConfig, wire};
use crate::{
    storage::{
        Applied, LogEntry, Payload, Vote,
        codec::{DecodeError, id_from_wire, id_to_wire, wire as log_wire},
    },
    types::LogId,
};

pub(super) type RaftLogId = LogIdOf<TypeConfig>;
pub(super) type RaftVote = VoteOf<TypeConfig>;
pub(super) type RaftEntry = EntryOf<TypeConfig>;
pub(super) type RaftMembership = StoredMembershipOf<TypeConfig>;

pub(super) fn to_raft_id(id: LogId) -> RaftLogId {
    RaftLogId::new(LeaderId { term: id.term, node_id: id.node }, id.index)
}

pub(super) fn from_raft_id(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(super) fn to_raft_vote(vote: Vote) -> RaftVote {
    if vote.committed { RaftVote::new_committed(vote.term, vote.node) } else { RaftVote::new(vote.term, vote.node) }
}

pub(super) fn from_raft_vote(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(super) fn vote_to_wire(vote: &RaftVote) -> wire::Vote {
    let vote = from_raft_vote(vote);
    wire::Vote { term: vote.term, node: vote.node, committed: vote.committed }
}

pub(super) fn vote_from_wire(vote: Option<wire::Vote>) -> Result<RaftVote, DecodeError> {
    let vote = vote.ok_or_else(|| DecodeError("vote is missing".into()))?;
    Ok(to_raft_vote(Vote { term: vote.term, node: vote.node, committed: vote.committed }))
}

pub(super) fn raft_id_to_wire(id: &RaftLogId) -> log_wire::Id {
    id_to_wire(from_raft_id(id))
}

pub(super) fn raft_id_from_wire(id: log_wire::Id) -> RaftLogId {
    to_raft_id(id_from_wire(id))
}

/// A place in the log after which there can be another one.
pub(super) fn place_from_wire(id: log_wire::Id) -> Result<RaftLogId, DecodeError> {
    if id.index == u64::MAX { Err(DecodeError("no log gets to that index".into())) } else { Ok(raft_id_from_wire(id)) }
}

pub(super) fn to_log_entry(entry: RaftEntry) -> LogEntry {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(EncodedProposal(bytes)) => Payload::Proposal(bytes),
        EntryPayload::Membership(membership) => {
            Payload::Membership(membership_to_wire(&membership).encode_to_vec().into())
        }
    };
    LogEntry { id: from_raft_id(&entry.log_id), payload }
}

pub(super) fn from_log_entry(entry: LogEntry) -> Result<RaftEntry, DecodeError> {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Proposal(bytes) => EntryPayload::Normal(EncodedProposal(bytes)),
        Payload::Membership(bytes) => EntryPayload::Membership(membership_from_wire(wire::Membership::decode(bytes)?)?),
    };
    Ok(RaftEntry { log_id: to_raft_id(entry.id), payload })
}

pub(super) fn entry_to_wire(entry: RaftEntry) -> wire::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => wire::entry::Payload::Blank(true),
        EntryPayload::Normal(EncodedProposal(bytes)) => wire::entry::Payload::Proposal(bytes),
        EntryPayload::Membership(it) => wire::entry::Payload::Membership(membership_to_wire(&it)),
    };
    wire::Entry { id: Some(raft_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

pub(super) fn entry_from_wire(entry: wire::Entry) -> Result<RaftEntry, DecodeError> {
    let id = entry.id.ok_or_else(|| DecodeError("entry id is missing".into()))?;
    let payload = match entry.payload.ok_or_else(|| DecodeError("entry payload is missing".into()))? {
        wire::entry::Payload::Blank(_) => EntryPayload::Blank,
        wire::entry::Payload::Proposal(bytes) => EntryPayload::Normal(EncodedProposal(bytes)),
        wire::entry::Payload::Membership(it) => EntryPayload::Membership(voting(membership_from_wire(it)?)?),
    };
    Ok(RaftEntry { log_id: place_from_wire(id)?, payload })
}

/// Without a voter every set of nodes would be a majority.
fn voting(membership: Membership<u64, MemberNode>) -> Result<Membership<u64, MemberNode>, DecodeError> {
    match membership.get_joint_config().len() {
        1 | 2 => Ok(membership),
        sets => Err(DecodeError(format!("a membership has one set of voters or two, not {sets}"))),
    }
}

pub(super) fn membership_to_wire(membership: &Membership<u64, MemberNode>) -> wire::Membership {
    let voters = membership.get_joint_config().iter().map(|it| wire::Voters { nodes: it.iter().copied().collect() });
    let nodes =
        membership.nodes().map(|(id, node)| wire::Node { id: *id, member_address: node.member_address.clone() });
    wire::Membership { voters: voters.collect(), nodes: nodes.collect() }
}

pub(super) fn membership_from_wire(it: wire::Membership) -> Result<Membership<u64, MemberNode>, DecodeError> {
    let voters = it.voters.into_iter().map(|voters| voters.nodes.into_iter().collect()).collect();
    let nodes: std::collections::BTreeMap<u64, MemberNode> =
        it.nodes.into_iter().map(|node| (node.id, MemberNode { member_address: node.member_address })).collect();
    Membership::new(voters, nodes).map_err(|err| DecodeError(err.to_string()))
}

/// Where a state stands, as openraft wants to hear it.
pub(super) fn to_raft_applied(applied: &Applied) -> Result<(Option<RaftLogId>, RaftMembership), DecodeError> {
    let membership = match &applied.membership {
        Some((at, bytes)) => {
            let membership = membership_from_wire(wire::Membership::decode(bytes.clone())?)?;
            StoredMembership::new(Some(to_raft_id(*at)), membership)
        }
        None => StoredMembership::default(),
    };
    Ok((applied.last.map(to_raft_id), membership))
}
