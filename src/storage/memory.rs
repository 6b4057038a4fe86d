//! The state in memory alone: what tests and simulations run on, and what the state on disk is compared with.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    Applied, SnapshotFile, SnapshotJob, StateStore, StorageError, Witness,
    index::{Index, Row},
};
use crate::{
    state_machine::{ReadError, StateReader, Versions},
    types::{
        ConfigKey, ConfigRecord, Head, Mutation, Namespace, NamespaceId, RememberedRequest, RequestId, Revision,
        Variant,
    },
};

/// A state that is gone when it is dropped.
#[derive(Default)]
pub struct MemoryState(RwLock<Rows>);

#[derive(Default)]
struct Rows {
    applied: Applied,
    index: Index,
    records: BTreeMap<(ConfigKey, Variant), Arc<ConfigRecord>>,
}

impl MemoryState {
    /// An empty state that makes no snapshots.
    pub fn new() -> Self {
        Self::default()
    }

    // A panic in here is a bug that a test should see by its own message, not by a poisoned lock.
    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateReader for MemoryState {
    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError> {
        Ok(self.read().records.get(&(key.clone(), variant.clone())).cloned())
    }

    fn versions(&self, key: &ConfigKey) -> Option<Arc<Versions>> {
        self.read().index.versions(key)
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
        let mut rows = self.write();
        for write in writes {
            rows.index.apply(&write, &Row::of(&write));
            match write {
                Mutation::PutConfig(key, variant, record) => drop(rows.records.insert((key, variant), record)),
                Mutation::DeleteConfig(key, variant) => drop(rows.records.remove(&(key, variant))),
                Mutation::PutNamespace(_)
                | Mutation::DeleteNamespace(_)
                | Mutation::RememberRequest(_)
                | Mutation::ForgetRequest(_) => {}
            }
        }
        rows.applied = applied;
        Ok(())
    }

    fn witness(&self) -> Witness {
        self.read().index.witness()
    }

    fn begin_snapshot(&self) -> Option<SnapshotJob> {
        None
    }

    fn snapshot(&self) -> Option<SnapshotFile> {
        None
    }

    fn incoming_path(&self) -> PathBuf {
        PathBuf::new()
    }

    fn verify(&self, _incoming: &Path) -> Result<SnapshotFile, StorageError> {
        Err(StorageError::new("a state in memory takes no snapshots"))
    }

    fn install(&self, _incoming: PathBuf) -> Result<(), StorageError> {
        Err(StorageError::new("a state in memory takes no snapshots"))
    }

    fn flush(&self) -> Result<(), StorageError> {
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
