//! Bytes on disk. Knows neither Raft nor watchers nor what a command means.
//!
//! Truth is the log plus the last snapshot file, both checksummed and fsynced. The state store is an index of them that
//! can be rebuilt: it is never the only copy of anything.
pub mod codec;
pub mod folder;
mod index;
mod keys;
pub mod log;
pub mod memory;
pub mod memory_files;
pub mod memory_log;
mod segment;
mod snapshot;
pub mod state;

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Read, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    state_machine::StateReader,
    types::{LogId, Mutation, Revision},
};

/// What an entry of the log carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// An encoded `Proposal` (see [`codec`]).
    Proposal(Bytes),
    /// Who votes and who learns from here on; only `raft` knows how to read it.
    Membership(Bytes),
}

impl Payload {
    /// The bytes it carries.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Blank => &[],
            Self::Proposal(bytes) | Self::Membership(bytes) => bytes,
        }
    }
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place, and the leader that put it there.
    pub id: LogId,
    /// What it says.
    pub payload: Payload,
}

/// For whom a node votes; whether that leader was elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The candidate or leader.
    pub node: u64,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// What a log holds besides its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry, or the last purged one when there are no others.
    pub last: Option<LogId>,
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last entry known to be committed. May be behind, since it is written without waiting.
    pub committed: Option<LogId>,
}

/// Called once, from any thread, when what came before is durable or has failed for good.
pub type Durable = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The Raft log. Also the log of a standalone node.
///
/// All writes are ordered. A failed write is final: every later one fails too, since nobody knows what the disk holds
/// (a failed fsync must not be repeated).
pub trait LogStore: Send + Sync + 'static {
    /// What is there now, entries that are not durable yet included.
    fn state(&self) -> LogState;

    /// Appends entries; their indexes follow the last one without a gap. They can be read on return, and are durable
    /// when `durable` is called.
    ///
    /// # Panics
    /// When there is a gap: only a bug can make one.
    fn append(&self, entries: Vec<LogEntry>, durable: Durable);

    /// Replaces the vote. Durable when `durable` is called.
    fn save_vote(&self, vote: Vote, durable: Durable);

    /// Notes what is committed, without waiting: it rides with a write that comes after, or with what is written last.
    fn save_committed(&self, committed: LogId);

    /// Forgets all entries after `last`; all entries, if `None`. Ordered before whatever is written next.
    fn truncate_after(&self, last: Option<LogId>);

    /// Forgets all entries up to and including `upto`, which may be beyond the end (after a snapshot was installed).
    /// Disk space is given back segment by segment.
    fn purge(&self, upto: LogId);

    /// Entries of a range of indexes, from its start, as many as are there and fit in `bytes_max`, but at least one if
    /// there is one.
    ///
    /// # Errors
    /// When the disk fails, or a record that was good when the log was opened is not any more.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<LogEntry>>;

    /// Calls back when everything written so far is durable.
    fn barrier(&self, durable: Durable);
}

/// Where the state stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last applied entry.
    pub last: Option<LogId>,
    /// The last applied membership entry, and where it stood. Only `raft` knows how to read it.
    pub membership: Option<(LogId, Bytes)>,
}

impl Applied {
    /// The revision of the state.
    pub fn revision(&self) -> Revision {
        Revision(self.last.map_or(0, |it| it.index))
    }
}

/// Tells two states apart: how many rows there are, and the wrapping sum of their hashes. Nodes at the same applied
/// entry have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Witness {
    /// How many rows.
    pub rows: u64,
    /// Sum of the 128-bit hashes of all rows, modulo 2¹²⁸: independent of their order.
    pub hash: u128,
}

/// A snapshot file that was written, checked and fsynced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Where it is.
    pub path: PathBuf,
    /// The state that it holds.
    pub applied: Applied,
    /// How many bytes it has.
    pub bytes: u64,
}

/// Writes the state as it was when the job was made; meanwhile the state may go on.
pub type SnapshotJob = Box<dyn FnOnce() -> Result<SnapshotFile, StorageError> + Send>;

/// A file that is being received.
pub trait Incoming: Write + Send {
    /// Waits until the disk has all of it.
    ///
    /// # Errors
    /// When the disk fails.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl Incoming for File {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.sync_all()
    }
}

/// The state machine's rows.
pub trait StateStore: StateReader + 'static {
    /// Where the state stands.
    fn applied(&self) -> Applied;

    /// Writes the mutations of a group of entries and where the state stands after it, as one: after a crash either
    /// all of it is there or nothing. Readers see it on return. Not durable by itself: the log is.
    ///
    /// # Errors
    /// When the store failed; the node must stop applying.
    fn commit(&self, applied: Applied, writes: Vec<Mutation>) -> Result<(), StorageError>;

    /// Whether a commit is done at once. Otherwise it waits for the disk, and its thread with it.
    fn has_room(&self) -> bool {
        true
    }

    /// Hash and count of all rows, as of the last commit.
    fn witness(&self) -> Witness;

    /// Where the state stands and the witness of just that moment.
    fn standing(&self) -> (Applied, Witness);

    /// Begins a snapshot of the state as it is now. One at a time: `None` while another one is being written.
    fn begin_snapshot(&self) -> Option<SnapshotJob>;

    /// The newest snapshot file, if there is one.
    fn snapshot(&self) -> Option<SnapshotFile>;

    /// Where to write a snapshot that comes from another node, before it is given to `install`.
    fn incoming_path(&self) -> PathBuf;

    /// Begins to write what comes in.
    ///
    /// # Errors
    /// When the disk fails.
    fn create_incoming(&self) -> io::Result<Box<dyn Incoming>>;

    /// Reads a snapshot from its first byte, to send it.
    ///
    /// # Errors
    /// When it is gone, or the disk fails.
    fn open_snapshot(&self, file: &SnapshotFile) -> io::Result<Box<dyn Read + Send>>;

    /// Checks a snapshot file from its first byte to its last, without using it.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read.
    fn verify(&self, incoming: &Path) -> Result<SnapshotFile, StorageError>;

    /// Replaces the whole state by that of a snapshot file made by another node. A crash leaves the old state or the
    /// new one.
    ///
    /// # Errors
    /// When the file is damaged, or the disk fails; the state is what it was.
    fn install(&self, incoming: PathBuf) -> Result<(), StorageError>;

    /// Writes out what is only in memory, so that the next start has less to replay.
    ///
    /// # Errors
    /// When the store failed.
    fn flush(&self) -> Result<(), StorageError>;

    /// This store, as the state machine and services read it.
    fn reader(self: Arc<Self>) -> Arc<dyn StateReader>;
}

/// A store failed. Says which file and what to do, for the person who reads the log.
#[derive(Debug)]
pub struct StorageError {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// A failure that has no cause of its own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// What was attempted, and why it failed.
    pub fn caused(message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { message: message.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|it| &**it as _)
    }
}

impl From<StorageError> for io::Error {
    fn from(err: StorageError) -> Self {
        Self::other(err)
    }
}
