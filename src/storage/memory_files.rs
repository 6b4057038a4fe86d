//! Files in memory, which outlive the state that wrote them as a disk outlives a process. A file is there when all of it was
//! written and synced, as with the stores on disk; what was not is never seen.
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    Applied, Incoming, SnapshotFile, StorageError, Witness, codec,
    index::{Index, Row, decode_row},
};
use crate::types::Mutation;

/// What is being received.
pub(super) const INCOMING: &str = "incoming";
/// What was flushed last.
const STATE: &str = "state";
/// So many snapshots are kept, as on disk.
const SNAPSHOTS_KEPT: usize = 2;

/// The files of one node.
#[derive(Default)]
pub struct MemoryFiles(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// By age, the newest last.
    snapshots: Vec<SnapshotFile>,
}

impl MemoryFiles {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.lock().files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    pub(super) fn newest_snapshot(&self) -> Option<SnapshotFile> {
        self.lock().snapshots.last().cloned()
    }

    pub(super) fn keep_state(&self, bytes: Vec<u8>) {
        self.lock().files.insert(STATE.into(), bytes);
    }

    pub(super) fn keep_snapshot(&self, applied: Applied, bytes: Vec<u8>) -> SnapshotFile {
        let last = applied.last.unwrap_or_default();
        let path = PathBuf::from(format!("{:020}-{}-{}.snap", last.index, last.term, last.node));
        let file = SnapshotFile { path: path.clone(), applied, bytes: bytes.len() as u64 };
        let mut inner = self.lock();
        inner.files.insert(path.clone(), bytes);
        inner.snapshots.retain(|it| it.path != path);
        inner.snapshots.push(file.clone());
        inner.snapshots.sort_by_key(|it| it.applied.revision());
        while inner.snapshots.len() > SNAPSHOTS_KEPT {
            let old = inner.snapshots.remove(0);
            inner.files.remove(&old.path);
        }
        file
    }

    pub(super) fn newest_state(&self) -> Result<Option<(Applied, Vec<Mutation>)>, StorageError> {
        let inner = self.lock();
        let flushed = inner.files.get(Path::new(STATE));
        let snapshot = inner.snapshots.last().and_then(|it| inner.files.get(&it.path));
        let states = [flushed, snapshot].into_iter().flatten().map(|bytes| decode(bytes));
        let mut states = states.collect::<Result<Vec<_>, _>>()?;
        states.sort_by_key(|(applied, _)| applied.revision());
        Ok(states.pop())
    }

    pub(super) fn create_incoming(self: &Arc<Self>) -> IncomingFile {
        self.lock().files.remove(Path::new(INCOMING));
        IncomingFile { files: self.clone(), bytes: Vec::new() }
    }
}

pub(super) struct IncomingFile {
    files: Arc<MemoryFiles>,
    bytes: Vec<u8>,
}

impl Write for IncomingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Incoming for IncomingFile {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.files.lock().files.insert(INCOMING.into(), self.bytes);
        Ok(())
    }
}

/// `meta length:u32  meta  { name length:u32  value length:u32  name  value }*`, little-endian.
pub(super) fn encode(applied: &Applied, witness: Witness, rows: impl Iterator<Item = Mutation>) -> Vec<u8> {
    let meta = codec::encode_meta(applied, witness);
    let mut bytes = (meta.len() as u32).to_le_bytes().to_vec();
    bytes.extend(&meta);
    for row in rows.map(|it| Row::of(&it)) {
        let value = row.value.unwrap_or_default();
        bytes.extend((row.name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(&row.name);
        bytes.extend(&value);
    }
    bytes
}

/// Checks the rows against the witness, as the files on disk are checked.
pub(super) fn decode(bytes: &[u8]) -> Result<(Applied, Vec<Mutation>), StorageError> {
    let damaged = |what: &str| StorageError::new(format!("a file in memory is damaged: {what}"));
    let mut rest = bytes;
    let mut take = |length: usize| rest.split_off(..length).ok_or_else(|| damaged("it is too short"));
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let meta_bytes = number(take(4)?);
    let meta = Bytes::copy_from_slice(take(meta_bytes)?);
    let (applied, witness) = codec::decode_meta(meta).map_err(|err| damaged(&err.to_string()))?;
    let (mut writes, mut index) = (Vec::new(), Index::default());
    while let Ok(name_bytes) = take(4).map(number) {
        let value_bytes = number(take(4)?);
        let name = take(name_bytes)?;
        let value = Bytes::copy_from_slice(take(value_bytes)?);
        let write = decode_row(name, value).map_err(|err| damaged(&err.to_string()))?;
        index.apply(&write, &Row::of(&write));
        writes.push(write);
    }
    if index.witness() != witness {
        return Err(damaged("its rows are not what its head says"));
    }
    Ok((applied, writes))
}
