//! The state on sled, as an index of log and snapshots that can be rebuilt.
//!
//! A commit goes to memory: to the index of heads, which says what exists and stays there, and to a table of rows not yet
//! written. One thread writes such tables behind, each as one sled batch with the applied entry and the witness of just
//! that moment in it. So sled is not on the path of an acknowledgement, and many publishes of one key cost one row.
//!
//! A row moves from the active table to a frozen one and from there to sled, and leaves a place only when it is in the next:
//! a reader that looks in this order finds it, or finds that the index has changed, and looks again.
mod open;
mod rows;
mod write_behind;

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use self::open::Generation;
use super::{
    Applied, Incoming, LogStore, SnapshotFile, SnapshotJob, StateStore, StorageError, Witness, folder,
    index::{Index, Row, decode_row},
    keys, snapshot,
};
use crate::{
    metrics::Metrics,
    planted::{self, Bug},
    state_machine::{ReadError, StateReader, Versions},
    types::{
        ConfigKey, ConfigRecord, Head, Mutation, Namespace, NamespaceId, RememberedRequest, RequestId, Revision,
        Variant,
    },
};

/// A reader looks again this often before it believes that index and rows disagree.
const LOOKS_MAX: usize = 1_000;

/// How a state is kept.
#[derive(Debug, Clone, Copy)]
pub struct StateOptions {
    /// Rows are written behind after this long.
    pub write_behind: Duration,
    /// Or when so many bytes wait. A table that is written takes no more than these and one commit.
    pub write_behind_bytes: usize,
    /// A commit waits when more bytes than this wait to be written.
    pub waiting_bytes_max: usize,
    /// Records kept decoded, in bytes.
    pub cache_bytes: u64,
    /// sled's own cache, in bytes.
    pub sled_cache_bytes: u64,
    /// A segment of sled's file, in bytes: a power of two, 16 MiB at most. What was written with another size is rebuilt. See
    /// `apply` in `open.rs` for what it has to be large enough for.
    pub sled_segment_bytes: usize,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            write_behind: Duration::from_millis(200),
            write_behind_bytes: 4 << 20,
            waiting_bytes_max: 256 << 20,
            cache_bytes: 32 << 20,
            sled_cache_bytes: 8 << 20,
            sled_segment_bytes: 8 << 20,
        }
    }
}

/// A state in a folder.
pub struct SledState {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

type CacheKey = (ConfigKey, Variant);

struct Shared {
    dir: PathBuf,
    options: StateOptions,
    metrics: Metrics,
    live: RwLock<Live>,
    /// Decoded records. One counts only if its revision is the index's.
    cache: moka::sync::Cache<CacheKey, Arc<ConfigRecord>>,
    control: Mutex<Control>,
    wake: Condvar,
    newest_snapshot: Mutex<Option<SnapshotFile>>,
    /// See [`SledState::stay_behind`].
    log: OnceLock<Arc<dyn LogStore>>,
}

/// What readers and commits share.
struct Live {
    index: Index,
    applied: Applied,
    active: Table,
    /// Oldest first.
    frozen: VecDeque<Arc<Table>>,
    generation: Arc<Generation>,
}

/// Rows that wait to be written.
#[derive(Default)]
struct Table {
    rows: BTreeMap<Vec<u8>, Pending>,
    bytes: usize,
    /// Where the state stood after the last of them, once frozen.
    applied: Applied,
    witness: Witness,
    /// After this one sled must stand still for the snapshot of that number.
    hold: Option<u64>,
}

struct Pending {
    value: Option<Bytes>,
    /// Length of the value that sled has of this row, which says how many pieces it has.
    stored_bytes: usize,
}

/// What the thread that writes behind is told, and tells.
#[derive(Default)]
struct Control {
    /// Tables are to be written at once.
    hurry: bool,
    closed: bool,
    /// The snapshot that is wanted or being made.
    snapshotting: Option<u64>,
    /// How many snapshots were begun.
    snapshots: u64,
    /// sled stands still at the state that the snapshot is of.
    held: bool,
    /// Since when the table at hand is being written.
    writing_since: Option<Instant>,
    failed: Option<String>,
    /// The thread has ended.
    ended: bool,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    fn newest(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        self.newest_snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Makes the active table a frozen one.
    fn freeze(&mut self, hold: Option<u64>) {
        let mut table = std::mem::take(&mut self.active);
        (table.applied, table.witness, table.hold) = (self.applied.clone(), self.index.witness(), hold);
        self.frozen.push_back(Arc::new(table));
    }

    fn pending(&self, name: &[u8]) -> Option<&Pending> {
        self.active.rows.get(name).or_else(|| self.frozen.iter().rev().find_map(|table| table.rows.get(name)))
    }
}

impl SledState {
    /// Opens the state in a folder, made if it is not there. All rows are read and compared with the witness; a state that
    /// is lost or damaged is put aside and replaced by the newest snapshot, or by nothing: the log has the rest.
    ///
    /// # Errors
    /// [`StorageError`] when the folder cannot be written or a thread cannot be started.
    pub fn open(dir: &Path, options: StateOptions, metrics: Metrics) -> Result<Self, StorageError> {
        let opened = open::open(dir, &options, &metrics)?;
        let weigh = |_: &CacheKey, record: &Arc<ConfigRecord>| -> u32 {
            u32::try_from(record.content.len() + size_of::<ConfigRecord>() + size_of::<CacheKey>()).unwrap_or(u32::MAX)
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            metrics,
            live: RwLock::new(opened.live),
            cache: moka::sync::Cache::builder().weigher(weigh).max_capacity(options.cache_bytes).build(),
            control: Mutex::default(),
            wake: Condvar::new(),
            newest_snapshot: Mutex::new(opened.snapshot),
            log: OnceLock::new(),
        });
        let writer = thread::Builder::new()
            .name("state-writer".into())
            .spawn({
                let shared = shared.clone();
                move || write_behind::run(&shared)
            })
            .map_err(|err| StorageError::caused("start the state's writer thread", err))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// From now on nothing is written behind before this log is durable as far as it is written. A member of a cluster may
    /// apply what only others have on their disks; on its own disk the state must not be ahead of the log, or the next start
    /// would take the log for one that was lost.
    pub fn stay_behind(&self, log: Arc<dyn LogStore>) {
        // A state has one log.
        drop(self.shared.log.set(log));
    }

