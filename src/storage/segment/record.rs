//! Records: what one says, how it changes the state of a log, and its bytes.
//!
//! ```text
//! [crc32c u32][payload length u32][batch u64][term u64][node u64][index u64][kind u8][payload][0 to 7 zero bytes]
//! ```
//! Little-endian. The checksum covers everything after it up to the end of the payload, and is seeded by the log's
//! identity and the segment's sequence number: a record is valid only in the place where it was written.
use crate::{
    storage::{LogState, Payload, Vote},
    types::LogId,
};

/// Bytes before the payload.
pub(in crate::storage) const HEAD_BYTES: usize = 41;
/// Records begin at multiples of this, so that a search for them has fewer places to try.
pub(in crate::storage) const ALIGNMENT: usize = 8;
/// Set in the kind of the last record of a batch.
const CLOSES_BATCH: u8 = 0x80;
/// Bytes of the checksum, which is not part of what it is of.
pub(in crate::storage) const CRC_BYTES: usize = 4;

/// What a record is about. The number is its byte on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum Kind {
    /// An entry without payload.
    Blank = 1,
    /// An entry with a proposal.
    Proposal = 2,
    /// An entry with a membership.
    Membership = 3,
    /// The vote: `index` is 1 when it is committed.
    Vote = 4,
    /// What is committed.
    Committed = 5,
    /// Nothing after `id` counts any more.
    Truncate = 6,
    /// No entry counts any more.
    Clear = 7,
    /// Nothing up to `id` counts any more.
    Purge = 8,
    /// Says nothing, but shows by being there that the batch before it is durable.
    Mark = 9,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Blank,
        Self::Proposal,
        Self::Membership,
        Self::Vote,
        Self::Committed,
        Self::Truncate,
        Self::Clear,
        Self::Purge,
        Self::Mark,
    ];

    fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u8 == byte)
    }

    /// The kind of an entry.
    pub(in crate::storage) fn of(payload: &Payload) -> Self {
        match payload {
            Payload::Blank => Self::Blank,
            Payload::Proposal(_) => Self::Proposal,
            Payload::Membership(_) => Self::Membership,
        }
    }
}

/// A record without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) struct Record {
    pub(in crate::storage) kind: Kind,
    pub(in crate::storage) id: LogId,
}

impl Record {
    pub(in crate::storage) fn new(kind: Kind, id: LogId) -> Self {
        Self { kind, id }
    }

    /// A record that needs no id.
    pub(in crate::storage) fn bare(kind: Kind) -> Self {
        Self { kind, id: LogId::default() }
    }

    pub(in crate::storage) fn vote(vote: Vote) -> Self {
        Self::new(Kind::Vote, LogId { term: vote.term, node: vote.node, index: u64::from(vote.committed) })
    }

    /// A truncation: back to `last`, but never into what is purged already.
    pub(in crate::storage) fn truncation(last: Option<LogId>, purged: Option<LogId>) -> Self {
        match last {
            Some(last) if purged.is_none_or(|it| it.index < last.index) => Self::new(Kind::Truncate, last),
            Some(_) | None => Self::bare(Kind::Clear),
        }
    }

    /// Whether it is an entry of the log.
    pub(in crate::storage) fn is_entry(self) -> bool {
        match self.kind {
            Kind::Blank | Kind::Proposal | Kind::Membership => true,
            Kind::Vote | Kind::Committed | Kind::Truncate | Kind::Clear | Kind::Purge | Kind::Mark => false,
        }
    }

