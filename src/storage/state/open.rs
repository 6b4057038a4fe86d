//! Opening a state: which generation counts, whether its rows are what they should be, and what to do when they are not.
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Live, Pending, StateOptions, Table, rows};
use crate::{
    metrics::Metrics,
    planted::{self, Bug},
    storage::{
        Applied, SnapshotFile, StorageError, codec, folder,
        index::{Index, Row, decode_row, row_hash},
        snapshot,
    },
};

const CURRENT: &str = "CURRENT";
/// Rows of a snapshot are loaded in batches of this many, or of as many bytes as are written behind at once.
const LOAD_ROWS: usize = 1024;
/// sled flushes its file by itself this often. It need not: nothing rests on it.
const SLED_FLUSH_MS: u64 = 1_000;

/// A sled database and the folder that is its own. Whoever works on it holds it: one that was replaced is deleted only when
/// nobody does, because sled makes files in its folder, and waits for ever once it could not.
pub(super) struct Generation {
    pub(super) db: sled::Db,
    // After the database, whose end writes.
    folder: GenerationFolder,
}

impl Generation {
    pub(super) fn number(&self) -> u64 {
        self.folder.number
    }

    /// Another one took its place: its folder is deleted after its last use.
    pub(super) fn replaced(&self) {
        self.folder.replaced.store(true, Ordering::Relaxed);
    }

    /// Makes what sled has written durable, which sled itself does not.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.db.flush().map_err(|err| StorageError::caused("write out the state", err))?;
        let path = self.folder.path();
        let synced = (|| {
            for entry in fs::read_dir(&path)? {
                let path = entry?.path();
                if path.is_file() {
                    File::open(path)?.sync_all()?;
                }
            }
            File::open(&path)?.sync_all()
        })();
        synced.map_err(|err: io::Error| StorageError::caused("write out the state", err))
    }
}

struct GenerationFolder {
    dir: PathBuf,
    number: u64,
    replaced: AtomicBool,
}

impl GenerationFolder {
    fn path(&self) -> PathBuf {
        generation_path(&self.dir, self.number)
    }
}

impl Drop for GenerationFolder {
    fn drop(&mut self) {
        if *self.replaced.get_mut() {
            delete_generation(&self.dir, self.number);
        }
    }
}

pub(super) struct Opened {
    pub(super) live: Live,
    pub(super) snapshot: Option<SnapshotFile>,
}

pub(super) fn open(dir: &Path, options: &StateOptions, metrics: &Metrics) -> Result<Opened, StorageError> {
    let failed = |err: io::Error| StorageError::caused(format!("open the state in {}", dir.display()), err);
    let snapshots = dir.join("snapshots");
    folder::create(&snapshots).map_err(failed)?;
    snapshot::remove_begun(&snapshots);
    let newest = snapshot::list(&snapshots).into_iter().find_map(|path| match snapshot::head(&path) {
        Ok(file) => Some(file),
        Err(err) => {
            tracing::warn!(%err, "a snapshot is not used");
            None
        }
    });
    let generation = current(dir).map_err(failed)?;
    let loaded = match generation {
        None if newest.is_none() => {
            let live = empty(dir, 1, options)?;
            set_current(dir, 1).map_err(failed)?;
            Ok(live)
        }
        None => Err("it is gone".to_owned()),
        Some(generation) => load(dir, generation, options),
    };
    // A state that sled lost without noticing may look like a new one; the snapshot knows better.
    let loaded = loaded.and_then(|live| match &newest {
        Some(newest) if live.applied.revision() < newest.applied.revision() => Err(format!(
            "it stands at {}, before the snapshot at {}",
            live.applied.revision(),
            newest.applied.revision()
        )),
        Some(_) | None => Ok(live),
    });
    let live = match loaded {
        Ok(live) => live,
        Err(why) => rebuild(dir, generation.unwrap_or_default(), &why, options, metrics)?,
    };
    delete_others(dir, live.generation.number());
    Ok(Opened { live, snapshot: newest })
}

fn generation_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("gen-{generation:06}"))
}

/// The generation that counts; `None` in a new folder.
fn current(dir: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(dir.join(CURRENT)) {
        Ok(text) => Ok(Some(text.trim().parse().unwrap_or_default())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Makes a generation the one that counts; durable on return.
pub(super) fn set_current(dir: &Path, generation: u64) -> io::Result<()> {
    let temporary = dir.join("CURRENT.tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{generation}")?;
    file.sync_all()?;
    folder::rename(&temporary, &dir.join(CURRENT))
}

fn delete_generation(dir: &Path, generation: u64) {
    let path = generation_path(dir, generation);
    if let Err(err) = fs::remove_dir_all(&path)
        && err.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %err, "delete an old generation of the state");
    }
}

/// Deletes what a crash left behind.
fn delete_others(dir: &Path, kept: u64) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let kept = generation_path(dir, kept);
    for path in entries.flatten().map(|it| it.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("gen-") && !name.ends_with(".bad") && path != kept {
            tracing::info!(path = %path.display(), "delete a generation of the state that does not count");
            if let Err(err) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %err, "delete a generation of the state");
            }
        }
    }
}

/// sled may panic on damage.
fn open_sled(path: &Path, options: &StateOptions) -> Result<sled::Db, String> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(options.sled_cache_bytes)
        .segment_size(options.sled_segment_bytes)
        .flush_every_ms(Some(SLED_FLUSH_MS))
        .mode(sled::Mode::HighThroughput);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err("sled panicked".into()),
    }
}

fn live(dir: &Path, number: u64, db: sled::Db, index: Index, applied: Applied) -> Live {
    let folder = GenerationFolder { dir: dir.to_owned(), number, replaced: AtomicBool::new(false) };
    let generation = Arc::new(Generation { db, folder });
    Live { index, applied, active: Table::default(), frozen: VecDeque::new(), generation }
}

