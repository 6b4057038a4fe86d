//! openraft's state machine over our [`Applier`].
use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
    storage::{EntryResponder, RaftStateMachine},
};

use super::{
    TypeConfig,
    convert::{to_log_entry, to_raft_applied},
    runtime::Threads,
};
use crate::{
    replication::Applier,
    storage::{SnapshotFile, SnapshotJob},
    types::{LogId, limits},
};

/// The state as openraft sees it.
pub struct RaftState {
    applier: Arc<Applier>,
    /// The last entry that was purged when this was made; 0: none.
    purged: u64,
}

impl RaftState {
    /// A view of what this applier writes.
    pub fn new(applier: Arc<Applier>) -> Self {
        Self { applier, purged: 0 }
    }

    /// The same beside a log that begins after this entry.
    pub(super) fn beside(applier: Arc<Applier>, purged: Option<LogId>) -> Self {
        Self { applier, purged: purged.map_or(0, |it| it.index) }
    }

    async fn install(&self, path: &Path) -> io::Result<()> {
        let (state, path) = (self.applier.state().clone(), path.to_owned());
        Threads::of_this_task().run(move || state.install(path)).await??;
        self.applier.state_replaced();
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for RaftState {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>)> {
        to_raft_applied(&self.applier.state().applied()).map_err(io::Error::other)
    }

    /// Everything that is ready is one group: one commit, one announcement. Runs on this task, since a commit only
    /// writes memory; sled is written behind it by a thread of its own.
    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let (mut group, mut responders) = (Vec::new(), Vec::new());
        loop {
            let next = entries.next().await.transpose()?;
            let ended = next.is_none();
            if let Some((entry, responder)) = next {
                group.push(to_log_entry(entry));
                responders.push(responder);
            }
            if ended || group.len() == limits::GROUP_PROPOSALS_MAX {
                let replies = self.applier.apply(std::mem::take(&mut group)).map_err(io::Error::other)?;
                for (responder, reply) in responders.drain(..).zip(replies) {
                    if let Some(responder) = responder {
                        responder.send(reply);
                    }
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        self.applier.state().begin_snapshot().map(|job| SnapshotBuilder(Mutex::new(Some(job))))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(Mutex::new(self.applier.state().begin_snapshot()))
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<TypeConfig>, snapshot: SnapshotFile) -> io::Result<()> {
        self.install(&snapshot.path).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        // Where the newest one was damaged, an older one may be left, which the log does not continue: consensus writes
        // another one then, as if there were none.
        let snapshot = self.applier.state().snapshot();
        snapshot.filter(|it| it.applied.revision().0 >= self.purged).map(to_raft_snapshot).transpose()
    }
}

/// Writes the state as it was when this was made.
pub struct SnapshotBuilder(Mutex<Option<SnapshotJob>>);

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        let job = self
            .0
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(|| io::Error::other("another snapshot is being written"))?;
        let file = Threads::of_this_task().run(job).await??;
        to_raft_snapshot(file)
    }
}

pub(super) fn to_raft_snapshot(file: SnapshotFile) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
    let (last_log_id, last_membership) = to_raft_applied(&file.applied).map_err(io::Error::other)?;
    Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: file })
}
