//! Linearizability of each key: a register with revisions, written, compared-and-set, removed and read.
use std::{collections::BTreeMap, time::Duration};

use super::{
    Check,
    versions::Versions,
    wgl::{self, Model, Order, Span},
};
use crate::history::{Call, History, Level, Op, Outcome, Value};

/// How long one key may take.
const TIME_MAX: Duration = Duration::from_secs(10);

/// One key.
struct Register;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// Of the last write whose revision is known.
    revision: u64,
    value: Option<Value>,
}

enum Step {
    Write { value: Option<Value>, revision: Option<u64>, expected: Option<Value> },
    Conflict { expected: Value },
    Read { value: Option<Value>, revision: Option<u64> },
}

impl Model for Register {
    type State = State;
    type Call = Step;

    fn initial() -> State {
        State { revision: 0, value: None }
    }

    fn step(state: &State, call: &Step) -> Option<State> {
        match call {
            Step::Write { value, revision, expected } => {
                // A compare-and-set of Nacos also holds where there is nothing.
                let holds = expected.is_none() || state.value.is_none() || state.value == *expected;
                let grows = revision.is_none_or(|it| it > state.revision);
                let after = State { revision: revision.unwrap_or(state.revision), value: *value };
                (holds && grows).then_some(after)
            }
            Step::Conflict { expected } => {
                (state.value.is_some() && state.value != Some(*expected)).then(|| state.clone())
            }
            Step::Read { value, .. } => (state.value == *value).then(|| state.clone()),
        }
    }

    fn rank(state: &State) -> u64 {
        state.revision
    }

    fn latest(call: &Step) -> u64 {
        match call {
            Step::Write { revision, .. } => revision.map_or(u64::MAX, |it| it.saturating_sub(1)),
            Step::Read { value: Some(_), revision } => revision.unwrap_or(u64::MAX),
            Step::Read { value: None, .. } | Step::Conflict { .. } => u64::MAX,
        }
    }
}

/// Every key by itself: linearizability is local.
pub fn check(history: &History, versions: &Versions) -> Check {
    let mut check = Check::new("linearizable");
    let mut keys: BTreeMap<u32, Vec<(Span<Step>, usize)>> = BTreeMap::new();
    for (at, op) in history.ops.iter().enumerate() {
        if let Some(step) = step(op, versions) {
            let returned = versions.happened_by(history, at);
            let span = Span { call: step, invoked: op.invoked, returned };
            keys.entry(op.key).or_default().push((span, at));
        }
    }
    let mut open = 0;
    for (key, spans) in keys {
        check.looked_at += spans.len();
        open += spans.iter().filter(|(span, _)| span.returned == u64::MAX).count();
        let (spans, ops): (Vec<_>, Vec<usize>) = spans.into_iter().unzip();
        match wgl::order::<Register>(&spans, TIME_MAX) {
            Order::Found => {}
            Order::None { stuck } => {
                let op = &history.ops[ops[stuck]];
                check.anomaly(format!(
                    "k{key}: no order of its {} operations; none has a place for {op:?}",
                    spans.len()
                ));
            }
            Order::TooLong => check.unknown(format!("k{key}: {} operations took too long to order", spans.len())),
        }
    }
    check.notes.push(format!("{open} operations whose outcome nobody learned"));
    check.finish()
}

/// What an operation says about the register; nothing, if it failed or promised nothing.
fn step(op: &Op, versions: &Versions) -> Option<Step> {
    match (op.outcome, op.call) {
        (Outcome::Fail, _) | (Outcome::Info, Call::Read(_)) => None,
        (Outcome::Conflict, Call::Cas { expected, .. }) => Some(Step::Conflict { expected }),
        (Outcome::Conflict, Call::Put { .. } | Call::Delete | Call::Read(_)) => None,
        (Outcome::Ok | Outcome::Info, Call::Put { value }) => Some(write(op, versions, value, None)),
        (Outcome::Ok | Outcome::Info, Call::Cas { expected, value }) => {
            Some(write(op, versions, value, Some(expected)))
        }
        (Outcome::Ok | Outcome::Info, Call::Delete) => {
            let revision = op.revision.filter(|_| op.outcome == Outcome::Ok);
            Some(Step::Write { value: None, revision, expected: None })
        }
        (Outcome::Ok, Call::Read(Level::Linearizable)) => {
            let known = op.value.and_then(|it| versions.revisions.get(&it)).copied();
            Some(Step::Read { value: op.value, revision: op.revision.or(known) })
        }
        (Outcome::Ok, Call::Read(Level::Local | Level::AtLeast(_))) => None,
    }
}

fn write(op: &Op, versions: &Versions, value: Value, expected: Option<Value>) -> Step {
    let told = op.revision.filter(|_| op.outcome == Outcome::Ok);
    let revision = told.or_else(|| versions.revisions.get(&value).copied());
    Step::Write { value: Some(value), revision, expected }
}
