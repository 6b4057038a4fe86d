//! The state on disk: equal to the one in memory after any history and any number of restarts; healed, never silently less,
//! after damage.
#![allow(clippy::unwrap_used)]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod slow_disk;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use coracle::{
    metrics::Metrics,
    state_machine::StateReader,
    storage::{
        Applied, LogEntry, LogStore, Payload, StateStore,
        codec::{decode_proposal, decode_record, encode_proposal, encode_record},
        memory::MemoryState,
        memory_log::MemoryLog,
        state::{SledState, StateOptions},
    },
    types::{
        Attributes, Author, Command, ConfigKey, ConfigRecord, Content, LogId, Millis, Mutation, Namespace, NamespaceId,
        Precondition, Proposal, Publication, Revision, Tag, Variant,
    },
};
use proptest::prelude::*;
use tokio::time::Instant;

/// Small, so that a little fills several.
const SEGMENT_BYTES: usize = 512 << 10;

fn options() -> StateOptions {
    StateOptions {
        write_behind: Duration::from_millis(3),
        sled_segment_bytes: SEGMENT_BYTES,
        ..StateOptions::default()
    }
}

fn open(dir: &Path) -> Arc<SledState> {
    Arc::new(SledState::open(dir, options(), Metrics::new()).unwrap())
}

fn key(number: u8) -> ConfigKey {
    ConfigKey::new(&NamespaceId::public(), "g", &format!("k{number}")).unwrap()
}

fn variant(number: u8) -> Variant {
    match number {
        0 => Variant::Formal,
        1 => Variant::Beta,
        other => Variant::Tag(Tag::parse(&format!("t{other}")).unwrap()),
    }
}

fn record(content: String, revision: u64) -> Arc<ConfigRecord> {
    Arc::new(ConfigRecord {
        content: Content::new(content),
        attributes: Attributes { app_name: Some("app".into()), ..Attributes::default() },
        beta_ips: vec!["10.0.0.1".into()],
        created: Revision(revision),
        created_at: Millis(revision),
        modified: Revision(revision),
        modified_at: Millis(revision),
        author: Author::default(),
    })
}

fn applied(index: u64) -> Applied {
    Applied { last: Some(LogId { term: 1, node: 0, index }), membership: None }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, usize),
    Delete(u8, u8),
    Namespace(u8, bool),
    Wait,
    Reopen,
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![4 => 0..300_usize, 1 => 65_000..66_000_usize, 1 => 100_000..300_000_usize];
    let step = prop_oneof![
        8 => (0..12_u8, 0..4_u8, bytes).prop_map(|(key, variant, bytes)| Step::Put(key, variant, bytes)),
        3 => (0..12_u8, 0..4_u8).prop_map(|(key, variant)| Step::Delete(key, variant)),
        1 => (0..3_u8, any::<bool>()).prop_map(|(id, put)| Step::Namespace(id, put)),
        2 => Just(Step::Wait),
        1 => Just(Step::Reopen),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..40)
}

fn mutation(step: &Step, revision: u64) -> Option<Mutation> {
    match step {
        Step::Put(at, which, bytes) => {
            let content = format!("{revision}:").repeat(bytes / 4 + 1);
            Some(Mutation::PutConfig(key(*at), variant(*which), record(content, revision)))
        }
        Step::Delete(at, which) => Some(Mutation::DeleteConfig(key(*at), variant(*which))),
        Step::Namespace(id, put) => {
            let id = NamespaceId::parse(&format!("ns{id}")).unwrap();
            Some(if *put {
                Mutation::PutNamespace(Namespace { id, name: revision.to_string(), description: String::new() })
            } else {
                Mutation::DeleteNamespace(id)
            })
        }
        Step::Wait | Step::Reopen | Step::Snapshot => None,
    }
}