    /// What the state is after this record.
    ///
    /// # Errors
    /// When it is an entry that does not follow the last one.
    pub(in crate::storage) fn advance(self, state: &mut LogState) -> Result<(), String> {
        let at = |id: Option<LogId>| id.map(|it| it.index);
        match self.kind {
            Kind::Blank | Kind::Proposal | Kind::Membership => {
                let follows = match state.last {
                    Some(last) => last.index.checked_add(1) == Some(self.id.index),
                    // Raft begins with 0, a standalone node with 1.
                    None => true,
                };
                if !follows {
                    let last = state.last.map_or_else(|| "nothing".into(), |it| it.to_string());
                    return Err(format!("entry {} does not follow {last}", self.id));
                }
                state.last = Some(self.id);
            }
            Kind::Vote => {
                let LogId { term, node, index } = self.id;
                state.vote = Some(Vote { term, node, committed: index != 0 });
            }
            Kind::Committed => state.committed = Some(self.id),
            Kind::Truncate => {
                if at(state.last) > Some(self.id.index) {
                    state.last = Some(self.id);
                }
            }
            Kind::Clear => state.last = state.purged,
            Kind::Purge => {
                if at(state.purged) < Some(self.id.index) {
                    state.purged = Some(self.id);
                    if at(state.last) <= Some(self.id.index) {
                        state.last = Some(self.id);
                    }
                }
            }
            Kind::Mark => (),
        }
        Ok(())
    }
}

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) struct Head {
    pub(in crate::storage) record: Record,
    /// The flush that wrote it.
    pub(in crate::storage) batch: u64,
    /// Whether it is the last one of its batch.
    pub(in crate::storage) closes_batch: bool,
    /// Bytes of its payload.
    pub(in crate::storage) payload_bytes: usize,
}

