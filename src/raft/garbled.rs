//! What this node understands of the bytes of another member. For tests alone (`tests/fuzz`): the messages and openraft's
//! values are private to `raft`, and a test that reads them by a socket tries a thousandth as many.
use prost::Message as _;

use super::{
    convert::{
        RaftEntry, RaftVote, entry_to_wire, membership_from_wire, membership_to_wire, raft_id_from_wire,
        raft_id_to_wire, vote_from_wire, vote_to_wire,
    },
    forward::{placed_from_wire, placed_to_wire},
    network::{append_result, vote_response},
    service::{append_reply, append_request, vote_reply, vote_request},
    wire,
};
use crate::storage::codec::{DecodeError, wire as log_wire};

/// Messages that carry something to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Entries and heartbeats.
    Append,
    /// What a follower answers to them.
    AppendReply,
    /// A candidate asks.
    Vote,
    /// What it is answered.
    VoteReply,
    /// The beginning of a snapshot.
    SnapshotHead,
    /// What became of proposals.
    ProposeReply,
}

impl Message {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Append, Self::AppendReply, Self::Vote, Self::VoteReply, Self::SnapshotHead, Self::ProposeReply];
}

/// What was understood.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Understood {
    /// The same, said by this node.
    pub bytes: Vec<u8>,
    /// Of each entry that changes who votes: how many there are in each set.
    pub voters: Vec<Vec<usize>>,
    /// Places in the log that it speaks of.
    pub indexes: Vec<u64>,
}

/// Reads a message as the services of this node do.
///
/// # Errors
/// [`DecodeError`] when it is refused.
pub fn reread(message: Message, bytes: &[u8]) -> Result<Understood, DecodeError> {
    let mut understood = Understood::default();
    understood.bytes = match message {
        Message::Append => append(wire::AppendRequest::decode(bytes)?, &mut understood)?.encode_to_vec(),
        Message::AppendReply => append_reply(append_result(wire::AppendReply::decode(bytes)?)?).encode_to_vec(),
        Message::Vote => {
            let request = vote_request(&wire::VoteRequest::decode(bytes)?)?;
            wire::VoteRequest {
                caller: None,
                vote: said(&request.vote),
                last: request.last_log_id.as_ref().map(raft_id_to_wire),
                leadership_transfer: request.leadership_transfer,
            }
            .encode_to_vec()
        }
        Message::VoteReply => vote_reply(&vote_response(wire::VoteReply::decode(bytes)?)?).encode_to_vec(),
        Message::SnapshotHead => snapshot_head(wire::SnapshotHead::decode(bytes)?)?.encode_to_vec(),
        Message::ProposeReply => {
            let outcomes = wire::ProposeReply::decode(bytes)?.outcomes.into_iter();
            let outcomes = outcomes.map(placed_from_wire).map(placed_to_wire).collect();
            wire::ProposeReply { outcomes }.encode_to_vec()
        }
    };
    Ok(understood)
}

fn said(vote: &RaftVote) -> Option<wire::Vote> {
    Some(vote_to_wire(vote))
}

fn append(request: wire::AppendRequest, understood: &mut Understood) -> Result<wire::AppendRequest, DecodeError> {
    let request = append_request(request)?;
    let ids = [&request.prev_log_id, &request.leader_commit].into_iter().flatten();
    understood.indexes.extend(ids.map(|id| id.index));
    for RaftEntry { log_id, payload } in &request.entries {
        understood.indexes.push(log_id.index);
        if let openraft::EntryPayload::Membership(membership) = payload {
            understood.voters.push(membership.get_joint_config().iter().map(|it| it.len()).collect());
        }
    }
    Ok(wire::AppendRequest {
        caller: None,
        vote: said(&request.vote),
        previous: request.prev_log_id.as_ref().map(raft_id_to_wire),
        entries: request.entries.into_iter().map(entry_to_wire).collect(),
        committed: request.leader_commit.as_ref().map(raft_id_to_wire),
    })
}

fn snapshot_head(head: wire::SnapshotHead) -> Result<wire::SnapshotHead, DecodeError> {
    let again = |id: log_wire::Id| raft_id_to_wire(&raft_id_from_wire(id));
    Ok(wire::SnapshotHead {
        caller: None,
        vote: said(&vote_from_wire(head.vote)?),
        last: head.last.map(again),
        membership_at: head.membership_at.map(again),
        membership: Some(membership_to_wire(&membership_from_wire(head.membership.unwrap_or_default())?)),
        bytes: head.bytes,
    })
}
