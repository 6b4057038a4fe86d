//! Builds a node from the bottom up: directory, log, state, replication, services.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::{
    StartError,
    data_dir::{DataDir, Identity, NodeMode},
};
use crate::{
    metrics::Metrics,
    raft::{self, ClusterId, Peers, RaftReplicator},
    replication::{Administration, Applier, Replicator, SnapshotPolicy, Standalone},
    state_machine::StateReader,
    storage::{
        LogStore, StateStore,
        log::{LogOptions, SegmentLog},
        state::{SledState, StateOptions},
    },
    watch::Hub,
};

/// What other members have on their way to one that stops has this long to be answered.
const MEMBERS_LEAVE: Duration = Duration::from_millis(100);

/// How a node agrees with others.
#[derive(Debug, Clone)]
pub enum Mode {
    /// With nobody: consensus is skipped.
    Standalone,
    /// With the members of a cluster.
    Member(MemberOptions),
}

/// How a node takes part in a cluster.
#[derive(Debug, Clone)]
pub struct MemberOptions {
    /// This node's id: never 0, never used again for another disk.
    pub node: u64,
    /// Where to listen for other members.
    pub listen: SocketAddr,
    /// All members and where they talk to each other, the same list on every node.
    pub members: BTreeMap<u64, String>,
    /// Whether to wait for being added to a cluster instead of forming one.
    pub join: bool,
    /// See [`raft::Options`].
    pub heartbeat: Duration,
    /// See [`raft::Options`].
    pub election: (Duration, Duration),
}

impl MemberOptions {
    /// The defaults for a node of this id.
    ///
    /// # Errors
    /// A sentence, when the node is not among the members or its address cannot be listened on.
    pub fn new(node: u64, members: BTreeMap<u64, String>) -> Result<Self, String> {
        let Some(address) = members.get(&node) else {
            return Err(format!("node {node} is not in --members; it lists all nodes, this one too"));
        };
        // A name is resolved once, here; behind a mapping, --member-listen says where to listen instead.
        let listen = std::net::ToSocketAddrs::to_socket_addrs(address)
            .ok()
            .and_then(|mut it| it.next())
            .ok_or_else(|| format!("the address of node {node} in --members, {address:?}, cannot be resolved"))?;
        let defaults = raft::Options::new(node);
        let election = (defaults.election_min, defaults.election_max);
        Ok(Self { node, listen, members, join: false, heartbeat: defaults.heartbeat, election })
    }
}

/// Everything below the protocols.
pub(super) struct Node {
    pub(super) replicator: Arc<dyn Replicator>,
    pub(super) administration: Option<Arc<dyn Administration>>,
    pub(super) state: Arc<dyn StateStore>,
    pub(super) reader: Arc<dyn StateReader>,
    pub(super) hub: Arc<Hub>,
    raft: Option<Arc<RaftReplicator>>,
    members: Option<MembersServed>,
    /// Held for as long as the node lives: no second process may open the directory.
    _data: Arc<Mutex<DataDir>>,
}

