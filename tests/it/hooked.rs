//! A state at certain moments of which something happens.
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use coracle::{
    state_machine::{ReadError, StateReader, Versions},
    storage::{Applied, Incoming, SnapshotFile, SnapshotJob, StateStore, StorageError, Witness},
    types::{
        ConfigKey, ConfigRecord, Head, Mutation, Namespace, NamespaceId, RememberedRequest, RequestId, Revision,
        Variant,
    },
};

pub(crate) type Hook = Arc<dyn Fn() + Send + Sync>;

/// Does as its state does.
pub(crate) struct Hooked {
    pub(crate) state: Arc<dyn StateStore>,
    /// After somebody has looked at the versions of a key.
    pub(crate) looked: Hook,
    /// After somebody has listed keys.
    pub(crate) listed: Hook,
    /// Before a snapshot that is due is written.
    pub(crate) writes_snapshot: Hook,
    /// Before a snapshot that comes in is written to the disk.
    pub(crate) receives: Hook,
    /// Before one that came in becomes the state.
    pub(crate) installs: Hook,
}

impl Hooked {
    pub(crate) fn of(state: Arc<dyn StateStore>) -> Self {
        let nothing: Hook = Arc::new(|| {});
        Self {
            state,
            looked: nothing.clone(),
            listed: nothing.clone(),
            writes_snapshot: nothing.clone(),
            receives: nothing.clone(),
            installs: nothing,
        }
    }
}

impl StateReader for Hooked {
    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError> {
        self.state.record(key, variant)
    }

    fn look(&self, key: &ConfigKey) -> (Revision, Option<Arc<Versions>>) {
        let found = self.state.look(key);
        (self.looked)();
        found
    }

    fn namespace(&self, id: &NamespaceId) -> Option<Namespace> {
        self.state.namespace(id)
    }

    fn namespaces(&self) -> Vec<Namespace> {
        self.state.namespaces()
    }

    fn list(&self, wanted: &dyn Fn(&ConfigKey) -> bool) -> Vec<(ConfigKey, Head)> {
        let found = self.state.list(wanted);
        (self.listed)();
        found
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

impl StateStore for Hooked {
    fn applied(&self) -> Applied {
        self.state.applied()
    }

    fn commit(&self, applied: Applied, writes: Vec<Mutation>) -> Result<(), StorageError> {
        self.state.commit(applied, writes)
    }

    fn witness(&self) -> Witness {
        self.state.witness()
    }

    fn standing(&self) -> (Applied, Witness) {
        self.state.standing()
    }

    fn begin_snapshot(&self) -> Option<SnapshotJob> {
        let (job, writes) = (self.state.begin_snapshot()?, self.writes_snapshot.clone());
        Some(Box::new(move || {
            writes();
            job()
        }))
    }

    fn snapshot(&self) -> Option<SnapshotFile> {
        self.state.snapshot()
    }

    fn incoming_path(&self) -> PathBuf {
        self.state.incoming_path()
    }

    fn create_incoming(&self) -> io::Result<Box<dyn Incoming>> {
        (self.receives)();
        self.state.create_incoming()
    }

    fn open_snapshot(&self, file: &SnapshotFile) -> io::Result<Box<dyn Read + Send>> {
        self.state.open_snapshot(file)
    }

    fn verify(&self, incoming: &Path) -> Result<SnapshotFile, StorageError> {
        self.state.verify(incoming)
    }

    fn install(&self, incoming: PathBuf) -> Result<(), StorageError> {
        (self.installs)();
        self.state.install(incoming)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.state.flush()
    }

    fn reader(self: Arc<Self>) -> Arc<dyn StateReader> {
        self
    }
}
