//! The thread that writes the log: batches, marks, new segments, and the deletion of old ones.
use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;

use super::{Request, Shared, index::Slot, recovery::End};
use crate::{
    metrics::Metrics,
    planted::{self, Bug},
    storage::{
        Durable, LogState, Payload,
        segment::{
            Blank, Directory, HEADER_BYTES, Header, Segment, UNFINISHED,
            record::{self, Head, Kind, Record},
        },
    },
};

/// What a disk damages or loses as one; drives with larger sectors say so rarely, and promise this much.
const SECTOR_BYTES: usize = 512;
/// One flush takes at most about this many bytes: bounds how long the first in it waits.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// The thread that writes. Everything of it is in order.
pub(super) struct Writer {
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
    /// Whether a mark stands behind the last batch.
    marked: bool,
    /// Whether there is a mark in the active segment that no flush has taken along yet.
    mark_is_loose: bool,
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
}

impl Writer {
    /// A writer that goes on where the log ends.
    pub(super) fn new(shared: Arc<Shared>, directory: Directory, end: End, metrics: Metrics) -> Self {
        let End { active, log, offset, batch, marked, state } = end;
        Self {
            shared,
            directory,
            active,
            log,
            offset,
            batch,
            state,
            buffer: Vec::new(),
            marked,
            mark_is_loose: false,
            preparing: None,
            metrics,
        }
    }

    /// Writes until the log is closed. Whatever happens, nobody who asks is left without an answer.
    pub(super) fn run(mut self) {
        if let Err(why) = self.work() {
            self.fail(&why);
        }
    }

    fn work(&mut self) -> Result<(), String> {
        while let Some(batch) = self.next_batch() {
            let flushed = catch_unwind(AssertUnwindSafe(|| self.flush(&batch.records)));
            let mut result = match flushed {
                Ok(flushed) => flushed.map_err(|err| err.to_string()),
                Err(_) => Err("the log's writer panicked".to_owned()),
            };
            let answer = result.clone();
            for durable in batch.waiting {
                let answer = answer.clone().map_err(io::Error::other);
                if catch_unwind(AssertUnwindSafe(|| durable(answer))).is_err() {
                    // Whoever waited knows nothing of its write now; the others in this batch do.
                    result = Err("a caller of the log panicked".into());
                }
            }
            result?;
        }
        if !self.marked {
            self.mark();
        }
        Ok(())
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
        if front.queue.is_empty() && front.committed.is_none() {
            return None;
        }
        let (mut taken, mut taken_bytes) = (0_usize, 0_usize);
        for request in &front.queue {
            let bytes: usize = match request {
                Request::Append(entries, _) => entries.iter().map(|it| it.payload.bytes().len()).sum(),
                Request::Record(_, _) => 0,
            };
            if taken > 0 && taken_bytes + bytes > BATCH_BYTES_MAX {
                break;
            }
            taken_bytes += bytes;
            taken += 1;
        }
        let requests: Vec<Request> = front.queue.drain(..taken).collect();
        // What is committed may be any entry that was asked for. Consensus does not start on a log that calls an entry
        // committed and does not hold it. Hence this waits for the batch that takes the last of the queue.
        let takes_all = front.queue.is_empty();
        let committed = front.committed.take_if(|_| takes_all);
        front.state.committed = committed.or(front.state.committed);
        drop(front);
        let mut batch = Batch { records: Vec::new(), waiting: Vec::new() };
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
        if let Some(committed) = committed {
            batch.push(Record::new(Kind::Committed, committed), Bytes::new());
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
        if planted::is(Bug::AckBeforeFsync) {
            self.active.note(self.offset, &self.buffer)?;
        } else {
            self.active.write(self.offset, &self.buffer)?;
        }
        self.metrics.log_fsync_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.log_bytes.inc_by(self.buffer.len() as u64);
        self.offset += self.buffer.len() as u64;
        self.marked = false;
        self.mark_is_loose = false;
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
            // Up to the last entry on disk, also where this very batch truncated: what replaces entries is not durable
            // because they were. While a truncation waits, what is on disk says nothing about the tail.
            let replacing = |it: &Request| match it {
                Request::Append(_, _) => false,
                Request::Record(record, _) => matches!(record.kind, Kind::Truncate | Kind::Clear),
            };
            if !front.queue.iter().any(replacing) {
                front.durable = self.state.last.map(|it| it.index);
            }
            let cache_bytes = self.shared.options.cache_bytes;
            front.shrink(cache_bytes);
        }
        if purged {
            self.delete_old_segments();
        }
        Ok(())
    }

