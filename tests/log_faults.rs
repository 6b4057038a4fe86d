//! The log when the power goes, when a disk says no and when callers are in each other's way: what nobody was answered may
//! go, what somebody was answered stays, and nobody waits for ever.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use coracle::{
    metrics::Metrics,
    storage::{
        LogEntry, LogStore, Payload,
        log::{LogOptions, SegmentLog},
    },
    types::LogId,
};

const OPTIONS: LogOptions = LogOptions { segment_bytes: 16 * 1024, cache_bytes: 0 };
/// Bytes before the payload of a record, and where in them batch and kind are: see `docs/FORMAT.md`.
const HEAD: usize = 41;
const PAGE: usize = 4096;
const MARK: u8 = 9;

fn open(dir: &Path) -> SegmentLog {
    SegmentLog::open(dir, OPTIONS, Metrics::new()).unwrap()
}

fn entry(term: u64, index: u64, payload: Vec<u8>) -> LogEntry {
    LogEntry { id: LogId { term, node: 1, index }, payload: Payload::Proposal(payload.into()) }
}

fn text(index: u64) -> LogEntry {
    entry(1, index, vec![b'x'; 700])
}

fn start(log: &SegmentLog, entries: Vec<LogEntry>) -> mpsc::Receiver<std::io::Result<()>> {
    let (done, is_done) = mpsc::channel();
    // Who stopped waiting does not mind.
    log.append(entries, Box::new(move |result| drop(done.send(result))));
    is_done
}

fn outcome(answer: &mpsc::Receiver<std::io::Result<()>>) -> Result<(), String> {
    let answer = answer.recv_timeout(Duration::from_secs(20)).expect("everybody is answered");
    answer.map_err(|err| err.to_string())
}

fn append(log: &SegmentLog, entries: Vec<LogEntry>) {
    outcome(&start(log, entries)).unwrap();
}

fn all(log: &SegmentLog) -> Vec<LogEntry> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|it| it.extension().is_some_and(|it| it == "seg")).collect();
    paths.sort();
    paths
}

/// Where the records of a segment are, and their kinds.
fn records(path: &Path) -> Vec<(usize, u8)> {
    let bytes = fs::read(path).unwrap();
    let (mut at, mut found) = (PAGE, Vec::new());
    while at + HEAD <= bytes.len() && bytes[at..at + HEAD].iter().any(|it| *it != 0) {
        let payload = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        found.push((at, bytes[at + HEAD - 1] & 0x7f));
        at = (at + HEAD + payload as usize).next_multiple_of(8);
    }
    found
}

/// Whether it says that the last batch was durable: by a mark, or by its header if there is nothing else in it.
fn is_marked(path: &Path) -> bool {
    records(path).last().is_none_or(|(_, kind)| *kind == MARK)
}

