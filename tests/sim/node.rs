//! A node of a simulated cluster: the real consensus, messages, applier, hub and services, on disks in memory and on the
//! network of the simulation. What outlives a crash is its [`Disk`].
use std::{
    future::Future,
    io,
    net::Ipv4Addr,
    ops::Range,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coracle::{
    clock::ManualClock,
    metrics::Metrics,
    net::{Connection, Dialer},
    raft::{ClusterId, Options, Peers, RaftReplicator},
    replication::{Administration, Applier, Member, Replicator, SnapshotPolicy},
    service::Services,
    state_machine::StateReader,
    storage::{
        Durable, LogEntry, LogState, LogStore, StateStore, Vote, memory::MemoryState, memory_files::MemoryFiles,
        memory_log::MemoryLog,
    },
    types::LogId,
    watch::Hub,
};
use futures_util::stream;
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use crate::{
    Random, Shared,
    planted::{self, Plant},
    workload,
};

pub(crate) const PORT: u16 = 7_000;
/// Small, so that snapshots, purges and members that come by a snapshot are everyday.
const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy { entries: 60, bytes: 1 << 30, entries_kept: 20 };
/// The workload of one node.
const WORKERS: u64 = 3;

pub(crate) fn host(id: u64) -> String {
    format!("n{id}")
}

/// What a crash leaves of a node.
pub(crate) struct Disk {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) files: Arc<MemoryFiles>,
    cluster: Arc<AtomicU64>,
    /// A sync takes at least this long: what a busy disk does.
    pub(crate) stalled_ms: Arc<AtomicU64>,
}

impl Disk {
    pub(crate) fn new(cluster: u64) -> Self {
        Self {
            log: Arc::new(MemoryLog::with_disk()),
            files: Arc::default(),
            cluster: Arc::new(AtomicU64::new(cluster)),
            stalled_ms: Arc::default(),
        }
    }

    /// Loses what was not synced, but for a part that reached the disk without anybody being told.
    pub(crate) fn lose_power(&mut self, chance: &mut Random) -> usize {
        let unsynced = self.log.unsynced();
        let kept = if chance.below(2) == 0 { 0 } else { chance.below(unsynced as u64 + 1) as usize };
        self.log = Arc::new(self.log.after_power_loss(kept));
        unsynced - kept
    }
}

/// What the simulation sees of a node that runs.
pub(crate) struct Running {
    pub(crate) replicator: Arc<dyn Replicator>,
    pub(crate) state: Arc<dyn StateStore>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
}

/// What the simulation asks of a node, as an administrator or a client would.
pub(crate) enum Command {
    Add(Member),
    Remove(u64),
    Transfer(u64),
    /// P6: a subscriber was told of this revision somewhere else.
    Query {
        key: u64,
        beta: bool,
        told: u64,
    },
}

/// A node whose life began, as its tasks see it.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) shared: Shared,
    pub(crate) id: u64,
    pub(crate) services: Arc<Services>,
    pub(crate) replicator: Arc<dyn Replicator>,
    pub(crate) reader: Arc<dyn StateReader>,
    pub(crate) hub: Arc<Hub>,
}

/// The log of a node, which tells its disk that there is something to sync.
pub(crate) struct Log {
    log: Arc<MemoryLog>,
    written: Arc<Notify>,
    plant: Plant,
}

impl Log {
    /// What is told when it is durable: or, with this fault planted, at once.
    fn told(&self, durable: Durable) -> Durable {
        self.written.notify_one();
        if self.plant == Plant::AcknowledgeBeforeSync {
            durable(Ok(()));
            return Box::new(drop);
        }
        durable
    }
}

impl LogStore for Log {
    fn state(&self) -> LogState {
        self.log.state()
    }

    fn append(&self, entries: Vec<LogEntry>, durable: Durable) {
        let durable = self.told(durable);
        self.log.append(entries, durable);
    }

    fn save_vote(&self, vote: Vote, durable: Durable) {
        let durable = self.told(durable);
        self.log.save_vote(vote, durable);
    }

    fn save_committed(&self, committed: LogId) {
        self.log.save_committed(committed);
    }

    fn truncate_after(&self, last: Option<LogId>) {
        self.log.truncate_after(last);
    }

    fn purge(&self, upto: LogId) {
        self.log.purge(upto);
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        self.log.read(range, bytes_max)
    }

    fn barrier(&self, durable: Durable) {
        let durable = self.told(durable);
        self.log.barrier(durable);
    }
}

/// Syncs what was written, as often as a disk can.
async fn disk(log: Arc<MemoryLog>, written: Arc<Notify>, stalled: Arc<AtomicU64>, mut chance: Random) {
    loop {
        written.notified().await;
        let millis = 1 + chance.below(4) + stalled.swap(0, Ordering::Relaxed);
        sleep(Duration::from_millis(millis)).await;
        log.sync();
    }
}

/// The state is written behind now and then, and never ahead of the log: or, with this fault planted, whenever it likes.
async fn write_behind(state: Arc<dyn StateStore>, log: Arc<MemoryLog>, plant: Plant, mut chance: Random) {
    loop {
        sleep(Duration::from_millis(50 + chance.below(400))).await;
        while log.unsynced() > 0 && plant != Plant::WriteStateAheadOfLog {
            sleep(Duration::from_millis(1)).await;
        }
        state.flush().unwrap();
    }
}

