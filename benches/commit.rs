//! Question: how many durable appends does the log give in a second, by the number of entries in a group?
use std::{sync::mpsc, time::Duration};

use coracle::{
    metrics::Metrics,
    storage::{
        LogEntry, LogStore, Payload,
        log::{LogOptions, SegmentLog},
    },
    types::LogId,
};

#[path = "support/timing.rs"]
mod timing;

fn main() {
    let payload = bytes::Bytes::from(vec![7; 300]);
    for group in [1_u64, 8, 64, 256] {
        let dir = tempfile::tempdir().expect("a directory");
        let log = SegmentLog::open(dir.path(), LogOptions::default(), Metrics::new()).expect("a log");
        let (mut index, (sender, receiver)) = (0, mpsc::channel());
        let rate = timing::per_second(Duration::from_secs(2), || {
            let entries = (0..group)
                .map(|_| {
                    index += 1;
                    LogEntry { id: LogId { term: 1, node: 0, index }, payload: Payload::Proposal(payload.clone()) }
                })
                .collect();
            let sender = sender.clone();
            log.append(entries, Box::new(move |result| sender.send(result).expect("somebody waits")));
            receiver.recv().expect("an answer").expect("a durable append");
            group
        });
        println!("groups of {group:>3}: {rate:>9.0} durable entries/s, {:>7.0} flushes/s", rate / group as f64);
    }
}
