//! A log in memory: for tests and simulations, and what the log on disk is compared with. Can lose what was not synced.
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

/// A log that is gone when it is dropped, but for what [`MemoryLog::after_power_loss`] finds.
#[derive(Default)]
pub struct MemoryLog(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    live: Image,
    /// None: every write is durable at once.
    disk: Option<Disk>,
}

/// What a reader of the log finds.
#[derive(Default, Clone)]
struct Image {
    state: LogState,
    entries: BTreeMap<u64, LogEntry>,
}

#[derive(Default)]
struct Disk {
    durable: Image,
    /// In the order in which they were written.
    unsynced: Vec<Write>,
    /// Who waits for the writes so far.
    waiting: Vec<Durable>,
    failed: Option<String>,
}

#[derive(Clone)]
enum Write {
    Entry(LogEntry),
    Record(Record),
}

impl Image {
    /// Changes the state, and lets go of the entries that do not count any more.
    fn advance(&mut self, write: Write) {
        match write {
            Write::Entry(entry) => {
                let followed = Record::new(Kind::of(&entry.payload), entry.id).advance(&mut self.state);
                assert!(followed.is_ok(), "entry {} leaves a gap in the log", entry.id);
                self.entries.insert(entry.id.index, entry);
            }
            Write::Record(record) => {
                let changed = record.advance(&mut self.state);
                assert!(changed.is_ok(), "only entries can be refused");
                let first = self.state.purged.map_or(0, |it| it.index + 1);
                let end = self.state.last.map_or(0, |it| it.index + 1);
                self.entries.retain(|index, _| (first..end).contains(index));
            }
        }
    }
}

impl Inner {
    fn write(&mut self, write: Write) {
        if let Some(disk) = &mut self.disk {
            disk.unsynced.push(write.clone());
        }
        self.live.advance(write);
    }
}

impl MemoryLog {
    /// Empty; every write is durable at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empty; a write is durable after the next [`MemoryLog::sync`].
    pub fn with_disk() -> Self {
        Self(Mutex::new(Inner { live: Image::default(), disk: Some(Disk::default()) }))
    }

    /// Makes durable what was written so far.
    pub fn sync(&self) {
        let waiting = {
            let mut inner = self.lock();
            let Some(disk) = inner.disk.as_mut().filter(|it| it.failed.is_none()) else { return };
            for write in std::mem::take(&mut disk.unsynced) {
                disk.durable.advance(write);
            }
            std::mem::take(&mut disk.waiting)
        };
        for durable in waiting {
            durable(Ok(()));
        }
    }

    /// Fails whatever is not durable yet, and all that is written from now on.
    pub fn fail(&self, why: &str) {
        let waiting = {
            let mut inner = self.lock();
            let Some(disk) = &mut inner.disk else { return };
            disk.failed = Some(why.to_owned());
            std::mem::take(&mut disk.waiting)
        };
        for durable in waiting {
            durable(Err(io::Error::other(why.to_owned())));
        }
    }

    /// What would be left of [`LogStore::state`] if the power went now.
    pub fn durable_state(&self) -> LogState {
        let inner = self.lock();
        inner.disk.as_ref().map_or(inner.live.state, |disk| disk.durable.state)
    }

    /// How many writes are not durable.
    pub fn unsynced(&self) -> usize {
        self.lock().disk.as_ref().map_or(0, |disk| disk.unsynced.len())
    }

    /// The log as the disk has it once the power is back: what is durable, and the first `kept` of the other writes, since
    /// a disk may have more than it said.
    #[must_use]
    pub fn after_power_loss(&self, kept: usize) -> Self {
        let inner = self.lock();
        let mut live = inner.live.clone();
        if let Some(disk) = &inner.disk {
            live = disk.durable.clone();
            for write in disk.unsynced.iter().take(kept) {
                live.advance(write.clone());
            }
        }
        let disk = Disk { durable: live.clone(), ..Disk::default() };
        Self(Mutex::new(Inner { live, disk: Some(disk) }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call_when_durable(&self, durable: Durable) {
        let (durable, result) = {
            let mut inner = self.lock();
            match &mut inner.disk {
                Some(Disk { failed: Some(why), .. }) => (durable, Err(io::Error::other(why.clone()))),
                Some(disk) => return disk.waiting.push(durable),
                None => (durable, Ok(())),
            }
        };
        durable(result);
    }
}

impl LogStore for MemoryLog {
    fn state(&self) -> LogState {
        self.lock().live.state
    }

    fn append(&self, entries: Vec<LogEntry>, durable: Durable) {
        {
            let mut inner = self.lock();
            for entry in entries {
                inner.write(Write::Entry(entry));
            }
        }
        self.call_when_durable(durable);
    }

    fn save_vote(&self, vote: Vote, durable: Durable) {
        self.lock().write(Write::Record(Record::vote(vote)));
        self.call_when_durable(durable);
    }

    fn save_committed(&self, committed: LogId) {
        self.lock().write(Write::Record(Record::new(Kind::Committed, committed)));
    }

    fn truncate_after(&self, last: Option<LogId>) {
        let mut inner = self.lock();
        let record = Record::truncation(last, inner.live.state.purged);
        inner.write(Write::Record(record));
    }

    fn purge(&self, upto: LogId) {
        self.lock().write(Write::Record(Record::new(Kind::Purge, upto)));
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let mut bytes = 0;
        let inner = self.lock();
        let mut out = Vec::new();
        if range.is_empty() {
            return Ok(out);
        }
        for (_, entry) in inner.live.entries.range(range) {
            bytes += entry.payload.bytes().len();
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn barrier(&self, durable: Durable) {
        self.call_when_durable(durable);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::Payload;

    fn append(log: &MemoryLog, index: u64) -> Arc<Mutex<Option<bool>>> {
        let told = Arc::<Mutex<Option<bool>>>::default();
        let tell = told.clone();
        let entry = LogEntry { id: LogId { term: 1, node: 1, index }, payload: Payload::Blank };
        log.append(vec![entry], Box::new(move |result| *tell.lock().unwrap() = Some(result.is_ok())));
        told
    }

    fn last(log: &MemoryLog) -> Option<u64> {
        log.state().last.map(|it| it.index)
    }

    #[test]
    fn what_was_not_synced_is_lost_with_the_power() {
        let log = MemoryLog::with_disk();
        let first = append(&log, 1);
        assert_eq!((*first.lock().unwrap(), last(&log), log.unsynced()), (None, Some(1), 1), "read, but not durable");
        log.sync();
        assert_eq!((*first.lock().unwrap(), log.unsynced()), (Some(true), 0));
        let vote = Vote { term: 2, node: 1, committed: false };
        log.save_vote(vote, Box::new(drop));
        append(&log, 2);
        assert_eq!((log.state().vote, last(&log)), (Some(vote), Some(2)));
        let bare = log.after_power_loss(0);
        assert_eq!((bare.state().vote, last(&bare), bare.read(0..9, 1).unwrap().len()), (None, Some(1), 1));
        let lucky = log.after_power_loss(1);
        assert_eq!((lucky.state().vote, last(&lucky)), (Some(vote), Some(1)), "a disk may have more than it said");
        assert_eq!(last(&log.after_power_loss(2)), Some(2));
    }

    #[test]
    fn a_failed_sync_is_final() {
        let log = MemoryLog::with_disk();
        let waiting = append(&log, 1);
        log.fail("no disk");
        assert_eq!(*waiting.lock().unwrap(), Some(false));
        assert_eq!(*append(&log, 2).lock().unwrap(), Some(false));
        log.sync();
        assert_eq!(last(&log.after_power_loss(0)), None);
    }
}
