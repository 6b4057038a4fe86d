//! The log on disk: equal to the one in memory after any history and any number of restarts, and never silently less after
//! damage.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
};

use coracle::{
    metrics::Metrics,
    storage::{
        LogEntry, LogStore, Payload, Vote,
        log::{LogOptions, SegmentLog},
        memory_log::MemoryLog,
    },
    types::LogId,
};
use proptest::prelude::*;

const OPTIONS: LogOptions = LogOptions { segment_bytes: 16 * 1024, cache_bytes: 2_000 };

fn open(dir: &Path) -> SegmentLog {
    SegmentLog::open(dir, OPTIONS, Metrics::new()).unwrap()
}

fn id(index: u64) -> LogId {
    LogId { term: 1 + index / 10, node: 1, index }
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    let payload = vec![index as u8; bytes];
    LogEntry { id: id(index), payload: Payload::Proposal(payload.into()) }
}

/// Appends, and waits until it is durable.
fn append(log: &dyn LogStore, entries: Vec<LogEntry>) {
    let (done, is_done) = mpsc::channel();
    log.append(entries, Box::new(move |result| done.send(result).unwrap()));
    is_done.recv().unwrap().unwrap();
}

fn barrier(log: &dyn LogStore) {
    append(log, Vec::new());
}

fn all(log: &dyn LogStore) -> Vec<LogEntry> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    // Small ones, one larger than a segment, and enough for many segments.
    for index in 1..=100 {
        append(&log, vec![entry(index, if index == 50 { 40_000 } else { 700 })]);
    }
    log.save_vote(Vote { term: 9, node: 2, committed: true }, Box::new(|result| result.unwrap()));
    log.save_committed(id(90));
    log.purge(id(60));
    barrier(&log);
    let (state, entries) = (log.state(), all(&log));
    assert_eq!((entries.len(), entries[0].id.index), (40, 61));
    drop(log);
    let segments = fs::read_dir(dir.path()).unwrap().count();
    assert!(segments < 8, "purged segments are deleted: {segments} are left");
    let log = open(dir.path());
    assert_eq!((log.state(), all(&log)), (state, entries));
    assert_eq!(log.read(70..80, 1_500).unwrap().len(), 2, "bounded by bytes");
    assert_eq!(log.read(70..80, 1).unwrap().len(), 1, "but at least one");
}

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, bytes: usize },
    Truncate { back: u64 },
    Purge { upto: u64 },
    Vote(u64),
    Committed,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..20_u64, 0..900_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => (0..10_u64).prop_map(|back| Step::Truncate { back }),
        1 => (0..40_u64).prop_map(|upto| Step::Purge { upto }),
        1 => (0..9_u64).prop_map(Step::Vote),
        1 => Just(Step::Committed),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn run(log: &dyn LogStore, step: &Step) {
    let state = log.state();
    let last = state.last.map_or(0, |it| it.index);
    match step {
        Step::Append { count, bytes } => {
            append(log, (last + 1..=last + count).map(|index| entry(index, *bytes)).collect());
        }
        Step::Truncate { back } => log.truncate_after(last.checked_sub(*back).filter(|it| *it > 0).map(id)),
        Step::Purge { upto } => log.purge(id(last.saturating_sub(20) + upto)),
        Step::Vote(term) => {
            log.save_vote(Vote { term: *term, node: 1, committed: term % 2 == 0 }, Box::new(|result| result.unwrap()));
        }
        Step::Committed => log.save_committed(id(last)),
        Step::Reopen => barrier(log),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn the_log_on_disk_is_the_log_in_memory(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let (memory, mut disk) = (MemoryLog::new(), open(dir.path()));
        for step in &steps {
            run(&memory, step);
            run(&disk, step);
            if matches!(step, Step::Reopen) {
                drop(disk);
                disk = open(dir.path());
            }
            prop_assert_eq!(memory.state(), disk.state());
            prop_assert_eq!(all(&memory), all(&disk));
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "seg"))
        .collect();
    paths.sort();
    paths
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for path in segments(from) {
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn written_bytes(path: &Path) -> usize {
    fs::read(path).unwrap().iter().rposition(|it| *it != 0).unwrap() + 1
}

/// A log of 30 acknowledged entries in several segments, closed.
fn closed_log() -> (tempfile::TempDir, Vec<LogEntry>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for index in 1..=30 {
        append(&log, vec![entry(index, 900)]);
        if index % 7 == 0 {
            log.save_vote(Vote { term: index, node: 1, committed: false }, Box::new(|result| result.unwrap()));
        }
    }
    // The mark behind the last batch is written once nothing waits.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let entries = all(&log);
    drop(log);
    (dir, entries)
}

/// The outcome of opening a damaged log: everything acknowledged is there, or it is refused.
fn refused_or_whole(dir: &Path, expected: &[LogEntry]) -> bool {
    match SegmentLog::open(dir, OPTIONS, Metrics::new()) {
        Ok(log) => {
            assert_eq!(all(&log), expected, "a log that opens has lost nothing");
            false
        }
        Err(err) => {
            let text = err.to_string();
            assert!(text.contains("damaged") && text.contains("Restore this node"), "{text}");
            true
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_harmless() {
    let (dir, entries) = closed_log();
    let (mut refused, mut trials) = (0, 0);
    for (at, path) in segments(dir.path()).iter().enumerate() {
        let written = written_bytes(path);
        for byte in (0..written).step_by(written / 40 + 1) {
            let damaged = copy(dir.path());
            let path = &segments(damaged.path())[at];
            let mut bytes = fs::read(path).unwrap();
            bytes[byte] ^= 1 << (byte % 8);
            fs::write(path, bytes).unwrap();
            refused += u32::from(refused_or_whole(damaged.path(), &entries));
            trials += 1;
        }
    }
    assert!(trials > 80 && refused > trials / 2, "{refused} of {trials} were refused");
}

#[test]
fn zeroed_and_garbled_sectors_cut_files_and_missing_ones_are_refused() {
    let (dir, entries) = closed_log();
    let sound: Vec<Vec<u8>> = segments(dir.path()).iter().map(|it| fs::read(it).unwrap()).collect();
    let count = sound.len();
    assert!(count >= 2, "the log has several segments");
    // How many marks there are depends on how busy the machine is, and so does where the last entry ends. What is damaged
    // behind it was acknowledged to nobody.
    let last = sound[count - 1].windows(900).rposition(|it| it.iter().all(|it| *it == 30)).unwrap() + 900;
    let mut refused = 0;
    for (at, whole) in sound.iter().enumerate() {
        for (sector, fill) in [(8, 0_u8), (9, 0), (10, 0xa5), (11, 0x5a)] {
            let damaged = copy(dir.path());
            let mut bytes = whole.clone();
            bytes[sector * 512..(sector + 1) * 512].fill(fill);
            fs::write(&segments(damaged.path())[at], &bytes).unwrap();
            let holds_acknowledged = at + 1 < count || sector * 512 < last;
            let is_refused = refused_or_whole(damaged.path(), &entries);
            if holds_acknowledged && bytes != *whole {
                assert!(is_refused, "segment {at}, sector {sector}, {fill}");
            }
            refused += u32::from(is_refused);
        }
        let damaged = copy(dir.path());
        fs::write(&segments(damaged.path())[at], &whole[..6_000]).unwrap();
        assert!(refused_or_whole(damaged.path(), &entries), "segment {at} cut");
    }
    assert!(refused as usize > 2 * (count - 1), "{refused} of {} were refused", 4 * count);
    for at in 0..count - 1 {
        let damaged = copy(dir.path());
        fs::remove_file(&segments(damaged.path())[at]).unwrap();
        assert!(refused_or_whole(damaged.path(), &entries), "segment {at} missing");
    }
}

#[test]
fn a_torn_last_batch_is_cut_off_at_whatever_byte_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, (1..=5).map(|index| entry(index, 100)).collect());
    let before = written_bytes(&segments(dir.path())[0]);
    drop(log);
    let log = open(dir.path());
    append(&log, (6..=8).map(|index| entry(index, 60)).collect());
    drop(log);
    let whole = fs::read(&segments(dir.path())[0]).unwrap();
    // Where the second batch begins: behind the mark that follows the first.
    let start = before.next_multiple_of(8);
    let end = whole.iter().rposition(|it| *it != 0).unwrap() + 1;
    let last_batch = whole[..end].len();
    for cut in start..last_batch {
        let torn = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        fs::write(torn.path().join(segments(dir.path())[0].file_name().unwrap()), bytes).unwrap();
        let log = SegmentLog::open(torn.path(), OPTIONS, Metrics::new()).unwrap();
        let entries = all(&log);
        assert!(entries.len() == 5 || entries.len() == 8, "a batch is there or not: {}", entries.len());
        append(&log, vec![entry(entries.len() as u64 + 1, 10)]);
        drop(log);
        assert_eq!(all(&open(torn.path())).len(), entries.len() + 1, "cut at {cut}: it goes on");
    }
}

type Cut = fn(&SegmentLog, LogId);

/// Found by the fuzz target `log_segment`: the log said that its last entry was one that it did not hold.
#[test]
fn what_is_cut_off_at_another_entry_than_the_one_there_is_refused() {
    let another = LogId { node: 3, ..id(7) };
    let cuts: [(&str, Cut); 2] =
        [("truncates", |log, at| log.truncate_after(Some(at))), ("purges", |log, at| log.purge(at))];
    // In the segment of the entry, and in a later one.
    for ((verb, cut), entries) in cuts.into_iter().flat_map(|cut| [(cut, 9), (cut, 90)]) {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        append(&log, (1..=entries).map(|index| entry(index, 700)).collect());
        cut(&log, another);
        barrier(&log);
        drop(log);
        let why = SegmentLog::open(dir.path(), OPTIONS, Metrics::new()).err().unwrap().to_string();
        let expected = format!("it {verb} up to entry {another}, but the entry there is {}", id(7));
        assert!(why.contains(&expected), "{why}");
    }
}
