//! What must come before what: registering before comparing, committing before telling. Each test brings about the one
//! moment at which the other order loses a change.
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use coracle::{
    clock::ManualClock,
    metrics::Metrics,
    replication::Applier,
    service::{ClientLabels, Interest, Seen, Services},
    state_machine::{ReadError, StateReader, Versions},
    storage::{Applied, LogEntry, Payload, StateStore, codec, memory::MemoryState},
    types::{
        Command, ConfigKey, ConfigRecord, Content, Digest, Head, LogId, Millis, Namespace, NamespaceId, Proposal,
        RememberedRequest, RequestId, Revision, Variant,
    },
    watch::{Hub, Watcher},
};

use crate::harness::{Cluster, Disk, Mode, key, publication};

fn entry(index: u64, text: &str) -> LogEntry {
    let command = Command::PublishConfig(Box::new(publication("a", text)));
    let proposal = Proposal { command, proposed_at: Millis(index), request: None };
    let payload = Payload::Proposal(codec::encode_proposal(&proposal));
    LogEntry { id: LogId { term: 1, node: 0, index }, payload }
}

/// Reads as its state does; after the first look at a key's versions somebody publishes.
struct ChangedAfterTheFirstLook {
    state: Arc<MemoryState>,
    applier: Applier,
    looks: AtomicU64,
}

impl StateReader for ChangedAfterTheFirstLook {
    fn versions(&self, key: &ConfigKey) -> Option<Arc<Versions>> {
        let found = self.state.versions(key);
        if self.looks.fetch_add(1, Ordering::Relaxed) == 0 {
            self.applier.apply(vec![entry(2, "new")]).unwrap();
        }
        found
    }

    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError> {
        self.state.record(key, variant)
    }

    fn namespace(&self, id: &NamespaceId) -> Option<Namespace> {
        self.state.namespace(id)
    }

    fn namespaces(&self) -> Vec<Namespace> {
        self.state.namespaces()
    }

    fn list(&self, wanted: &dyn Fn(&ConfigKey) -> bool) -> Vec<(ConfigKey, Head)> {
        self.state.list(wanted)
    }

    fn remembered_request(&self, id: RequestId) -> Option<RememberedRequest> {
        self.state.remembered_request(id)
    }

    fn oldest_request(&self, after: Revision) -> Option<RememberedRequest> {
        self.state.oldest_request(after)
    }

    fn remembered_count(&self) -> usize {
        self.state.remembered_count()
    }

    fn revision(&self) -> Revision {
        self.state.revision()
    }
}

#[tokio::test]
async fn a_change_between_looking_and_registering_is_not_missed() {
    let (state, hub) = (Arc::new(MemoryState::new()), Arc::<Hub>::default());
    let applier = Applier::new(state.clone(), hub.clone(), Metrics::new());
    applier.apply(vec![entry(1, "old")]).unwrap();
    let reader = Arc::new(ChangedAfterTheFirstLook { state, applier, looks: AtomicU64::new(0) });
    // Only asked whether it has loaded everything, which a standalone node has.
    let node = Cluster::start(Mode::Standalone, Disk::Memory).await;
    let clock = Arc::<ManualClock>::default();
    let services = Services::new(clock, node.first().replicator.clone(), None, reader.clone(), hub, Metrics::new());
    let interests = [Interest { key: key("a"), seen: Seen::Digest(Digest::of(b"old")) }];
    let client = ClientLabels::default();
    assert_eq!(services.stale_now(&interests, &client).unwrap(), [] as [usize; 0], "the first look finds nothing new");
    let wait = Duration::from_millis(300);
    let changed = services.wait_for_change(&interests, &client, wait, std::future::pending()).await;
    assert_eq!(changed, [0], "the change that came after it");
}

/// Looks at the state at the very moment at which it is woken.
struct LooksWhenWoken {
    state: Arc<MemoryState>,
    seen: Mutex<Option<Digest>>,
}

impl Wake for LooksWhenWoken {
    fn wake(self: Arc<Self>) {
        let head = self.state.versions(&key("a")).and_then(|versions| versions.formal);
        *self.seen.lock().unwrap() = head.map(|head| head.digest);
    }
}

#[test]
fn the_state_says_it_before_anybody_is_told() {
    let (state, hub) = (Arc::new(MemoryState::new()), Arc::<Hub>::default());
    let applier = Applier::new(state.clone(), hub.clone(), Metrics::new());
    let watcher: Watcher = hub.watch([key("a")]);
    for (index, text) in [(1, "1"), (2, "2")] {
        let woken = Arc::new(LooksWhenWoken { state: state.clone(), seen: Mutex::default() });
        let waker = Waker::from(woken.clone());
        assert!(matches!(watcher.poll_changed(&Context::from_waker(&waker)), Poll::Pending));
        applier.apply(vec![entry(index, text)]).unwrap();
        assert_eq!(*woken.seen.lock().unwrap(), Some(Content::new(text).digest()), "seen when woken");
        // Taken, so that the next round waits again.
        assert!(watcher.poll_changed(&Context::from_waker(&waker)).is_ready());
    }
    assert_eq!(state.applied(), Applied { last: Some(LogId { term: 1, node: 0, index: 2 }), membership: None });
}
