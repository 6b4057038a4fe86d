//! What must hold of what clients saw. The order of all changes is known: it is the chosen log, which the invariants put
//! together entry by entry; a model applies it by rules of its own, and every answer is compared with the model.
use std::collections::BTreeMap;

use coracle::{
    storage::{LogEntry, Payload, codec},
    types::{Command, ConfigKey, Consistency, Digest, LogId, Precondition, Variant},
};

/// One version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) key: u64,
    /// The one for [`crate::workload::BETA_IP`], not the one for everybody.
    pub(crate) beta: bool,
}

impl Place {
    fn of(key: &ConfigKey, variant: &Variant) -> Self {
        Self { key: key.data_id()[1..].parse().unwrap(), beta: *variant == Variant::Beta }
    }

    pub(crate) fn variant(self) -> Variant {
        if self.beta { Variant::Beta } else { Variant::Formal }
    }
}

/// What a client wanted to write.
#[derive(Debug, Clone, Hash)]
pub(crate) enum Wish {
    Put { place: Place, value: String, expected: Option<Digest> },
    Delete { place: Place },
}

/// What it was told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Written {
        revision: u64,
        changed: bool,
    },
    Rejected,
    /// 503: nothing was written, and nothing will be.
    NotWritten,
    Unknown,
    Failed,
}

/// A read that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) node: u64,
    pub(crate) key: u64,
    /// By a client that sees the beta version while there is one.
    pub(crate) beta: bool,
    pub(crate) consistency: Consistency,
    /// It must be at least as new as this.
    pub(crate) floor: u64,
    pub(crate) revision: u64,
    pub(crate) modified: Option<u64>,
    pub(crate) text: Option<String>,
}

struct Operation {
    node: u64,
    wish: Wish,
    /// What was acknowledged before it began.
    floor: u64,
    outcome: Option<Outcome>,
    chosen_at: Option<u64>,
}

/// What the model says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Changed,
    Unchanged,
    Rejected,
}

/// A value of a place from a revision on.
type Version = (u64, Option<String>);

#[derive(Default)]
pub(crate) struct Oracle {
    /// The newest revision that any client was told of by an acknowledgement or a linearizable read.
    pub(crate) acknowledged: u64,
    operations: Vec<Operation>,
    by_value: BTreeMap<String, usize>,
    values: u64,
    /// The chosen log from its beginning, without gaps.
    chosen: Vec<(LogEntry, Decision)>,
    model: BTreeMap<Place, Vec<Version>>,
    /// Reads and deliveries of revisions that are not in the chosen log yet.
    to_judge: Vec<Read>,
    /// Acknowledged writes of revisions that are not in the chosen log yet.
    to_confirm: Vec<usize>,
    pub(crate) checks: u64,
}

type Verdict = Result<(), String>;

impl Oracle {
    /// No two writes write the same.
    pub(crate) fn next_value(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }

    pub(crate) fn invoke(&mut self, node: u64, wish: Wish) -> usize {
        if let Wish::Put { value, .. } = &wish {
            self.by_value.insert(value.clone(), self.operations.len());
        }
        let floor = self.acknowledged;
        self.operations.push(Operation { node, wish, floor, outcome: None, chosen_at: None });
        self.operations.len() - 1
    }

    pub(crate) fn complete(&mut self, at: usize, outcome: Outcome) -> Verdict {
        self.checks += 1;
        let operation = &mut self.operations[at];
        operation.outcome = Some(outcome.clone());
        match outcome {
            Outcome::Written { revision, .. } => {
                if revision <= operation.floor {
                    return Err(format!(
                        "{} was acknowledged as revision {revision}, but {} had been acknowledged before it began",
                        operation.describe(),
                        operation.floor
                    ));
                }
                self.acknowledged = self.acknowledged.max(revision);
                self.to_confirm.push(at);
            }
            Outcome::NotWritten if operation.chosen_at.is_some() => return Err(operation.was_written_after_all()),
            Outcome::Rejected => self.to_confirm.push(at),
            Outcome::NotWritten | Outcome::Unknown | Outcome::Failed => {}
        }
        Ok(())
    }