/// Waits until the writer found nothing to do.
fn settle(dir: &Path) {
    for _ in 0..2_000 {
        if segments(dir).last().is_some_and(|it| is_marked(it)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the last batch gets a mark");
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for path in segments(from) {
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn zero(path: &Path, range: std::ops::Range<usize>) {
    let mut bytes = fs::read(path).unwrap();
    bytes[range].fill(0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_lost_mark_never_makes_a_torn_batch_look_like_damage() {
    // The mark is not flushed by itself: when the power goes, the disk may have the end of the next batch but not its
    // beginning, nor the mark before it.
    for (batch, lost) in [(1_u64, 1), (2, 1), (5, 1), (1, 2), (2, 2), (5, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        append(&log, vec![text(1)]);
        settle(dir.path());
        append(&log, (2..2 + batch).map(text).collect());
        drop(log);
        let path = &segments(dir.path())[0];
        let found = records(path);
        let kinds: Vec<u8> = found[..4].iter().map(|it| it.1).collect();
        assert_eq!(kinds, [2, MARK, MARK, 2]);
        // The closing marks are not there yet, and the beginning did not arrive.
        zero(path, found[batch as usize + 3].0..PAGE * 4);
        zero(path, found[lost].0..found[3].0 + HEAD);
        assert_eq!(all(&open(dir.path())), vec![text(1)], "a batch of {batch} was answered to nobody");
    }
}

#[test]
fn a_last_batch_that_ends_where_its_segment_ends_is_not_taken_for_torn() {
    // Whatever room it leaves: for two marks, for one, for none.
    for payload in (900..2_100).step_by(48) {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        append(&log, vec![entry(1, 1, vec![b'x'; 10_000])]);
        append(&log, vec![entry(1, 2, vec![b'x'; payload])]);
        drop(log);
        let path = &segments(dir.path())[0];
        let (last, _) = records(path).into_iter().rev().find(|(_, kind)| *kind != MARK).unwrap();
        zero(path, last + HEAD..last + HEAD + 1);
        let opened = SegmentLog::open(dir.path(), OPTIONS, Metrics::new());
        assert!(opened.is_err(), "{payload}: what was acknowledged was cut off");
    }
}

#[test]
fn no_damage_of_one_sector_takes_the_last_batch_for_torn() {
    let sector = 512;
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for index in 1..=6 {
        append(&log, vec![entry(1, index, vec![b'x'; 60])]);
        settle(dir.path());
    }
    let entries = all(&log);
    drop(log);
    let path = segments(dir.path())[0].clone();
    let sound = fs::read(&path).unwrap();
    let used = sound.iter().rposition(|it| *it != 0).unwrap() + 1;
    for at in (PAGE..used).step_by(sector) {
        zero(&path, at..at + sector);
        let opened = SegmentLog::open(dir.path(), OPTIONS, Metrics::new());
        match opened {
            Err(err) => assert!(err.to_string().contains("damaged"), "{err}"),
            Ok(log) => assert_eq!(all(&log), entries, "bytes from {at} zeroed"),
        }
        fs::write(&path, &sound).unwrap();
    }
}

#[test]
fn a_mark_that_never_reached_an_older_segment_is_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for index in 1..=40 {
        append(&log, vec![text(index)]);
        settle(dir.path());
    }
    let entries = all(&log);
    drop(log);
    let paths = segments(dir.path());
    assert!(paths.len() > 2);
    let mut lost = 0;
    for path in &paths[..paths.len() - 1] {
        if let Some((at, MARK)) = records(path).last().copied() {
            zero(path, at..at + 48);
            lost += 1;
        }
    }
    assert!(lost > 0);
    assert_eq!(all(&open(dir.path())), entries);
}

#[test]
fn an_entry_that_ends_with_zeros_is_not_taken_for_torn() {
    for zeros in [0, 40, 41, 48, 200, 5_000] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        append(&log, vec![text(1)]);
        let last = entry(1, 2, [b"x".to_vec(), vec![0; zeros]].concat());
        append(&log, vec![last.clone()]);
        drop(log);
        let path = &segments(dir.path())[0];
        // As after a kill: nothing stands behind it.
        let (at, kind) = records(path).last().copied().unwrap();
        if kind == MARK {
            zero(path, at..at + 48);
        }
        assert_eq!(all(&open(dir.path())), vec![text(1), last], "{zeros} zeros");
    }
}

#[test]
fn a_closed_or_reopened_log_ends_with_a_mark() {
    let dir = tempfile::tempdir().unwrap();
    for index in 1..=20 {
        let log = open(dir.path());
        drop(start(&log, vec![text(index)]));
        drop(log);
        assert!(is_marked(segments(dir.path()).last().unwrap()), "closed while it was busy, {index}");
    }
    let path = segments(dir.path()).pop().unwrap();
    let (at, _) = records(&path).pop().unwrap();
    zero(&path, at..at + 48);
    let log = open(dir.path());
    settle(dir.path());
    drop(log);
}

#[test]
fn readers_see_replaced_entries_while_they_are_on_their_way_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, (1..=5).map(|index| entry(1, index, vec![1; 50])).collect());
    for term in 2..400 {
        // All in flight together, in whatever batches the writer makes of them.
        let first = start(&log, (6..=12).map(|index| entry(term, index, vec![2; 50])).collect());
        log.truncate_after(Some(LogId { term: 1, node: 1, index: 5 }));
        std::thread::sleep(Duration::from_micros(term % 40));
        let wanted: Vec<LogEntry> = (6..=10).map(|index| entry(term, index, vec![3; 90])).collect();
        let second = start(&log, wanted.clone());
        for _ in 0..20 {
            assert_eq!(log.read(6..100, usize::MAX).unwrap(), wanted, "term {term}");
        }
        outcome(&first).unwrap();
        outcome(&second).unwrap();
        assert_eq!(log.read(6..100, usize::MAX).unwrap(), wanted, "term {term}");
        log.truncate_after(Some(LogId { term: 1, node: 1, index: 5 }));
    }
}

#[test]
fn what_is_read_has_no_gap_while_it_is_purged() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, (1..=2_000).map(|index| entry(1, index, vec![1; 20])).collect());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 1..=1_900 {
                log.purge(LogId { term: 1, node: 1, index });
            }
        });
        for _ in 0..200 {
            let found = log.read(0..100_000, usize::MAX).unwrap();
            let gap = found.windows(2).find(|it| it[0].id.index + 1 != it[1].id.index);
            assert!(gap.is_none(), "{gap:?}");
        }
    });
}

#[test]
fn a_segment_that_cannot_be_deleted_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for index in 1..=60 {
        append(&log, vec![text(index)]);
    }
    fs::remove_file(&segments(dir.path())[0]).unwrap();
    log.purge(LogId { term: 1, node: 1, index: 50 });
    append(&log, vec![text(61)]);
    let (state, entries) = (log.state(), all(&log));
    drop(log);
    let log = open(dir.path());
    assert_eq!((log.state(), all(&log)), (state, entries));
}

