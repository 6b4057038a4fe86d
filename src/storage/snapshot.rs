//! Snapshot files: the rows of a state at one revision, checked from the first byte to the last before anything of them is
//! used. Also what a node sends to another one, and what can be kept as a backup of a state.
//!
//! ```text
//! "CORASNAP" version:u32  meta length:u32  meta  crc32c:u32
//! { length:u32  crc32c:u32  rows }*      about 1 MiB each;  a row: name length:u32  value length:u32  name  value
//! 0:u32  crc32c of nothing:u32
//! ```
//! Little-endian. The meta is `StateMeta` of `proto/log.proto`: where the state stands, and its witness, which the rows
//! must add up to.
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{Applied, SnapshotFile, StorageError, Witness, codec, folder, index::row_hash};

const MAGIC: &[u8; 8] = b"CORASNAP";
const VERSION: u32 = 1;
const CHUNK_BYTES: usize = 1 << 20;
/// No chunk can be longer: one row of the largest content.
const CHUNK_BYTES_MAX: usize = 64 << 20;
const META_BYTES_MAX: usize = 16 << 20;
/// The one that is being written.
const UNFINISHED: &str = "writing.tmp";
/// The one that is being received.
pub(super) const INCOMING: &str = "incoming.tmp";
/// So many snapshots are kept.
const KEPT: usize = 2;

/// Writes rows into a file that gets its name when all of it is on the disk.
pub(super) struct SnapshotWriter {
    out: BufWriter<File>,
    temporary: PathBuf,
    chunk: Vec<u8>,
    bytes: u64,
    witness: Witness,
}

impl SnapshotWriter {
    pub(super) fn create(dir: &Path, applied: &Applied, witness: Witness) -> io::Result<Self> {
        folder::create(dir)?;
        let temporary = dir.join(UNFINISHED);
        let mut out = BufWriter::new(File::create(&temporary)?);
        let meta = codec::encode_meta(applied, witness);
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend((meta.len() as u32).to_le_bytes());
        head.extend(&meta);
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        out.write_all(&head)?;
        let bytes = head.len() as u64;
        Ok(Self { out, temporary, chunk: Vec::new(), bytes, witness: Witness::default() })
    }

    pub(super) fn row(&mut self, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.witness.rows += 1;
        self.witness.hash = self.witness.hash.wrapping_add(row_hash(name, value));
        self.chunk.extend((name.len() as u32).to_le_bytes());
        self.chunk.extend((value.len() as u32).to_le_bytes());
        self.chunk.extend(name);
        self.chunk.extend(value);
        if self.chunk.len() >= CHUNK_BYTES { self.end_chunk() } else { Ok(()) }
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        self.out.write_all(&(self.chunk.len() as u32).to_le_bytes())?;
        self.out.write_all(&crc32c::crc32c(&self.chunk).to_le_bytes())?;
        self.out.write_all(&self.chunk)?;
        self.bytes += 8 + self.chunk.len() as u64;
        self.chunk.clear();
        Ok(())
    }

    /// What the rows written so far add up to.
    pub(super) fn witness(&self) -> Witness {
        self.witness
    }

    /// Makes the file durable and gives it its name.
    pub(super) fn finish(mut self, dir: &Path, applied: Applied) -> io::Result<SnapshotFile> {
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        self.end_chunk()?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        let path = path_of(dir, &applied);
        folder::rename(&self.temporary, &path)?;
        Ok(SnapshotFile { path, applied, bytes: self.bytes })
    }
}

/// Where the snapshot of such a state belongs.
pub(super) fn path_of(dir: &Path, applied: &Applied) -> PathBuf {
    let last = applied.last.unwrap_or_default();
    dir.join(format!("{:020}-{}-{}.snap", last.index, last.term, last.node))
}

/// The snapshots of a folder, newest first, by their names.
pub(super) fn list(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "snap"))
        .collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    paths
}

/// Deletes the part of one that could not be written to its end.
pub(super) fn remove_unfinished(dir: &Path) {
    remove(&dir.join(UNFINISHED));
}

