//! Opening a log: reading every record, cutting off a torn end, refusing damage.
use std::{collections::BTreeMap, fs, io, path::PathBuf, sync::Arc, sync::atomic::AtomicBool};

use super::{
    FIRST_SEGMENT_BYTES, LogOptions, Stored,
    index::{Index, Slot},
};
use crate::storage::{
    LogState, StorageError,
    segment::{
        Blank, Directory, EXTENSION, HEADER_BYTES, Header, NUMBER_MAX, Segment, UNFINISHED, damaged,
        record::{self, ALIGNMENT, Found, HEAD_BYTES, Head, Kind, Record},
    },
};

/// Segments are looked through in pieces of this size.
const LOOK_BYTES: usize = 256 << 10;

/// A log as it was found.
pub(super) struct Recovered {
    pub(super) stored: Stored,
    pub(super) end: End,
}

/// Where the writer goes on.
pub(super) struct End {
    pub(super) active: Arc<Segment>,
    /// The identity of the log.
    pub(super) log: u64,
    /// Where the next batch goes.
    pub(super) offset: u64,
    /// The last whole batch.
    pub(super) batch: u64,
    /// Whether a mark stands behind it.
    pub(super) marked: bool,
    /// The state after it.
    pub(super) state: LogState,
}

pub(super) fn recover(directory: &Directory, options: &LogOptions) -> Result<Recovered, StorageError> {
    let shown = directory.path().display();
    let failed = |err: io::Error| StorageError::caused(format!("read the log folder {shown}"), err);
    let paths = segment_paths(directory).map_err(failed)?;
    let Some((&first, _)) = paths.first_key_value() else { return create(directory, options) };
    let mut scan: Option<Scan> = None;
    let count = paths.len();
    for (at, (sequence, path)) in paths.into_iter().enumerate() {
        let expected = first + at as u64;
        if sequence != expected {
            return Err(damaged(&path, 0, &format!("segment {expected:016x} before it is missing")));
        }
        let (segment, header) = Segment::open(path, sequence)?;
        let segment = Arc::new(segment);
        let scan = scan.get_or_insert_with(|| Scan::new(&header));
        scan.check_header(&segment, &header)?;
        scan.segments.insert(sequence, segment.clone());
        scan.read(&segment, at + 1 == count)?;
    }
    let active = scan.as_ref().and_then(|it| it.segments.values().next_back().cloned());
    let (Some(scan), Some(active)) = (scan, active) else {
        return Err(StorageError::new(format!("the log folder {shown} is empty")));
    };
    if !scan.index.is_complete() {
        return Err(damaged(&active.path, 0, "entries are missing before the first one that is there"));
    }
    // The last name may not be durable yet either, when the process was killed while it gave it.
    directory.sync().map_err(failed)?;
    let Scan { log, index, segments, batch, offset, marked, .. } = scan;
    let end = End { active, log, offset, batch, marked, state: index.state };
    Ok(Recovered { stored: Stored { index, segments }, end })
}

/// Segments by their numbers. Unfinished files are deleted.
fn segment_paths(directory: &Directory) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut paths = BTreeMap::new();
    for entry in fs::read_dir(directory.path())? {
        let path = entry?.path();
        let extension = path.extension().and_then(|it| it.to_str());
        if extension == Some(UNFINISHED) {
            fs::remove_file(&path)?;
            continue;
        }
        let number = path.file_stem().and_then(|it| it.to_str()).and_then(|it| u64::from_str_radix(it, 16).ok());
        if let (Some(EXTENSION), Some(number)) = (extension, number) {
            paths.insert(number, path);
        }
    }
    Ok(paths)
}