/// The other members are served until this is dropped.
struct MembersServed {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl MembersServed {
    /// Takes no more connections. Those that are there end with the process, or when the other members hang up.
    async fn stop(self) {
        drop(self.stop);
        let abort = self.task.abort_handle();
        match timeout(MEMBERS_LEAVE, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::error!(%err, "serve the other members"),
            // A stream of entries that waits for the next one does not end by itself.
            Err(_) => abort.abort(),
        }
    }
}

/// Where a node keeps things, when it writes snapshots, and where it serves.
pub(super) struct Place {
    pub(super) data: PathBuf,
    pub(super) snapshots: SnapshotPolicy,
    pub(super) http: SocketAddr,
}

impl Node {
    pub(super) async fn start(place: &Place, mode: &Mode, metrics: &Metrics) -> Result<Self, StartError> {
        let data = DataDir::open(&place.data).map_err(StartError::new)?;
        let identity = data.identity().map_err(StartError::new)?;
        check_mode(mode, identity.as_ref(), &place.data)?;
        let member_listener = match mode {
            Mode::Standalone => None,
            Mode::Member(member) => Some(super::bind(member.listen, "members", "--member-port").await?),
        };
        let started = tokio::time::Instant::now();
        let log = SegmentLog::open(&data.log_dir(), LogOptions::default(), metrics.clone())
            .map_err(|err| StartError::caused("open the log", err))?;
        tracing::debug!(after = ?started.elapsed(), "the log is open");
        let state = SledState::open(&data.state_dir(), StateOptions::default(), metrics.clone())
            .map_err(|err| StartError::caused("open the state", err))?;
        tracing::debug!(after = ?started.elapsed(), "the state is open");
        let log: Arc<dyn LogStore> = Arc::new(log);
        if member_listener.is_some() {
            state.stay_behind(log.clone());
        }
        let state: Arc<dyn StateStore> = Arc::new(state);
        let hub = Arc::<Hub>::default();
        let applier = Applier::new(state.clone(), hub.clone(), metrics.clone());
        let data = Arc::new(Mutex::new(data));
        let reader = state.clone().reader();
        match (mode, member_listener) {
            (Mode::Member(member), Some(listener)) => {
                let raft = start_member(place, member, identity, &data, log, applier, metrics).await?;
                let (stop, stopped) = oneshot::channel();
                let serving = raft.serve_members(listener, async { drop(stopped.await) });
                let task = tokio::spawn(async move {
                    if let Err(err) = serving.await {
                        tracing::error!(%err, "serve the other members");
                    }
                });
                let administration: Arc<dyn Administration> = raft.clone();
                Ok(Self {
                    replicator: raft.clone(),
                    administration: Some(administration),
                    state,
                    reader,
                    hub,
                    raft: Some(raft),
                    members: Some(MembersServed { stop, task }),
                    _data: data,
                })
            }
            (Mode::Standalone, _) | (Mode::Member(_), None) => {
                save_identity(&data, &Identity { node: 0, cluster: 0, mode: NodeMode::Standalone })?;
                let policy = place.snapshots;
                // Replaying reads and applies without a pause: not on a thread that others need.
                let standalone = tokio::task::spawn_blocking(move || Standalone::start(log, applier, policy))
                    .await
                    .map_err(|err| StartError::caused("replay the log", err))?
                    .map_err(|err| StartError::caused("replay the log", err))?;
                let replicator = Arc::new(standalone);
                Ok(Self {
                    replicator,
                    administration: None,
                    state,
                    reader,
                    hub,
                    raft: None,
                    members: None,
                    _data: data,
                })
            }
        }
    }

    /// Resolves when the node has failed for good, with the reason.
    pub(super) async fn failed(&self) -> String {
        match &self.raft {
            Some(raft) => raft.failed().await,
            // A standalone node that cannot write goes on reading; readiness says so.
            None => std::future::pending().await,
        }
    }

    /// Hands the lead to another member, if this one has it, and tells them that it is about to stop.
    pub(super) async fn leave(&self) {
        if let Some(raft) = &self.raft {
            raft.leave().await;
        }
    }

