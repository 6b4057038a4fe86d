//! What one pass over a sorted history can tell: revisions give the order of the writes, so nothing has to be searched.
//! Scales to tens of millions of operations.
use std::collections::{BTreeMap, HashMap};

use super::{
    Check,
    versions::{Key, Versions},
};
use crate::history::{Call, History, Level, Nanos, Op, Outcome, SECOND};

/// Writes, over all keys: revisions are unique and in the order of time; compare-and-set saw what it expected.
pub fn writes(history: &History, versions: &Versions) -> Check {
    let mut check = Check::new("writes-in-order");
    for contradiction in &versions.contradictions {
        check.anomaly(contradiction.clone());
    }
    let mut all: Vec<(u64, usize, Nanos)> = versions
        .keys
        .values()
        .flat_map(|key| key.versions.iter().map(|it| (it.revision, it.op, it.returned)))
        .collect();
    all.sort_unstable();
    let mut latest: Option<(Nanos, usize)> = None;
    for (place, (revision, at, returned)) in all.iter().enumerate() {
        check.looked_at += 1;
        let op = &history.ops[*at];
        if let Some((other, before, _)) = place.checked_sub(1).map(|it| all[it])
            && other == *revision
        {
            check.anomaly(format!("two writes of revision {revision}: {op:?} and {:?}", history.ops[before]));
        }
        if let Some((invoked, before)) = latest
            && *returned < invoked
        {
            let before = &history.ops[before];
            check.anomaly(format!("revision {revision} returned before a smaller one began: {op:?}, {before:?}"));
        }
        if latest.is_none_or(|(invoked, _)| invoked < op.invoked) {
            latest = Some((op.invoked, *at));
        }
    }
    for key in versions.keys.values() {
        compared_and_set(history, key, &mut check);
    }
    check.finish()
}

fn compared_and_set(history: &History, key: &Key, check: &mut Check) {
    for (at, version) in key.versions.iter().enumerate() {
        let op = &history.ops[version.op];
        let Call::Cas { expected, .. } = op.call else { continue };
        let before = at.checked_sub(1).and_then(|it| key.versions[it].value);
        let holds = before.is_none_or(|it| it == expected);
        // Something that nobody was told of may stand in between.
        if !holds && !key.open_writes.iter().any(|it| *it <= version.returned) {
            check.anomaly(format!("a compare-and-set held over {before:?}: {op:?}"));
        }
    }
}

/// Reads, key by key: nothing stale, nothing from the future, nothing that was never written.
pub fn reads(history: &History, versions: &Versions) -> Check {
    let mut check = Check::new("reads");
    let empty = Key::default();
    let mut keys: BTreeMap<u32, Vec<&Op>> = BTreeMap::new();
    let mut linearizable = Vec::new();
    for op in &history.ops {
        let Call::Read(level) = op.call else { continue };
        if op.outcome != Outcome::Ok {
            continue;
        }
        check.looked_at += 1;
        let key = versions.keys.get(&op.key).unwrap_or(&empty);
        content(history, versions, op, &mut check);
        as_new_as_it_says(key, versions, op, level, &mut check);
        if level == Level::Linearizable {
            keys.entry(op.key).or_default().push(op);
            linearizable.push(op);
        }
    }
    for (key, reads) in keys {
        fresh(versions.keys.get(&key).unwrap_or(&empty), versions, reads, &mut check);
    }
    behind_writes(versions, linearizable, &mut check);
    check.finish()
}

/// A content comes from a write that did not fail and had begun.
fn content(history: &History, versions: &Versions, op: &Op, check: &mut Check) {
    let Some(value) = op.value else { return };
    match versions.writes.get(&value).map(|at| &history.ops[*at]) {
        None => check.anomaly(format!("nobody wrote {value}: {op:?}")),
        Some(write) if write.key != op.key => check.anomaly(format!("{value} was written to another key: {op:?}")),
        Some(write) if matches!(write.outcome, Outcome::Fail | Outcome::Conflict) => {
            check.anomaly(format!("{value} was read, but its write failed: {op:?}, {write:?}"));
        }
        Some(write) if write.invoked > op.returned => {
            check.anomaly(format!("{value} was read before it was written: {op:?}, {write:?}"));
        }
        Some(_) => {}
    }
}

/// The answer names a revision that it is not older than.
fn as_new_as_it_says(key: &Key, versions: &Versions, op: &Op, level: Level, check: &mut Check) {
    let Some(as_of) = op.as_of else { return };
    if let Level::AtLeast(wanted) = level
        && as_of < wanted
    {
        check.anomaly(format!("asked for revision {wanted}, answered as of {as_of}: {op:?}"));
    }
    if let Some(why) = older_than(key, versions, op, as_of) {
        check.anomaly(format!("an answer as of {as_of} is older: {why}: {op:?}"));
    }
}

