//! openraft's state machine over our [`Applier`].
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::time::sleep;

use super::{
    TypeConfig,
    convert::{to_log_entry, to_raft_applied},
    log_storage::when_durable,
    runtime::Threads,
};
use crate::{
    replication::Applier,
    storage::{Applied, LogStore, SnapshotFile, SnapshotJob, StorageError},
    types::limits,
};

/// The state as openraft sees it.
///
/// A snapshot is on the disk at once, what was written to the log before it perhaps not yet. Until then the disk has it
/// beside a log that may end with entries of an older term, which the snapshot contradicts; openraft does not start on such
/// a pair. Hence every snapshot waits for the log first.
pub struct RaftState {
    applier: Arc<Applier>,
    log: Arc<dyn LogStore>,
    /// The last entry that was purged when this was made; 0: none.
    purged: u64,
}

impl RaftState {
    /// A view of what this applier writes, beside this log.
    pub fn new(applier: Arc<Applier>, log: Arc<dyn LogStore>) -> Self {
        let purged = log.state().purged.map_or(0, |it| it.index);
        Self { applier, log, purged }
    }

    fn builder(&self, job: Option<SnapshotJob>, needed: bool) -> SnapshotBuilder {
        let newest = self.applier.state().snapshot();
        SnapshotBuilder { job: Mutex::new(job), log: self.log.clone(), newest, needed }
    }

    async fn install(&self, path: &Path) -> io::Result<()> {
        when_durable(|durable| self.log.barrier(durable)).await?;
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
    /// writes memory; sled is written behind it by a thread of its own. When that is behind, a commit waits for it: elsewhere,
    /// so that consensus does not stand still with it.
    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let (mut group, mut responders, mut bytes) = (Vec::new(), Vec::new(), 0);
        loop {
            let next = entries.next().await.transpose()?;
            let ended = next.is_none();
            if let Some((entry, responder)) = next {
                let entry = to_log_entry(entry);
                bytes += entry.payload.bytes().len();
                group.push(entry);
                responders.push(responder);
            }
            if ended || group.len() == limits::GROUP_PROPOSALS_MAX || bytes >= limits::GROUP_BYTES_MAX_TOTAL {
                bytes = 0;
                let group = std::mem::take(&mut group);
                let applied = if self.applier.state().has_room() {
                    self.applier.apply(group)
                } else {
                    let applier = self.applier.clone();
                    Threads::of_this_task().run(move || applier.apply(group)).await?
                };
                let replies = applied.map_err(io::Error::other)?;
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

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        self.applier.state().begin_snapshot().map(|job| self.builder(Some(job), force))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.builder(self.applier.state().begin_snapshot(), true)
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
pub struct SnapshotBuilder {
    job: Mutex<Option<SnapshotJob>>,
    log: Arc<dyn LogStore>,
    /// The one before it.
    newest: Option<SnapshotFile>,
    /// Consensus does not go on without it, as at the start when the newest one is damaged.
    needed: bool,
}

/// After a snapshot that could not be written the next one waits for this long.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// What the system refused, a full disk above all, and may grant later; not what says that the state is damaged.
fn may_pass(err: &StorageError) -> bool {
    let cause = err.source().and_then(|it| it.downcast_ref::<io::Error>());
    cause.is_some_and(|it| it.raw_os_error().is_some())
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        let job = self
            .job
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(|| io::Error::other("another snapshot is being written"))?;
        when_durable(|durable| self.log.barrier(durable)).await?;
        match Threads::of_this_task().run(job).await? {
            Ok(file) => to_raft_snapshot(file),
            // Consensus takes an error for the end of this node, which has all it needs but the room: the log goes on. It asks
            // again after as many entries as lie between snapshots; what is answered now is no news to it.
            Err(err) if may_pass(&err) && !self.needed => {
                tracing::error!(%err, "write a snapshot; the log keeps growing until one succeeds");
                sleep(FAILED_PAUSE).await;
                let nothing = SnapshotFile { path: PathBuf::new(), applied: Applied::default(), bytes: 0 };
                to_raft_snapshot(self.newest.take().unwrap_or(nothing))
            }
            Err(err) => Err(err.into()),
        }
    }
}

pub(super) fn to_raft_snapshot(file: SnapshotFile) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
    let (last_log_id, last_membership) = to_raft_applied(&file.applied).map_err(io::Error::other)?;
    Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: file })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::FutureExt;

