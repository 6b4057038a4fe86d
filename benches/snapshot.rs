//! Question: how long does a snapshot take, and what do commits pay for it meanwhile?
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use coracle::{
    metrics::Metrics,
    storage::{
        Applied, StateStore,
        state::{SledState, StateOptions},
    },
    types::{
        Attributes, Author, ConfigKey, ConfigRecord, Content, LogId, Millis, Mutation, NamespaceId, Revision, Variant,
    },
};
use tokio::time::Instant;

#[path = "support/timing.rs"]
mod timing;

fn put(index: u64, keys: u64) -> Mutation {
    let key = ConfigKey::new(&NamespaceId::public(), "g", &format!("k{}", index % keys)).expect("a legal name");
    let record = ConfigRecord {
        content: Content::new(format!("{index:01024}")),
        attributes: Attributes::default(),
        beta_ips: Vec::new(),
        created: Revision(index),
        created_at: Millis(index),
        modified: Revision(index),
        modified_at: Millis(index),
        author: Author::default(),
    };
    Mutation::PutConfig(key, Variant::Formal, Arc::new(record))
}

fn commit(state: &SledState, index: u64, keys: u64) {
    let applied = Applied { last: Some(LogId { term: 1, node: 0, index }), membership: None };
    state.commit(applied, vec![put(index, keys)]).expect("committed");
}

fn main() {
    let rows = if timing::brief() { 2_000 } else { 100_000 };
    let dir = tempfile::tempdir().expect("a directory");
    let state = Arc::new(SledState::open(dir.path(), StateOptions::default(), Metrics::new()).expect("a state"));
    for index in 1..=rows {
        commit(&state, index, rows);
    }
    state.flush().expect("written");
    let done = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (state, done) = (state.clone(), done.clone());
        move || {
            let (mut index, mut times) = (rows, Vec::new());
            while !done.load(Ordering::Relaxed) {
                index += 1;
                let started = Instant::now();
                commit(&state, index, rows);
                times.push(started.elapsed());
            }
            times.sort_unstable();
            times
        }
    });
    let started = Instant::now();
    let file = state.begin_snapshot().expect("none other is made")().expect("a snapshot");
    let took = started.elapsed();
    done.store(true, Ordering::Relaxed);
    let times = writer.join().expect("commits went on");
    println!(
        "{rows} rows of 1 KiB: {took:?} ({:.0} MB/s); meanwhile {} commits, p50 {:?}, p99 {:?}, max {:?}",
        file.bytes as f64 / 1e6 / took.as_secs_f64(),
        times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    );
}