/// Everything that can be read of both is the same.
fn same(expected: &dyn StateStore, got: &dyn StateStore) {
    assert_eq!(expected.applied(), got.applied());
    assert_eq!(expected.witness(), got.witness());
    assert_eq!(expected.namespaces(), got.namespaces());
    assert_eq!(expected.list(&|_| true), got.list(&|_| true));
    for at in 0..12 {
        assert_eq!(expected.versions(&key(at)), got.versions(&key(at)));
        for which in 0..4 {
            let records = (expected.record(&key(at), &variant(which)), got.record(&key(at), &variant(which)));
            assert_eq!(records.0.unwrap(), records.1.unwrap(), "{at} {which}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn the_state_on_disk_is_the_state_in_memory(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let (memory, mut disk) = (MemoryState::new(), open(dir.path()));
        for (step, revision) in steps.iter().zip(1..) {
            let writes: Vec<Mutation> = mutation(step, revision).into_iter().collect();
            memory.commit(applied(revision), writes.clone()).unwrap();
            disk.commit(applied(revision), writes).unwrap();
            match step {
                Step::Wait => std::thread::sleep(Duration::from_millis(6)),
                Step::Reopen => {
                    // Where the state stands is written with the next row: a restart replays the log from there.
                    disk.flush().unwrap();
                    drop(disk);
                    disk = open(dir.path());
                    if disk.applied() != memory.applied() {
                        disk.commit(applied(revision), Vec::new()).unwrap();
                    }
                }
                Step::Snapshot => {
                    let job = disk.begin_snapshot().unwrap();
                    prop_assert!(disk.begin_snapshot().is_none(), "one at a time");
                    let file = job().unwrap();
                    prop_assert_eq!(file.applied, memory.applied());
                }
                Step::Put(..) | Step::Delete(..) | Step::Namespace(..) => {}
            }
            same(&memory, &*disk);
        }
    }

    #[test]
    fn codecs_give_back_what_they_got(
        content in any::<String>(), description in any::<Option<String>>(), ips in prop::collection::vec(any::<String>(), 0..4),
        at in any::<u8>(), which in 0..5_u8, revision in any::<u64>(), user in any::<Option<String>>(),
    ) {
        let attributes = Attributes { description, ..Attributes::default() };
        let author = Author { user: user.map(Into::into), ip: "10.0.0.1".into() };
        let record = ConfigRecord { attributes: attributes.clone(), beta_ips: ips.clone(), author: author.clone(), ..(*record(content.clone(), revision)).clone() };
        prop_assert_eq!(decode_record(encode_record(&record)).unwrap(), record);
        let publication = Publication {
            key: key(at), variant: variant(which), content: Content::new(content), attributes, beta_ips: ips,
            precondition: Precondition::DigestIsOrAbsent(Content::new("x").digest()), author,
        };
        let proposal = Proposal { command: Command::PublishConfig(Box::new(publication)), proposed_at: Millis(revision), request: None };
        prop_assert_eq!(decode_proposal(encode_proposal(&proposal)).unwrap(), proposal);
    }

    #[test]
    fn decoders_never_panic(bytes in any::<Vec<u8>>()) {
        drop(decode_proposal(bytes.clone().into()));
        drop(decode_record(bytes.into()));
    }
}

/// Enough for several of sled's segments.
const ROWS: u64 = 400;

fn write(state: &SledState, from: u64) {
    for revision in from..=ROWS {
        let content = format!("{revision}-").repeat(if revision % 50 == 0 { 30_000 } else { 60 });
        let put = Mutation::PutConfig(
            ConfigKey::new(&NamespaceId::public(), "g", &format!("d{revision}")).unwrap(),
            Variant::Formal,
            record(content, revision),
        );
        state.commit(applied(revision), vec![put]).unwrap();
    }
}

/// What stands in place of the log: writes what the state does not have.
fn replay(state: &SledState) {
    write(state, state.applied().revision().0 + 1);
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).unwrap().map(|it| it.unwrap().path()) {
        if path.is_dir() {
            files(&path, found);
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|it| it.unwrap().path()) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Changes the bytes of a file.
type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);

/// What became of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Healed {
    /// It hit nothing that counts.
    Harmless,
    /// sled went back to an older state as a whole, and the log had the rest.
    Replayed,
    /// The state was put aside and made anew.
    Rebuilt,
}

/// Damages one file of the closed state, reopens it, replays, and compares with what must be there.
fn heals(pristine: &Path, expected: &MemoryState, damage: impl Fn(&Path)) -> Healed {
    let dir = tempfile::tempdir().unwrap();
    copy(pristine, dir.path());
    damage(dir.path());
    let metrics = Metrics::new();
    let state = Arc::new(SledState::open(dir.path(), options(), metrics.clone()).unwrap());
    let behind = state.applied() != applied(ROWS);
    replay(&state);
    assert_eq!(state.witness(), expected.witness());
    for revision in [1, 50, 77, ROWS] {
        let key = ConfigKey::new(&NamespaceId::public(), "g", &format!("d{revision}")).unwrap();
        let records = (state.record(&key, &Variant::Formal), expected.record(&key, &Variant::Formal));
        assert_eq!(records.0.unwrap(), records.1.unwrap());
    }
    match (metrics.state_rebuilds.get() > 0, behind) {
        (true, _) => Healed::Rebuilt,
        (false, true) => Healed::Replayed,
        (false, false) => Healed::Harmless,
    }
}

fn expected() -> MemoryState {
    let dir = tempfile::tempdir().unwrap();
    let (disk, memory) = (open(dir.path()), MemoryState::new());
    write(&disk, 1);
    for (key, _) in disk.list(&|_| true) {
        let record = disk.record(&key, &Variant::Formal).unwrap().unwrap();
        memory.commit(applied(ROWS), vec![Mutation::PutConfig(key, Variant::Formal, record)]).unwrap();
    }
    memory
}

#[test]
fn every_kind_of_damage_is_noticed_and_healed() {
    let expected = expected();
    for with_snapshot in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        write(&state, 1);
        if with_snapshot {
            state.begin_snapshot().unwrap()().unwrap();
        }
        state.flush().unwrap();
        drop(state);
        assert_eq!(heals(dir.path(), &expected, |_| {}), Healed::Harmless, "what is whole is not rebuilt");
        let generation = dir.path().join("gen-000001");
        let mut all = Vec::new();
        files(&generation, &mut all);
        let db = all.iter().find(|it| it.ends_with("db")).unwrap().strip_prefix(dir.path()).unwrap().to_owned();
        let length = fs::metadata(dir.path().join(&db)).unwrap().len() as usize;
        let mut outcomes = std::collections::BTreeMap::<Healed, u32>::new();
        for trial in 0..24 {
            // Spread over the file, at odd places.
            let at = (length / 24) * trial + 37 * trial % 509;
            let kinds: [Damage<'_>; 4] = [
                &|bytes| bytes[at] ^= 1 << (trial % 8),
                &|bytes| bytes[at / 512 * 512..(at / 512 + 1) * 512].fill(0),
                &|bytes| bytes[at / 512 * 512..(at / 512 + 1) * 512].fill(0xa5),
                &|bytes| bytes.truncate(at),
            ];
            let kind = kinds[trial % 4];
            let healed = heals(dir.path(), &expected, |dir| {
                let mut bytes = fs::read(dir.join(&db)).unwrap();
                kind(&mut bytes);
                fs::write(dir.join(&db), bytes).unwrap();
            });
            *outcomes.entry(healed).or_default() += 1;
        }
        println!("with a snapshot {with_snapshot}: {outcomes:?}");
        assert!(outcomes.get(&Healed::Harmless).is_none_or(|it| *it < 20), "the damage must bite: {outcomes:?}");
        let gone = heals(dir.path(), &expected, |dir| fs::remove_dir_all(dir.join("gen-000001")).unwrap());
        assert_eq!(gone, Healed::Rebuilt);
        let other_segments = heals(dir.path(), &expected, |dir| {
            fs::remove_dir_all(dir.join("gen-000001")).unwrap();
            sled::Config::new().path(dir.join("gen-000001")).segment_size(2 * SEGMENT_BYTES).open().unwrap();
        });
        assert_eq!(other_segments, Healed::Rebuilt, "sled does not read what was written with others");
        heals(dir.path(), &expected, |dir| fs::remove_file(dir.join(&db)).unwrap());
        heals(dir.path(), &expected, |dir| fs::write(dir.join("gen-000001/conf"), b"nonsense").unwrap());
    }
}

