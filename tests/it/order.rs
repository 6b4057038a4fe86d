//! What must come before what: registering before comparing, committing before telling. Each test brings about the one
//! moment at which the other order loses a change.
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use coracle::{
    clock::ManualClock,
    metrics::Metrics,
    replication::{Applier, BoxFuture, ProposeError, Replicator, Status},
    service::{ClientLabels, Interest, Seen, ServiceError, Services},
    state_machine::StateReader,
    storage::{Applied, LogEntry, Payload, StateStore, codec, memory::MemoryState},
    types::{Command, Consistency, Content, Digest, LogId, Millis, Proposal, Publication, Reply, Revision, Variant},
    watch::{Hub, Watcher},
};

use crate::{
    harness::{Cluster, Disk, Mode, key, publication},
    hooked::{Hook, Hooked},
};

fn entry(index: u64, text: &str) -> LogEntry {
    entry_of(index, Command::PublishConfig(Box::new(publication("a", text))))
}

fn beta_entry(index: u64, text: &str, ip: &str) -> LogEntry {
    let beta = Publication { variant: Variant::Beta, beta_ips: vec![ip.into()], ..publication("a", text) };
    entry_of(index, Command::PublishConfig(Box::new(beta)))
}

fn entry_of(index: u64, command: Command) -> LogEntry {
    let proposal = Proposal { command, proposed_at: Millis(index), request: None };
    let payload = Payload::Proposal(codec::encode_proposal(&proposal));
    LogEntry { id: LogId { term: 1, node: 0, index }, payload }
}

/// A state to which `change` is applied as soon as somebody has looked at a key's versions. The flag says whether somebody has.
fn changed_after_a_look(
    hub: &Arc<Hub>,
    before: Vec<LogEntry>,
    change: Vec<LogEntry>,
) -> (Arc<Hooked>, Arc<AtomicBool>) {
    let state: Arc<dyn StateStore> = Arc::new(MemoryState::new());
    let applier = Applier::new(state.clone(), hub.clone(), Metrics::new());
    applier.apply(before).unwrap();
    let looked = Arc::<AtomicBool>::default();
    let (change, flag) = (Mutex::new(Some(change)), looked.clone());
    let hook: Hook = Arc::new(move || {
        if let Some(change) = change.lock().unwrap().take() {
            applier.apply(change).unwrap();
            flag.store(true, Ordering::SeqCst);
        }
    });
    (Arc::new(Hooked { looked: hook, ..Hooked::of(state) }), looked)
}

/// Services on such a state.
async fn changed_after_the_first_look(before: Vec<LogEntry>, change: Vec<LogEntry>) -> (Cluster, Services) {
    let hub = Arc::<Hub>::default();
    let (state, _) = changed_after_a_look(&hub, before, change);
    // Only asked whether it has loaded everything, which a standalone node has.
    let node = Cluster::start(Mode::Standalone, Disk::Memory).await;
    let clock = Arc::<ManualClock>::default();
    let services = Services::new(clock, node.first().replicator.clone(), None, state, hub, Metrics::new());
    (node, services)
}

#[tokio::test]
async fn a_change_between_looking_and_registering_is_not_missed() {
    let (_node, services) = changed_after_the_first_look(vec![entry(1, "old")], vec![entry(2, "new")]).await;
    let interests = [Interest { key: key("a"), seen: Seen::Digest(Digest::of(b"old")) }];
    let client = ClientLabels::default();
    assert_eq!(services.stale_now(&interests, &client).unwrap(), [] as [usize; 0], "the first look finds nothing new");
    let wait = Duration::from_millis(300);
    let changed = services.wait_for_change(&interests, &client, wait, std::future::pending()).await;
    assert_eq!(changed, [0], "the change that came after it");
}

/// What a client with this address reads while `change` happens between its two looks at what there was `before`.
async fn read_while(before: Vec<LogEntry>, change: Vec<LogEntry>) -> Option<String> {
    let (_node, services) = changed_after_the_first_look(before, change).await;
    let client = ClientLabels { ip: "10.0.0.1".into(), ..ClientLabels::default() };
    let read = services.get(&key("a"), &client, Consistency::Local).await.unwrap();
    let newest = read.value.as_ref().map_or(Revision(0), |found| found.record.modified);
    assert!(read.revision >= newest, "{read:?} is newer than it says: a later read may be older");
    read.value.map(|found| found.record.content.text().to_owned())
}