    fn load(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, StorageError> {
        let shared = &self.shared;
        let cache_key = (key.clone(), variant.clone());
        for _ in 0..LOOKS_MAX {
            let (modified, waiting, generation) = {
                let live = shared.read();
                let Some(modified) = live.index.modified(key, variant) else { return Ok(None) };
                if let Some(record) = shared.cache.get(&cache_key)
                    && (record.modified == modified || planted::is(Bug::CacheKeepsWhatIsOlder))
                {
                    return Ok(Some(record));
                }
                let name = keys::config(key, variant);
                (modified, live.pending(&name).and_then(|it| it.value.clone()), live.generation.clone())
            };
            let name = keys::config(key, variant);
            let value = match waiting {
                Some(value) => Some(value),
                None => rows::read(&generation.db, &name)?,
            };
            let Some(value) = value else { continue };
            let Mutation::PutConfig(_, _, record) =
                decode_row(&name, value).map_err(|err| StorageError::caused("read a row of the state", err))?
            else {
                continue;
            };
            if record.modified == modified {
                // A newer one may be there already; then this one is not used, since its revision is not the index's.
                shared.cache.insert(cache_key, record.clone());
                return Ok(Some(record));
            }
        }
        Err(StorageError::new(format!(
            "the row of {key} is not what the index says; restart this node to rebuild its state"
        )))
    }
}

impl StateReader for SledState {
    fn record(&self, key: &ConfigKey, variant: &Variant) -> Result<Option<Arc<ConfigRecord>>, ReadError> {
        self.load(key, variant).map_err(|err| ReadError(err.into()))
    }

    fn look(&self, key: &ConfigKey) -> (Revision, Option<Arc<Versions>>) {
        let live = self.shared.read();
        (live.applied.revision(), live.index.versions(key))
    }

    fn namespace(&self, id: &NamespaceId) -> Option<Namespace> {
        self.shared.read().index.namespace(id)
    }

    fn namespaces(&self) -> Vec<Namespace> {
        self.shared.read().index.namespaces()
    }

    fn list(&self, wanted: &dyn Fn(&ConfigKey) -> bool) -> Vec<(ConfigKey, Head)> {
        self.shared.read().index.list(wanted)
    }

    fn remembered_request(&self, id: RequestId) -> Option<RememberedRequest> {
        self.shared.read().index.requests().get(id)
    }

    fn oldest_request(&self, after: Revision) -> Option<RememberedRequest> {
        self.shared.read().index.requests().oldest(after)
    }

    fn remembered_count(&self) -> usize {
        self.shared.read().index.requests().len()
    }

    fn revision(&self) -> Revision {
        self.shared.read().applied.revision()
    }
}

impl StateStore for SledState {
    fn applied(&self) -> Applied {
        self.shared.read().applied.clone()
    }

