//! Question: how many entries can be applied in a second, by the size of a group, to 100 hot keys and to 100,000 keys?
use std::{sync::Arc, time::Duration};

use coracle::{
    metrics::Metrics,
    replication::Applier,
    storage::{
        LogEntry, Payload,
        codec::encode_proposal,
        state::{SledState, StateOptions},
    },
    types::{
        Attributes, Author, Command, ConfigKey, Content, LogId, Millis, NamespaceId, Precondition, Proposal,
        Publication, Variant,
    },
    watch::Hub,
};

#[path = "support/timing.rs"]
mod timing;

fn entry(index: u64, keys: u64) -> LogEntry {
    let key = ConfigKey::new(&NamespaceId::public(), "g", &format!("k{}", index % keys)).expect("a legal name");
    let publication = Publication {
        key,
        variant: Variant::Formal,
        content: Content::new(format!("{index:0256}")),
        attributes: Attributes::default(),
        beta_ips: Vec::new(),
        precondition: Precondition::None,
        author: Author::default(),
    };
    let proposal =
        Proposal { command: Command::PublishConfig(Box::new(publication)), proposed_at: Millis(index), request: None };
    let id = LogId { term: 1, node: 0, index };
    LogEntry { id, payload: Payload::Proposal(encode_proposal(&proposal)) }
}

fn main() {
    for keys in [100, 100_000] {
        for group in [1, 16, 64, 256] {
            let dir = tempfile::tempdir().expect("a directory");
            let state = SledState::open(dir.path(), StateOptions::default(), Metrics::new()).expect("a state");
            let applier = Applier::new(Arc::new(state), Arc::<Hub>::default(), Metrics::new());
            let mut index = 0;
            let rate = timing::per_second(Duration::from_secs(2), || {
                let entries = (0..group)
                    .map(|_| {
                        index += 1;
                        entry(index, keys)
                    })
                    .collect();
                applier.apply(entries).expect("applied");
                group
            });
            println!("{keys:>6} keys, groups of {group:>3}: {rate:>9.0} entries/s (encoding included)");
        }
    }
}
