//! Faults planted on purpose, to show that the simulation finds what it is there to find. Wrappers around the parts of a
//! node; the product knows nothing of them.
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coracle::{
    replication::{BoxFuture, ProposeError, Replicator, Status},
    state_machine::{ReadError, StateReader, Versions},
    storage::{Applied, Incoming, SnapshotFile, SnapshotJob, StateStore, StorageError, Witness, memory::MemoryState},
    types::{
        ConfigKey, ConfigRecord, Consistency, Head, Mutation, Namespace, NamespaceId, Proposal, RememberedRequest,
        Reply, RequestId, Revision, Variant,
    },
};

use crate::workload::{KEYS, key};

/// What is wrong with the nodes of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    Nothing,
    /// The log says that a write is durable before it is.
    AcknowledgeBeforeSync,
    /// Watchers are woken before the new value can be read.
    AnnounceBeforeReadable,
    /// A linearizable read is answered from what this node has.
    ReadWithoutBarrier,
    /// A write of unknown outcome is said not to have happened.
    UnknownIsUnavailable,
    /// The state on disk does not wait for the log. (The product's did not, until this simulation was written.)
    WriteStateAheadOfLog,
    /// Nobody is shown the beta version.
    ForgetBeta,
    /// One node applies not quite what the others do.
    ApplyDifferently,
}

/// A reader to which a change is visible a moment after it was announced.
pub(crate) fn late_reader(plant: Plant, state: &Arc<dyn StateStore>) -> Option<Arc<MemoryState>> {
    if plant != Plant::AnnounceBeforeReadable {
        return None;
    }
    let late = MemoryState::new();
    copy(&**state, &late);
    Some(Arc::new(late))
}

/// All that the workload writes.
fn copy(from: &dyn StateStore, to: &MemoryState) {
    let places = (0..KEYS).flat_map(|number| [Variant::Formal, Variant::Beta].map(|variant| (key(number), variant)));
    let writes = places.map(|(key, variant)| match from.record(&key, &variant).unwrap() {
        Some(record) => Mutation::PutConfig(key, variant, record),
        None => Mutation::DeleteConfig(key, variant),
    });
    to.commit(from.applied(), writes.collect()).unwrap();
}

pub(crate) fn state(
    plant: Plant,
    node: u64,
    state: Arc<dyn StateStore>,
    late: &Option<Arc<MemoryState>>,
) -> Arc<dyn StateStore> {
    match (plant, late) {
        (Plant::AnnounceBeforeReadable, Some(late)) => {
            Arc::new(Wrapped { late: Some(late.clone()), ..Wrapped::of(state) })
        }
        (Plant::ApplyDifferently, _) if node == 2 => Arc::new(Wrapped { skips: true, ..Wrapped::of(state) }),
        _ => state,
    }
}

/// What clients are shown.
pub(crate) fn reader(
    plant: Plant,
    state: &Arc<dyn StateStore>,
    late: Option<Arc<MemoryState>>,
) -> Arc<dyn StateReader> {
    match late {
        Some(late) => late.reader(),
        None if plant == Plant::ForgetBeta => Arc::new(Wrapped { forgets_beta: true, ..Wrapped::of(state.clone()) }),
        None => state.clone().reader(),
    }
}

struct Wrapped {
    state: Arc<dyn StateStore>,
    late: Option<Arc<MemoryState>>,
    skips: bool,
    forgets_beta: bool,
    commits: AtomicU64,
}

impl Wrapped {
    fn of(state: Arc<dyn StateStore>) -> Self {
        Self { state, late: None, skips: false, forgets_beta: false, commits: AtomicU64::new(0) }
    }
}

impl StateReader for Wrapped {
    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError> {
        self.state.record(key, variant)
    }

    fn look(&self, key: &ConfigKey) -> (Revision, Option<Arc<Versions>>) {
        let (revision, versions) = self.state.look(key);
        let without_beta = |it: Arc<Versions>| Arc::new(Versions { beta: None, ..(*it).clone() });
        (revision, if self.forgets_beta { versions.map(without_beta) } else { versions })
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

impl StateStore for Wrapped {
    fn applied(&self) -> Applied {
        self.state.applied()
    }

    fn commit(&self, applied: Applied, mut writes: Vec<Mutation>) -> Result<(), StorageError> {
        if let Some(late) = self.late.clone() {
            let (applied, writes) = (applied.clone(), writes.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                late.commit(applied, writes).unwrap();
            });
        }
        if self.skips && self.commits.fetch_add(1, Ordering::Relaxed) % 50 == 49 {
            drop(writes.pop());
        }
        self.state.commit(applied, writes)
    }

    fn witness(&self) -> Witness {
        self.state.witness()
    }

    fn standing(&self) -> (Applied, Witness) {
        self.state.standing()
    }

    fn begin_snapshot(&self) -> Option<SnapshotJob> {
        self.state.begin_snapshot()
    }

    fn snapshot(&self) -> Option<SnapshotFile> {
        self.state.snapshot()
    }

    fn incoming_path(&self) -> PathBuf {
        self.state.incoming_path()
    }

    fn create_incoming(&self) -> io::Result<Box<dyn Incoming>> {
        self.state.create_incoming()
    }

    fn open_snapshot(&self, file: &SnapshotFile) -> io::Result<Box<dyn Read + Send>> {
        self.state.open_snapshot(file)
    }

    fn verify(&self, incoming: &Path) -> Result<SnapshotFile, StorageError> {
        self.state.verify(incoming)
    }

    fn install(&self, incoming: PathBuf) -> Result<(), StorageError> {
        self.state.install(incoming)?;
        if let Some(late) = &self.late {
            copy(&*self.state, late);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.state.flush()
    }

    fn reader(self: Arc<Self>) -> Arc<dyn StateReader> {
        self
    }
}

pub(crate) fn replicator(
    plant: Plant,
    replicator: Arc<dyn Replicator>,
    state: Arc<dyn StateStore>,
) -> Arc<dyn Replicator> {
    match plant {
        Plant::ReadWithoutBarrier | Plant::UnknownIsUnavailable => Arc::new(Lying { replicator, state, plant }),
        Plant::Nothing
        | Plant::AcknowledgeBeforeSync
        | Plant::AnnounceBeforeReadable
        | Plant::WriteStateAheadOfLog
        | Plant::ForgetBeta
        | Plant::ApplyDifferently => replicator,
    }
}

struct Lying {
    replicator: Arc<dyn Replicator>,
    state: Arc<dyn StateStore>,
    plant: Plant,
}

impl Replicator for Lying {
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        Box::pin(async move {
            match self.replicator.propose(proposal).await {
                Err(ProposeError::OutcomeUnknown(why)) if self.plant == Plant::UnknownIsUnavailable => {
                    Err(ProposeError::Unavailable(why))
                }
                outcome => outcome,
            }
        })
    }

    fn read_barrier(&self, consistency: Consistency) -> BoxFuture<'_, Result<Revision, ProposeError>> {
        if self.plant == Plant::ReadWithoutBarrier && consistency == Consistency::Linearizable {
            return Box::pin(async { Ok(self.state.applied().revision()) });
        }
        self.replicator.read_barrier(consistency)
    }

    fn caught_up(&self) -> bool {
        self.replicator.caught_up()
    }

    fn status(&self) -> Status {
        self.replicator.status()
    }
}
