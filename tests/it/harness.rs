//! Nodes in this process, on ports of the system's choosing and directories that go away, each with the real stores, the
//! real consensus and the real messages between members.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coracle::{
    metrics::Metrics,
    net::Dialer,
    raft::{self, ClusterId, Options, Peers, RaftReplicator},
    replication::{Administration, Applier, Member, ProposeError, Replicator, SnapshotPolicy, Standalone},
    storage::{
        LogStore, StateStore,
        log::{LogOptions, SegmentLog},
        memory::MemoryState,
        memory_log::MemoryLog,
        state::{SledState, StateOptions},
    },
    types::{
        Attributes, Author, Command, ConfigKey, Consistency, Content, Millis, NamespaceId, Precondition, Proposal,
        Publication, Reply, Revision, Variant,
    },
    watch::Hub,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

/// What a test waits for takes at most this long on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Where a node keeps things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Memory,
    Files,
}

/// How many nodes there are, and whether they agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Standalone,
    Raft(u64),
}

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) replicator: Arc<dyn Replicator>,
    pub(crate) raft: Option<Arc<RaftReplicator>>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) state: Arc<dyn StateStore>,
    pub(crate) hub: Arc<Hub>,
    stop_serving: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

/// What outlives a node: its directory and its address.
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) dir: PathBuf,
}

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) places: BTreeMap<u64, Place>,
    pub(crate) snapshots: SnapshotPolicy,
    disk: Disk,
    temp: TempDir,
}

impl Cluster {
    pub(crate) async fn start(mode: Mode, disk: Disk) -> Self {
        Self::start_with(mode, disk, SnapshotPolicy::default()).await
    }

    pub(crate) async fn start_with(mode: Mode, disk: Disk, snapshots: SnapshotPolicy) -> Self {
        let temp = TempDir::new().unwrap();
        let mut cluster = Self { nodes: BTreeMap::new(), places: BTreeMap::new(), snapshots, disk, temp };
        match mode {
            Mode::Standalone => {
                let place = cluster.place(0).await;
                let node = cluster.standalone(&place.dir);
                cluster.places.insert(0, place);
                cluster.nodes.insert(0, node);
            }
            Mode::Raft(count) => {
                for id in 1..=count {
                    let place = cluster.place(id).await;
                    cluster.places.insert(id, place);
                }
                for id in 1..=count {
                    cluster.start_node(id).await;
                }
                let members = cluster.places.iter().map(|(id, place)| (*id, place.address.to_string())).collect();
                cluster.raft(1).form(&members).await.unwrap();
                cluster.wait_for_leader().await;
            }
        }
        cluster
    }

