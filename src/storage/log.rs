//! The log on disk: segments, one writer thread, one flush for all that queued up meanwhile.
//!
//! What is flushed together is a *batch*: records that carry the same number and end with one that closes it. Batch n + 1
//! is written only after `fdatasync` of batch n has returned, so:
//! - a batch that is followed by a record of a later one was durable, and may have been acknowledged. If anything of it
//!   cannot be read, the log is damaged, and opening refuses;
//! - a last batch that is not whole was never acknowledged: the power went while it was written. It is cut off.
//!
//! A flipped bit in the last batch would look like the second case. Therefore, when nothing queues up, a mark is written
//! behind it: with the mark there, the damage is seen for what it is. Nobody waits for a mark and it is not flushed by
//! itself. It becomes durable with the next batch, whose number it has: of the two, the power may take either.
//!
//! A last batch that can be read is kept, whether it was acknowledged or not; but it may be in the kernel's memory only, so
//! opening makes it durable before anybody builds on it.
//!
//! A failed write or flush is final: nobody knows what the disk holds then, and a second flush may lie.
mod index;
mod recovery;
mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    thread::{self, JoinHandle},
};

use bytes::Bytes;

use self::{index::Index, writer::Writer};
use super::{
    Durable, LogEntry, LogState, LogStore, Payload, StorageError, Vote,
    segment::{
        Directory, Segment,
        record::{self, Head, Kind, Record},
    },
};
use crate::{metrics::Metrics, types::LogId};

/// The first segment is small, so that a first start is quick; the next one is made while it fills.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;

/// How a log is kept.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Bytes of a segment. All of the last one is read at a start, so it is not larger than that takes a few
    /// milliseconds. A larger entry gets a larger segment of its own.
    pub segment_bytes: u64,
    /// Payloads of the newest entries stay in memory up to this many bytes.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, cache_bytes: 4 << 20 }
    }
}

/// A log in a folder.
pub struct SegmentLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    front: Mutex<Front>,
    wake: Condvar,
    stored: RwLock<Stored>,
    options: LogOptions,
}

/// What callers see: everything that was asked for, durable or not.
struct Front {
    state: LogState,
    /// The newest entries, without a gap, at least all that are not durable yet.
    tail: VecDeque<LogEntry>,
    tail_bytes: usize,
    /// Entries up to here are in a segment.
    durable: Option<u64>,
    queue: Vec<Request>,
    /// Rides with the batch that takes the last of the queue.
    committed: Option<LogId>,
    closed: bool,
    /// Why no more is written, once that is so.
    failed: Option<String>,
}

/// What the segments hold.
struct Stored {
    index: Index,
    segments: BTreeMap<u64, Arc<Segment>>,
}

/// What the writer is asked for.
enum Request {
    Append(Vec<LogEntry>, Durable),
    Record(Record, Option<Durable>),
}

impl SegmentLog {
    /// Opens the log in a folder, made if it is not there, and checks all of it.
    ///
    /// # Errors
    /// [`StorageError`] when it is damaged or cannot be read; the text says where, and what to do.
    pub fn open(path: &Path, options: LogOptions, metrics: Metrics) -> Result<Self, StorageError> {
        let directory = Directory::open(path)?;
        let recovered = recovery::recover(&directory, &options)?;
        let state = recovered.stored.index.state;
        let shared = Arc::new(Shared {
            front: Mutex::new(Front {
                state,
                tail: VecDeque::new(),
                tail_bytes: 0,
                durable: state.last.map(|it| it.index),
                queue: Vec::new(),
                committed: None,
                closed: false,
                failed: None,
            }),
            wake: Condvar::new(),
            stored: RwLock::new(recovered.stored),
            options,
        });
        let writer = Writer::new(shared.clone(), directory, recovered.end, metrics);
        let writer = thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(|err| StorageError::caused("start the log's writer thread", err))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        self.shared.front()
    }

    fn ask(&self, front: &mut Front, request: Request) {
        front.queue.push(request);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Front {
    fn drop_oldest(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= entry.payload.bytes().len();
        }
    }

    /// Lets go of durable entries beyond the bound.
    fn shrink(&mut self, cache_bytes: usize) {
        while self.tail_bytes > cache_bytes
            && self.tail.front().is_some_and(|entry| Some(entry.id.index) <= self.durable)
        {
            self.drop_oldest();
        }
    }

    fn advance(&mut self, record: Record) {
        if let Err(why) = record.advance(&mut self.state) {
            // Only entries can be refused, and they are checked before.
            unreachable!("{why}");
        }
    }
}

impl LogStore for SegmentLog {
    fn state(&self) -> LogState {
        let front = self.front();
        LogState { committed: front.committed.or(front.state.committed), ..front.state }
    }

    fn append(&self, entries: Vec<LogEntry>, durable: Durable) {
        let mut front = self.front();
        for entry in &entries {
            let result = Record::new(Kind::of(&entry.payload), entry.id).advance(&mut front.state);
            assert!(result.is_ok(), "entry {} leaves a gap in the log", entry.id);
            front.tail_bytes += entry.payload.bytes().len();
            front.tail.push_back(entry.clone());
        }
        self.ask(&mut front, Request::Append(entries, durable));
    }

