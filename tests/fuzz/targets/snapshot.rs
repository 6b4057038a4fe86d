//! A snapshot file.
//!
//! It is refused in a sentence, or it is whole: a plain reader of the format finds the same rows in it, no two of one name,
//! and a state that it is installed into has just these. The first byte says what is put right beforehand.
use std::{fs, sync::Arc};

use bytes::Bytes;
use coracle::{
    metrics::Metrics,
    storage::{
        StateStore, Witness,
        codec::{decode_meta, encode_meta},
        state::{SledState, StateOptions},
    },
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::scratch;

pub const WORDS: &[&str] = &["CORASNAP", "public/g/a", "cpublic/g/a", "gpublic/g/a\0beta", "ndev", "tag_"];
/// Put the checksums right.
const FIX_CHECKSUMS: u8 = 1;
/// Put what the rows must add up to right.
const FIX_WITNESS: u8 = 2;
/// One in so many is installed too: that takes a hundred times as long.
const INSTALLED: u32 = 64;

thread_local! {
    static STATE: Arc<SledState> = {
        let dir = scratch::file("state");
        Arc::new(SledState::open(&dir, StateOptions::default(), Metrics::new()).unwrap())
    };
}

pub fn run(input: &[u8]) {
    let Some((flags, rest)) = input.split_first() else { return };
    let mut file = rest.to_vec();
    if flags & FIX_CHECKSUMS != 0 {
        fix_checksums(&mut file);
    }
    if flags & FIX_WITNESS != 0 {
        fix_witness(&mut file);
    }
    let path = scratch::file("incoming.snap");
    fs::write(&path, &file).unwrap();
    let verified = match STATE.with(|state| state.verify(&path)) {
        Ok(verified) => verified,
        Err(err) => {
            assert!(err.to_string().len() > 20, "{err}");
            return;
        }
    };
    assert_eq!((&verified.path, verified.bytes), (&path, file.len() as u64));
    let (head, witness, chunks) = parse(&file).expect("what is whole can be read");
    let (applied, expected) = decode_meta(Bytes::copy_from_slice(head)).unwrap();
    assert_eq!((&verified.applied, expected), (&applied, witness));
    let mut names: Vec<&[u8]> = chunks.iter().flat_map(|it| rows(it).unwrap_or_default()).map(|it| it.0).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two rows of one name");
    if crc32c::crc32c(input).is_multiple_of(INSTALLED) {
        STATE.with(|state| {
            state.install(path).expect("what was verified can be installed");
            assert_eq!((state.applied(), state.witness()), (applied, witness));
        });
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().unwrap()) as usize)
}

type Row<'a> = (&'a [u8], &'a [u8]);

fn rows(chunk: &[u8]) -> Option<Vec<Row<'_>>> {
    let (mut at, mut found) = (0, Vec::new());
    while at < chunk.len() {
        let (name, value) = (u32_at(chunk, at)?, u32_at(chunk, at + 4)?);
        let from = at + 8 + name;
        found.push((chunk.get(at + 8..from)?, chunk.get(from..from + value)?));
        at = from + value;
    }
    Some(found)
}

/// The meta, what the rows add up to, and the chunks.
type Parsed<'a> = (&'a [u8], Witness, Vec<&'a [u8]>);

/// `None` when the file ends too early or a row is cut off.
fn parse(file: &[u8]) -> Option<Parsed<'_>> {
    let meta = u32_at(file, 12)?;
    let (mut at, mut witness, mut chunks) = (16 + meta + 4, Witness::default(), Vec::new());
    loop {
        let length = u32_at(file, at)?;
        let chunk = file.get(at + 8..at + 8 + length)?;
        for (name, value) in rows(chunk)? {
            witness.rows += 1;
            witness.hash = witness.hash.wrapping_add(xxh3_128_with_seed(value, xxh3_64(name)));
        }
        if length == 0 {
            return Some((file.get(16..16 + meta)?, witness, chunks));
        }
        chunks.push(chunk);
        at += 8 + length;
    }
}

fn fix_checksums(file: &mut [u8]) {
    let Some(meta) = u32_at(file, 12) else { return };
    let mut at = 16 + meta;
    let Some(head) = file.get(..at) else { return };
    let crc = crc32c::crc32c(head);
    let Some(place) = file.get_mut(at..at + 4) else { return };
    place.copy_from_slice(&crc.to_le_bytes());
    at += 4;
    while let Some(length) = u32_at(file, at) {
        let Some(chunk) = file.get(at + 8..at + 8 + length) else { return };
        let crc = crc32c::crc32c(chunk);
        file[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at += 8 + length;
    }
}

/// Writes the head again.
fn fix_witness(file: &mut Vec<u8>) {
    let Some((meta, witness, _)) = parse(file) else { return };
    let Ok((applied, _)) = decode_meta(Bytes::copy_from_slice(meta)) else { return };
    let rest = file[16 + meta.len() + 4..].to_vec();
    let meta = encode_meta(&applied, witness);
    file.truncate(12);
    file.extend((meta.len() as u32).to_le_bytes());
    file.extend(&meta);
    file.extend(crc32c::crc32c(file).to_le_bytes());
    file.extend(rest);
}
