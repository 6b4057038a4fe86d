//! openraft's own suite for storage, on our log and our state, in memory and on disk.
use std::sync::Arc;

use coracle::{
    metrics::Metrics,
    raft::{RaftLog, RaftState, TypeConfig},
    replication::Applier,
    storage::{memory::MemoryState, memory_log::MemoryLog},
    watch::Hub,
};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};
use tempfile::TempDir;

use crate::harness::open_stores;

struct InMemory;
struct OnDisk;

impl StoreBuilder<TypeConfig, RaftLog, RaftState, TempDir> for InMemory {
    async fn build(&self) -> Result<(TempDir, RaftLog, RaftState), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let state = Arc::new(MemoryState::new(dir.path().to_owned()));
        let applier = Applier::new(state, Arc::<Hub>::default(), Metrics::new());
        Ok((dir, RaftLog::new(Arc::new(MemoryLog::new())), RaftState::new(Arc::new(applier))))
    }
}

impl StoreBuilder<TypeConfig, RaftLog, RaftState, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, RaftLog, RaftState), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let (log, state) = open_stores(dir.path());
        let applier = Applier::new(state, Arc::<Hub>::default(), Metrics::new());
        Ok((dir, RaftLog::new(log), RaftState::new(Arc::new(applier))))
    }
}

#[test]
fn our_stores_in_memory_pass() {
    TypeConfig::run(async { Suite::test_all(InMemory).await }).unwrap();
}

#[test]
fn our_stores_on_disk_pass() {
    TypeConfig::run(async { Suite::test_all(OnDisk).await }).unwrap();
}
