//! The logs of the nodes, read from their files at the end: one log, with everything in it that was acknowledged, nothing of
//! what certainly did not happen, and nothing more often than it was asked for.
use std::collections::BTreeMap;

use super::{Check, versions::Versions};
use crate::history::{Call, History, Logged, Outcome, Value};

/// As far back as the files go.
pub fn check(history: &History, versions: &Versions) -> Check {
    let mut check = Check::new("log-replay");
    let applied = history.states.iter().map(|it| it.applied).min().unwrap_or(0);
    let mut logs: BTreeMap<u64, BTreeMap<u64, &Logged>> = BTreeMap::new();
    for entry in history.logs.iter().filter(|it| it.index <= applied) {
        logs.entry(entry.node).or_default().insert(entry.index, entry);
    }
    if logs.len() < history.states.len() {
        check.unknown(format!("{} logs of {} nodes were read", logs.len(), history.states.len()));
    }
    let Some(longest) = logs.values().max_by_key(|it| it.len()) else { return check.finish() };
    for (node, log) in &logs {
        let first = log.keys().next().copied().unwrap_or(0);
        if log.len() as u64 != applied + 1 - first {
            check.anomaly(format!("the log of node {node} has {} entries from {first} to {applied}", log.len()));
        }
        for (index, entry) in log {
            check.looked_at += 1;
            let same = |it: &Logged| (it.term, it.key, it.value) == (entry.term, entry.key, entry.value);
            if longest.get(index).is_some_and(|it| !same(it)) {
                check.anomaly(format!("two entries at {index}: {entry:?}, {:?}", longest[index]));
            }
        }
        acknowledged(versions, log, *node, &mut check);
        check.notes.push(format!("node {node}: entries {first} to {applied}"));
    }
    unknown_and_failed(history, versions, longest, &mut check);
    once(history, versions, longest, &mut check);
    check.finish()
}

fn acknowledged(versions: &Versions, log: &BTreeMap<u64, &Logged>, node: u64, check: &mut Check) {
    let (Some(first), Some(last)) = (log.keys().next(), log.keys().next_back()) else { return };
    for (key, known) in &versions.keys {
        for version in known.versions.iter().filter(|it| (*first..=*last).contains(&it.revision)) {
            let there = log.get(&version.revision);
            if there.is_none_or(|it| it.key != Some(*key) || it.value != version.value) {
                check.anomaly(format!("k{key} is {version:?}, but in the log of node {node} stands {there:?}"));
            }
        }
    }
}

fn unknown_and_failed(history: &History, versions: &Versions, log: &BTreeMap<u64, &Logged>, check: &mut Check) {
    let mut turned_up = 0;
    for entry in log.values() {
        let write = entry.value.and_then(|it| versions.writes.get(&it)).map(|it| &history.ops[*it]);
        match (write, entry.key, entry.value) {
            (Some(write), _, _) if write.outcome == Outcome::Fail => {
                check.anomaly(format!("a write that certainly did not happen is in the log: {entry:?}, {write:?}"));
            }
            (Some(write), _, _) => turned_up += usize::from(write.outcome == Outcome::Info),
            (None, Some(_), Some(_)) => check.anomaly(format!("nobody wrote this: {entry:?}")),
            (None, _, _) => {}
        }
    }
    check.notes.push(format!("{turned_up} writes of unknown outcome are in the log"));
}

/// A write is in the log at most as often as its client sent it; and of a publish that was sent again, the first time counts.
fn once(history: &History, versions: &Versions, log: &BTreeMap<u64, &Logged>, check: &mut Check) {
    let mut places: BTreeMap<(u32, Value), Vec<u64>> = BTreeMap::new();
    for entry in log.values() {
        if let (Some(key), Some(value)) = (entry.key, entry.value) {
            places.entry((key, value)).or_default().push(entry.index);
        }
    }
    let mut again = 0;
    for ((_, value), at) in &places {
        let Some(write) = versions.writes.get(value).map(|it| &history.ops[*it]) else { continue };
        if at.len() > write.sent as usize {
            check.anomaly(format!("sent {} times, in the log at {at:?}: {write:?}", write.sent));
        }
        again += usize::from(at.len() > 1);
        // A compare-and-set may have been refused the first time: refusals are not remembered.
        if let (Call::Put { .. }, Outcome::Ok, Some(revision)) = (write.call, write.outcome, write.revision)
            && at[0] < revision
        {
            check.anomaly(format!("done at {} and again at {revision}: {write:?}", at[0]));
        }
    }
    let sent_again = history.ops.iter().filter(|it| it.sent > 1).count();
    check.notes.push(format!("{sent_again} writes were sent again, of which {again} are in the log more than once"));
}
