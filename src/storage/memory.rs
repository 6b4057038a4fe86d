//! The state in memory alone: what tests and simulations run on, and what the state on disk is compared with.
use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    Applied, Incoming, SnapshotFile, SnapshotJob, StateStore, StorageError, Witness,
    index::{Index, Row},
    memory_files::{self, MemoryFiles},
};
use crate::{
    state_machine::{ReadError, StateReader, Versions},
    types::{
        ConfigKey, ConfigRecord, Head, Mutation, Namespace, NamespaceId, RememberedRequest, RequestId, Revision,
        Variant,
    },
};

/// A state that is gone when it is dropped, but for what was flushed to its files or is in a snapshot there.
#[derive(Default)]
pub struct MemoryState {
    rows: RwLock<Rows>,
    /// None: there are no snapshots, and nothing outlives this.
    files: Option<Arc<MemoryFiles>>,
}

#[derive(Default)]
struct Rows {
    applied: Applied,
    index: Index,
    records: BTreeMap<(ConfigKey, Variant), Arc<ConfigRecord>>,
}

impl Rows {
    fn commit(&mut self, applied: Applied, writes: Vec<Mutation>) {
        for write in writes {
            self.index.apply(&write, &Row::of(&write));
            match write {
                Mutation::PutConfig(key, variant, record) => drop(self.records.insert((key, variant), record)),
                Mutation::DeleteConfig(key, variant) => drop(self.records.remove(&(key, variant))),
                Mutation::PutNamespace(_)
                | Mutation::DeleteNamespace(_)
                | Mutation::RememberRequest(_)
                | Mutation::ForgetRequest(_) => {}
            }
        }
        self.applied = applied;
    }

    fn encode(&self) -> (Applied, Vec<u8>) {
        let configs = self
            .records
            .iter()
            .map(|((key, variant), record)| Mutation::PutConfig(key.clone(), variant.clone(), record.clone()));
        let namespaces = self.index.namespaces().into_iter().map(Mutation::PutNamespace);
        let requests = self.index.requests().all().map(Mutation::RememberRequest);
        let rows = configs.chain(namespaces).chain(requests);
        let bytes = memory_files::encode(&self.applied, self.index.witness(), rows);
        (self.applied.clone(), bytes)
    }
}

impl MemoryState {
    /// An empty state that makes no snapshots.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state that these files hold: what was flushed last, or a snapshot that is newer.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn open(files: Arc<MemoryFiles>) -> Result<Self, StorageError> {
        let state = Self { rows: RwLock::default(), files: Some(files.clone()) };
        if let Some((applied, writes)) = files.newest_state()? {
            state.commit(applied, writes)?;
        }
        Ok(state)
    }

    fn files(&self) -> io::Result<&Arc<MemoryFiles>> {
        self.files.as_ref().ok_or_else(|| io::Error::other("this state in memory has no files"))
    }

    fn incoming(&self, path: &Path) -> Result<(&Arc<MemoryFiles>, Vec<u8>), StorageError> {
        let failed = |err| StorageError::caused("read what came in", err);
        let files = self.files().map_err(failed)?;
        Ok((files, files.read(path).map_err(failed)?))
    }

    // A panic in here is a bug that a test should see by its own message, not by a poisoned lock.
    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateReader for MemoryState {
    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError> {
        Ok(self.read().records.get(&(key.clone(), variant.clone())).cloned())
    }

    fn look(&self, key: &ConfigKey) -> (Revision, Option<Arc<Versions>>) {
        let rows = self.read();
        (rows.applied.revision(), rows.index.versions(key))
    }

    fn namespace(&self, id: &NamespaceId) -> Option<Namespace> {
        self.read().index.namespace(id)
    }

    fn list(&self, wanted: &dyn Fn(&ConfigKey) -> bool) -> Vec<(ConfigKey, Head)> {
        self.read().index.list(wanted)
    }

    fn namespaces(&self) -> Vec<Namespace> {
        self.read().index.namespaces()
    }

    fn remembered_request(&self, id: RequestId) -> Option<RememberedRequest> {
        self.read().index.requests().get(id)
    }

    fn oldest_request(&self, after: Revision) -> Option<RememberedRequest> {
        self.read().index.requests().oldest(after)
    }

    fn remembered_count(&self) -> usize {
        self.read().index.requests().len()
    }

    fn revision(&self) -> Revision {
        self.read().applied.revision()
    }
}

impl StateStore for MemoryState {
    fn applied(&self) -> Applied {
        self.read().applied.clone()
    }

    fn commit(&self, applied: Applied, writes: Vec<Mutation>) -> Result<(), StorageError> {
        self.write().commit(applied, writes);
        Ok(())
    }