fn create(directory: &Directory, options: &LogOptions) -> Result<Recovered, StorageError> {
    use std::hash::{BuildHasher, RandomState};
    let failed = |err: io::Error| {
        StorageError::caused(format!("make a log in {}; is the disk full?", directory.path().display()), err)
    };
    let log = RandomState::new().hash_one(std::process::id());
    let bytes = FIRST_SEGMENT_BYTES.min(options.segment_bytes).max(2 * HEADER_BYTES);
    let path = directory.path().join(format!("first.{UNFINISHED}"));
    let blank = Blank::create(path, bytes, &AtomicBool::new(false)).map_err(failed)?;
    let blank = blank.ok_or_else(|| failed(io::ErrorKind::Interrupted.into()))?;
    let header = Header { log, sequence: 1, bytes, batch: 0, state: LogState::default() };
    let active = Arc::new(blank.into_segment(directory, &header).map_err(failed)?);
    let stored = Stored { index: Index::new(header.state), segments: BTreeMap::from([(1, active.clone())]) };
    let end = End { active, log, offset: HEADER_BYTES, batch: 0, marked: true, state: header.state };
    Ok(Recovered { stored, end })
}

/// Where reading stands.
struct Scan {
    log: u64,
    index: Index,
    /// Up to the one that is read.
    segments: BTreeMap<u64, Arc<Segment>>,
    /// The last whole batch.
    batch: u64,
    /// Where it begins.
    start: u64,
    /// Behind it, and behind the mark that follows it.
    offset: u64,
    /// Whether a mark follows it.
    marked: bool,
}

impl Scan {
    fn new(first: &Header) -> Self {
        let index = Index::new(first.state);
        let (segments, start, offset) = (BTreeMap::new(), HEADER_BYTES, HEADER_BYTES);
        Self { log: first.log, index, segments, batch: first.batch, start, offset, marked: true }
    }

    fn check_header(&mut self, segment: &Segment, header: &Header) -> Result<(), StorageError> {
        if header.log != self.log {
            return Err(damaged(&segment.path, 0, "it belongs to another log"));
        }
        if header.batch != self.batch || header.state != self.index.state {
            return Err(damaged(&segment.path, 0, "the end of the segment before it is missing"));
        }
        // A header is durable before its segment has a name, hence it says as much as a mark.
        (self.start, self.offset, self.marked) = (HEADER_BYTES, HEADER_BYTES, true);
        Ok(())
    }

    /// Reads a segment to its end.
    fn read(&mut self, segment: &Segment, last: bool) -> Result<(), StorageError> {
        let failed = |err: io::Error| StorageError::caused(format!("read {}", segment.path.display()), err);
        let used = used_bytes(segment).map_err(failed)?;
        let mut bytes = vec![0; used as usize];
        segment.read(0, &mut bytes).map_err(failed)?;
        let mut at = HEADER_BYTES as usize;
        // Records of the batch that is not whole yet.
        let mut open: Vec<(Record, Slot)> = Vec::new();
        let trouble = loop {
            match at_place(&bytes, at, segment) {
                Found::Record(head) if head.record.id.index > NUMBER_MAX => {
                    return Err(damaged(&segment.path, at as u64, "it speaks of an entry that no log gets to"));
                }
                Found::Record(head) if head.batch == self.batch + 1 => {
                    let begins = open.is_empty();
                    open.push((head.record, Slot::new(segment.sequence, at as u64, head.payload_bytes)));
                    at += record::size(head.payload_bytes);
                    if begins && head.record.kind == Kind::Mark {
                        open.clear();
                        (self.offset, self.marked) = (at as u64, true);
                    } else if head.closes_batch {
                        self.close(segment, &mut open, at as u64)?;
                    }
                }
                Found::Record(_) => break Some("a record is not of the batch that must follow"),
                Found::Unreadable(why) => return Err(damaged(&segment.path, at as u64, why)),
                Found::Bad(why) => break Some(why),
                Found::End if open.is_empty() && is_zero(bytes.get(at..).unwrap_or_default()) => break None,
                Found::End => break Some("there are zeros where a record must be"),
            }
        };
        if let Some(why) = trouble {
            if !last || later_batch(&bytes, at, segment, self.batch + 1) {
                return Err(damaged(&segment.path, at as u64, why));
            }
            // Never acknowledged: nothing was written after it.
            tracing::info!(
                path = %segment.path.display(),
                offset = self.offset,
                "cut off the torn end of the log: a write that nobody was answered"
            );
        }
        if last { self.settle(segment, bytes).map_err(failed) } else { Ok(()) }
    }