    pub(crate) fn was_read(&mut self, read: Read) -> Verdict {
        self.checks += 1;
        if read.revision < read.floor {
            return Err(format!("a stale read: {read:?}"));
        }
        if read.consistency == Consistency::Linearizable {
            self.acknowledged = self.acknowledged.max(read.revision);
        }
        self.to_judge.push(read);
        Ok(())
    }

    /// Up to where the chosen log is known, without gaps.
    pub(crate) fn frontier(&self) -> Option<u64> {
        self.chosen.last().map(|(entry, _)| entry.id.index)
    }

    pub(crate) fn chosen(&self, index: u64) -> Option<&LogEntry> {
        let first = self.chosen.first()?.0.id.index;
        self.chosen.get(index.checked_sub(first)? as usize).map(|(entry, _)| entry)
    }

    pub(crate) fn chosen_before(&self, term: u64, node: u64) -> Option<LogId> {
        self.chosen.iter().rev().map(|(entry, _)| entry.id).find(|id| (id.term, id.node) < (term, node))
    }

    /// An entry that a node has applied: the next of the chosen log, or one that must be equal to what is there.
    pub(crate) fn applied(&mut self, node: u64, entry: &LogEntry) -> Verdict {
        self.checks += 1;
        if let Some(known) = self.chosen(entry.id.index) {
            if known == entry {
                return Ok(());
            }
            return Err(format!("n{node} has applied {} where {} is committed", entry.id, known.id));
        }
        let next = self.frontier().map_or(entry.id.index, |it| it + 1);
        if entry.id.index != next {
            // Somebody else will have what is in between.
            return Ok(());
        }
        let decision = self.decide(entry)?;
        self.chosen.push((entry.clone(), decision));
        Ok(())
    }

    fn current(&self, place: Place) -> Option<&String> {
        self.model.get(&place)?.last()?.1.as_ref()
    }

    fn decide(&mut self, entry: &LogEntry) -> Result<Decision, String> {
        let Payload::Proposal(bytes) = &entry.payload else { return Ok(Decision::Unchanged) };
        let proposal = codec::decode_proposal(bytes.clone()).map_err(|err| err.to_string())?;
        let index = entry.id.index;
        match proposal.command {
            Command::PublishConfig(publication) => {
                let place = Place::of(&publication.key, &publication.variant);
                let text = publication.content.text().to_owned();
                let at = self.by_value.get(&text).copied().ok_or_else(|| format!("nobody wrote {text}"))?;
                let operation = &mut self.operations[at];
                if let Some(before) = operation.chosen_at.replace(index) {
                    return Err(format!("{} is in the log twice, at {before} and {index}", operation.describe()));
                }
                if operation.outcome == Some(Outcome::NotWritten) {
                    return Err(operation.was_written_after_all());
                }
                let holds = match (publication.precondition, self.current(place)) {
                    (Precondition::DigestIsOrAbsent(expected), Some(current)) => {
                        Digest::of(current.as_bytes()) == expected
                    }
                    _ => true,
                };
                if !holds {
                    return Ok(Decision::Rejected);
                }
                self.model.entry(place).or_default().push((index, Some(text)));
                Ok(Decision::Changed)
            }
            Command::RemoveConfig { key, variant, .. } => {
                let place = Place::of(&key, &variant);
                if self.current(place).is_none() {
                    return Ok(Decision::Unchanged);
                }
                self.model.entry(place).or_default().push((index, None));
                Ok(Decision::Changed)
            }
            other @ (Command::CreateNamespace(_) | Command::UpdateNamespace(_) | Command::DeleteNamespace(_)) => {
                Err(format!("nobody asked for {other:?}"))
            }
        }
    }

