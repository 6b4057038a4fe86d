//! A log in memory.
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Durable, LogEntry, LogState, LogStore, Vote};
use crate::types::LogId;

/// A log that is gone when it is dropped.
#[derive(Default)]
pub struct MemoryLog(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    state: LogState,
    entries: BTreeMap<u64, LogEntry>,
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
                if let Some(last) = inner.state.last {
                    assert_eq!(last.index + 1, entry.id.index, "a gap");
                }
                inner.state.last = Some(entry.id);
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
        match last {
            Some(last) => drop(inner.entries.split_off(&(last.index + 1))),
            None => inner.entries.clear(),
        }
        inner.state.last = last;
    }
    fn purge(&self, upto: LogId) {
        let mut inner = self.lock();
        inner.entries = inner.entries.split_off(&(upto.index + 1));
        inner.state.purged = Some(upto);
        if inner.state.last.is_none_or(|last| last.index < upto.index) {
            inner.state.last = Some(upto);
        }
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
