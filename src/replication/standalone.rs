//! One node, no peers. Skips consensus and nothing else: the same log, the same applier, the same directory.
//!
//! One thread is the order of things: it takes what has queued up as one group, appends it, waits for the disk, applies
//! it and answers. While the disk works the next group queues up.
use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Applier, BoxFuture, ProposeError, Replicator, Status};
use crate::{
    storage::{LogEntry, LogStore, Payload, StorageError, codec},
    types::{Consistency, LogId, Proposal, Reply, Revision, limits},
};

/// The leader id in entries that a standalone node writes. A cluster that takes the directory over starts at term 2.
pub const STANDALONE_TERM: u64 = 1;

/// When to write snapshots and how much log to keep.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotPolicy {
    /// A snapshot is written after this many entries.
    pub entries: u64,
    /// A snapshot is written after this many bytes of proposals.
    pub bytes: u64,
    /// So many entries before the snapshot stay in the log, for members that were away.
    pub entries_kept: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self { entries: 20_000, bytes: 256 << 20, entries_kept: 10_000 }
    }
}

/// A replicator without peers.
pub struct Standalone {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Waiting>>,
    writer: Option<thread::JoinHandle<()>>,
}

struct Shared {
    log: Arc<dyn LogStore>,
    applier: Applier,
    /// Why no more writes are taken, once that is so.
    failed: Mutex<Option<String>>,
}

struct Waiting {
    proposal: Bytes,
    answer: oneshot::Sender<Result<Reply, ProposeError>>,
}

impl Standalone {
    /// Applies what the log has and the state has not, and begins to take proposals.
    ///
    /// # Errors
    /// [`StorageError`] when log and state do not fit together, or a thread cannot be started.
    pub fn start(log: Arc<dyn LogStore>, applier: Applier, policy: SnapshotPolicy) -> Result<Self, StorageError> {
        replay(&*log, &applier)?;
        let shared = Arc::new(Shared { log, applier, failed: Mutex::new(None) });
        let (queue, proposals) = mpsc::channel(limits::PROPOSALS_QUEUED_MAX);
        let writer = thread::Builder::new()
            .name("standalone-writer".into())
            .spawn({
                let shared = shared.clone();
                move || Writer { shared, proposals, policy, since_snapshot: (0, 0) }.run()
            })
            .map_err(|err| StorageError::caused("start the writer thread", err))?;
        Ok(Self { shared, queue: Some(queue), writer: Some(writer) })
    }

    fn failure(&self) -> Option<String> {
        self.shared.failure()
    }
}

impl Shared {
    fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Brings the state up to the end of the log: all of a standalone log is committed.
fn replay(log: &dyn LogStore, applier: &Applier) -> Result<(), StorageError> {
    let (state, applied) = (log.state(), applier.state().applied().revision());
    let last = state.last.map_or(0, |it| it.index);
    let purged = state.purged.map_or(0, |it| it.index);
    if applied.0 > last || applied.0 < purged {
        return Err(StorageError::new(format!(
            "the log holds entries {} to {last} but the state stands at {applied}: one of the two is older than the \
             other. Put back the whole data directory from one backup",
            purged + 1
        )));
    }
    let mut next = applied.0 + 1;
    while next <= last {
        let entries = log
            .read(next..last + 1, limits::GROUP_BYTES_MAX_TOTAL)
            .map_err(|err| StorageError::caused("read the log", err))?;
        next += entries.len() as u64;
        applier.apply(entries).map_err(|err| StorageError::caused("replay the log", err))?;
    }
    Ok(())
}

/// The thread that is the order of things.
struct Writer {
    shared: Arc<Shared>,
    proposals: mpsc::Receiver<Waiting>,
    policy: SnapshotPolicy,
    /// Entries and bytes since the last snapshot.
    since_snapshot: (u64, u64),
}

impl Writer {
    fn run(mut self) {
        let last = self.shared.log.state().last;
        let mut next_index = last.map_or(1, |it| it.index + 1);
        let snapshot_at = self.shared.applier.state().snapshot().map_or(0, |it| it.applied.revision().0);
        self.since_snapshot.0 = next_index.saturating_sub(snapshot_at + 1);
        while let Some(group) = self.take_group() {
            let (proposals, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|it| (it.proposal, it.answer)).unzip();
            let bytes: usize = proposals.iter().map(Bytes::len).sum();
            let count = proposals.len() as u64;
            match self.write_group(next_index, proposals) {
                Ok(replies) => {
                    next_index += count;
                    self.since_snapshot.0 += count;
                    self.since_snapshot.1 += bytes as u64;
                    for (answer, reply) in answers.into_iter().zip(replies) {
                        // Whoever asked may have gone; the write stands.
                        drop(answer.send(Ok(reply)));
                    }
                    self.maybe_snapshot();
                }
                Err(err) => return self.fail(err, answers),
            }
        }
    }

    /// What has queued up, within the bounds of a group. `None` when the replicator is gone.
    fn take_group(&mut self) -> Option<Vec<Waiting>> {
        let first = self.proposals.blocking_recv()?;
        let mut bytes = first.proposal.len();
        let mut group = vec![first];
        while group.len() < limits::GROUP_PROPOSALS_MAX && bytes < limits::GROUP_BYTES_MAX_TOTAL {
            let Ok(waiting) = self.proposals.try_recv() else { break };
            bytes += waiting.proposal.len();
            group.push(waiting);
        }
        Some(group)
    }