#[test]
fn a_damaged_snapshot_is_refused_and_an_older_one_used() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    write(&state, 300);
    state.begin_snapshot().unwrap()().unwrap();
    state.commit(applied(ROWS + 1), vec![Mutation::DeleteConfig(key(1), Variant::Formal)]).unwrap();
    let file = state.begin_snapshot().unwrap()().unwrap();
    assert_eq!(file.applied.revision(), Revision(ROWS + 1));
    drop(state);
    let mut bytes = fs::read(&file.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file.path, bytes).unwrap();
    fs::remove_dir_all(dir.path().join("gen-000001")).unwrap();
    let state = open(dir.path());
    assert!(state.verify(&file.path).is_err());
    assert_eq!(state.applied().revision(), Revision(ROWS), "the older snapshot");
    assert_eq!(state.list(&|_| true).len(), 101);
}

#[test]
fn a_snapshot_is_of_one_moment_while_commits_go_on_and_can_be_installed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = open(from.path());
    write(&state, 1);
    let witness = state.witness();
    let job = state.begin_snapshot().unwrap();
    let writer = std::thread::spawn({
        let state = state.clone();
        move || {
            for revision in ROWS + 1..ROWS + 500 {
                let put =
                    Mutation::PutConfig(key((revision % 12) as u8), Variant::Formal, record("later".into(), revision));
                state.commit(applied(revision), vec![put]).unwrap();
            }
        }
    });
    let file = job().unwrap();
    writer.join().unwrap();
    assert_eq!(file.applied, applied(ROWS));
    let other = open(to.path());
    other.commit(applied(3), vec![Mutation::PutConfig(key(3), Variant::Formal, record("old".into(), 3))]).unwrap();
    fs::copy(&file.path, other.incoming_path()).unwrap();
    other.install(other.incoming_path()).unwrap();
    assert_eq!((other.applied(), other.witness()), (applied(ROWS), witness));
    assert!(other.versions(&key(3)).is_none(), "what was there is gone");
    assert_eq!(other.snapshot().map(|it| it.applied), Some(applied(ROWS)));
    drop(other);
    let other = open(to.path());
    assert_eq!((other.applied(), other.witness()), (applied(ROWS), witness), "after a restart too");
}