    /// Makes the last segment end, durably, with what was found whole in it. A process that is killed leaves a last batch
    /// that can be read but is in no more than the kernel's memory; after a failed flush the kernel even takes it for
    /// written. Hence it is written again, whole, before anybody builds on it.
    fn settle(&self, segment: &Segment, mut bytes: Vec<u8>) -> io::Result<()> {
        let (start, offset) = (self.start as usize, self.offset as usize);
        let used = bytes.iter().rposition(|it| *it != 0).map_or(0, |it| it + 1);
        // Zeros at the end of a payload may not have been kept.
        bytes.resize(used.max(offset), 0);
        bytes[offset..].fill(0);
        segment.write(self.start, &bytes[start..])
    }

    fn close(&mut self, segment: &Segment, open: &mut Vec<(Record, Slot)>, end: u64) -> Result<(), StorageError> {
        for (record, slot) in open.drain(..) {
            self.check_names(segment, record, slot)?;
            self.index.apply(record, slot).map_err(|why| damaged(&segment.path, slot.offset(), &why))?;
        }
        self.batch += 1;
        (self.start, self.offset, self.marked) = (self.offset, end, false);
        Ok(())
    }

    /// A truncation or a purge names an entry: when one stands there, it must be that one, or the log would give two ids for
    /// one place from here on.
    fn check_names(&self, segment: &Segment, record: Record, slot: Slot) -> Result<(), StorageError> {
        let verb = match record.kind {
            Kind::Truncate => "truncates",
            Kind::Purge => "purges",
            Kind::Blank
            | Kind::Proposal
            | Kind::Membership
            | Kind::Vote
            | Kind::Committed
            | Kind::Clear
            | Kind::Mark => {
                return Ok(());
            }
        };
        let Some(named) = self.index.get(record.id.index) else { return Ok(()) };
        let Some(holder) = self.segments.get(&u64::from(named.segment)) else { return Ok(()) };
        let mut head = [0; HEAD_BYTES];
        holder
            .read(named.offset(), &mut head)
            .map_err(|err| StorageError::caused(format!("read {}", holder.path.display()), err))?;
        let there = record::claimed_id(&head);
        if there == record.id {
            return Ok(());
        }
        let why = format!("it {verb} up to entry {}, but the entry there is {there}", record.id);
        Err(damaged(&segment.path, slot.offset(), &why))
    }
}

/// Up to the last byte that is not zero, and a head further. The zeros behind it are read, to know that they are
/// zeros, but not kept: most of a segment is zeros.
fn used_bytes(segment: &Segment) -> io::Result<u64> {
    let mut buffer = vec![0; LOOK_BYTES];
    let (mut at, mut used) = (HEADER_BYTES, HEADER_BYTES);
    while at < segment.bytes {
        let piece = (segment.bytes - at).min(LOOK_BYTES as u64) as usize;
        segment.read(at, &mut buffer[..piece])?;
        // Without an early end the compiler does this in wide steps.
        if buffer[..piece].iter().fold(0, |all, it| all | it) != 0
            && let Some(last) = buffer[..piece].iter().rposition(|it| *it != 0)
        {
            used = at + last as u64 + 1;
        }
        at += piece as u64;
    }
    Ok((used + HEAD_BYTES as u64).next_multiple_of(ALIGNMENT as u64).min(segment.bytes))
}

/// What stands in a place of a segment whose bytes are `bytes`, and zeros behind them.
fn at_place(bytes: &[u8], at: usize, segment: &Segment) -> Found {
    let Some(head) = bytes.get(at..at + HEAD_BYTES) else {
        let rest = bytes.get(at..).unwrap_or_default();
        return if is_zero(rest) { Found::End } else { Found::Bad("a record is cut off") };
    };
    if is_zero(head) {
        return Found::End;
    }
    let Ok(head): Result<&[u8; HEAD_BYTES], _> = head.try_into() else { return Found::End };
    let payload = at + HEAD_BYTES;
    let end = payload.saturating_add(record::claimed_payload_bytes(head));
    match bytes.get(payload..end) {
        Some(payload) => record::decode(head, payload, segment.seed),
        None if end as u64 > segment.bytes => Found::Bad("it claims to be longer than the segment"),
        None => {
            let mut payload = bytes.get(payload..).unwrap_or_default().to_vec();
            payload.resize(end - at - HEAD_BYTES, 0);
            record::decode(head, &payload, segment.seed)
        }
    }
}