    fn witness(&self) -> Witness {
        self.read().index.witness()
    }

    fn standing(&self) -> (Applied, Witness) {
        let state = self.read();
        (state.applied.clone(), state.index.witness())
    }

    fn begin_snapshot(&self) -> Option<SnapshotJob> {
        let files = self.files.clone()?;
        let (applied, bytes) = self.read().encode();
        Some(Box::new(move || Ok(files.keep_snapshot(applied, bytes))))
    }

    fn snapshot(&self) -> Option<SnapshotFile> {
        self.files.as_ref()?.newest_snapshot()
    }

    fn incoming_path(&self) -> PathBuf {
        memory_files::INCOMING.into()
    }

    fn create_incoming(&self) -> io::Result<Box<dyn Incoming>> {
        Ok(Box::new(self.files()?.create_incoming()))
    }

    fn open_snapshot(&self, file: &SnapshotFile) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.files()?.read(&file.path)?)))
    }

    fn verify(&self, incoming: &Path) -> Result<SnapshotFile, StorageError> {
        let (_, bytes) = self.incoming(incoming)?;
        let (applied, _) = memory_files::decode(&bytes)?;
        Ok(SnapshotFile { path: incoming.to_owned(), applied, bytes: bytes.len() as u64 })
    }

    fn install(&self, incoming: PathBuf) -> Result<(), StorageError> {
        let (files, bytes) = self.incoming(&incoming)?;
        let (applied, writes) = memory_files::decode(&bytes)?;
        // The file first: the newest snapshot is never older than the state.
        files.keep_snapshot(applied.clone(), bytes);
        let mut rows = self.write();
        *rows = Rows::default();
        rows.commit(applied, writes);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        if let Some(files) = &self.files {
            files.keep_state(self.read().encode().1);
        }
        Ok(())
    }

    fn reader(self: Arc<Self>) -> Arc<dyn StateReader> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Attributes, Author, Content, LogId, Millis};

    fn put(name: &str, variant: Variant, content: &str, revision: u64) -> Mutation {
        let record = ConfigRecord {
            content: Content::new(content),
            attributes: Attributes::default(),
            beta_ips: Vec::new(),
            created: Revision(1),
            created_at: Millis(1),
            modified: Revision(revision),
            modified_at: Millis(1),
            author: Author::default(),
        };
        Mutation::PutConfig(key(name), variant, Arc::new(record))
    }

    fn key(name: &str) -> ConfigKey {
        ConfigKey::new(&NamespaceId::public(), "g", name).unwrap()
    }

    fn commit(state: &MemoryState, index: u64, writes: Vec<Mutation>) {
        let last = Some(LogId { term: 1, node: 0, index });
        state.commit(Applied { last, membership: None }, writes).unwrap();
    }

    #[test]
    fn what_is_committed_is_read_and_what_is_taken_away_is_gone() {
        let state = MemoryState::new();
        commit(&state, 1, vec![put("b", Variant::Formal, "1", 1), put("a", Variant::Beta, "2", 1)]);
        let record = state.record(&key("b"), &Variant::Formal).unwrap().unwrap();
        assert_eq!((record.content.text(), state.applied().revision()), ("1", Revision(1)));
        assert_eq!(state.list(&|_| true).len(), 1, "only formal versions are listed");
        assert_eq!(state.versions(&key("a")).unwrap().gray_count(), 1);
        commit(&state, 2, vec![Mutation::DeleteConfig(key("a"), Variant::Beta)]);
        assert!(state.versions(&key("a")).is_none());
        assert!(state.record(&key("a"), &Variant::Beta).unwrap().is_none());
    }

    #[test]
    fn the_witness_depends_on_the_rows_alone() {
        let (one, other) = (MemoryState::new(), MemoryState::new());
        commit(&one, 1, vec![put("a", Variant::Formal, "1", 1), put("b", Variant::Formal, "2", 1)]);
        commit(&other, 7, vec![put("b", Variant::Formal, "0", 1), put("c", Variant::Formal, "9", 1)]);
        assert_ne!(one.witness(), other.witness());
        commit(&other, 8, vec![put("b", Variant::Formal, "2", 1), Mutation::DeleteConfig(key("c"), Variant::Formal)]);
        commit(&other, 9, vec![put("a", Variant::Formal, "1", 1), Mutation::DeleteNamespace(NamespaceId::public())]);
        assert_eq!(one.witness(), other.witness());
        assert_eq!(one.witness().rows, 2);
        commit(&other, 10, vec![put("b", Variant::Formal, "1", 1), put("a", Variant::Formal, "2", 1)]);
        assert_ne!(one.witness(), other.witness(), "values that changed places");
    }
}