    fn commit(&self, applied: Applied, writes: Vec<Mutation>) -> Result<(), StorageError> {
        let shared = &self.shared;
        write_behind::wait_for_room(shared)?;
        let rows: Vec<Row> = writes.iter().map(Row::of).collect();
        let hurry = {
            let mut live = shared.write();
            for (write, row) in writes.iter().zip(rows) {
                let old_bytes = live.index.apply(write, &row);
                let Live { active, .. } = &mut *live;
                active.bytes += row.name.len() + row.value.as_ref().map_or(0, Bytes::len);
                match active.rows.get_mut(&row.name) {
                    Some(pending) => {
                        active.bytes -= row.name.len() + pending.value.as_ref().map_or(0, Bytes::len);
                        pending.value = row.value;
                    }
                    None => {
                        let pending = Pending { value: row.value, stored_bytes: old_bytes };
                        active.rows.insert(row.name, pending);
                    }
                }
            }
            live.applied = applied;
            let full = live.active.bytes >= shared.options.write_behind_bytes;
            if full {
                live.freeze(None);
            }
            full
        };
        for write in writes {
            match write {
                Mutation::PutConfig(_, _, _) if planted::is(Bug::CacheKeepsWhatIsOlder) => {}
                // Whether anybody reads it or not: once a disk is full sled reads nothing, and what is here still can be read.
                Mutation::PutConfig(key, variant, record) => shared.cache.insert((key, variant), record),
                Mutation::DeleteConfig(key, variant) => shared.cache.invalidate(&(key, variant)),
                Mutation::PutNamespace(_)
                | Mutation::DeleteNamespace(_)
                | Mutation::RememberRequest(_)
                | Mutation::ForgetRequest(_) => {}
            }
        }
        if hurry {
            write_behind::hurry(shared);
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        write_behind::has_room(&self.shared)
    }

    fn witness(&self) -> Witness {
        self.shared.read().index.witness()
    }

    fn standing(&self) -> (Applied, Witness) {
        let live = self.shared.read();
        (live.applied.clone(), live.index.witness())
    }

    fn begin_snapshot(&self) -> Option<SnapshotJob> {
        write_behind::begin_snapshot(&self.shared)
    }

    fn snapshot(&self) -> Option<SnapshotFile> {
        self.shared.newest().clone()
    }

    fn incoming_path(&self) -> PathBuf {
        self.shared.snapshots().join(snapshot::INCOMING)
    }

    fn create_incoming(&self) -> io::Result<Box<dyn Incoming>> {
        Ok(Box::new(fs::File::create(self.incoming_path())?))
    }

    fn open_snapshot(&self, file: &SnapshotFile) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(fs::File::open(&file.path)?))
    }

    fn verify(&self, incoming: &Path) -> Result<SnapshotFile, StorageError> {
        snapshot::read(incoming, |name, value| {
            decode_row(name, value).map(drop).map_err(|err| StorageError::caused("read a row of the snapshot", err))
        })
        .map(|(file, _)| file)
    }

    fn install(&self, incoming: PathBuf) -> Result<(), StorageError> {
        let shared = &self.shared;
        let failed = |what: &'static str| move |err: io::Error| StorageError::caused(what, err);
        let generation = shared.read().generation.number() + 1;
        let loaded = open::load_snapshot(&shared.dir, generation, &incoming, &shared.options)?;
        // The file first: the newest snapshot is never older than the state.
        let path = snapshot::path_of(&shared.snapshots(), &loaded.applied);
        folder::rename(&incoming, &path).map_err(failed("keep the snapshot"))?;
        let bytes = fs::metadata(&path).map_err(failed("keep the snapshot"))?.len();
        open::set_current(&shared.dir, generation).map_err(failed("make the new state the current one"))?;
        *shared.newest() = Some(SnapshotFile { path, applied: loaded.applied.clone(), bytes });
        let old = {
            let mut live = shared.write();
            std::mem::replace(&mut *live, loaded)
        };
        // Who waits for the old one to be written waits for nothing.
        write_behind::hurry(shared);
        shared.cache.invalidate_all();
        old.generation.replaced();
        drop(old);
        snapshot::delete_old(&shared.snapshots());
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        write_behind::flush(&self.shared)
    }

    fn reader(self: Arc<Self>) -> Arc<dyn StateReader> {
        self
    }
}

impl Drop for SledState {
    fn drop(&mut self) {
        if !write_behind::close(&self.shared) {
            tracing::error!(
                "the state is closed before all of it is written; the next start reads the rest in the log"
            );
        } else if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the state's writer thread panicked");
        }
    }
}
