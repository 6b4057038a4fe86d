//! How rows lie in sled: short ones in one value, long ones in pieces, because sled splits its leaves by the number of rows,
//! not by their bytes, and puts pages of more than a quarter of a segment into files that it never flushes.
use bytes::Bytes;

use super::{Pending, Table};
use crate::storage::{StorageError, codec, keys};

/// Longer values are stored in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;
/// First byte of a value that follows.
const WHOLE: u8 = 0;
/// First byte of a value whose length follows, as u64, big endian; the value is in pieces.
const PIECES: u8 = 1;

fn pieces(bytes: usize) -> u32 {
    if bytes <= PIECE_BYTES { 0 } else { bytes.div_ceil(PIECE_BYTES) as u32 }
}

/// A table as one batch: all of it is there after a crash, or nothing.
pub(super) fn batch(table: &Table) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for (name, pending) in &table.rows {
        put(&mut batch, name, pending);
    }
    batch.insert(keys::META, &codec::encode_meta(&table.applied, table.witness)[..]);
    batch
}

fn put(batch: &mut sled::Batch, name: &[u8], pending: &Pending) {
    let old_pieces = pieces(pending.stored_bytes);
    let new_pieces = match &pending.value {
        None => {
            batch.remove(name);
            0
        }
        Some(value) if value.len() <= PIECE_BYTES => {
            batch.insert(name, [&[WHOLE], &value[..]].concat());
            0
        }
        Some(value) => {
            batch.insert(name, [&[PIECES], &(value.len() as u64).to_be_bytes()[..]].concat());
            for (number, piece) in (0..).zip(value.chunks(PIECE_BYTES)) {
                batch.insert(keys::piece(name, number), piece);
            }
            pieces(value.len())
        }
    };
    for number in new_pieces..old_pieces {
        batch.remove(keys::piece(name, number));
    }
}

/// The value of a row; `None` when there is none, or it changes just now.
pub(super) fn read(db: &sled::Db, name: &[u8]) -> Result<Option<Bytes>, StorageError> {
    let failed = |err: sled::Error| StorageError::caused("read the state", err);
    match db.get(name).map_err(failed)? {
        Some(head) => assemble(db, name, &head),
        None => Ok(None),
    }
}

fn assemble(db: &sled::Db, name: &[u8], head: &[u8]) -> Result<Option<Bytes>, StorageError> {
    let failed = |err: sled::Error| StorageError::caused("read the state", err);
    match head.split_first() {
        Some((&WHOLE, value)) => Ok(Some(Bytes::copy_from_slice(value))),
        Some((&PIECES, length)) => {
            let Ok(length) = length.try_into().map(u64::from_be_bytes) else { return Ok(None) };
            let mut value = Vec::new();
            for number in 0..pieces(length as usize) {
                match db.get(keys::piece(name, number)).map_err(failed)? {
                    Some(piece) => value.extend_from_slice(&piece),
                    None => return Ok(None),
                }
            }
            Ok((value.len() as u64 == length).then(|| value.into()))
        }
        Some(_) | None => Ok(None),
    }
}

/// What a scan of sled found.
pub(super) struct Scan {
    pub(super) meta: Option<Bytes>,
    /// Pieces of which no row speaks, or that speak of no row.
    pub(super) loose_pieces: u64,
}

/// Hands every row to `row`, in the order of names. sled must stand still.
pub(super) fn scan(
    db: &sled::Db,
    mut row: impl FnMut(&[u8], Bytes) -> Result<(), StorageError>,
) -> Result<Scan, StorageError> {
    let failed = |err: sled::Error| StorageError::caused("read the state", err);
    let mut scan = Scan { meta: None, loose_pieces: 0 };
    let (mut found, mut expected) = (0_u64, 0_u64);
    for entry in db.iter() {
        let (name, value) = entry.map_err(failed)?;
        match name.first() {
            Some(_) if name == keys::META => scan.meta = Some(Bytes::copy_from_slice(&value)),
            Some(&keys::PIECE) => found += 1,
            Some(_) | None => {
                let Some(value) = assemble(db, &name, &value)? else {
                    return Err(StorageError::new(format!("the row {} is not whole", name.escape_ascii())));
                };
                expected += u64::from(pieces(value.len()));
                row(&name, value)?;
            }
        }
    }
    scan.loose_pieces = found.abs_diff(expected);
    Ok(scan)
}
