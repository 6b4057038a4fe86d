//! A log in memory: for tests, and what the log on disk is compared with.
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Durable, LogEntry, LogState, LogStore, Vote,
    segment::record::{Kind, Record},
};
use crate::types::LogId;

/// A log that is gone when it is dropped.
#[derive(Default)]
pub struct MemoryLog(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    state: LogState,
    entries: BTreeMap<u64, LogEntry>,
}

impl Inner {
    /// Changes the state, and lets go of the entries that do not count any more.
    fn advance(&mut self, record: Record) {
        let changed = record.advance(&mut self.state);
        assert!(changed.is_ok(), "only entries can be refused");
        let first = self.state.purged.map_or(0, |it| it.index + 1);
        let end = self.state.last.map_or(0, |it| it.index + 1);
        self.entries.retain(|index, _| (first..end).contains(index));
    }
}

impl MemoryLog {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for MemoryLog {
    fn state(&self) -> LogState {
        self.lock().state
    }
    fn append(&self, entries: Vec<LogEntry>, durable: Durable) {
        {
            let mut inner = self.lock();
            for entry in entries {
                let followed = Record::new(Kind::of(&entry.payload), entry.id).advance(&mut inner.state);
                assert!(followed.is_ok(), "entry {} leaves a gap in the log", entry.id);
                inner.entries.insert(entry.id.index, entry);
            }
        }
        durable(Ok(()));
    }

    fn save_vote(&self, vote: Vote, durable: Durable) {
        self.lock().state.vote = Some(vote);
        durable(Ok(()));
    }

    fn save_committed(&self, committed: LogId) {
        self.lock().state.committed = Some(committed);
    }

    fn truncate_after(&self, last: Option<LogId>) {
        let mut inner = self.lock();
        let record = Record::truncation(last, inner.state.purged);
        inner.advance(record);
    }

    fn purge(&self, upto: LogId) {
        self.lock().advance(Record::new(Kind::Purge, upto));
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let mut bytes = 0;
        let inner = self.lock();
        let mut out = Vec::new();
        if range.is_empty() {
            return Ok(out);
        }
        for (_, entry) in inner.entries.range(range) {
            bytes += entry.payload.bytes().len();
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }
    fn barrier(&self, durable: Durable) {
        durable(Ok(()));
    }
}