    fn write_group(&self, first_index: u64, proposals: Vec<Bytes>) -> Result<Vec<Reply>, String> {
        let entries: Vec<LogEntry> = (first_index..)
            .zip(proposals)
            .map(|(index, bytes)| LogEntry {
                id: LogId { term: STANDALONE_TERM, node: 0, index },
                payload: Payload::Proposal(bytes),
            })
            .collect();
        let (durable, is_durable) = std_mpsc::sync_channel(1);
        self.shared.log.append(
            entries.clone(),
            Box::new(move |result: io::Result<()>| {
                // The receiver waits below for as long as this can be called.
                drop(durable.send(result));
            }),
        );
        let result = is_durable.recv().unwrap_or_else(|_| Err(io::Error::other("the log has stopped")));
        result.map_err(|err| {
            format!("the log could not be written ({err}); free the disk or replace it, then restart")
        })?;
        self.shared.applier.apply(entries).map_err(|err| err.to_string())
    }

    /// The disk may hold the group or not: nobody can tell before the next start.
    fn fail(mut self, why: String, answers: Vec<oneshot::Sender<Result<Reply, ProposeError>>>) {
        tracing::error!(%why, "no more writes are taken");
        *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        for answer in answers {
            drop(answer.send(Err(ProposeError::OutcomeUnknown(why.clone()))));
        }
        self.proposals.close();
        while let Ok(waiting) = self.proposals.try_recv() {
            drop(waiting.answer.send(Err(ProposeError::Fatal(why.clone()))));
        }
    }

    fn maybe_snapshot(&mut self) {
        let (entries, bytes) = self.since_snapshot;
        if entries < self.policy.entries && bytes < self.policy.bytes {
            return;
        }
        // While one is being written there is no second one; the next group asks again.
        let Some(job) = self.shared.applier.state().begin_snapshot() else { return };
        self.since_snapshot = (0, 0);
        // Entries so large that their bytes brought this about are not worth keeping by number.
        let kept = if bytes < self.policy.bytes { self.policy.entries_kept } else { 0 };
        let log = self.shared.log.clone();
        let spawned = thread::Builder::new().name("snapshot".into()).spawn(move || match job() {
            Ok(file) => purge_before(&*log, file.applied.last, kept),
            Err(err) => tracing::error!(%err, "write a snapshot; the log keeps growing until one succeeds"),
        });
        if let Err(err) = spawned {
            tracing::error!(%err, "start the snapshot thread; the log keeps growing until one succeeds");
        }
    }
}

/// Forgets what a snapshot holds, but for the last `kept` entries.
fn purge_before(log: &dyn LogStore, snapshot: Option<LogId>, kept: u64) {
    let upto = snapshot.map_or(0, |it| it.index).saturating_sub(kept);
    if upto > log.state().purged.map_or(0, |it| it.index) {
        log.purge(LogId { term: STANDALONE_TERM, node: 0, index: upto });
    }
}

impl Replicator for Standalone {
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        let proposal = codec::encode_proposal(&proposal);
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let queue = self.queue.as_ref().ok_or_else(|| ProposeError::Unavailable("shutting down".into()))?;
            queue.try_send(Waiting { proposal, answer }).map_err(|err| match err {
                mpsc::error::TrySendError::Full(_) => {
                    ProposeError::Unavailable("too many writes are waiting for the disk".into())
                }
                mpsc::error::TrySendError::Closed(_) => {
                    ProposeError::Fatal(self.failure().unwrap_or_else(|| "the writer has stopped".into()))
                }
            })?;
            answered.await.unwrap_or_else(|_| Err(ProposeError::OutcomeUnknown("the writer has stopped".into())))
        })
    }

    fn read_barrier(&self, consistency: Consistency) -> BoxFuture<'_, Result<Revision, ProposeError>> {
        Box::pin(async move {
            // What one node acknowledged it has applied, so a local read is linearizable.
            match consistency {
                Consistency::Local | Consistency::Linearizable => Ok(self.shared.applier.state().applied().revision()),
                Consistency::AtLeast(revision) => {
                    wait_applied(&self.shared.applier, revision, limits::READ_BARRIER_TIMEOUT).await
                }
            }
        })
    }

    /// The log was replayed before this could be asked.
    fn caught_up(&self) -> bool {
        true
    }

    fn status(&self) -> Status {
        let (applied, witness) = self.shared.applier.state().standing();
        Status {
            standalone: true,
            node: 0,
            leader: Some(0),
            term: STANDALONE_TERM,
            last_log: self.shared.log.state().last,
            applied: applied.last,
            witness,
            members: Vec::new(),
            not_ready: self.failure(),
        }
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer thread panicked");
        }
    }
}

/// Waits until this revision is applied.
///
/// # Errors
/// [`ProposeError::Unavailable`] when that takes longer than `patience`.
pub async fn wait_applied(applier: &Applier, revision: Revision, patience: Duration) -> Result<Revision, ProposeError> {
    let mut applied = applier.watch_applied();
    let reached = timeout(patience, applied.wait_for(|applied| *applied >= revision)).await;
    match reached {
        Ok(Ok(applied)) => Ok(*applied),
        Ok(Err(_)) => Err(ProposeError::Unavailable("shutting down".into())),
        Err(_) => Err(ProposeError::Unavailable(format!(
            "revision {revision} has not reached this node within {patience:?}; ask another node, or again later"
        ))),
    }
}