/// Whether a valid record of a batch later than `batch` stands anywhere behind: then what is damaged was durable.
///
/// A content may look like the head of a record at every place, each claiming all that follows. Hence what is checked is
/// not read once for each.
fn later_batch(bytes: &[u8], from: usize, segment: &Segment, batch: u64) -> bool {
    // No more batches than that fit in what is there.
    let batches_max = (bytes.len() / record::size(0)) as u64;
    let mut behind = bytes.get(from..).unwrap_or_default().to_vec();
    behind.resize((segment.bytes as usize).saturating_sub(from), 0);
    let sums = Sums::new(&behind);
    (0..behind.len()).step_by(ALIGNMENT).any(|at| {
        let head: Option<&[u8; HEAD_BYTES]> = behind.get(at..at + HEAD_BYTES).and_then(|it| it.try_into().ok());
        let plausible = head.filter(|head| {
            (batch + 1..=batch.saturating_add(batches_max)).contains(&record::claimed_batch(head))
                && sums.is_right(at, record::claimed_payload_bytes(head), segment.seed)
        });
        plausible.is_some()
            && matches!(at_place(&behind, at, segment), Found::Record(Head { batch: found, .. }) if found > batch)
    })
}

/// The checksums of the beginnings of some bytes, from which that of any piece follows without reading it.
struct Sums<'a> {
    bytes: &'a [u8],
    /// Of the first n times [`SUMS_STEP`] bytes.
    sums: Vec<u32>,
}

const SUMS_STEP: usize = 64;

impl<'a> Sums<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut sums = vec![0];
        let mut sum = 0;
        for piece in bytes.chunks_exact(SUMS_STEP) {
            sum = crc32c::crc32c_append(sum, piece);
            sums.push(sum);
        }
        Self { bytes, sums }
    }

    fn of_first(&self, count: usize) -> u32 {
        let steps = count / SUMS_STEP;
        crc32c::crc32c_append(self.sums[steps], &self.bytes[steps * SUMS_STEP..count])
    }

    /// Whether the record at this place, with a payload of this length, has the right checksum.
    fn is_right(&self, at: usize, payload_bytes: usize, seed: u32) -> bool {
        let (start, end) = (at + record::CRC_BYTES, (at + HEAD_BYTES).saturating_add(payload_bytes));
        if end > self.bytes.len() {
            return false;
        }
        // The sum of A and B is that of A, moved by the length of B, xor that of B; moving is linear.
        let moved = moved(seed ^ self.of_first(start), end - start);
        self.bytes[at..start] == (moved ^ self.of_first(end)).to_le_bytes()
    }
}

/// The polynomial of CRC-32C (RFC 3720, appendix B.4), the constant term in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x to the power of 8 · 2ⁿ, modulo the polynomial.
const POWERS: [u32; usize::BITS as usize] = {
    let mut powers = [1 << (31 - 8); usize::BITS as usize];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = product(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
};

/// The product of two polynomials over GF(2), modulo that of CRC-32C.
const fn product(one: u32, mut other: u32) -> u32 {
    let (mut sum, mut term) = (0, 1 << 31);
    while term != 0 {
        if one & term != 0 {
            sum ^= other;
        }
        // Times x.
        other = (other >> 1) ^ if other & 1 == 0 { 0 } else { POLYNOMIAL };
        term >>= 1;
    }
    sum
}

/// A checksum as it goes on through so many bytes of zeros. A start may do this for every eighth byte of a content, for which
/// the library's way is too slow: it kept a debug build waiting for 20 s over 4 MiB, this one for less than two.
fn moved(sum: u32, bytes: usize) -> u32 {
    (0..usize::BITS).filter(|at| bytes >> at & 1 == 1).fold(sum, |sum, at| product(sum, POWERS[at as usize]))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|it| *it == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_moved_as_the_library_does() {
        let mut random = 1_u64;
        for bytes in (0..70).chain([511, 4096, 65_537, 4 << 20, 64 << 20, usize::MAX]) {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let sum = (random >> 32) as u32;
            assert_eq!(moved(sum, bytes), crc32c::crc32c_combine(sum, 0, bytes), "{sum:#x} by {bytes}");
        }
    }
}