    use super::*;
    use crate::{
        metrics::Metrics,
        raft::convert::from_log_entry,
        raft::runtime,
        storage::{
            Applied, LogEntry, Payload, StateStore, codec,
            memory::MemoryState,
            memory_files::MemoryFiles,
            memory_log::MemoryLog,
            state::{SledState, StateOptions},
        },
        types::{
            Attributes, Author, Command, ConfigKey, Content, LogId, Millis, NamespaceId, Precondition, Proposal,
            Publication, Variant,
        },
        watch::Hub,
    };

    const THERE: LogId = LogId { term: 5, node: 2, index: 3 };

    fn node(log: &Arc<MemoryLog>) -> (Arc<MemoryFiles>, Arc<MemoryState>, RaftState) {
        let files = Arc::new(MemoryFiles::new());
        let state = Arc::new(MemoryState::open(files.clone()).unwrap());
        let applier = Applier::new(state.clone(), Arc::<Hub>::default(), Metrics::new());
        (files, state, RaftState::new(Arc::new(applier), log.clone()))
    }

    /// A log on whose disk there are three entries of an old term, and not yet that the last two are gone.
    fn cut_but_not_durable() -> Arc<MemoryLog> {
        let log = Arc::new(MemoryLog::with_disk());
        let id = |index| LogId { term: 3, node: 1, index };
        log.append((1..=3).map(|index| LogEntry { id: id(index), payload: Payload::Blank }).collect(), Box::new(drop));
        log.sync();
        log.truncate_after(Some(id(1)));
        log
    }

    fn on_disk(files: &Arc<MemoryFiles>) -> Option<LogId> {
        MemoryState::open(files.clone()).unwrap().applied().last
    }

    // Work on another thread would be done at some time that nobody knows: seeded tasks do it here.
    fn done_now<T>(work: impl Future<Output = io::Result<T>>) -> Option<io::Result<T>> {
        runtime::seeded(Some(1), work).now_or_never()
    }

    #[test]
    fn a_snapshot_is_installed_when_the_log_is_cut_on_disk() {
        let (_, elsewhere, _) = node(&Arc::default());
        elsewhere.commit(Applied { last: Some(THERE), membership: None }, Vec::new()).unwrap();
        let sent = elsewhere.begin_snapshot().unwrap()().unwrap();
        let mut bytes = Vec::new();
        elsewhere.open_snapshot(&sent).unwrap().read_to_end(&mut bytes).unwrap();

        let log = cut_but_not_durable();
        let (files, state, mut raft_state) = node(&log);
        let mut incoming = state.create_incoming().unwrap();
        incoming.write_all(&bytes).unwrap();
        incoming.finish().unwrap();
        let snapshot = to_raft_snapshot(state.verify(&state.incoming_path()).unwrap()).unwrap();

        let mut installed = Box::pin(raft_state.install_snapshot(&snapshot.meta, snapshot.snapshot));
        assert!(done_now(&mut installed).is_none(), "installed beside a log that a crash brings back");
        assert_eq!((on_disk(&files), state.applied().last), (None, None));
        log.sync();
        done_now(installed).unwrap().unwrap();
        assert_eq!((on_disk(&files), state.applied().last), (Some(THERE), Some(THERE)));
    }