#[test]
fn a_segment_that_could_not_be_deleted_is_deleted_by_the_next_purge() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for index in 1..=60 {
        append(&log, vec![text(index)]);
    }
    let before = segments(dir.path());
    let (first, aside) = (&before[0], dir.path().join("aside"));
    // A folder of its name is not deleted in its place, not even for root.
    fs::rename(first, &aside).unwrap();
    fs::create_dir(first).unwrap();
    log.purge(LogId { term: 1, node: 1, index: 50 });
    append(&log, vec![text(61)]);
    assert!(segments(dir.path()).starts_with(&before), "none is deleted after one that is still there");
    fs::remove_dir(first).unwrap();
    fs::rename(&aside, first).unwrap();
    for index in 62..=120 {
        append(&log, vec![text(index)]);
    }
    log.purge(LogId { term: 1, node: 1, index: 110 });
    append(&log, vec![text(121)]);
    let (state, entries) = (log.state(), all(&log));
    drop(log);
    let left = segments(dir.path());
    assert!(left.iter().all(|it| !before.contains(it)), "the purge begins with those that stayed: {left:?}");
    let log = open(dir.path());
    assert_eq!((log.state(), all(&log)), (state, entries));
}

#[test]
fn what_is_committed_is_durable_no_sooner_than_the_entry_that_it_names() {
    let id = |index| LogId { term: 1, node: 1, index };
    // Two of them are too much for one batch.
    let large = |index| vec![entry(1, index, vec![b'x'; 5 << 20])];
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    let (killed, is_killed) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let (asked, path) = (log.clone(), dir.path().to_owned());
    // The writer calls back and takes no batch meanwhile: when it goes on, all of this is in its queue.
    let ask = move |_: std::io::Result<()>| {
        // What a kill between the two batches leaves.
        asked.append(large(2), Box::new(move |_| killed.send(copy(&path)).unwrap()));
        asked.append(large(3), Box::new(move |result| done.send(result).unwrap()));
        asked.save_committed(id(3));
    };
    log.append(vec![text(1)], Box::new(ask));
    let left = is_killed.recv_timeout(Duration::from_secs(20)).expect("the second entry becomes durable");
    outcome(&is_done).unwrap();
    drop(log);
    let state = open(left.path()).state();
    assert_eq!(state.last, Some(id(2)));
    assert!(state.committed <= state.last, "{state:?}");
    let state = open(dir.path()).state();
    assert_eq!((state.last, state.committed), (Some(id(3)), Some(id(3))), "it rides with the last of them");
}

#[test]
fn after_a_failed_write_everybody_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = open(&path);
    append(&log, vec![text(1)]);
    // The next segment cannot get its name.
    // Another thread may be making it, so one attempt is not always enough.
    while fs::remove_dir_all(&path).is_err() {}
    let answers: Vec<_> = (2..=40).map(|index| start(&log, vec![text(index)])).collect();
    let failed = answers.iter().map(outcome).skip_while(Result::is_ok).collect::<Vec<_>>();
    assert!(!failed.is_empty() && failed.iter().all(Result::is_err), "the first failure is final: {failed:?}");
    assert!(outcome(&start(&log, vec![text(41)])).is_err());
    let (done, is_done) = mpsc::channel();
    log.barrier(Box::new(move |result| done.send(result).unwrap()));
    assert!(outcome(&is_done).is_err());
}

#[test]
fn a_callback_that_panics_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(vec![text(1)], Box::new(|_| panic!("a bug elsewhere")));
    // In the same batch, or after it.
    let second = outcome(&start(&log, vec![text(2)]));
    assert!(outcome(&start(&log, vec![text(3)])).is_err());
    drop(log);
    let entries = all(&open(dir.path()));
    assert_eq!(entries[0], text(1), "what was durable still is");
    assert!(second.is_err() || entries.contains(&text(2)), "what was answered is durable");
}

/// A power cut tears the write of a content that somebody made to look like heads of records, each claiming all that
/// follows. Whether any of them is a record is told without reading the rest once for each.
#[test]
fn a_content_that_looks_like_records_does_not_keep_a_start_waiting() {
    const PAYLOAD: usize = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut payload = vec![0; PAYLOAD];
    // The payload begins at an odd place of the file; heads may stand at multiples of eight.
    for at in (8 - HEAD % 8..PAYLOAD - HEAD).step_by(16) {
        payload[at + 4..at + 8].copy_from_slice(&((PAYLOAD - HEAD - at) as u32).to_le_bytes());
        payload[at + 8..at + 16].copy_from_slice(&100_u64.to_le_bytes());
    }
    append(&log, vec![entry(1, 1, payload)]);
    drop(log);
    let path = segments(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // Torn: the checksum is wrong, and what would show that it was durable is not there either.
    bytes[PAGE] ^= 1;
    bytes[PAGE + HEAD + PAYLOAD..].fill(0);
    fs::write(&path, bytes).unwrap();
    let started = tokio::time::Instant::now();
    let entries = all(&open(dir.path()));
    assert_eq!(entries, [], "nobody was answered");
    // Half a trillion bytes would have to be read otherwise.
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
}