fn with_beta() -> Vec<LogEntry> {
    vec![entry(1, "formal"), beta_entry(2, "beta", "10.0.0.1")]
}

#[tokio::test]
async fn a_beta_that_ends_while_it_is_read_is_not_a_configuration_that_is_gone() {
    let ends = Command::RemoveConfig { key: key("a"), variant: Variant::Beta, created: None };
    assert_eq!(read_while(with_beta(), vec![entry_of(3, ends)]).await.as_deref(), Some("formal"));
}

#[tokio::test]
async fn a_beta_that_goes_to_others_while_it_is_read_is_read_by_those_alone() {
    let read = read_while(with_beta(), vec![beta_entry(3, "for others", "10.0.0.2")]).await;
    assert_eq!(read.as_deref(), Some("formal"));
    let read = read_while(with_beta(), vec![beta_entry(3, "newer", "10.0.0.1")]).await;
    assert_eq!(read.as_deref(), Some("newer"));
}

#[tokio::test]
async fn what_a_beta_hides_is_not_read_though_it_comes_while_it_is_read() {
    // Together, as entries are applied: nobody of that address ever sees the second formal version.
    let change = vec![beta_entry(2, "beta", "10.0.0.1"), entry(3, "hidden")];
    assert_eq!(read_while(vec![entry(1, "formal")], change).await.as_deref(), Some("beta"));
}

#[tokio::test]
async fn a_read_is_of_the_revision_that_it_says() {
    let change = || vec![entry(2, "new")];
    assert_eq!(read_while(vec![entry(1, "old")], change()).await.as_deref(), Some("new"));
    let (_node, services) = changed_after_the_first_look(vec![entry(1, "old")], change()).await;
    let read = services.get_variant(&key("a"), &Variant::Formal, Consistency::Local).await.unwrap();
    assert_eq!((read.revision, read.value.unwrap().modified), (Revision(2), Revision(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_anew_while_its_id_is_removed_stays() {
    let cluster = Arc::new(Cluster::start(Mode::Standalone, Disk::Memory).await);
    let old = cluster.first().publish_until_acknowledged("a", "old").await;
    let (once, node, runtime) = (Mutex::new(true), cluster.clone(), tokio::runtime::Handle::current());
    let listed: Hook = Arc::new(move || {
        if std::mem::take(&mut *once.lock().unwrap()) {
            let again = async {
                let remove = Command::RemoveConfig { key: key("a"), variant: Variant::Formal, created: None };
                node.first().propose(remove).await.unwrap();
                node.first().publish_until_acknowledged("a", "anew").await;
            };
            tokio::task::block_in_place(|| runtime.block_on(again));
        }
    });
    let (first, hub) = (cluster.first(), Arc::<Hub>::default());
    let state = Arc::new(Hooked { listed, ..Hooked::of(first.state.clone()) });
    let clock = Arc::<ManualClock>::default();
    let services = Services::new(clock, first.replicator.clone(), None, state, hub, Metrics::new());
    assert_eq!(services.remove_created(&BTreeSet::from([old])).await.unwrap(), None, "it is gone already");
    assert_eq!(first.text("a").as_deref(), Some("anew"));
}

/// Has loaded everything as soon as the state was looked at.
struct LoadedAfterTheFirstLook(Arc<AtomicBool>);

impl Replicator for LoadedAfterTheFirstLook {
    fn propose(&self, _: Proposal) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        unimplemented!("nobody writes")
    }

    fn read_barrier(&self, _: Consistency) -> BoxFuture<'_, Result<Revision, ProposeError>> {
        Box::pin(async { Err(ProposeError::Unavailable("no leader".into())) })
    }

    fn caught_up(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn status(&self) -> Status {
        unimplemented!("nobody asks")
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_loads_while_it_is_read_is_not_a_configuration_that_does_not_exist() {
    let hub = Arc::<Hub>::default();
    let (state, looked) = changed_after_a_look(&hub, Vec::new(), vec![entry(1, "loaded")]);
    let replicator = Arc::new(LoadedAfterTheFirstLook(looked));
    let services = Services::new(Arc::<ManualClock>::default(), replicator, None, state, hub, Metrics::new());
    let (a, client) = (key("a"), ClientLabels::default());
    let first = services.get(&a, &client, Consistency::Local).await;
    assert!(matches!(first, Err(ServiceError::Unavailable(_))), "{first:?}");
    let second = services.get(&a, &client, Consistency::Local).await.unwrap();
    assert_eq!(second.value.unwrap().record.content.text(), "loaded");
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