    /// Behind a durable batch, when nobody waits. Not flushed: its loss loses nothing. It has the number of the batch
    /// that comes next, since they become durable together: either shows that the batch before them was durable, and
    /// neither says anything about the other.
    ///
    /// There are two of them, a sector apart: no damage of one sector takes the end of the batch and both marks. Where there is
    /// no room for them the next segment begins: its header is durable before it has a name, and says as much.
    fn mark(&mut self) {
        self.marked = true;
        let bytes = (record::size(SECTOR_BYTES) + record::size(0)) as u64;
        if self.offset + bytes > self.active.bytes {
            if let Err(err) = self.make_room(bytes) {
                tracing::warn!(%err, "begin the next segment of the log");
                // It may have its name, and say that this one ends here: what comes next must not go into this one.
                self.offset = self.active.bytes;
            }
            return;
        }
        self.buffer.clear();
        for payload in [&[0; SECTOR_BYTES][..], &[]] {
            let record = Record::bare(Kind::Mark);
            let head = Head { record, batch: self.batch + 1, closes_batch: true, payload_bytes: payload.len() };
            record::encode(&mut self.buffer, self.active.seed, head, payload);
        }
        match self.active.note(self.offset, &self.buffer) {
            Ok(()) => {
                self.mark_is_loose = true;
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
        if self.mark_is_loose {
            // No flush will ever take it along, and half a mark in the middle of a log would look like damage.
            self.active.sync()?;
            self.mark_is_loose = false;
        }
        let blank = self.next_blank(HEADER_BYTES + bytes)?;
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

    /// What was prepared, if that is long enough; otherwise made now.
    fn next_blank(&mut self, least: u64) -> io::Result<Blank> {
        let segment_bytes = self.shared.options.segment_bytes;
        if let Some(preparing) = self.preparing.take_if(|_| least <= segment_bytes) {
            match preparing.made.recv() {
                Ok(Ok(blank)) => return Ok(blank),
                // Perhaps the disk was full then, long ago. Whether it still is, is seen now.
                Ok(Err(err)) => tracing::warn!(%err, "prepare the next log segment; the writer does it"),
                Err(mpsc::RecvError) => {}
            }
        }
        let bytes = least.max(segment_bytes).next_multiple_of(HEADER_BYTES);
        let blank = Blank::create(self.unfinished("now"), bytes, &AtomicBool::new(false))?;
        blank.ok_or_else(|| io::Error::other("the next segment was not made"))
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

    /// Oldest first and one by one, so that a crash in between leaves no gap; and none after one that is still there, for
    /// the same reason. A segment is forgotten only once it is gone: the next purge begins with those that stay.
    fn delete_old_segments(&self) {
        let old: Vec<Arc<Segment>> = {
            let stored = self.shared.stored.read().unwrap_or_else(PoisonError::into_inner);
            let oldest = stored.index.oldest_segment().map_or(self.active.sequence, u64::from);
            stored.segments.range(..oldest.min(self.active.sequence)).map(|(_, segment)| segment.clone()).collect()
        };
        for segment in old {
            if let Err(err) = self.delete(&segment) {
                // All that was asked for is durable; too little room is told by the next segment.
                tracing::warn!(%err, path = %segment.path.display(), "delete a purged log segment");
                return;
            }
            let mut stored = self.shared.stored.write().unwrap_or_else(PoisonError::into_inner);
            stored.segments.remove(&segment.sequence);
        }
    }

    /// Deletes a segment, durably.
    fn delete(&self, segment: &Segment) -> io::Result<()> {
        match fs::remove_file(&segment.path) {
            Ok(()) => {}
            // Perhaps an attempt before this one deleted it, but could not make that durable.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
        self.directory.sync()
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
