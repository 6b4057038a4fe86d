//! The log on disk: segments, one writer thread, one flush for all that queued up meanwhile.
//!
//! What is flushed together is a *batch*: records that carry the same number and end with one that closes it. Batch n + 1
//! is written only after `fdatasync` of batch n has returned, so:
//! - a batch that is followed by a record of a later one was durable, and may have been acknowledged. If anything of it
//!   cannot be read, the log is damaged, and opening refuses;
//! - a last batch that is not whole was never acknowledged: the power went while it was written. It is cut off.
//!
//! A flipped bit in the last batch would look like the second case. Therefore, when nothing queues up, a mark is written
//! behind it, as a batch of its own that nobody waits for: with the mark there, the damage is seen for what it is.
//!
//! A failed write or flush is final: nobody knows what the disk holds then, and a second flush may lie.
mod index;
mod recovery;

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;

use self::index::{Index, Slot};
use super::{
    Durable, LogEntry, LogState, LogStore, Payload, StorageError, Vote,
    segment::{
        Blank, Directory, HEADER_BYTES, Header, Segment, UNFINISHED,
        record::{self, Head, Kind, Record},
    },
};
use crate::{metrics::Metrics, types::LogId};

/// One flush takes at most about this many bytes: bounds how long the first in it waits.
const BATCH_BYTES_MAX: usize = 8 << 20;
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
    /// Rides with the next batch.
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
        let writer = Writer {
            shared: shared.clone(),
            directory,
            active: recovered.active,
            log: recovered.log,
            offset: recovered.offset,
            batch: recovered.batch,
            state,
            buffer: Vec::new(),
            marked: true,
            preparing: None,
            metrics,
        };
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
        loop {
            let tail_start = {
                let front = self.front();
                next = next.max(front.state.purged.map_or(0, |it| it.index + 1));
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
                    // None: before the first entry of this log, or purged a moment ago.
                    Some(_) | None => next += 1,
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

/// The thread that writes. Everything of it is in order.
struct Writer {
    shared: Arc<Shared>,
    directory: Directory,
    active: Arc<Segment>,
    /// The identity of the log.
    log: u64,
    /// Where the next batch goes.
    offset: u64,
    /// The number of the last batch.
    batch: u64,
    /// The state after the last batch.
    state: LogState,
    buffer: Vec<u8>,
    /// Whether a mark stands behind the last batch that somebody waited for.
    marked: bool,
    /// The next segment, while it is being made.
    preparing: Option<Preparing>,
    metrics: Metrics,
}

struct Preparing {
    made: mpsc::Receiver<io::Result<Blank>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Preparing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends soon, and what it leaves is deleted at the next start.
            drop(thread.join());
        }
    }
}

/// A batch on its way to the disk.
struct Batch {
    records: Vec<(Record, Bytes)>,
    waiting: Vec<Durable>,
    bytes: usize,
}