    /// Stops, and writes out what is only in memory.
    pub(super) async fn stop(self) {
        if let Some(raft) = &self.raft {
            // It may have come to lead meanwhile.
            raft.leave().await;
            raft.abandon().await;
        }
        // Last: as long as it takes part, the others reach it.
        if let Some(members) = self.members {
            members.stop().await;
        }
        let state = self.state.clone();
        drop(self.replicator);
        let flushed = tokio::task::spawn_blocking(move || state.flush()).await;
        if let Ok(Err(err)) = flushed {
            tracing::warn!(%err, "write out the state; the next start replays more of the log");
        }
    }
}

/// A directory remembers what it was used for; the wrong flags must not make two histories of one.
fn check_mode(mode: &Mode, identity: Option<&Identity>, data: &std::path::Path) -> Result<(), StartError> {
    let Some(identity) = identity else { return Ok(()) };
    let data = data.display();
    match (mode, identity.mode) {
        (Mode::Standalone, NodeMode::Member) => Err(StartError::new(format!(
            "{data} belongs to node {} of a cluster; start it with --node-id {} and --members, or name another \
             directory with --data",
            identity.node, identity.node
        ))),
        (Mode::Member(member), NodeMode::Member) if member.node != identity.node => Err(StartError::new(format!(
            "{data} belongs to node {}, not {}; correct --node-id, or name another directory with --data",
            identity.node, member.node
        ))),
        (Mode::Member(member), NodeMode::Standalone) if member.members.len() != 1 => Err(StartError::new(format!(
            "{data} was written by a standalone server. To make a cluster of it, start it once with --node-id {0} and \
             --members {0}=HOST:PORT alone, then add the others with `coracle cluster add`",
            member.node
        ))),
        (Mode::Standalone, NodeMode::Standalone) | (Mode::Member(_), NodeMode::Standalone | NodeMode::Member) => Ok(()),
    }
}

fn save_identity(data: &Mutex<DataDir>, identity: &Identity) -> Result<(), StartError> {
    let data = data.lock().unwrap_or_else(PoisonError::into_inner);
    data.save_identity(identity).map_err(StartError::new)
}

async fn start_member(
    place: &Place,
    member: &MemberOptions,
    identity: Option<Identity>,
    data: &Arc<Mutex<DataDir>>,
    log: Arc<dyn LogStore>,
    applier: Applier,
    metrics: &Metrics,
) -> Result<Arc<RaftReplicator>, StartError> {
    let node = member.node;
    check_log(&*log, applier.state())?;
    let was_standalone = identity.as_ref().is_some_and(|it| it.mode == NodeMode::Standalone);
    let own_address = member.members.get(&node).cloned().unwrap_or_default();
    if was_standalone {
        raft::adopt_standalone(&*log, node, &own_address)
            .map_err(|err| StartError::caused("take the standalone directory over", err))?;
    }
    let saved = identity.as_ref().map_or(0, |it| it.cluster);
    let cluster = Arc::new(ClusterId::new(saved, {
        let data = data.clone();
        move |cluster| {
            let data = data.lock().unwrap_or_else(PoisonError::into_inner);
            let identity = Identity { node, cluster, mode: NodeMode::Member };
            data.save_identity(&identity).map_err(std::io::Error::other)
        }
    }));
    // The lowest id forms the cluster and draws its id; the others take it from the leader they hear.
    let first = member.members.keys().next() == Some(&node);
    let forms = first && !member.join && (was_standalone || log.state() == crate::storage::LogState::default());
    if forms && saved == 0 {
        cluster.adopt(random_id()).map_err(|err| StartError::caused("save the identity of this node", err))?;
    } else if identity.is_none() {
        save_identity(data, &Identity { node, cluster: 0, mode: NodeMode::Member })?;
    }
    let options = raft::Options {
        node,
        heartbeat: member.heartbeat,
        election_min: member.election.0,
        election_max: member.election.1,
        seed: None,
        snapshots: place.snapshots,
        http: Some(place.http),
    };
    let peers = Peers::new(node, cluster);
    let raft = RaftReplicator::start(&options, log, applier, peers, metrics.clone())
        .await
        .map_err(|err| StartError::new(err.to_string()))?;
    if forms {
        raft.form(&member.members).await.map_err(|err| StartError::new(err.to_string()))?;
    }
    Ok(Arc::new(raft))
}

/// A log that ends before the state is not the one that the state came from: what was acknowledged since, and for whom this
/// node voted, would be forgotten. (Before a snapshot that was just installed the log may end.)
fn check_log(log: &dyn LogStore, state: &Arc<dyn StateStore>) -> Result<(), StartError> {
    let applied = state.applied().revision();
    let last = log.state().last.map_or(0, |it| it.index);
    let snapshot = state.snapshot().map_or(0, |it| it.applied.revision().0);
    if applied.0 <= last.max(snapshot) {
        return Ok(());
    }
    Err(StartError::new(format!(
        "the log ends at entry {last}, but the state stands at {applied}: the log was lost or is older. Start an empty node \
         with a new id and --join instead, add it with `coracle cluster add`, and remove this one"
    )))
}

/// Different for every cluster ever formed, as far as chance allows; never 0.
fn random_id() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()).max(1)
}
