//! The part of the corpus that this program writes itself: `cargo test --test fuzz_corpus -- --ignored write_seeds`.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use coracle::{
    metrics::Metrics,
    storage::{
        Applied, LogEntry, LogStore, Payload, StateStore, Vote, Witness,
        codec::{encode_meta, encode_namespace, encode_proposal, encode_record},
        log::{LogOptions, SegmentLog},
        state::{SledState, StateOptions},
    },
    types::{
        Attributes, Author, Command, ConfigKey, ConfigRecord, Content, ContentType, LogId, Millis, Mutation, Namespace,
        NamespaceId, Precondition, Proposal, Publication, Revision, Tag, Variant,
    },
};

use crate::targets::{TARGETS, Target};

fn write(target: &str, name: &str, parts: &[&[u8]]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), parts.concat()).unwrap();
}

#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_seeds() {
    rows();
    segments();
    snapshots();
    messages();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/dictionaries");
    fs::create_dir_all(&dir).unwrap();
    for target in TARGETS {
        fs::write(dir.join(target.name), dictionary(target)).unwrap();
    }
}

/// The words of a target, as libFuzzer reads them.
pub(crate) fn dictionary(target: &Target) -> String {
    let escape = |byte: u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).into(),
        _ => format!("\\x{byte:02x}"),
    };
    let line = |word: &&str| format!("\"{}\"\n", word.bytes().map(escape).collect::<String>());
    target.words.iter().map(line).collect()
}

fn key() -> ConfigKey {
    ConfigKey::parse("public/g/a").unwrap()
}

fn attributes() -> Attributes {
    let text = |it: &str| Some(it.to_owned());
    Attributes {
        content_type: ContentType::Yaml,
        app_name: text("app"),
        config_tags: text("t1,t2"),
        description: text("d"),
        usage: None,
        effect: text("e"),
        schema: None,
        encrypted_data_key: text("k"),
    }
}

fn record(text: &str) -> ConfigRecord {
    ConfigRecord {
        content: Content::new(text),
        attributes: attributes(),
        beta_ips: vec!["1.2.3.4".into()],
        created: Revision(1),
        created_at: Millis(1_764_000_000_000),
        modified: Revision(2),
        modified_at: Millis(1_764_000_000_001),
        author: Author { user: Some("u".into()), ip: "127.0.0.1".into() },
    }
}

fn proposals() -> Vec<Proposal> {
    let publication = |variant, precondition| {
        Command::PublishConfig(Box::new(Publication {
            key: key(),
            variant,
            content: Content::new("a: 1\n"),
            attributes: attributes(),
            beta_ips: vec!["1.2.3.4".into()],
            precondition,
            author: Author { user: None, ip: "::1".into() },
        }))
    };
    let namespace = Namespace { id: NamespaceId::parse("dev").unwrap(), name: "Dev".into(), description: "d".into() };
    let tag = Variant::Tag(Tag::parse("t1").unwrap());
    let commands = [
        publication(Variant::Formal, Precondition::None),
        publication(Variant::Beta, Precondition::Absent),
        publication(tag.clone(), Precondition::DigestIsOrAbsent(Content::new("x").digest())),
        publication(Variant::Formal, Precondition::DigestUnknown),
        Command::RemoveConfig { key: key(), variant: tag.clone(), created: None },
        Command::RemoveConfig { key: key(), variant: tag, created: Some(Revision(7)) },
        Command::CreateNamespace(namespace.clone()),
        Command::UpdateNamespace(namespace.clone()),
        Command::DeleteNamespace(namespace.id),
    ];
    commands
        .into_iter()
        .map(|command| Proposal { command, proposed_at: Millis(1_764_000_000_000), request: None })
        .collect()
}

fn rows() {
    for (at, proposal) in proposals().iter().enumerate() {
        write("stored_rows", &format!("proposal-{at}"), &[&[0], &encode_proposal(proposal)]);
    }
    write("stored_rows", "record", &[&[1], &encode_record(&record("text"))]);
    let namespace = Namespace { id: NamespaceId::parse("dev").unwrap(), name: "Dev".into(), description: "d".into() };
    write("stored_rows", "namespace", &[&[2], &encode_namespace(&namespace)]);
    let id = LogId { term: 3, node: 2, index: 9 };
    let applied = Applied { last: Some(id), membership: Some((id, b"\x0a\x03\x0a\x01\x01".as_slice().into())) };
    write("stored_rows", "meta", &[&[3], &encode_meta(&applied, Witness { rows: 2, hash: 77 })]);
}

/// Does something with a log and waits until it is on the disk.
fn done(act: impl FnOnce(Box<dyn FnOnce(std::io::Result<()>) + Send>)) {
    let (done, is_done) = mpsc::channel();
    act(Box::new(move |result| done.send(result).unwrap()));
    is_done.recv().unwrap().unwrap();
}