impl Writer {
    fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            let result = self.flush(&batch.records);
            let failed = result.as_ref().err().map(ToString::to_string);
            for durable in batch.waiting {
                durable(match &failed {
                    None => Ok(()),
                    Some(why) => Err(io::Error::other(why.clone())),
                });
            }
            if let Some(why) = failed {
                return self.fail(&why);
            }
        }
    }

    /// Waits for requests and takes as many as one flush may hold. `None` when the log is closed and all is written.
    fn next_batch(&mut self) -> Option<Batch> {
        let shared = self.shared.clone();
        let mut front = shared.front();
        while front.queue.is_empty() && !front.closed {
            if !self.marked {
                // Nobody waits: time for the mark.
                drop(front);
                self.mark();
                front = shared.front();
                continue;
            }
            front = shared.wake.wait(front).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = Batch { records: Vec::new(), waiting: Vec::new(), bytes: 0 };
        if let Some(committed) = front.committed.take() {
            front.state.committed = Some(committed);
            batch.push(Record::new(Kind::Committed, committed), Bytes::new());
        } else if front.queue.is_empty() {
            return None;
        }
        let mut taken = 0;
        for request in &front.queue {
            let bytes = match request {
                Request::Append(entries, _) => entries.iter().map(|it| it.payload.bytes().len()).sum(),
                Request::Record(_, _) => 0,
            };
            if taken > 0 && batch.bytes + bytes > BATCH_BYTES_MAX {
                break;
            }
            batch.bytes += bytes;
            taken += 1;
        }
        batch.bytes = 0;
        let requests: Vec<Request> = front.queue.drain(..taken).collect();
        drop(front);
        for request in requests {
            match request {
                Request::Append(entries, durable) => {
                    for entry in entries {
                        let payload = match &entry.payload {
                            Payload::Blank => Bytes::new(),
                            Payload::Proposal(bytes) | Payload::Membership(bytes) => bytes.clone(),
                        };
                        batch.push(Record::new(Kind::of(&entry.payload), entry.id), payload);
                    }
                    batch.waiting.push(durable);
                }
                Request::Record(record, durable) => {
                    batch.push(record, Bytes::new());
                    batch.waiting.extend(durable);
                }
            }
        }
        Some(batch)
    }

    /// Writes a batch, makes it durable, and takes note of it.
    fn flush(&mut self, records: &[(Record, Bytes)]) -> io::Result<()> {
        let Some(last) = records.len().checked_sub(1) else { return Ok(()) };
        self.make_room(records.iter().map(|(_, payload)| record::size(payload.len()) as u64).sum())?;
        self.batch += 1;
        self.buffer.clear();
        let mut places = Vec::with_capacity(records.len());
        for (at, (record, payload)) in records.iter().enumerate() {
            let offset = self.offset + self.buffer.len() as u64;
            places.push(Slot::new(self.active.sequence, offset, payload.len()));
            let head =
                Head { record: *record, batch: self.batch, closes_batch: at == last, payload_bytes: payload.len() };
            record::encode(&mut self.buffer, self.active.seed, head, payload);
        }
        let started = tokio::time::Instant::now();
        self.active.write(self.offset, &self.buffer)?;
        self.metrics.log_fsync_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.log_bytes.inc_by(self.buffer.len() as u64);
        self.offset += self.buffer.len() as u64;
        self.marked = false;
        if self.buffer.capacity() > BATCH_BYTES_MAX {
            self.buffer = Vec::new();
        }
        self.take_note(records, &places)?;
        self.prepare_next();
        Ok(())
    }

    fn take_note(&mut self, records: &[(Record, Bytes)], places: &[Slot]) -> io::Result<()> {
        let mut purged = false;
        {
            let mut stored = self.shared.stored.write().unwrap_or_else(PoisonError::into_inner);
            for ((record, _), place) in records.iter().zip(places) {
                stored.index.apply(*record, *place).map_err(io::Error::other)?;
                purged |= record.kind == Kind::Purge;
            }
            self.state = stored.index.state;
        }
        {
            let mut front = self.shared.front();
            let durable = records.iter().rev().find(|(record, _)| record.is_entry()).map(|(record, _)| record.id.index);
            if durable.is_some() {
                // What was truncated meanwhile is not in the tail; what replaced it is durable only later.
                let last = front.state.last.map(|it| it.index);
                let replaced = front.queue.iter().any(|it| matches!(it, Request::Record(_, _)));
                if !replaced {
                    front.durable = durable.min(last);
                }
            }
            let cache_bytes = self.shared.options.cache_bytes;
            front.shrink(cache_bytes);
        }
        if purged {
            self.delete_old_segments()?;
        }
        Ok(())
    }

    /// Behind a durable batch, when nobody waits. Not flushed: its loss loses nothing.
    fn mark(&mut self) {
        self.marked = true;
        let bytes = record::size(0) as u64;
        if self.offset + bytes > self.active.bytes {
            return;
        }
        self.buffer.clear();
        let record = Record::bare(Kind::Mark);
        let head = Head { record, batch: self.batch + 1, closes_batch: true, payload_bytes: 0 };
        record::encode(&mut self.buffer, self.active.seed, head, &[]);
        match self.active.note(self.offset, &self.buffer) {
            Ok(()) => {
                self.batch += 1;
                self.offset += bytes;
            }
            // The next flush meets the same disk and says so to somebody.
            Err(err) => tracing::warn!(%err, "write a mark to the log"),
        }
    }

    /// Goes on in a new segment when the active one has no room left.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.offset + bytes <= self.active.bytes {
            return Ok(());
        }
        let least = HEADER_BYTES + bytes;
        let blank = match self.preparing.take() {
            Some(preparing) if least <= self.shared.options.segment_bytes => {
                preparing.made.recv().map_err(|_| io::Error::other("the next segment was not made"))??
            }
            prepared => {
                drop(prepared);
                let bytes = least.max(self.shared.options.segment_bytes).next_multiple_of(HEADER_BYTES);
                let path = self.unfinished("large");
                let blank = Blank::create(path, bytes, &AtomicBool::new(false))?;
                blank.ok_or_else(|| io::Error::other("the next segment was not made"))?
            }
        };
        let header = Header {
            log: self.log,
            sequence: self.active.sequence + 1,
            bytes: blank.bytes,
            batch: self.batch,
            state: self.state,
        };
        self.active = Arc::new(blank.into_segment(&self.directory, &header)?);
        self.offset = HEADER_BYTES;
        let mut stored = self.shared.stored.write().unwrap_or_else(PoisonError::into_inner);
        stored.segments.insert(self.active.sequence, self.active.clone());
        Ok(())
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.{UNFINISHED}"))
    }

    /// Has the next segment made by another thread, so that the writer hardly ever waits for it.
    fn prepare_next(&mut self) {
        if self.preparing.is_some() {
            return;
        }
        let (send, made) = mpsc::sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let (path, bytes) = (self.unfinished("next"), self.shared.options.segment_bytes);
        let spawned = thread::Builder::new().name("log-prepare".into()).spawn({
            let stop = stop.clone();
            move || {
                let blank = Blank::create(path, bytes, &stop).and_then(|blank| {
                    if let Some(blank) = &blank {
                        blank.sync()?;
                    }
                    Ok(blank)
                });
                if let Some(blank) = blank.transpose() {
                    // The writer may be gone.
                    drop(send.send(blank));
                }
            }
        });
        match spawned {
            Ok(thread) => self.preparing = Some(Preparing { made, stop, thread: Some(thread) }),
            Err(err) => tracing::warn!(%err, "start the thread that makes the next log segment; the writer will"),
        }
    }

    fn delete_old_segments(&self) -> io::Result<()> {
        let old: Vec<Arc<Segment>> = {
            let mut stored = self.shared.stored.write().unwrap_or_else(PoisonError::into_inner);
            let oldest = stored.index.oldest_segment().map_or(self.active.sequence, u64::from);
            let kept = stored.segments.split_off(&oldest.min(self.active.sequence));
            std::mem::replace(&mut stored.segments, kept).into_values().collect()
        };
        // Oldest first: after a crash in between there is no gap.
        for segment in &old {
            fs::remove_file(&segment.path)?;
        }
        if old.is_empty() { Ok(()) } else { self.directory.sync() }
    }

    fn fail(self, why: &str) {
        tracing::error!(%why, "the log cannot be written; this node takes no more writes");
        loop {
            let requests = {
                let mut front = self.shared.front();
                front.failed = Some(why.to_owned());
                while front.queue.is_empty() && !front.closed {
                    front = self.shared.wake.wait(front).unwrap_or_else(PoisonError::into_inner);
                }
                if front.queue.is_empty() {
                    return;
                }
                std::mem::take(&mut front.queue)
            };
            for request in requests {
                match request {
                    Request::Append(_, durable) | Request::Record(_, Some(durable)) => {
                        durable(Err(io::Error::other(why.to_owned())));
                    }
                    Request::Record(_, None) => {}
                }
            }
        }
    }
}

impl Batch {
    fn push(&mut self, record: Record, payload: Bytes) {
        self.records.push((record, payload));
    }
}