    fn save_vote(&self, vote: Vote, durable: Durable) {
        let mut front = self.front();
        let record = Record::vote(vote);
        front.advance(record);
        self.ask(&mut front, Request::Record(record, Some(durable)));
    }

    fn save_committed(&self, committed: LogId) {
        self.front().committed = Some(committed);
    }

    fn truncate_after(&self, last: Option<LogId>) {
        let mut front = self.front();
        let record = Record::truncation(last, front.state.purged);
        front.advance(record);
        let kept = front.state.last.map_or(0, |it| it.index + 1);
        while front.tail.back().is_some_and(|entry| entry.id.index >= kept) {
            if let Some(entry) = front.tail.pop_back() {
                front.tail_bytes -= entry.payload.bytes().len();
            }
        }
        front.durable = front.durable.min(kept.checked_sub(1));
        self.ask(&mut front, Request::Record(record, None));
    }

    fn purge(&self, upto: LogId) {
        let mut front = self.front();
        let record = Record::new(Kind::Purge, upto);
        front.advance(record);
        while front.tail.front().is_some_and(|entry| entry.id.index <= upto.index) {
            front.drop_oldest();
        }
        self.ask(&mut front, Request::Record(record, None));
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut take = |entry: LogEntry| {
            bytes += entry.payload.bytes().len();
            let fits = bytes <= bytes_max || entries.is_empty();
            if fits {
                entries.push(entry);
            }
            fits
        };
        let mut next = range.start;
        let mut begun = false;
        loop {
            let tail_start = {
                let front = self.front();
                let first = front.state.purged.map_or(0, |it| it.index + 1);
                if begun && next < first {
                    // Purged a moment ago. No entry may follow a gap.
                    return Ok(entries);
                }
                next = next.max(first);
                let end = range.end.min(front.state.last.map_or(0, |it| it.index + 1));
                let tail_start = front.tail.front().map_or(end, |entry| entry.id.index).min(end);
                if next >= tail_start {
                    let skip = front.tail.front().map_or(0, |entry| next.saturating_sub(entry.id.index));
                    let tail = front.tail.iter().skip(skip as usize);
                    for entry in tail.take_while(|entry| entry.id.index < end) {
                        if !take(entry.clone()) {
                            break;
                        }
                    }
                    return Ok(entries);
                }
                tail_start
            };
            // Entries are durable before they leave the tail: what is not there any more is in a segment. Meanwhile more
            // may leave it, so look again.
            while next < tail_start {
                match self.read_stored(next)? {
                    Some(entry) if !take(entry.clone()) => return Ok(entries),
                    Some(_) => (begun, next) = (true, next + 1),
                    // Purged or truncated a moment ago.
                    None if begun => return Ok(entries),
                    // Before the first entry of this log, which may begin anywhere.
                    None => next = self.first_stored().map_or(tail_start, |first| first.max(next + 1)),
                }
            }
        }
    }

    fn barrier(&self, durable: Durable) {
        let mut front = self.front();
        self.ask(&mut front, Request::Append(Vec::new(), durable));
    }
}

impl SegmentLog {
    fn first_stored(&self) -> Option<u64> {
        self.shared.stored.read().unwrap_or_else(PoisonError::into_inner).index.first()
    }

    fn read_stored(&self, index: u64) -> io::Result<Option<LogEntry>> {
        let (slot, segment) = {
            let stored = self.shared.stored.read().unwrap_or_else(PoisonError::into_inner);
            let Some(slot) = stored.index.get(index) else { return Ok(None) };
            let Some(segment) = stored.segments.get(&u64::from(slot.segment)) else { return Ok(None) };
            (slot, segment.clone())
        };
        let mut bytes = vec![0; record::HEAD_BYTES + slot.payload_bytes()];
        segment.read(slot.offset(), &mut bytes)?;
        let mut bytes = Bytes::from(bytes);
        let payload = bytes.split_off(record::HEAD_BYTES);
        let head: &[u8; record::HEAD_BYTES] = bytes[..].try_into().map_err(io::Error::other)?;
        let damaged = || {
            let path = segment.path.display();
            io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index} in {path} is damaged"))
        };
        let record::Found::Record(Head { record, .. }) = record::decode(head, &payload, segment.seed) else {
            return Err(damaged());
        };
        let payload = match record.kind {
            Kind::Blank => Payload::Blank,
            Kind::Proposal => Payload::Proposal(payload),
            Kind::Membership => Payload::Membership(payload),
            Kind::Vote | Kind::Committed | Kind::Truncate | Kind::Clear | Kind::Purge | Kind::Mark => {
                return Err(damaged());
            }
        };
        Ok(Some(LogEntry { id: record.id, payload }))
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.front().closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the log's writer thread panicked");
        }
    }
}