struct Wire;

impl Dialer for Wire {
    fn dial(&self, address: String) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>> {
        Box::pin(async move {
            match turmoil::net::TcpStream::connect(address).await {
                Ok(stream) => Ok(Box::new(stream) as Connection),
                Err(err) => {
                    // turmoil gives a port back only of a connection that came about: they must not run out.
                    sleep(Duration::from_millis(30)).await;
                    Err(err)
                }
            }
        })
    }
}

/// The life of a node, until it fails or the simulation takes it.
pub(crate) async fn live(shared: Shared, id: u64) -> turmoil::Result {
    let (seed, plant) = {
        let mut world = shared.lock();
        let (seed, plant) = (world.seed, world.plant);
        let slot = world.slots.get_mut(&id).unwrap();
        slot.life += 1;
        (Random::mix(&[seed, id, slot.life]), plant)
    };
    let (log, state, clock, disk_log, cluster) = open(&shared, id, seed, plant)?;
    let late = planted::late_reader(plant, &state);
    let hub = Arc::<Hub>::default();
    let applier = Applier::new(planted::state(plant, id, state.clone(), &late), hub.clone(), Metrics::new());
    let saved = cluster.clone();
    let save = move |it| {
        saved.store(it, Ordering::Relaxed);
        Ok(())
    };
    let peers = Peers::new(id, Arc::new(ClusterId::new(cluster.load(Ordering::Relaxed), save)));
    let options = Options { snapshots: SNAPSHOTS, seed: Some(seed), ..Options::new(id) };
    let started =
        RaftReplicator::start(&options, log.clone(), applier, peers.dialing(Arc::new(Wire)), Metrics::new()).await;
    let raft = match started {
        Ok(raft) => Arc::new(raft),
        Err(err) => return failed(&shared, id, &disk_log, &err.to_string()),
    };
    let forms = shared.lock().forms(id);
    if let Some(members) = forms {
        raft.form(&members).await?;
    }
    let replicator = planted::replicator(plant, raft.clone(), state.clone());
    let reader = planted::reader(plant, &state, late);
    let administration: Arc<dyn Administration> = raft.clone();
    let services = Arc::new(Services::new(
        clock,
        replicator.clone(),
        Some(administration),
        reader.clone(),
        hub.clone(),
        Metrics::new(),
    ));
    let (commands, asked) = mpsc::unbounded_channel();
    let running = Running { replicator: replicator.clone(), state, commands };
    shared.lock().node_started(id, running);
    let context = Context { shared: shared.clone(), id, services, replicator, reader, hub };
    for worker in 0..WORKERS {
        tokio::spawn(workload::work(context.clone(), Random::new(&[seed, 100 + worker])));
    }
    tokio::spawn(workload::serve_subscribers(context.clone()));
    tokio::spawn(workload::obey(context, raft.clone(), asked));
    let listener = turmoil::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| Box::new(stream) as Connection);
        Some((accepted, listener))
    });
    tokio::select! {
        biased;
        why = raft.failed() => failed(&shared, id, &disk_log, &why),
        served = raft.serve_connections(incoming, std::future::pending()) => Ok(served?),
    }
}

type Opened = (Arc<dyn LogStore>, Arc<dyn StateStore>, Arc<ManualClock>, Arc<MemoryLog>, Arc<AtomicU64>);

fn open(shared: &Shared, id: u64, seed: u64, plant: Plant) -> Result<Opened, Box<dyn std::error::Error>> {
    let (memory, files, cluster, stalled, clock) = {
        let world = shared.lock();
        let slot = &world.slots[&id];
        let disk = &slot.disk;
        let (log, files) = (disk.log.clone(), disk.files.clone());
        (log, files, disk.cluster.clone(), disk.stalled_ms.clone(), slot.clock.clone())
    };
    let state: Arc<dyn StateStore> = Arc::new(MemoryState::open(files)?);
    // What the server does before it takes a directory.
    let (applied, last) = (state.applied().revision().0, memory.state().last.map_or(0, |it| it.index));
    let snapshot = state.snapshot().map_or(0, |it| it.applied.revision().0);
    if applied > last.max(snapshot) {
        shared.lock().violated(format!(
            "n{id} starts with a state at {applied}, but its log ends at {last} and its snapshot at {snapshot}"
        ));
    }
    let written = Arc::<Notify>::default();
    tokio::spawn(disk(memory.clone(), written.clone(), stalled, Random::new(&[seed, 1])));
    tokio::spawn(write_behind(state.clone(), memory.clone(), plant, Random::new(&[seed, 2])));
    let log = Arc::new(Log { log: memory.clone(), written, plant });
    Ok((log, state, clock, memory, cluster))
}

/// A node may fail when its disk did; otherwise it must not.
fn failed(shared: &Shared, id: u64, log: &Arc<MemoryLog>, why: &str) -> turmoil::Result {
    let mut world = shared.lock();
    world.note(&format_args!("n{id} has failed: {why}"));
    let expected = world.slots.get(&id).is_some_and(|slot| slot.disk_failed && Arc::ptr_eq(&slot.disk.log, log));
    if !expected {
        world.violated(format!("n{id} has failed although its disk has not: {why}"));
    }
    world.node_stopped(id);
    Ok(())
}

/// A lock that no panic of another test can poison for good.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