/// What is to be written to the snapshot is still to be written to sled when another state takes its place.
#[test]
fn a_snapshot_that_is_overtaken_by_an_installed_one_is_that_one() {
    for fills_a_table in [false, true] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let newer = open(from.path());
        write(&newer, 1);
        let sent = newer.begin_snapshot().unwrap()().unwrap();

        let log = Arc::new(MemoryLog::with_disk());
        let id = LogId { term: 1, node: 1, index: 1 };
        log.append(vec![LogEntry { id, payload: Payload::Blank }], Box::new(drop));
        let options = StateOptions { write_behind: Duration::from_secs(3_600), ..options() };
        let state = Arc::new(SledState::open(to.path(), options, Metrics::new()).unwrap());
        // Nothing is written before the log is.
        state.stay_behind(log.clone());
        let content = "x".repeat(if fills_a_table { options.write_behind_bytes } else { 1 });
        let put = Mutation::PutConfig(key(1), variant(0), record(content, 1));
        state.commit(applied(1), vec![put]).unwrap();
        let job = state.begin_snapshot().unwrap();
        fs::copy(&sent.path, state.incoming_path()).unwrap();
        state.install(state.incoming_path()).unwrap();
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || done.send(job()));
        let deadline = Instant::now() + Duration::from_secs(30);
        let file = loop {
            log.sync();
            match is_done.recv_timeout(Duration::from_millis(1)) {
                Ok(file) => break file.unwrap(),
                Err(_) => assert!(Instant::now() < deadline, "it waits for a state that is gone"),
            }
        };
        assert_eq!(file.applied, applied(ROWS));
        assert!(state.begin_snapshot().is_some(), "another one can be written");
        // The end would wait for the log.
        let ended = std::thread::spawn(move || drop(state));
        while !ended.is_finished() {
            log.sync();
            std::thread::yield_now();
        }
    }
}

/// As when the disk stands still, or sled does.
#[test]
fn a_state_that_cannot_be_written_says_so_and_can_be_closed() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let state = SledState::open(dir.path(), options(), metrics.clone()).unwrap();
    state.stay_behind(Arc::new(MemoryLog::with_disk()));
    let started = Instant::now();
    let mut revision = 0;
    while metrics.state_writer_stalled.get() == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "nobody is told");
        revision += 1;
        let put = Mutation::PutConfig(key(1), variant(0), record("x".into(), revision));
        state.commit(applied(revision), vec![put]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(started.elapsed() > Duration::from_secs(5), "a disk may be slow");
    let started = Instant::now();
    drop(state);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// sled makes a file for a large page; on a full disk it can as little as without a folder.
#[test]
fn a_state_for_which_there_is_no_room_says_so_and_can_be_closed() {
    let dir = tempfile::tempdir().unwrap();
    let state = SledState::open(dir.path(), options(), Metrics::new()).unwrap();
    fs::remove_dir_all(dir.path().join("gen-000001")).unwrap();
    let content = "x".repeat(SEGMENT_BYTES * 8);
    let put = Mutation::PutConfig(key(1), variant(0), record(content, 1));
    state.commit(applied(1), vec![put]).unwrap();
    assert!(state.flush().is_err());
    let refused = state.commit(applied(2), Vec::new()).unwrap_err();
    assert!(refused.to_string().contains("write the state"), "{refused}");
    let (ended, has_ended) = mpsc::channel();
    std::thread::spawn(move || {
        drop(state);
        ended.send(())
    });
    has_ended.recv_timeout(Duration::from_secs(30)).expect("it waits for what was never written");
}

#[test]
fn the_state_on_disk_is_never_ahead_of_the_log() {
    let dir = tempfile::TempDir::new().unwrap();
    let log = Arc::new(MemoryLog::with_disk());
    let write = |state: &SledState, index: u64| {
        let id = LogId { term: 1, node: 1, index };
        log.append(vec![LogEntry { id, payload: Payload::Blank }], Box::new(drop));
        let put = Mutation::PutConfig(key(1), variant(0), record(index.to_string(), index));
        state.commit(Applied { last: Some(id), membership: None }, vec![put]).unwrap();
    };
    let state = open(dir.path());
    state.stay_behind(log.clone());
    write(&state, 1);
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| state.flush());
        while !flushing.is_finished() {
            log.sync();
            std::thread::yield_now();
        }
        flushing.join().unwrap().unwrap();
    });
    // Applied, since others have it; but the disk of this node's log fails before it is durable here.
    write(&state, 2);
    log.fail("the power goes");
    assert!(state.flush().is_err());
    assert_eq!(state.applied().revision(), Revision(2));
    drop(state);
    assert_eq!(open(dir.path()).applied().revision(), Revision(1));
}
