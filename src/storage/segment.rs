//! One file of the log: how it is made, written and read. Knows no queue, no cache and no thread.
//!
//! A segment gets its name only after it has its full length, a header, and both are fsynced: one that is too short or
//! has a bad header is damaged, never merely unfinished. The header fills a block of its own, which no later write
//! touches.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{LogState, StorageError, Vote, folder};
use crate::types::LogId;

pub(super) mod record;

/// Bytes before the first record: one page, so that appending never rewrites a sector of the header.
pub(super) const HEADER_BYTES: u64 = 4096;
/// The extension of a segment.
pub(super) const EXTENSION: &str = "seg";
/// The extension of a file that is not a segment yet; such files are deleted at the next start.
pub(super) const UNFINISHED: &str = "tmp";
const MAGIC: [u8; 8] = *b"CORACLOG";
const VERSION: u32 = 1;
/// No log gets to such a batch or entry: what is counted on from it does not overflow.
pub(super) const NUMBER_MAX: u64 = 1 << 62;
/// Bytes of the header that mean something; its checksum follows.
const HEADER_BYTES_USED: usize = 8 + 4 + 4 * 8 + 4 * (1 + 3 * 8);
/// Zeros are written in pieces of this size.
const ZEROS: usize = 256 * 1024;
/// After so many zeros they are flushed, so that they do not fill the disk's queue before the log's own writes.
const ZEROS_FLUSH: u64 = 8 * 1024 * 1024;

/// The folder of a log.
pub(super) struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    /// Opens or makes the folder, and locks it until it is dropped.
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let failed = |err: io::Error| StorageError::caused(format!("open the log folder {}", path.display()), err);
        folder::create(path).map_err(failed)?;
        let file = File::open(path).map_err(failed)?;
        file.try_lock().map_err(|err| match err {
            fs::TryLockError::WouldBlock => StorageError::new(format!(
                "the log in {} is in use by another process; two nodes must not share a directory",
                path.display()
            )),
            fs::TryLockError::Error(err) => failed(err),
        })?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// A file of zeros without a name of its own, which can become a segment.
pub(super) struct Blank {
    file: File,
    path: PathBuf,
    /// Its length.
    pub(super) bytes: u64,
}

impl Blank {
    /// Writes the zeros; `None` when it was told to stop. Durable only when it becomes a segment.
    pub(super) fn create(path: PathBuf, bytes: u64, stop: &AtomicBool) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let zeros = vec![0; ZEROS];
        let (mut at, mut flushed) = (0, 0);
        while at < bytes {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let piece = (bytes - at).min(ZEROS as u64);
            file.write_all_at(&zeros[..piece as usize], at)?;
            at += piece;
            if at - flushed >= ZEROS_FLUSH {
                file.sync_data()?;
                flushed = at;
            }
        }
        Ok(Some(Self { file, path, bytes }))
    }

    /// Makes it durable ahead of time.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Gives it a header and a name, durably.
    pub(super) fn into_segment(self, dir: &Directory, header: &Header) -> io::Result<Segment> {
        debug_assert!(header.bytes == self.bytes, "the header tells the length of its file");
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync_all()?;
        let path = dir.path().join(format!("{:016x}.{EXTENSION}", header.sequence));
        fs::rename(&self.path, &path)?;
        dir.sync()?;
        Ok(Segment::new(self.file, path, header))
    }
}