    /// What a key was at a revision for those who see the beta version, or for all others, and since when.
    pub(crate) fn at(&self, key: u64, beta: bool, revision: u64) -> (Option<u64>, Option<&String>) {
        let place = |beta| {
            let versions = self.model.get(&Place { key, beta })?;
            let upto = versions.partition_point(|(since, _)| *since <= revision);
            let (since, text) = &versions[upto.checked_sub(1)?];
            Some((*since, text.as_ref()?))
        };
        let seen = beta.then(|| place(true)).flatten().or_else(|| place(false));
        seen.map_or((None, None), |(since, text)| (Some(since), Some(text)))
    }

    /// Judges all that the chosen log is now known for.
    pub(crate) fn judge(&mut self) -> Verdict {
        let frontier = self.frontier().unwrap_or_default();
        for read in self.to_judge.extract_if(.., |read| read.revision <= frontier).collect::<Vec<_>>() {
            self.checks += 1;
            let (modified, text) = self.at(read.key, read.beta, read.revision);
            if (modified, text) != (read.modified, read.text.as_ref()) {
                return Err(format!("{read:?}, but at that revision it was {text:?} since {modified:?}"));
            }
        }
        for at in std::mem::take(&mut self.to_confirm) {
            if !self.confirm(at, frontier)? {
                self.to_confirm.push(at);
            }
        }
        Ok(())
    }

    /// Whether the log says of this write what its client was told; `false` while it is not known.
    fn confirm(&mut self, at: usize, frontier: u64) -> Result<bool, String> {
        let operation = &self.operations[at];
        let (index, expected) = match (&operation.outcome, operation.chosen_at) {
            (Some(Outcome::Written { revision, .. }), _) if *revision > frontier => return Ok(false),
            (Some(Outcome::Written { revision, changed: true }), _) => (*revision, Decision::Changed),
            (Some(Outcome::Written { revision, changed: false }), _) => (*revision, Decision::Unchanged),
            (Some(Outcome::Rejected), None) => return Ok(false),
            (Some(Outcome::Rejected), Some(index)) => (index, Decision::Rejected),
            _ => return Ok(true),
        };
        self.checks += 1;
        let first = self.chosen.first().map_or(0, |(entry, _)| entry.id.index);
        let (entry, decision) = &self.chosen[(index - first) as usize];
        let same = match &operation.wish {
            Wish::Put { .. } => operation.chosen_at == Some(index),
            Wish::Delete { place } => matches!(&entry.payload, Payload::Proposal(bytes)
                if codec::decode_proposal(bytes.clone()).is_ok_and(|it| matches!(&it.command,
                    Command::RemoveConfig { key, variant, .. } if Place::of(key, variant) == *place))),
        };
        if !same || *decision != expected {
            return Err(format!(
                "{} was answered {:?}, but the log has it at {:?}, and {decision:?} at {index}",
                operation.describe(),
                operation.outcome,
                operation.chosen_at
            ));
        }
        Ok(true)
    }

    /// Nothing is left that the chosen log says nothing of.
    pub(crate) fn all_judged(&self) -> Verdict {
        if let Some(read) = self.to_judge.first() {
            return Err(format!("{read:?}, but no such revision was ever committed"));
        }
        if let Some(at) = self.to_confirm.first() {
            return Err(format!(
                "lost: {} was answered {:?}",
                self.operations[*at].describe(),
                self.operations[*at].outcome
            ));
        }
        Ok(())
    }

    /// Counts of operations by what came of them.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for operation in &self.operations {
            let name = match &operation.outcome {
                Some(Outcome::Written { .. }) => "acknowledged",
                Some(Outcome::Rejected) => "rejected",
                Some(Outcome::NotWritten) => "not written",
                Some(Outcome::Unknown | Outcome::Failed) | None => "unknown",
            };
            *counts.entry(name).or_default() += 1;
        }
        counts
    }
}

impl Operation {
    fn describe(&self) -> String {
        format!("{:?} at n{}", self.wish, self.node)
    }

    fn was_written_after_all(&self) -> String {
        format!(
            "{} was answered \"nothing was written\", but it is in the log at {:?}",
            self.describe(),
            self.chosen_at
        )
    }
}
