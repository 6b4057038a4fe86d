//! The one place where replicated state changes: standalone, leader, follower and replay all come through here.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    planted::{self, Bug},
    state_machine::{self, Overlay, ReadError},
    storage::{LogEntry, Payload, StateStore, StorageError, codec},
    types::{ConfigKey, Reply, Revision},
    watch::Hub,
};

/// Decides entries, commits what they do, and tells whoever waits. Used by one thread at a time.
pub struct Applier {
    state: Arc<dyn StateStore>,
    hub: Arc<Hub>,
    metrics: Metrics,
    applied: watch::Sender<Revision>,
    /// Bytes of all entries applied since the start.
    bytes: AtomicU64,
}

impl Applier {
    /// An applier that goes on where the state stands.
    pub fn new(state: Arc<dyn StateStore>, hub: Arc<Hub>, metrics: Metrics) -> Self {
        let (applied, _) = watch::channel(state.applied().revision());
        Self { state, hub, metrics, applied, bytes: AtomicU64::new(0) }
    }

    /// Applies a group of entries that follow each other: decides all, commits once, then announces, then returns one
    /// reply for each entry. An entry that is no proposal is `Unchanged`.
    ///
    /// # Errors
    /// [`ApplyError`] when an entry cannot be read or the state fails. Nothing of the group is committed then, and the
    /// node must stop: skipping an entry would fork the replica.
    ///
    /// # Panics
    /// When an entry was applied before: only a bug can do that.
    pub fn apply(&self, entries: Vec<LogEntry>) -> Result<Vec<Reply>, ApplyError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let started = tokio::time::Instant::now();
        let count = entries.len() as u64;
        let bytes: usize = entries.iter().map(|entry| entry.payload.bytes().len()).sum();
        let mut applied = self.state.applied();
        let reader = self.state.clone().reader();
        let mut view = Overlay::new(&*reader);
        let (mut writes, mut replies) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        let mut changed: Vec<ConfigKey> = Vec::new();
        for entry in entries {
            let revision = Revision(entry.id.index);
            assert!(
                applied.last.is_none_or(|last| last.index < entry.id.index),
                "entry {} cannot follow {:?}: entries are applied once, in order",
                entry.id,
                applied.last
            );
            applied.last = Some(entry.id);
            match entry.payload {
                Payload::Blank => replies.push(Reply::Unchanged(revision)),
                Payload::Membership(bytes) => {
                    applied.membership = Some((entry.id, bytes));
                    replies.push(Reply::Unchanged(revision));
                }
                Payload::Proposal(bytes) => {
                    let proposal = codec::decode_proposal(bytes).map_err(|err| ApplyError::Decode(revision, err))?;
                    let effects = state_machine::apply(&view, revision, &proposal).map_err(ApplyError::Read)?;
                    view.stage(&effects.writes);
                    writes.extend(effects.writes);
                    changed.extend(effects.event.map(|event| event.key));
                    replies.push(effects.reply);
                }
            }
        }
        let revision = applied.revision();
        if planted::is(Bug::NoticeBeforeCommit) {
            self.hub.publish(&std::mem::take(&mut changed));
        }
        self.state.commit(applied, writes).map_err(ApplyError::Commit)?;
        // Only now: a watcher that wakes up must find the new value.
        changed.sort_unstable();
        changed.dedup();
        self.hub.publish(&changed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.applied.send_replace(revision);
        self.metrics.apply_groups.inc();
        self.metrics.apply_entries.inc_by(count);
        self.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
        Ok(replies)
    }

    /// After the state was replaced by a snapshot: everybody must look again.
    pub fn state_replaced(&self) {
        if !planted::is(Bug::SnapshotTellsNobody) {
            self.hub.mark_all();
        }
        self.applied.send_replace(self.state.applied().revision());
    }

    /// The state that this applier writes.
    pub fn state(&self) -> &Arc<dyn StateStore> {
        &self.state
    }

    /// Bytes of all entries applied since the start: says when a snapshot is due before many entries are.
    pub fn applied_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Follows the applied revision.
    pub fn watch_applied(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }
}

/// Why a node cannot apply any further.
#[derive(Debug)]
pub enum ApplyError {
    /// The entry at this revision is not what any version of this program writes.
    Decode(Revision, codec::DecodeError),
    /// The state could not be read.
    Read(ReadError),
    /// The state could not be written.
    Commit(StorageError),
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(revision, err) => write!(f, "apply entry {revision}: {err}"),
            Self::Read(err) => write!(f, "apply: {err}"),
            Self::Commit(err) => write!(f, "apply: {err}"),
        }
    }
}

impl std::error::Error for ApplyError {}