/// Deletes what was begun, here or by another member: at the start nobody goes on with it.
pub(super) fn remove_begun(dir: &Path) {
    remove_unfinished(dir);
    remove(&dir.join(INCOMING));
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %err, "delete a snapshot that was not finished");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Deletes all but the newest few.
pub(super) fn delete_old(dir: &Path) {
    for path in list(dir).into_iter().skip(KEPT) {
        if let Err(err) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %err, "delete an old snapshot");
        }
    }
}

/// Reads what a snapshot says of itself, and nothing else.
pub(super) fn head(path: &Path) -> Result<SnapshotFile, StorageError> {
    let (_, file, _) = open(path)?;
    Ok(file)
}

fn damaged(path: &Path, what: &str) -> StorageError {
    StorageError::new(format!("the snapshot {} is damaged: {what}", path.display()))
}

fn open(path: &Path) -> Result<(BufReader<File>, SnapshotFile, Witness), StorageError> {
    let failed = |err: io::Error| StorageError::caused(format!("read the snapshot {}", path.display()), err);
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut head = vec![0; 16];
    reader.read_exact(&mut head).map_err(failed)?;
    if head[..8] != *MAGIC {
        return Err(damaged(path, "it does not begin like one"));
    }
    if number(&head[8..12]) != VERSION {
        return Err(StorageError::new(format!("the snapshot {} is of a newer version", path.display())));
    }
    let length = number(&head[12..16]) as usize;
    if length > META_BYTES_MAX || length as u64 > bytes {
        return Err(damaged(path, "its head is too long"));
    }
    let mut rest = vec![0; length + 4];
    reader.read_exact(&mut rest).map_err(failed)?;
    let crc = number(&rest[length..]);
    rest.truncate(length);
    if crc32c::crc32c_append(crc32c::crc32c(&head), &rest) != crc {
        return Err(damaged(path, "the checksum of its head is wrong"));
    }
    let (applied, witness) = codec::decode_meta(rest.into()).map_err(|err| damaged(path, &err.to_string()))?;
    Ok((reader, SnapshotFile { path: path.to_owned(), applied, bytes }, witness))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

/// Reads all rows, checks that they are whole, and hands each to `row`. What `row` did must be undone on an error.
pub(super) fn read(
    path: &Path,
    mut row: impl FnMut(&[u8], Bytes) -> Result<(), StorageError>,
) -> Result<(SnapshotFile, Witness), StorageError> {
    let failed = |err: io::Error| StorageError::caused(format!("read the snapshot {}", path.display()), err);
    let (mut reader, file, expected) = open(path)?;
    let mut witness = Witness::default();
    let mut last: Option<Bytes> = None;
    loop {
        let mut head = [0; 8];
        reader.read_exact(&mut head).map_err(failed)?;
        let (length, crc) = (number(&head[..4]) as usize, number(&head[4..]));
        if length > CHUNK_BYTES_MAX || length as u64 > file.bytes {
            return Err(damaged(path, "a part of it is too long"));
        }
        let mut chunk = vec![0; length];
        reader.read_exact(&mut chunk).map_err(failed)?;
        if crc32c::crc32c(&chunk) != crc {
            return Err(damaged(path, "a checksum is wrong"));
        }
        if length == 0 {
            break;
        }
        let mut chunk = Bytes::from(chunk);
        while !chunk.is_empty() {
            if chunk.len() < 8 {
                return Err(damaged(path, "a row is cut off"));
            }
            let lengths = chunk.split_to(8);
            let (name, value) = (number(&lengths[..4]) as usize, number(&lengths[4..]) as usize);
            if name.checked_add(value).is_none_or(|it| it > chunk.len()) {
                return Err(damaged(path, "a row is cut off"));
            }
            let name = chunk.split_to(name);
            let value = chunk.split_to(value);
            // Two of one name would add up to what the head says, and leave one row.
            if last.as_ref().is_some_and(|it| *it >= name) {
                return Err(damaged(path, "its rows are not in the order of their names"));
            }
            witness.rows += 1;
            witness.hash = witness.hash.wrapping_add(row_hash(&name, &value));
            row(&name, value)?;
            last = Some(name);
        }
    }
    if witness != expected {
        return Err(damaged(path, "its rows do not add up to what its head says"));
    }
    Ok((file, witness))
}
