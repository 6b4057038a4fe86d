//! One segment of a log, in a folder that is opened.
//!
//! It opens or is refused in a sentence. When it opens, it holds just what a plain reader of the format finds in it, it is
//! the same when it is opened again, and it goes on. The first byte says what is put right beforehand, so that inputs get
//! behind the checksums; then the header without the zeros behind it; then what follows the first page.
use std::{collections::BTreeMap, fs, path::Path, sync::mpsc};

use coracle::{
    metrics::Metrics,
    storage::{
        LogEntry, LogState, LogStore, Payload, Vote,
        log::{LogOptions, SegmentLog},
    },
    types::LogId,
};

use super::scratch;

/// Bytes of the header that count, its checksum among them.
pub const HEADER: usize = 148;
pub const PAGE: usize = 4096;
const HEAD: usize = 41;
/// Where the header says how many batches there were before.
const BATCH_AT: usize = 36;
/// As in `storage/segment.rs`.
const NUMBER_MAX: u64 = 1 << 62;
/// Longer inputs find nothing that these do not.
const BYTES_MAX: usize = 64 << 10;
/// Put the header right.
pub const FIX_HEADER: u8 = 1;
/// Put the checksums of records right.
pub const FIX_CHECKSUMS: u8 = 2;
/// Number batches and entries as they must follow, and bound the lengths of payloads.
pub const FIX_ORDER: u8 = 4;
/// Put zeros behind, eight times 64 bytes at most.
const ZEROS: u32 = 5;

thread_local! {
    static METRICS: Metrics = Metrics::new();
}

pub fn run(input: &[u8]) {
    let Some((flags, rest)) = input.split_first() else { return };
    let Some((header, records)) = rest.split_at_checked(HEADER) else { return };
    if records.len() > BYTES_MAX {
        return;
    }
    let mut file = header.to_vec();
    file.resize(PAGE, 0);
    file.extend(records);
    file.resize(file.len().next_multiple_of(8) + usize::from(flags >> ZEROS) * 64 + 64, 0);
    fix(&mut file, *flags);
    let dir = scratch::file("log");
    drop(fs::remove_dir_all(&dir));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("0000000000000001.seg"), &file).unwrap();
    let log = match open(&dir) {
        Ok(log) => log,
        Err(why) => {
            assert!(why.len() > 40, "a refusal says why: {why}");
            return;
        }
    };
    let (state, entries) = contents(&log);
    drop(log);
    let expected = plain(&file).expect("what opens can be read");
    assert_eq!((state, &entries), (expected.state, &expected.entries.into_values().collect()));
    let log = open(&dir).expect("what was opened once is opened again");
    assert_eq!(contents(&log), (state, entries.clone()), "opened again");
    let next = LogEntry {
        id: LogId { term: u64::MAX, node: 1, index: state.last.map_or(1, |it| it.index + 1) },
        payload: Payload::Proposal(b"next".as_slice().into()),
    };
    // What no log gets to is refused, also in the header of a segment that follows; a crafted one may be about to get there.
    if next.id.index <= NUMBER_MAX && u64_at(&file, BATCH_AT) < NUMBER_MAX / 2 {
        append(&log, next.clone());
        drop(log);
        let log = open(&dir).expect("what was written to is opened again");
        assert_eq!(contents(&log).1.split_last(), Some((&next, &*entries)));
    }
}

fn open(dir: &Path) -> Result<SegmentLog, String> {
    let options = LogOptions { segment_bytes: 16 << 10, cache_bytes: 1_000 };
    SegmentLog::open(dir, options, METRICS.with(Metrics::clone)).map_err(|err| err.to_string())
}

fn append(log: &SegmentLog, entry: LogEntry) {
    let (done, is_done) = mpsc::channel();
    log.append(vec![entry], Box::new(move |result| done.send(result).unwrap()));
    is_done.recv().unwrap().unwrap();
}

/// What is there, which must be without a gap.
fn contents(log: &SegmentLog) -> (LogState, Vec<LogEntry>) {
    let state = log.state();
    let entries = log.read(0..u64::MAX, usize::MAX).unwrap();
    assert!(entries.is_sorted_by(|a, b| a.id.index + 1 == b.id.index), "a gap");
    assert_eq!(entries.last().map(|it| it.id).or(state.purged), state.last);
    if let (Some(first), Some(purged)) = (entries.first(), state.purged) {
        assert_eq!(first.id.index, purged.index + 1);
    }
    (state, entries)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, number: u64, width: usize) {
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

fn seed(file: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file[12..20]), &file[20..28])
}