    pub(crate) async fn place(&self, id: u64) -> Place {
        let address = free_address().await;
        let dir = self.temp.path().join(format!("n{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        Place { address, dir }
    }

    pub(crate) fn stores(&self, dir: &Path) -> (Arc<dyn LogStore>, Arc<dyn StateStore>) {
        match self.disk {
            Disk::Memory => (Arc::new(MemoryLog::new()), Arc::new(MemoryState::new())),
            Disk::Files => open_stores(dir),
        }
    }

    pub(crate) fn standalone(&self, dir: &Path) -> Node {
        let (log, state) = self.stores(dir);
        let hub = Arc::<Hub>::default();
        let applier = Applier::new(state.clone(), hub.clone(), Metrics::new());
        let replicator = Standalone::start(log.clone(), applier, self.snapshots).unwrap();
        Node { id: 0, replicator: Arc::new(replicator), raft: None, log, state, hub, stop_serving: None, serving: None }
    }

    pub(crate) async fn start_node(&mut self, id: u64) {
        let place = &self.places[&id];
        let (log, state) = self.stores(&place.dir);
        let node = start_member(id, place.address, log, state, self.snapshots).await;
        self.nodes.insert(id, node);
    }

    /// Stops a node without a word to the others.
    pub(crate) async fn stop_node(&mut self, id: u64) {
        let mut node = self.nodes.remove(&id).unwrap();
        drop(node.stop_serving.take());
        if let Some(serving) = node.serving.take() {
            serving.abort();
        }
        if let Some(raft) = node.raft.take() {
            raft.abandon().await;
        }
    }

    pub(crate) fn raft(&self, id: u64) -> Arc<RaftReplicator> {
        self.nodes[&id].raft.clone().unwrap()
    }

    pub(crate) async fn wait_for_leader(&self) -> u64 {
        let found = timeout(PATIENCE, async {
            loop {
                for node in self.nodes.values() {
                    let status = node.replicator.status();
                    if let Some(leader) = status.leader.filter(|it| self.nodes.contains_key(it)) {
                        return leader;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        found.await.expect("a leader is elected")
    }

    pub(crate) fn last(&self) -> &Node {
        self.nodes.values().last().unwrap()
    }

    pub(crate) fn first(&self) -> &Node {
        self.nodes.values().next().unwrap()
    }

    /// Waits until every node has applied this revision, and compares the states.
    pub(crate) async fn converge(&self, revision: Revision) {
        for node in self.nodes.values() {
            let reached = timeout(PATIENCE, node.replicator.read_barrier(Consistency::AtLeast(revision))).await;
            reached.unwrap().unwrap_or_else(|err| panic!("node {} reaches {revision}: {err}", node.id));
        }
        let stands: Vec<_> =
            self.nodes.values().map(|node| (node.state.applied().revision(), node.state.witness())).collect();
        for (at, witness) in &stands {
            if *at == stands[0].0 {
                assert_eq!(*witness, stands[0].1, "states at {at} are equal");
            }
        }
    }
}

pub(crate) fn open_stores(dir: &Path) -> (Arc<dyn LogStore>, Arc<dyn StateStore>) {
    let metrics = Metrics::new();
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    // A node that was stopped a moment ago may hold its log still.
    let started = tokio::time::Instant::now();
    let log = loop {
        match SegmentLog::open(&dir.join("log"), options, metrics.clone()) {
            Ok(log) => break log,
            Err(err) if started.elapsed() < PATIENCE && err.to_string().contains("in use") => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(err) => panic!("{err}"),
        }
    };
    let state = SledState::open(&dir.join("data"), StateOptions::default(), metrics).unwrap();
    (Arc::new(log), Arc::new(state))
}

pub(crate) async fn start_member(
    id: u64,
    address: SocketAddr,
    log: Arc<dyn LogStore>,
    state: Arc<dyn StateStore>,
    snapshots: SnapshotPolicy,
) -> Node {
    start_member_with(&Options { snapshots, ..Options::new(id) }, address, log, state, None).await
}

/// The same with these options, and on connections that this opens.
pub(crate) async fn start_member_with(
    options: &Options,
    address: SocketAddr,
    log: Arc<dyn LogStore>,
    state: Arc<dyn StateStore>,
    dialer: Option<Arc<dyn Dialer>>,
) -> Node {
    let id = options.node;
    let hub = Arc::<Hub>::default();
    let applier = Applier::new(state.clone(), hub.clone(), Metrics::new());
    let peers = Peers::new(id, Arc::new(ClusterId::new(77, |_| Ok(()))));
    let peers = match dialer {
        Some(dialer) => peers.dialing(dialer),
        None => peers,
    };
    let raft = RaftReplicator::start(options, log.clone(), applier, peers, Metrics::new()).await.unwrap();
    let raft = Arc::new(raft);
    let listener = bind(address).await;
    let (stop_serving, stopped) = oneshot::channel::<()>();
    let serving = raft.serve_members(listener, async move { drop(stopped.await) });
    let serving = tokio::spawn(async move { serving.await.unwrap() });
    Node {
        id,
        replicator: raft.clone(),
        raft: Some(raft),
        log,
        state,
        hub,
        stop_serving: Some(stop_serving),
        serving: Some(serving),
    }
}

/// A member in memory that is a cluster by itself and reaches others by this.
pub(crate) async fn lone_leader(options: &Options, dialer: Arc<dyn Dialer>) -> Node {
    let (log, state) = stores_in_memory();
    lone_leader_on(options, log, state, Some(dialer)).await
}

/// The same on these stores.
pub(crate) async fn lone_leader_on(
    options: &Options,
    log: Arc<dyn LogStore>,
    state: Arc<dyn StateStore>,
    dialer: Option<Arc<dyn Dialer>>,
) -> Node {
    let address = free_address().await;
    let leader = start_member_with(options, address, log, state, dialer).await;
    let raft = leader.raft.as_ref().unwrap();
    raft.form(&[(options.node, address.to_string())].into()).await.unwrap();
    leader
}

/// In memory, with snapshots that are files, too.
pub(crate) fn stores_in_memory() -> (Arc<dyn LogStore>, Arc<dyn StateStore>) {
    (Arc::new(MemoryLog::new()), Arc::new(MemoryState::open(Arc::default()).unwrap()))
}

/// A port that is free, and stays so long enough: the test binds it again at once.
pub(crate) async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A node that was stopped a moment ago may hold its port still.
async fn bind(address: SocketAddr) -> TcpListener {
    let bound = timeout(PATIENCE, async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    bound.await.expect("the port becomes free")
}

pub(crate) fn key(data_id: &str) -> ConfigKey {
    ConfigKey::new(&NamespaceId::public(), "g", data_id).unwrap()
}

pub(crate) fn publication(data_id: &str, text: &str) -> Publication {
    Publication {
        key: key(data_id),
        variant: Variant::Formal,
        content: Content::new(text),
        attributes: Attributes::default(),
        beta_ips: Vec::new(),
        precondition: Precondition::None,
        author: Author::default(),
    }
}

impl Node {
    pub(crate) async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        let proposal = Proposal { command, proposed_at: Millis(1_700_000_000_000), request: None };
        timeout(PATIENCE, self.replicator.propose(proposal)).await.expect("a proposal is answered")
    }

    pub(crate) async fn publish(&self, data_id: &str, text: &str) -> Result<Reply, ProposeError> {
        self.propose(Command::PublishConfig(Box::new(publication(data_id, text)))).await
    }

    /// Publishes until it is acknowledged; safe for a value that is written once.
    pub(crate) async fn publish_until_acknowledged(&self, data_id: &str, text: &str) -> Revision {
        let acknowledged = timeout(PATIENCE, async {
            loop {
                match self.publish(data_id, text).await {
                    Ok(Reply::Applied(revision) | Reply::Unchanged(revision)) => return revision,
                    Ok(Reply::Rejected(rejection)) => panic!("{rejection:?}"),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        acknowledged.await.expect("a publish is acknowledged in the end")
    }

    /// Adds another member, in memory, and waits until it votes and has this configuration.
    pub(crate) async fn joined_by(&self, options: &Options, data_id: &str) {
        let (log, state) = stores_in_memory();
        self.joined_by_one_on(options, log, state, data_id).await;
    }

    /// The same on these stores.
    pub(crate) async fn joined_by_one_on(
        &self,
        options: &Options,
        log: Arc<dyn LogStore>,
        state: Arc<dyn StateStore>,
        data_id: &str,
    ) {
        let address = free_address().await;
        let newcomer = start_member_with(options, address, log, state, None).await;
        let member = Member { node: options.node, member_address: address.to_string(), http_address: String::new() };
        let added = self.raft.as_ref().unwrap().add(member);
        timeout(PATIENCE, added).await.expect("the new one catches up").unwrap();
        let arrived = async {
            while newcomer.text(data_id).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, arrived).await.expect("the new one has everything");
    }

    /// Waits until the log is purged up to this entry at least.
    pub(crate) async fn has_purged(&self, index: u64) {
        let purged = async {
            while self.log.state().purged.is_none_or(|it| it.index < index) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, purged).await.expect("the log is purged up to a snapshot");
    }

    pub(crate) fn text(&self, data_id: &str) -> Option<String> {
        let record = self.state.record(&key(data_id), &Variant::Formal).unwrap();
        record.map(|record| record.content.text().to_owned())
    }
}

/// Takes a standalone directory over, as the server does.
pub(crate) fn adopt(log: &dyn LogStore, id: u64, address: SocketAddr) {
    raft::adopt_standalone(log, id, &address.to_string()).unwrap();
}