/// Why what was read cannot be of `revision` or later.
fn older_than(key: &Key, versions: &Versions, op: &Op, revision: u64) -> Option<String> {
    match op.value {
        Some(value) => {
            let own = op.revision.or_else(|| versions.revisions.get(&value).copied())?;
            let newer = key.at(revision).filter(|it| it.revision > own)?;
            Some(format!("{value} is of {own}, and there is {}", newer.revision))
        }
        None => {
            let removed = key.absent_from(revision, op.returned).is_some() || key.may_be_removed_by(op.returned);
            (!removed).then(|| format!("there has been something since {:?}", key.at(revision).map(|it| it.revision)))
        }
    }
}

/// Each read, in the order in which they began, with the newest revision that was known before it.
fn with_floors(mut reads: Vec<&Op>, mut known: Vec<(Nanos, u64)>) -> impl Iterator<Item = (&Op, u64)> {
    known.sort_unstable();
    reads.sort_unstable_by_key(|it| it.invoked);
    let (mut known, mut floor) = (known.into_iter().peekable(), 0);
    reads.into_iter().map(move |read| {
        while let Some((_, revision)) = known.next_if(|(returned, _)| *returned < read.invoked) {
            floor = revision.max(floor);
        }
        (read, floor)
    })
}

/// No linearizable read is older than what was acknowledged, or read so, before it began.
fn fresh(key: &Key, versions: &Versions, reads: Vec<&Op>, check: &mut Check) {
    let mut known: Vec<(Nanos, u64)> = key.versions.iter().map(|it| (it.returned, it.revision)).collect();
    for read in &reads {
        let revision = read.value.and_then(|it| versions.revisions.get(&it)).copied();
        known.extend(read.revision.or(revision).map(|it| (read.returned, it)));
    }
    for (read, floor) in with_floors(reads, known) {
        if let Some(why) = older_than(key, versions, read, floor) {
            check.anomaly(format!("a stale read, {floor} was known before: {why}: {read:?}"));
        }
    }
}

/// The revision that a linearizable read names is not below any write that was acknowledged before it began.
fn behind_writes(versions: &Versions, reads: Vec<&Op>, check: &mut Check) {
    let all = versions.keys.values().flat_map(|key| key.versions.iter().map(|it| (it.returned, it.revision)));
    for (read, floor) in with_floors(reads, all.collect()) {
        if let Some(as_of) = read.as_of.filter(|it| *it < floor) {
            check.anomaly(format!("a linearizable read as of {as_of}, but {floor} was acknowledged before: {read:?}"));
        }
    }
}

/// Faults that end a process, or may.
const RESTARTS: [&str; 9] =
    ["kill", "bounce", "power-loss", "power-loss-all", "disk-error", "disk-full", "bit-flip", "membership", "clock"];
/// A node that comes back answers with what is on its own disk if it does not hear from a majority for 1.5 s; an entry that
/// only the others have on theirs is not in it. After this long it has heard.
const RETURN: Nanos = 4 * SECOND;

/// The last restart that began before a time: its beginning and its end.
fn last_restart(history: &History, time: Nanos) -> (Nanos, Nanos) {
    let restarts = history.faults.iter().filter(|it| it.from <= time && RESTARTS.contains(&&*it.kind));
    restarts.max_by_key(|it| it.from).map_or((0, 0), |it| (it.from, it.to))
}

/// What one node answers never goes back, whatever level was asked for, and includes what that node acknowledged: in one
/// life of its process, and over its restarts once it has heard from the others again.
pub fn nodes(history: &History, versions: &Versions) -> Check {
    let mut check = Check::new("node-monotonic");
    let empty = Key::default();
    let mut all: HashMap<(u64, u32), Vec<&Op>> = HashMap::new();
    for op in history.ops.iter().filter(|it| it.outcome == Outcome::Ok) {
        all.entry((op.node, op.key)).or_default().push(op);
    }
    for ((_, key), ops) in all {
        let key = versions.keys.get(&key).unwrap_or(&empty);
        let revision = |op: &Op| op.revision.or_else(|| op.value.and_then(|it| versions.revisions.get(&it)).copied());
        let mut known: Vec<(Nanos, u64)> =
            ops.iter().filter_map(|op| revision(op).map(|it| (op.returned, it))).collect();
        known.sort_unstable();
        let mut reads: Vec<&Op> = ops.into_iter().filter(|op| matches!(op.call, Call::Read(_))).collect();
        reads.sort_unstable_by_key(|it| it.invoked);
        let mut known = known.into_iter().peekable();
        let (mut ever, mut in_this_life, mut began) = (0, 0, 0);
        for read in reads {
            check.looked_at += 1;
            let (restart, end) = last_restart(history, read.invoked);
            if restart != began {
                (in_this_life, began) = (0, restart);
            }
            while let Some((returned, revision)) = known.next_if(|(returned, _)| *returned < read.invoked) {
                ever = revision.max(ever);
                if returned >= began {
                    in_this_life = revision.max(in_this_life);
                }
            }
            let floor = if read.invoked >= end + RETURN || began == 0 { ever } else { in_this_life };
            if let Some(why) = older_than(key, versions, read, floor) {
                check.anomaly(format!("a node went back, it had answered {floor}: {why}: {read:?}"));
            }
        }
    }
    check.finish()
}
