//! openraft's own suite for storage, on our state with either log. (A state in memory makes no snapshots, which the suite
//! needs.)
use std::sync::Arc;

use coracle::{
    metrics::Metrics,
    raft::{RaftLog, RaftState, TypeConfig},
    replication::Applier,
    storage::memory_log::MemoryLog,
    watch::Hub,
};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};
use tempfile::TempDir;

use crate::harness::open_stores;

struct LogInMemory;
struct OnDisk;

impl StoreBuilder<TypeConfig, RaftLog, RaftState, TempDir> for LogInMemory {
    async fn build(&self) -> Result<(TempDir, RaftLog, RaftState), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let (_, state) = open_stores(dir.path());
        let applier = Applier::new(state, Arc::<Hub>::default(), Metrics::new());
        let log = Arc::new(MemoryLog::new());
        Ok((dir, RaftLog::new(log.clone()), RaftState::new(Arc::new(applier), log)))
    }
}

impl StoreBuilder<TypeConfig, RaftLog, RaftState, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, RaftLog, RaftState), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let (log, state) = open_stores(dir.path());
        let applier = Applier::new(state, Arc::<Hub>::default(), Metrics::new());
        Ok((dir, RaftLog::new(log.clone()), RaftState::new(Arc::new(applier), log)))
    }
}

#[test]
fn our_state_with_a_log_in_memory_passes() {
    TypeConfig::run(async { Suite::test_all(LogInMemory).await }).unwrap();
}

#[test]
fn our_stores_on_disk_pass() {
    TypeConfig::run(async { Suite::test_all(OnDisk).await }).unwrap();
}