/// What stands in a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::storage) enum Found {
    /// A record with the right checksum.
    Record(Head),
    /// Zeros: nothing was written here.
    End,
    /// Something else; why it is not a record.
    Bad(&'static str),
    /// A record with the right checksum that this program cannot read.
    Unreadable(&'static str),
}

/// The bytes that a record takes, padding included.
pub(in crate::storage) fn size(payload_bytes: usize) -> usize {
    (HEAD_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

/// Appends a record to `out`, which must be aligned, and be filled from an aligned place.
pub(in crate::storage) fn encode(out: &mut Vec<u8>, seed: u32, head: Head, payload: &[u8]) {
    debug_assert!(head.payload_bytes == payload.len() && out.len().is_multiple_of(ALIGNMENT));
    let length = u32::try_from(payload.len()).expect("no entry has 4 GiB: the limit of a content is far below");
    let start = out.len();
    let LogId { term, node, index } = head.record.id;
    out.extend_from_slice(&[0; CRC_BYTES]);
    out.extend_from_slice(&length.to_le_bytes());
    for number in [head.batch, term, node, index] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(head.record.kind as u8 | if head.closes_batch { CLOSES_BATCH } else { 0 });
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c_append(seed, &out[start + CRC_BYTES..]);
    out[start..start + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + size(payload.len()), 0);
}

/// The length that a record claims for its payload; checked by nothing yet.
pub(in crate::storage) fn claimed_payload_bytes(head: &[u8; HEAD_BYTES]) -> usize {
    u32_at(head, CRC_BYTES) as usize
}

/// The batch that a record claims; checked by nothing yet.
pub(in crate::storage) fn claimed_batch(head: &[u8; HEAD_BYTES]) -> u64 {
    u64_at(head, 8)
}

/// The id that a record claims; checked by nothing yet.
pub(in crate::storage) fn claimed_id(head: &[u8; HEAD_BYTES]) -> LogId {
    LogId { term: u64_at(head, 16), node: u64_at(head, 24), index: u64_at(head, 32) }
}

/// Checks a record: its head, and its payload, whose length is what the head claims.
pub(in crate::storage) fn decode(head: &[u8; HEAD_BYTES], payload: &[u8], seed: u32) -> Found {
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &head[CRC_BYTES..]), payload);
    if crc != u32_at(head, 0) {
        return Found::Bad("its checksum is wrong");
    }
    let byte = head[HEAD_BYTES - 1];
    let Some(kind) = Kind::of_byte(byte & !CLOSES_BATCH) else {
        return Found::Unreadable("a record of an unknown kind: it was written by a newer version");
    };
    Found::Record(Head {
        record: Record { kind, id: claimed_id(head) },
        batch: claimed_batch(head),
        closes_batch: byte & CLOSES_BATCH != 0,
        payload_bytes: payload.len(),
    })
}

fn u32_at(bytes: &[u8; HEAD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8; HEAD_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 7, node: 3, index }
    }

    #[test]
    fn a_record_is_read_back_only_where_it_was_written() {
        for (kind, payload) in [(Kind::Blank, &b""[..]), (Kind::Proposal, b"p"), (Kind::Membership, &[9; 300])] {
            let head = Head {
                record: Record::new(kind, id(1 << 40)),
                batch: 12,
                closes_batch: payload.len() == 1,
                payload_bytes: payload.len(),
            };
            let mut out = Vec::new();
            encode(&mut out, 5, head, payload);
            assert_eq!(out.len(), size(payload.len()));
            let (first, rest) = out.split_first_chunk().unwrap();
            assert_eq!(decode(first, &rest[..payload.len()], 5), Found::Record(head));
            assert!(matches!(decode(first, &rest[..payload.len()], 6), Found::Bad(_)), "another place");
        }
    }

    #[test]
    fn states_advance() {
        let state = |purged: Option<u64>, last: Option<u64>| LogState {
            purged: purged.map(id),
            last: last.map(id),
            ..LogState::default()
        };
        let entry = |index| Record::new(Kind::Blank, id(index));
        let truncate = |index| Record::new(Kind::Truncate, id(index));
        let purge = |index| Record::new(Kind::Purge, id(index));
        let cases = [
            (state(None, None), entry(0), Some(state(None, Some(0)))),
            (state(None, None), entry(1), Some(state(None, Some(1)))),
            (state(None, None), entry(2), Some(state(None, Some(2)))),
            (state(None, Some(4)), entry(5), Some(state(None, Some(5)))),
            (state(None, Some(4)), entry(4), None),
            (state(None, Some(4)), entry(6), None),
            (state(None, Some(u64::MAX)), entry(0), None),
            (state(Some(4), Some(4)), entry(5), Some(state(Some(4), Some(5)))),
            (state(None, Some(9)), truncate(4), Some(state(None, Some(4)))),
            (state(None, Some(9)), truncate(9), Some(state(None, Some(9)))),
            (state(None, Some(9)), truncate(12), Some(state(None, Some(9)))),
            (state(None, Some(9)), Record::bare(Kind::Clear), Some(state(None, None))),
            (state(Some(3), Some(9)), Record::bare(Kind::Clear), Some(state(Some(3), Some(3)))),
            (state(None, Some(9)), purge(4), Some(state(Some(4), Some(9)))),
            (state(Some(6), Some(9)), purge(4), Some(state(Some(6), Some(9)))),
            (state(Some(6), Some(9)), purge(20), Some(state(Some(20), Some(20)))),
            (state(None, None), purge(20), Some(state(Some(20), Some(20)))),
        ];
        for (before, record, after) in cases {
            let mut now = before;
            let result = record.advance(&mut now);
            assert_eq!(result.is_ok(), after.is_some(), "{before:?} {record:?}");
            assert_eq!(now, after.unwrap_or(before), "{before:?} {record:?}");
        }
    }

    #[test]
    fn a_truncation_never_reaches_into_what_is_purged() {
        let cases = [(None, None, Kind::Clear), (Some(4), None, Kind::Truncate), (Some(4), Some(3), Kind::Truncate)];
        for (last, purged, kind) in
            cases.into_iter().chain([(Some(4), Some(4), Kind::Clear), (Some(4), Some(9), Kind::Clear)])
        {
            assert_eq!(Record::truncation(last.map(id), purged.map(id)).kind, kind);
        }
    }
}
