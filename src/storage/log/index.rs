//! What stands in the segments, and where: the state after the last durable record, and the place of every entry.
use std::collections::VecDeque;

use crate::storage::{
    LogState,
    segment::record::{self, Record},
};

/// Where an entry is. One per entry of the log is in memory, hence no wider than needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// The sequence number of the segment.
    pub(super) segment: u32,
    /// The offset, in units of [`record::ALIGNMENT`].
    place: u32,
    /// Bytes of the payload.
    payload: u32,
}

impl Slot {
    pub(super) fn new(segment: u64, offset: u64, payload_bytes: usize) -> Self {
        Self {
            segment: u32::try_from(segment).expect("4 billion segments would be 256 PiB of log"),
            place: u32::try_from(offset / record::ALIGNMENT as u64).expect("no segment has 32 GiB"),
            payload: u32::try_from(payload_bytes).expect("checked when it was encoded"),
        }
    }

    pub(super) fn offset(self) -> u64 {
        u64::from(self.place) * record::ALIGNMENT as u64
    }

    pub(super) fn payload_bytes(self) -> usize {
        self.payload as usize
    }
}

/// Changed only by durable records, in their order: by the writer after a flush, and when a log is opened.
pub(super) struct Index {
    /// The state after the last durable record.
    pub(super) state: LogState,
    /// Whether nothing came before the first record that was read.
    begins_empty: bool,
    /// The index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
}

impl Index {
    /// Before the first record after `state`. Entries that the state speaks of are not there.
    pub(super) fn new(state: LogState) -> Self {
        Self { state, begins_empty: state.last.is_none(), first: 0, slots: VecDeque::new() }
    }

    /// Takes note of a record that stands at `slot`.
    ///
    /// # Errors
    /// When it is an entry that does not follow the last one.
    pub(super) fn apply(&mut self, record: Record, slot: Slot) -> Result<(), String> {
        record.advance(&mut self.state)?;
        if record.is_entry() {
            if self.slots.is_empty() {
                self.first = record.id.index;
            }
            self.slots.push_back(slot);
        } else {
            let kept = self.state.last.map_or(0, |it| (it.index + 1).saturating_sub(self.first) as usize);
            self.slots.truncate(kept);
            let purged = self.state.purged.map_or(0, |it| (it.index + 1).saturating_sub(self.first));
            let purged = (purged as usize).min(self.slots.len());
            self.slots.drain(..purged);
            self.first += purged as u64;
        }
        Ok(())
    }

    /// Where an entry is.
    pub(super) fn get(&self, index: u64) -> Option<Slot> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get(at).copied()
    }

    /// The first entry that is there.
    pub(super) fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// The oldest segment that holds an entry that counts.
    pub(super) fn oldest_segment(&self) -> Option<u32> {
        self.slots.front().map(|it| it.segment)
    }

    /// Whether every entry after the last purged one is there, up to the last.
    pub(super) fn is_complete(&self) -> bool {
        match (self.slots.is_empty(), self.state.purged) {
            (true, purged) => self.state.last == purged,
            (false, Some(purged)) => self.first == purged.index + 1,
            (false, None) => self.begins_empty,
        }
    }
}