fn segments() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 16 << 10, cache_bytes: 1_000 };
    let file = dir.path().join("0000000000000001.seg");
    let keep = |name: &str, flags: u8| {
        let bytes = fs::read(&file).unwrap();
        let used = bytes.iter().rposition(|it| *it != 0).unwrap() + 1;
        write("log_segment", name, &[&[flags], &bytes[..148], bytes.get(4096..used).unwrap_or_default()]);
    };
    let id = |index| LogId { term: 2, node: 1, index };
    let log = SegmentLog::open(dir.path(), options, Metrics::new()).unwrap();
    keep("new", 1);
    let mut payloads: Vec<Payload> = proposals().iter().map(|it| Payload::Proposal(encode_proposal(it))).collect();
    payloads.insert(0, Payload::Membership(b"\x0a\x03\x0a\x01\x01".as_slice().into()));
    payloads.insert(0, Payload::Blank);
    for (at, payload) in payloads.into_iter().enumerate() {
        let entry = LogEntry { id: id(at as u64), payload };
        done(|durable| log.append(vec![entry], durable));
        if at == 2 {
            keep("three-entries", 1);
        }
    }
    keep("ten-entries", 1);
    done(|durable| log.save_vote(Vote { term: 3, node: 2, committed: true }, durable));
    log.save_committed(id(5));
    log.truncate_after(Some(id(7)));
    done(|durable| log.barrier(durable));
    keep("vote-and-truncation", 1);
    log.purge(id(4));
    done(|durable| log.barrier(durable));
    keep("purged", 1);
    log.truncate_after(None);
    log.purge(id(20));
    done(|durable| log.barrier(durable));
    let entries = (21..24).map(|index| LogEntry { id: id(index), payload: Payload::Blank }).collect();
    done(|durable| log.append(entries, durable));
    drop(log);
    for (name, flags) in [("closed", 1), ("closed-as-it-is", 0), ("checksums", 3), ("order", 7)] {
        keep(name, flags);
    }
}

fn snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(SledState::open(dir.path(), StateOptions::default(), Metrics::new()).unwrap());
    let keep = |name: &str| {
        let job = state.begin_snapshot().unwrap();
        let file: PathBuf = job().unwrap().path;
        for flags in [0_u8, 1, 3] {
            write("snapshot", &format!("{name}-{flags}"), &[&[flags], &fs::read(&file).unwrap()]);
        }
    };
    keep("empty");
    let id = LogId { term: 1, node: 0, index: 7 };
    let record = Arc::new(record("a: 1\n"));
    let namespace = Namespace { id: NamespaceId::parse("dev").unwrap(), name: "Dev".into(), description: "d".into() };
    let writes = vec![
        Mutation::PutConfig(key(), Variant::Formal, record.clone()),
        Mutation::PutConfig(key(), Variant::Beta, record.clone()),
        Mutation::PutConfig(key(), Variant::Tag(Tag::parse("t1").unwrap()), record),
        Mutation::PutNamespace(namespace),
    ];
    let membership = Some((id, b"\x0a\x03\x0a\x01\x01".as_slice().into()));
    state.commit(Applied { last: Some(id), membership }, writes).unwrap();
    keep("four-rows");
}

/// A field of a protobuf message: a number when it is short, else bytes.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, value.len() as u8][..], value].concat()
}

fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn messages() {
    let id = |index| [number(1, 2), number(2, 1), number(3, index)].concat();
    let vote = [number(1, 2), number(2, 1), number(3, 1)].concat();
    let caller = [&[9, 1, 2, 3, 4, 5, 6, 7, 8][..], &number(2, 1), &number(3, 2)].concat();
    let node = [number(1, 1), field(2, b"127.0.0.1:7848")].concat();
    let membership = [field(1, &field(1, &[1])), field(2, &node)].concat();
    let proposal = encode_proposal(&proposals()[5]);
    let entries = [
        [field(1, &id(4)), number(2, 1)].concat(),
        [field(1, &id(5)), field(3, &proposal)].concat(),
        [field(1, &id(6)), field(4, &membership)].concat(),
    ];
    let entries: Vec<u8> = entries.iter().flat_map(|it| field(4, it)).collect();
    let append = [field(1, &caller), field(2, &vote), field(3, &id(3)), entries, field(5, &id(2))].concat();
    write("peer_message", "append", &[&[0], &append]);
    write("peer_message", "heartbeat", &[&[0], &field(1, &caller), &field(2, &vote), &field(5, &id(2))]);
    write("peer_message", "flushed", &[&[1], &field(1, &field(1, &id(9)))]);
    write("peer_message", "conflict", &[&[1], &field(2, &id(9))]);
    write("peer_message", "higher-vote", &[&[1], &field(3, &vote)]);
    write("peer_message", "vote", &[&[2], &field(1, &caller), &field(2, &vote), &field(3, &id(9)), &number(4, 1)]);
    write("peer_message", "vote-reply", &[&[3], &field(1, &vote), &number(2, 1), &field(3, &id(9))]);
    let head = [field(2, &vote), field(3, &id(9)), field(4, &id(6)), field(5, &membership), number(6, 100)].concat();
    write("peer_message", "snapshot-head", &[&[4], &field(1, &caller), &head]);
    let outcomes = [
        [number(1, 9), number(2, 1)].concat(),
        [number(1, 9), field(4, &[7; 16])].concat(),
        number(5, 1),
        field(8, b"why"),
        field(10, b"fatal"),
    ];
    let outcomes: Vec<u8> = outcomes.iter().flat_map(|it| field(1, it)).collect();
    write("peer_message", "propose-reply", &[&[5], &outcomes]);
}