    #[test]
    fn a_snapshot_is_written_when_the_log_is_durable_up_to_it() {
        let log = cut_but_not_durable();
        let (files, state, mut raft_state) = node(&log);
        state.commit(Applied { last: Some(THERE), membership: None }, Vec::new()).unwrap();
        let mut builder = raft_state.get_snapshot_builder().now_or_never().unwrap();
        let mut built = Box::pin(builder.build_snapshot());
        assert!(done_now(&mut built).is_none(), "the newest snapshot is ahead of the log on disk");
        assert_eq!(on_disk(&files), None);
        log.sync();
        assert_eq!(done_now(built).unwrap().unwrap().snapshot.applied.last, Some(THERE));
        assert_eq!(on_disk(&files), Some(THERE));
    }

    fn entry(index: u64, text: String) -> EntryResponder<TypeConfig> {
        let publication = Publication {
            key: ConfigKey::new(&NamespaceId::public(), "g", &format!("k{index}")).unwrap(),
            variant: Variant::Formal,
            content: Content::new(text),
            attributes: Attributes::default(),
            beta_ips: Vec::new(),
            precondition: Precondition::None,
            author: Author::default(),
        };
        let command = Command::PublishConfig(Box::new(publication));
        let proposal = codec::encode_proposal(&Proposal { command, proposed_at: Millis(index), request: None });
        let id = LogId { term: 1, node: 1, index };
        (from_log_entry(LogEntry { id, payload: Payload::Proposal(proposal) }).unwrap(), None)
    }

    #[tokio::test]
    async fn a_commit_that_waits_for_the_disk_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let options = StateOptions { waiting_bytes_max: 64 << 10, ..StateOptions::default() };
        let state = Arc::new(SledState::open(dir.path(), options, Metrics::new()).unwrap());
        let applier = Applier::new(state.clone(), Arc::<Hub>::default(), Metrics::new());
        let mut raft_state = RaftState::new(Arc::new(applier), Arc::new(MemoryLog::new()));
        // Nothing is written behind until this is done.
        let snapshot = state.begin_snapshot().unwrap();
        let mut apply = async |index| {
            let entries = futures_util::stream::iter([Ok(entry(index, "x".repeat(100 << 10)))]);
            raft_state.apply(entries).await
        };
        apply(1).await.unwrap();
        let written = std::sync::atomic::AtomicBool::new(false);
        let others = async {
            for _ in 0..10 {
                sleep(Duration::from_millis(1)).await;
            }
            written.store(true, std::sync::atomic::Ordering::Relaxed);
            tokio::task::spawn_blocking(snapshot).await.unwrap().unwrap();
        };
        let waits = async {
            apply(2).await.unwrap();
            assert!(written.load(std::sync::atomic::Ordering::Relaxed), "it waits");
        };
        tokio::join!(waits, others);
    }

    #[test]
    fn a_snapshot_beside_a_failed_log_is_not_installed() {
        let log = cut_but_not_durable();
        let (_, state, mut raft_state) = node(&log);
        log.fail("no disk");
        state.commit(Applied { last: Some(THERE), membership: None }, Vec::new()).unwrap();
        let mut builder = raft_state.get_snapshot_builder().now_or_never().unwrap();
        let failed = done_now(builder.build_snapshot()).unwrap().unwrap_err();
        assert!(failed.to_string().contains("no disk"), "{failed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_for_which_there_is_no_room_is_not_the_end() {
        let build = |cause: io::Error, needed| async move {
            let job: SnapshotJob = Box::new(|| Err(StorageError::caused("write", cause)));
            let log: Arc<dyn LogStore> = Arc::new(MemoryLog::new());
            SnapshotBuilder { job: Mutex::new(Some(job)), log, newest: None, needed }.build_snapshot().await
        };
        const ENOSPC: i32 = 28;
        let began = tokio::time::Instant::now();
        let nothing_new = build(io::Error::from_raw_os_error(ENOSPC), false).await.unwrap();
        assert_eq!(nothing_new.meta.last_log_id, None);
        assert!(began.elapsed() >= FAILED_PAUSE, "the next one waits");
        assert!(build(io::Error::from_raw_os_error(ENOSPC), true).await.is_err(), "the start cannot do without");
        assert!(build(io::Error::other("the rows are not those that were written"), false).await.is_err());
    }
}
