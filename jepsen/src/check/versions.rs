//! Which write made which revision of a key, put together from all that was seen.
use std::collections::{BTreeMap, HashMap};

use crate::history::{History, NEVER, Nanos, Outcome, Value};

/// A revision of a key that certainly exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub revision: u64,
    /// `None`: removed.
    pub value: Option<Value>,
    pub invoked: Nanos,
    /// By when it had happened.
    pub returned: Nanos,
    /// The operation that made it.
    pub op: usize,
}

/// What is known of one key.
#[derive(Debug, Clone, Default)]
pub struct Key {
    /// By revision.
    pub versions: Vec<Version>,
    /// When removals began of which nobody knows whether, or where, they happened.
    pub open_removals: Vec<Nanos>,
    /// The same of all writes.
    pub open_writes: Vec<Nanos>,
}

impl Key {
    /// The newest version up to a revision.
    pub fn at(&self, revision: u64) -> Option<&Version> {
        let after = self.versions.partition_point(|it| it.revision <= revision);
        after.checked_sub(1).map(|at| &self.versions[at])
    }

    /// The oldest version in which there is nothing, at or after a revision, among those that had begun by some time. 0:
    /// nothing was ever written.
    pub fn absent_from(&self, revision: u64, by: Nanos) -> Option<u64> {
        let current = self.at(revision);
        if current.is_none_or(|it| it.value.is_none()) {
            return Some(current.map_or(0, |it| it.revision));
        }
        let after = self.versions.partition_point(|it| it.revision <= revision);
        let removed = self.versions[after..].iter().find(|it| it.value.is_none() && it.invoked <= by);
        removed.map(|it| it.revision)
    }

    /// Whether a removal of which nobody knows had begun by then.
    pub fn may_be_removed_by(&self, time: Nanos) -> bool {
        self.open_removals.iter().any(|it| *it <= time)
    }
}

/// What is known of all keys.
#[derive(Debug, Clone, Default)]
pub struct Versions {
    pub keys: BTreeMap<u32, Key>,
    /// The operation that writes a content.
    pub writes: HashMap<Value, usize>,
    /// The revision of a content, where anybody was told.
    pub revisions: HashMap<Value, u64>,
    /// By when a content had been seen by anyone.
    pub seen: HashMap<Value, Nanos>,
    /// Two revisions for one content.
    pub contradictions: Vec<String>,
}

impl Versions {
    /// Puts together what a history says.
    pub fn of(history: &History) -> Self {
        let mut it = Self::default();
        for (at, op) in history.ops.iter().enumerate() {
            if let Some(Some(value)) = op.writes() {
                it.writes.insert(value, at);
                if let (Outcome::Ok, Some(revision)) = (op.outcome, op.revision) {
                    it.revisions.insert(value, revision);
                }
            }
        }
        for op in &history.ops {
            if let (None, Outcome::Ok, Some(value)) = (op.writes(), op.outcome, op.value) {
                it.see(value, op.revision, op.returned);
            }
        }
        for delivery in &history.deliveries {
            if let Some(value) = delivery.value {
                it.see(value, delivery.revision, delivery.read);
            }
        }
        it.collect(history);
        it
    }

    fn see(&mut self, value: Value, revision: Option<u64>, when: Nanos) {
        let seen = self.seen.entry(value).or_insert(when);
        *seen = when.min(*seen);
        if let Some(revision) = revision {
            let known = *self.revisions.entry(value).or_insert(revision);
            if known != revision {
                self.contradictions.push(format!("{value} was written as revision {known} and read as {revision}"));
            }
        }
    }

    fn collect(&mut self, history: &History) {
        for (at, op) in history.ops.iter().enumerate() {
            let Some(value) = op.writes() else { continue };
            let key = self.keys.entry(op.key).or_default();
            let seen = value.and_then(|it| self.seen.get(&it)).copied();
            let happened = match (op.outcome, seen) {
                (Outcome::Ok, _) => Some(op.returned),
                (Outcome::Info, Some(seen)) => Some(seen),
                (Outcome::Info, None) => None,
                (Outcome::Conflict | Outcome::Fail, _) => continue,
            };
            let told = op.revision.filter(|_| op.outcome == Outcome::Ok);
            let revision = told.or_else(|| value.and_then(|it| self.revisions.get(&it)).copied());
            match (happened, revision) {
                (Some(returned), Some(revision)) => {
                    key.versions.push(Version { revision, value, invoked: op.invoked, returned, op: at });
                }
                (_, _) => {
                    key.open_writes.push(op.invoked);
                    if value.is_none() {
                        key.open_removals.push(op.invoked);
                    }
                }
            }
        }
        for key in self.keys.values_mut() {
            key.versions.sort_unstable_by_key(|it| it.revision);
        }
    }

    /// By when an operation had happened; [`NEVER`] when nobody knows.
    pub fn happened_by(&self, history: &History, at: usize) -> Nanos {
        let op = &history.ops[at];
        let seen = op.writes().flatten().and_then(|it| self.seen.get(&it)).copied();
        if op.outcome == Outcome::Info { seen.unwrap_or(NEVER) } else { op.returned }
    }
}
