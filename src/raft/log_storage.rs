//! openraft's log over our [`LogStore`].
use std::{fmt::Debug, io, ops::Bound, ops::RangeBounds, sync::Arc};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    alias::{LogIdOf, VoteOf},
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{
    TypeConfig,
    convert::{RaftEntry, from_log_entry, from_raft_id, from_raft_vote, to_log_entry, to_raft_id, to_raft_vote},
};
use crate::{
    planted::{self, Bug},
    storage::{Durable, LogStore, codec::DecodeError},
    types::LogId,
};

/// A message to a peer carries at most about this many bytes of entries.
const READ_BYTES_MAX: usize = 2 << 20;

/// The log as openraft sees it. Clones share it.
#[derive(Clone)]
pub struct RaftLog(Arc<dyn LogStore>);

impl RaftLog {
    /// A view of this log.
    pub fn new(log: Arc<dyn LogStore>) -> Self {
        Self(log)
    }

    fn read(&self, range: std::ops::Range<u64>, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let entries = self.0.read(range, bytes_max)?;
        entries.into_iter().map(|entry| from_log_entry(entry).map_err(corrupt)).collect()
    }

    /// The last entry that is known to be committed and is here. A log may name one that it does not hold, when the process
    /// was killed before the entry was durable; openraft would ask for it at every start, and give up.
    fn committed(&self) -> io::Result<Option<LogId>> {
        let state = self.0.state();
        let (Some(named), Some(last)) = (state.committed, state.last) else { return Ok(None) };
        if state.purged.is_some_and(|purged| named.index <= purged.index) {
            return Ok(Some(named));
        }
        let index = named.index.min(last.index);
        let there = self.0.read(index..index + 1, 0)?.first().map(|entry| entry.id);
        // What the same leader wrote before a committed entry is committed too. What another one wrote may not be: the entry
        // that is missing may be the one that replaces it.
        let known = there.filter(|it| (it.term, it.node) == (named.term, named.node)).or(state.purged);
        if known != Some(named) {
            tracing::info!(%named, ?known, "the log says that an entry is committed which it does not hold");
        }
        Ok(known)
    }
}

/// Asks the log for something, and waits until it is durable.
pub(super) async fn when_durable(ask: impl FnOnce(Durable)) -> io::Result<()> {
    let (done, is_done) = oneshot::channel();
    ask(Box::new(move |result| {
        // The receiver waits below.
        drop(done.send(result));
    }));
    is_done.await.unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))
}

fn corrupt(err: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, err)
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<RaftEntry>> {
        let start = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(at) => at + 1,
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start..end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        Ok(self.0.state().vote.map(to_raft_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        let entries = self.read(start..end, READ_BYTES_MAX)?;
        // A replication stream that was given up, while its messages were held up, may ask for what was purged since. What
        // follows the gap is no continuation of what it sent: a follower would have a hole in its log.
        if entries.first().is_some_and(|first| first.log_id.index != start) {
            return Ok(Vec::new());
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.0.state();
        Ok(LogState { last_purged_log_id: state.purged.map(to_raft_id), last_log_id: state.last.map(to_raft_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        if planted::is(Bug::VoteNotPersisted) {
            return Ok(());
        }
        when_durable(|durable| self.0.save_vote(from_raft_vote(vote), durable)).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.0.save_committed(from_raft_id(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<TypeConfig>>> {
        Ok(self.committed()?.map(to_raft_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(to_log_entry).collect();
        self.0.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        self.0.truncate_after(last.as_ref().map(from_raft_id));
        Ok(())
    }

    async fn purge(&mut self, upto: LogIdOf<TypeConfig>) -> io::Result<()> {
        self.0.purge(from_raft_id(&upto));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::Metrics,
        storage::{
            LogEntry, Payload,
            log::{LogOptions, SegmentLog},
            memory_log::MemoryLog,
        },
    };

    #[tokio::test]
    async fn what_follows_a_purged_entry_is_not_taken_for_it() {
        let log = Arc::new(MemoryLog::new());
        let id = |index| LogId { term: 1, node: 1, index };
        let entries = (1..=20).map(|index| LogEntry { id: id(index), payload: Payload::Blank }).collect();
        log.append(entries, Box::new(drop));
        log.purge(id(10));
        let mut reader = RaftLog::new(log);
        let mut indexes = async |start, end| {
            let entries = reader.limited_get_log_entries(start, end).await.unwrap();
            entries.into_iter().map(|it| it.log_id.index).collect::<Vec<_>>()
        };
        assert_eq!(indexes(11, 14).await, [11, 12, 13]);
        for start in [1, 5, 10] {
            assert_eq!(indexes(start, 21).await, Vec::<u64>::new(), "from {start}, which is gone");
        }
    }

    #[tokio::test]
    async fn what_is_read_as_committed_is_never_missing_nor_another_entry() {
        let id = |term, index| LogId { term, node: 1, index };
        // Entries up to 5 are of term 1, those behind them of term 2.
        let own = |index: u64| id(if index <= 5 { 1 } else { 2 }, index);
        // The last entry, the last purged one, the one that is said to be committed, and the one that is read as such.
        let cases = [
            (10, 0, id(2, 8), Some(id(2, 8))),
            (10, 0, id(2, 10), Some(id(2, 10))),
            (10, 0, id(2, 12), Some(id(2, 10))),
            (4, 0, id(1, 5), Some(id(1, 4))),
            // Whether that leader kept entry 10, or entry 4, is not known.
            (10, 0, id(3, 12), None),
            (10, 0, id(3, 10), None),
            (10, 0, id(2, 4), None),
            (10, 7, id(3, 12), Some(id(2, 7))),
            (10, 10, id(2, 12), Some(id(2, 10))),
            (10, 7, id(2, 9), Some(id(2, 9))),
            (10, 7, id(1, 3), Some(id(1, 3))),
            (0, 0, id(1, 3), None),
        ];
        for (last, purged, named, expected) in cases {
            let write = |log: &dyn LogStore| {
                let entries = (1..=last).map(|index| LogEntry { id: own(index), payload: Payload::Blank }).collect();
                log.append(entries, Box::new(drop));
                log.save_committed(named);
                if purged > 0 {
                    log.purge(own(purged));
                }
            };
            let memory = MemoryLog::new();
            write(&memory);
            let dir = tempfile::tempdir().unwrap();
            let options = LogOptions { segment_bytes: 16 << 10, cache_bytes: 0 };
            let open = || SegmentLog::open(dir.path(), options, Metrics::new()).unwrap();
            write(&open());
            let logs: [Arc<dyn LogStore>; 2] = [Arc::new(memory), Arc::new(open())];
            for log in logs {
                assert_eq!(log.state().committed, Some(named), "what was written");
                let read = RaftLog::new(log).read_committed().await.unwrap();
                assert_eq!(read.map(|it| from_raft_id(&it)), expected, "{named} of {last}, purged up to {purged}");
            }
        }
    }
}
