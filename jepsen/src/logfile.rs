//! Reads the log of a node from its files, by `docs/FORMAT.md` and nothing else: a second opinion on what was written.
use std::{collections::BTreeMap, fs, io, path::Path};

use bytes::Bytes;
use prost::Message;

use crate::{
    history::{Logged, Value},
    keys,
};

const MAGIC: &[u8; 8] = b"CORACLOG";
const HEADER_BYTES: usize = 4096;
/// Checksum, length, batch, term, node, index, kind.
const HEAD_BYTES: usize = 4 + 4 + 4 * 8 + 1;
const ALIGNMENT: usize = 8;
const CLOSES_BATCH: u8 = 0x80;
const PROPOSAL: u8 = 2;
const ENTRIES: std::ops::RangeInclusive<u8> = 1..=3;
const TRUNCATE: u8 = 6;
const CLEAR: u8 = 7;
const PURGE: u8 = 8;

#[derive(Clone, PartialEq, Message)]
struct Proposal {
    #[prost(message, optional, tag = "2")]
    publication: Option<Publication>,
    #[prost(message, optional, tag = "3")]
    removal: Option<Removal>,
}

#[derive(Clone, PartialEq, Message)]
struct Publication {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "3")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(bytes = "bytes", tag = "1")]
    text: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Removal {
    #[prost(string, tag = "1")]
    key: String,
}

/// All entries that are still in the files of a node and were not taken back.
pub fn read(node: u64, dir: &Path) -> io::Result<Vec<Logged>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "seg") {
            segments.push(path);
        }
    }
    // Their names are their numbers, in hexadecimal, of one length.
    segments.sort();
    let mut entries = BTreeMap::new();
    for path in segments {
        let bytes = fs::read(&path)?;
        segment(node, &bytes, &mut entries).map_err(|err| io::Error::other(format!("{}: {err}", path.display())))?;
    }
    Ok(entries.into_values().collect())
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn segment(node: u64, bytes: &[u8], entries: &mut BTreeMap<u64, Logged>) -> Result<(), String> {
    if !bytes.starts_with(MAGIC) || bytes.len() < HEADER_BYTES {
        return Err("it is no segment".into());
    }
    // Identity and sequence stand behind magic and version.
    let seed = crc32c::crc32c(&bytes[12..28]);
    let mut at = HEADER_BYTES;
    while let Some((kind, term, index, payload)) = record(bytes, at, seed) {
        match kind {
            it if ENTRIES.contains(&it) => {
                // An entry takes the place of what a leader before had written there, and of all that followed.
                drop(entries.split_off(&index));
                entries.insert(index, logged(node, (term, index), kind, payload)?);
            }
            TRUNCATE => drop(entries.split_off(&(index + 1))),
            CLEAR => entries.clear(),
            // Beyond the end: a snapshot came instead of what lies between.
            PURGE if entries.last_key_value().is_none_or(|(last, _)| *last < index) => entries.clear(),
            _ => {}
        }
        at += (HEAD_BYTES + payload.len()).next_multiple_of(ALIGNMENT);
    }
    Ok(())
}

/// The record at a place; `None`: the segment ends here.
fn record(bytes: &[u8], at: usize, seed: u32) -> Option<(u8, u64, u64, &[u8])> {
    let crc = u32::from_le_bytes(number(bytes, at)?);
    let length = u32::from_le_bytes(number(bytes, at + 4)?) as usize;
    let end = at.checked_add(HEAD_BYTES)?.checked_add(length)?;
    let covered = bytes.get(at + 4..end)?;
    if crc32c::crc32c_append(seed, covered) != crc {
        return None;
    }
    let long = |place: usize| number(bytes, at + place).map(u64::from_le_bytes);
    let kind = bytes[at + HEAD_BYTES - 1] & !CLOSES_BATCH;
    Some((kind, long(16)?, long(32)?, &bytes[at + HEAD_BYTES..end]))
}

fn logged(node: u64, (term, index): (u64, u64), kind: u8, payload: &[u8]) -> Result<Logged, String> {
    let nothing = Logged { node, term, index, key: None, value: None };
    if kind != PROPOSAL {
        return Ok(nothing);
    }
    let proposal = Proposal::decode(payload).map_err(|err| format!("entry {index}: {err}"))?;
    // Those of another namespace or group are decoys.
    let key = |name: &str| name.strip_prefix("public/G/").and_then(keys::parse);
    Ok(match (proposal.publication, proposal.removal) {
        (Some(publication), _) => {
            let text = publication.content.unwrap_or_default().text;
            let value = Some(Value::parse(&String::from_utf8_lossy(&text)));
            Logged { key: key(&publication.key), value, ..nothing }
        }
        (None, Some(removal)) => Logged { key: key(&removal.key), ..nothing },
        (None, None) => nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(out: &mut Vec<u8>, seed: u32, kind: u8, (term, index): (u64, u64), payload: &[u8]) {
        let mut body = (payload.len() as u32).to_le_bytes().to_vec();
        for number in [1, term, 9, index] {
            body.extend(u64::to_le_bytes(number));
        }
        body.push(kind);
        body.extend(payload);
        out.extend(crc32c::crc32c_append(seed, &body).to_le_bytes());
        out.extend(body);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn publish(key: &str, text: &str) -> Vec<u8> {
        let content = Some(Content { text: text.to_owned().into() });
        Proposal { publication: Some(Publication { key: key.into(), content }), removal: None }.encode_to_vec()
    }

    #[test]
    fn entries_are_read_back_without_those_that_were_taken_back() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(7u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        let seed = crc32c::crc32c(&bytes[12..28]);
        let removal = Proposal { publication: None, removal: Some(Removal { key: "public/G/k4".into() }) };
        write(&mut bytes, seed, 1, (1, 1), b"");
        write(&mut bytes, seed, PROPOSAL | CLOSES_BATCH, (1, 2), &publish("public/G/k3", "v1-2"));
        write(&mut bytes, seed, PROPOSAL, (1, 3), &publish("public/G/k3", "v1-3"));
        write(&mut bytes, seed, TRUNCATE, (1, 2), b"");
        let last = bytes.len();
        write(&mut bytes, seed, PROPOSAL, (2, 3), &removal.encode_to_vec());
        let whole = bytes.len();
        write(&mut bytes, seed ^ 1, PROPOSAL, (2, 4), &publish("public/G/k3", "v1-4"));
        bytes.resize(bytes.len() + 4096, 0);
        let mut entries = BTreeMap::new();
        segment(5, &bytes, &mut entries).unwrap();
        let got: Vec<Logged> = entries.into_values().collect();
        let entry = |term, index, key, value| Logged { node: 5, term, index, key, value };
        let expected =
            [entry(1, 1, None, None), entry(1, 2, Some(3), Some(Value::new(1, 2))), entry(2, 3, Some(4), None)];
        assert_eq!(got, expected);
        assert!(segment(5, &bytes[1..], &mut BTreeMap::new()).is_err());
        assert!(record(&bytes[..whole], last, seed).is_some());
        assert!(record(&bytes[..whole - ALIGNMENT], last, seed).is_none());
    }
}