fn empty(dir: &Path, generation: u64, options: &StateOptions) -> Result<Live, StorageError> {
    let db = open_sled(&generation_path(dir, generation), options)
        .map_err(|why| StorageError::new(format!("cannot make a state in {}: {why}", dir.display())))?;
    Ok(live(dir, generation, db, Index::default(), Applied::default()))
}

/// Opens a generation and checks all of it; says why it cannot be used.
fn load(dir: &Path, generation: u64, options: &StateOptions) -> Result<Live, String> {
    let path = generation_path(dir, generation);
    if !path.exists() {
        return Err("it is gone".into());
    }
    let db = open_sled(&path, options)?;
    let mut index = Index::default();
    let scanned = catch_unwind(AssertUnwindSafe(|| {
        rows::scan(&db, |name, value| {
            let hash = row_hash(name, &value);
            let row = Row { name: name.to_vec(), value: Some(value.clone()), hash };
            let write = decode_row(name, value).map_err(|err| StorageError::new(err.to_string()))?;
            index.apply(&write, &row);
            Ok(())
        })
    }));
    let scan = match scanned {
        Ok(Ok(scan)) => scan,
        Ok(Err(err)) => return Err(err.to_string()),
        Err(_) => return Err("sled panicked".into()),
    };
    let (applied, witness) = match scan.meta {
        Some(meta) => codec::decode_meta(meta).map_err(|err| err.to_string())?,
        None => Default::default(),
    };
    if witness != index.witness() || scan.loose_pieces != 0 {
        let found = index.witness();
        return Err(format!("it has {} rows where it must have {}, or other ones", found.rows, witness.rows));
    }
    Ok(live(dir, generation, db, index, applied))
}

/// Puts a state aside that cannot be used, and makes one of the newest snapshot that can, or an empty one.
fn rebuild(
    dir: &Path,
    generation: u64,
    why: &str,
    options: &StateOptions,
    metrics: &Metrics,
) -> Result<Live, StorageError> {
    metrics.state_rebuilds.inc();
    let failed = |err: io::Error| StorageError::caused(format!("rebuild the state in {}", dir.display()), err);
    let path = generation_path(dir, generation);
    let bad = dir.join("gen.bad");
    if path.exists() {
        if bad.exists() {
            fs::remove_dir_all(&bad).map_err(failed)?;
        }
        fs::rename(&path, &bad).map_err(failed)?;
    }
    let next = generation + 1;
    let mut rebuilt = None;
    for path in snapshot::list(&dir.join("snapshots")) {
        match load_snapshot(dir, next, &path, options) {
            Ok(live) => {
                rebuilt = Some(live);
                break;
            }
            Err(err) => {
                tracing::warn!(%err, "a snapshot is not used");
                delete_generation(dir, next);
            }
        }
    }
    let live = match rebuilt {
        Some(live) => live,
        None => empty(dir, next, options)?,
    };
    set_current(dir, next).map_err(failed)?;
    let applied = live.applied.revision();
    tracing::warn!(why, "the state could not be used; it begins again at revision {applied}, and the log is replayed");
    Ok(live)
}

/// Makes a generation of a snapshot file; durable on return.
pub(super) fn load_snapshot(
    dir: &Path,
    generation: u64,
    path: &Path,
    options: &StateOptions,
) -> Result<Live, StorageError> {
    delete_generation(dir, generation);
    let mut live = empty(dir, generation, options)?;
    let mut table = Table::default();
    let db = live.generation.db.clone();
    let index = &mut live.index;
    let write = |table: &mut Table| {
        apply(&db, &std::mem::take(table)).map_err(|err| StorageError::caused("load a snapshot", err))
    };
    let (file, _) = snapshot::read(path, |name, value| {
        if planted::is(Bug::SnapshotDropsRows) && row_hash(name, &value).is_multiple_of(8) {
            return Ok(());
        }
        let row = Row { name: name.to_vec(), value: Some(value.clone()), hash: row_hash(name, &value) };
        let mutation =
            decode_row(name, value.clone()).map_err(|err| StorageError::caused("read a row of the snapshot", err))?;
        index.apply(&mutation, &row);
        table.bytes += name.len() + value.len();
        table.rows.insert(name.to_vec(), Pending { value: Some(value), stored_bytes: 0 });
        let full = table.rows.len() >= LOAD_ROWS || table.bytes >= options.write_behind_bytes;
        if full { write(&mut table) } else { Ok(()) }
    })?;
    (table.applied, table.witness) = (file.applied.clone(), live.index.witness());
    write(&mut table)?;
    live.generation.sync()?;
    live.applied = file.applied;
    Ok(live)
}

/// Writes a table to sled, as one batch, and waits until sled has written it to its file.
///
/// sled 0.34.7 stands still for ever when it shrinks its file while many of its buffers are on their way to a slow disk:
/// whoever needs a new segment waits, with the lock of all segments, for the shrinking; that waits in a queue for one of
/// seven threads; and the seven wait for the lock, each with a buffer that is written. Hence one table is on its way at a
/// time, tables are bounded, and a segment, which is the largest buffer, takes much of one: with contents of 10 MiB at most,
/// too few buffers for seven threads. Not bounded is what sled itself moves after much was deleted.
/// `tests/state/slow_disk.rs` has such a disk.
pub(super) fn apply(db: &sled::Db, table: &Table) -> sled::Result<()> {
    let applied = db.apply_batch(rows::batch(table)).and_then(|()| db.flush().map(drop));
    if applied.is_err() {
        // The end of a database writes what is left, and waits for ever for a place in its file that it had taken before it
        // failed. So this one has no end.
        std::mem::forget(db.clone());
    }
    applied
}