/// The head of a segment: where it belongs, and all that older segments knew, so that they can be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The identity of the log: a random number, the same in all its segments.
    pub(super) log: u64,
    /// Its place among the segments; the first one is 1.
    pub(super) sequence: u64,
    /// The length of the file.
    pub(super) bytes: u64,
    /// The last batch before this segment.
    pub(super) batch: u64,
    /// The state after that batch.
    pub(super) state: LogState,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.log, self.sequence, self.bytes, self.batch] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let LogState { purged, last, vote, committed } = self.state;
        let vote = vote.map(|it| LogId { term: it.term, node: it.node, index: u64::from(it.committed) });
        for id in [purged, last, vote, committed] {
            out.push(u8::from(id.is_some()));
            let LogId { term, node, index } = id.unwrap_or_default();
            for number in [term, node, index] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        debug_assert!(out.len() == HEADER_BYTES_USED);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(HEADER_BYTES as usize, 0);
        out
    }

    fn decode(bytes: &[u8; HEADER_BYTES as usize]) -> Result<Self, String> {
        let mut at = 0;
        let (used, rest) = bytes.split_at(HEADER_BYTES_USED);
        if used[..MAGIC.len()] != MAGIC {
            return Err("it does not begin like a segment of a log".into());
        }
        at += MAGIC.len();
        let version = u32::from_le_bytes(take(used, &mut at));
        if version != VERSION {
            return Err(format!("its format is version {version}, this program reads version {VERSION}"));
        }
        if crc32c::crc32c(used) != u32::from_le_bytes(take(rest, &mut 0)) {
            return Err("the checksum of its header is wrong".into());
        }
        let mut number = || u64::from_le_bytes(take(used, &mut at));
        let (log, sequence, bytes, batch) = (number(), number(), number(), number());
        let mut id = || {
            let [present] = take(used, &mut at);
            let mut number = || u64::from_le_bytes(take(used, &mut at));
            let id = LogId { term: number(), node: number(), index: number() };
            (present != 0).then_some(id)
        };
        let (purged, last, vote, committed) = (id(), id(), id(), id());
        let indexes = [purged, last, committed].into_iter().flatten().map(|it| it.index);
        if indexes.chain([batch]).any(|it| it > NUMBER_MAX) {
            return Err("its header holds a number that no log gets to".into());
        }
        let vote = vote.map(|it| Vote { term: it.term, node: it.node, committed: it.index != 0 });
        Ok(Self { log, sequence, bytes, batch, state: LogState { purged, last, vote, committed } })
    }
}

fn take<const N: usize>(bytes: &[u8], at: &mut usize) -> [u8; N] {
    let taken = std::array::from_fn(|i| bytes[*at + i]);
    *at += N;
    taken
}

/// A segment that is open.
pub(super) struct Segment {
    file: File,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its length.
    pub(super) bytes: u64,
    /// Its place among the segments.
    pub(super) sequence: u64,
    /// Seeds the checksums of its records.
    pub(super) seed: u32,
}

impl Segment {
    fn new(file: File, path: PathBuf, header: &Header) -> Self {
        let seed = crc32c::crc32c_append(crc32c::crc32c(&header.log.to_le_bytes()), &header.sequence.to_le_bytes());
        Self { file, path, bytes: header.bytes, sequence: header.sequence, seed }
    }

    /// Opens a segment and checks its header.
    pub(super) fn open(path: PathBuf, sequence: u64) -> Result<(Self, Header), StorageError> {
        let failed = |err: io::Error| StorageError::caused(format!("open the log segment {}", path.display()), err);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes < HEADER_BYTES {
            return Err(damaged(&path, bytes, "the file is too short for a header"));
        }
        let mut block = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut block, 0).map_err(failed)?;
        let header = Header::decode(&block).map_err(|why| damaged(&path, 0, &why))?;
        if header.sequence != sequence {
            return Err(damaged(&path, 0, &format!("its header says that it is segment {:016x}", header.sequence)));
        }
        if header.bytes != bytes {
            let why = format!("the file has {bytes} bytes, its header says {}", header.bytes);
            return Err(damaged(&path, bytes, &why));
        }
        Ok((Self::new(file, path, &header), header))
    }

    /// Writes at an offset and makes it durable.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(offset >= HEADER_BYTES && offset + bytes.len() as u64 <= self.bytes);
        self.file.write_all_at(bytes, offset)?;
        self.file.sync_data()
    }

    /// Writes at an offset without waiting for the disk.
    pub(super) fn note(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Makes durable what was noted.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Fills the whole of a buffer.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

/// What the person who starts a node has to know about damage.
pub(super) fn damaged(path: &Path, offset: u64, what: &str) -> StorageError {
    StorageError::new(format!(
        "the log segment {} is damaged at offset {offset}: {what}. Something that this node acknowledged may be lost, so \
         it must not go on. Restore this node from its peers: stop it, remove it from the cluster, and start it again \
         under a new id with an empty directory; or restore the file from a backup",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_any_changed_bit_is_noticed() {
        let id = |index| LogId { term: index + 1, node: index + 2, index };
        let full = LogState {
            purged: Some(id(3)),
            last: Some(id(9)),
            vote: Some(Vote { term: 4, node: 2, committed: true }),
            committed: Some(id(5)),
        };
        for state in [LogState::default(), full] {
            let header = Header { log: 77, sequence: 3, bytes: 1 << 20, batch: 8, state };
            let block: [u8; HEADER_BYTES as usize] = header.encode().try_into().unwrap();
            assert_eq!(Header::decode(&block), Ok(header));
            for byte in 0..HEADER_BYTES_USED + 4 {
                let mut changed = block;
                changed[byte] ^= 1 << (byte % 8);
                assert!(Header::decode(&changed).is_err(), "byte {byte}");
            }
        }
    }
}