pub fn fix(file: &mut [u8], flags: u8) {
    if flags & FIX_HEADER != 0 {
        file[..8].copy_from_slice(b"CORACLOG");
        put(file, 8, 1, 4);
        put(file, 20, 1, 8);
        put(file, 28, file.len() as u64, 8);
        let crc = crc32c::crc32c(&file[..HEADER - 4]);
        put(file, HEADER - 4, u64::from(crc), 4);
    }
    let seed = seed(file);
    let state = header(file);
    let (mut batch, mut index) = (u64_at(file, 36).wrapping_add(1), state.last.map(|it| it.index));
    let mut at = PAGE;
    while at + HEAD <= file.len() && file[at..at + HEAD].iter().any(|it| *it != 0) {
        let room = file.len() - at - HEAD;
        if flags & FIX_ORDER != 0 {
            let (length, kind) = (u32_at(file, at + 4) as usize, file[at + 40]);
            put(file, at + 4, (length % (room + 1)) as u64, 4);
            put(file, at + 8, batch, 8);
            if (1..=3).contains(&(kind & 0x7f)) {
                let next = index.map_or_else(|| u64_at(file, at + 32), |it| it.wrapping_add(1));
                put(file, at + 32, next, 8);
                index = Some(next);
            }
            batch = batch.wrapping_add(u64::from(kind & 0x80 != 0));
        }
        let length = u32_at(file, at + 4) as usize;
        if length > room {
            break;
        }
        if flags & FIX_CHECKSUMS != 0 {
            let crc = crc32c::crc32c_append(seed, &file[at + 4..at + HEAD + length]);
            put(file, at, u64::from(crc), 4);
        }
        at += (HEAD + length).next_multiple_of(8);
    }
}

#[derive(Debug, Default)]
struct Plain {
    state: LogState,
    entries: BTreeMap<u64, LogEntry>,
}

fn header(file: &[u8]) -> LogState {
    let id = |at: usize| {
        let id = LogId { term: u64_at(file, at + 1), node: u64_at(file, at + 9), index: u64_at(file, at + 17) };
        (file[at] != 0).then_some(id)
    };
    let vote = id(94).map(|it| Vote { term: it.term, node: it.node, committed: it.index != 0 });
    LogState { purged: id(44), last: id(69), vote, committed: id(119) }
}

/// Every batch that is whole, in the order of the file, by the letter of `docs/FORMAT.md`.
fn plain(file: &[u8]) -> Option<Plain> {
    let seed = seed(file);
    let mut plain = Plain { state: header(file), ..Plain::default() };
    let (mut batch, mut at, mut open) = (u64_at(file, 36), PAGE, Vec::new());
    while let Some(head) = file.get(at..at + HEAD) {
        let (length, kind) = (u32_at(head, 4) as usize, head[40]);
        let Some(record) = file.get(at + 4..at + HEAD + length) else { break };
        if crc32c::crc32c_append(seed, record) != u32_at(head, 0) || u64_at(head, 8) != batch.wrapping_add(1) {
            break;
        }
        let id = LogId { term: u64_at(head, 16), node: u64_at(head, 24), index: u64_at(head, 32) };
        at += (HEAD + length).next_multiple_of(8);
        if kind & 0x7f == 9 && open.is_empty() {
            continue;
        }
        open.push((kind & 0x7f, id, record[HEAD - 4..].to_vec()));
        if kind & 0x80 != 0 {
            batch += 1;
            for (kind, id, payload) in open.drain(..) {
                plain.apply(kind, id, payload)?;
            }
        }
    }
    Some(plain)
}

impl Plain {
    fn apply(&mut self, kind: u8, id: LogId, payload: Vec<u8>) -> Option<()> {
        let payload = match kind {
            1 => Payload::Blank,
            2 => Payload::Proposal(payload.into()),
            3 => Payload::Membership(payload.into()),
            _ => return self.note(kind, id),
        };
        self.entries.insert(id.index, LogEntry { id, payload });
        self.state.last = Some(id);
        Some(())
    }

    fn note(&mut self, kind: u8, id: LogId) -> Option<()> {
        // What is cut off before or behind an entry names the one that is there.
        if matches!(kind, 6 | 8) && self.entries.get(&id.index).is_some_and(|it| it.id != id) {
            return None;
        }
        let state = &mut self.state;
        match kind {
            4 => state.vote = Some(Vote { term: id.term, node: id.node, committed: id.index != 0 }),
            5 => state.committed = Some(id),
            6 if state.last.is_some_and(|it| it.index > id.index) => {
                self.entries.retain(|index, _| *index <= id.index);
                state.last = Some(id);
            }
            7 => {
                self.entries.clear();
                state.last = state.purged;
            }
            8 if state.purged.is_none_or(|it| it.index < id.index) => {
                self.entries.retain(|index, _| *index > id.index);
                state.purged = Some(id);
                if state.last.is_none_or(|it| it.index <= id.index) {
                    state.last = Some(id);
                }
            }
            6 | 8 | 9 => {}
            _ => return None,
        }
        Some(())
    }
}
