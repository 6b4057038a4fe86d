//! Every check is shown to fail: each case plants one anomaly in a history that is sound.
use super::*;
use crate::history::{
    Call, Delivery, Fault, Level, Logged, NEVER, Nanos, Op, Outcome, SECOND, Silence, Stand, StateAt, Value,
};

const A: Value = Value(1 << 32 | 1);
const B: Value = Value(1 << 32 | 2);
const C: Value = Value(2 << 32 | 1);

fn op(process: u32, call: Call, span: (Nanos, Nanos)) -> Op {
    let (invoked, returned) = (span.0 * SECOND, if span.1 == NEVER { NEVER } else { span.1 * SECOND });
    let outcome = if returned == NEVER { Outcome::Info } else { Outcome::Ok };
    Op { process, node: 1, key: 0, call, invoked, returned, outcome, value: None, revision: None, as_of: None, sent: 1 }
}

fn put(value: Value, revision: u64, span: (Nanos, Nanos)) -> Op {
    let revision = (span.1 != NEVER).then_some(revision);
    Op { revision, ..op(1, Call::Put { value }, span) }
}

fn cas(expected: Value, value: Value, revision: u64, span: (Nanos, Nanos)) -> Op {
    Op { revision: Some(revision), ..op(2, Call::Cas { expected, value }, span) }
}

fn remove(revision: u64, span: (Nanos, Nanos)) -> Op {
    Op { revision: Some(revision), ..op(3, Call::Delete, span) }
}

fn read(value: Option<Value>, revision: u64, span: (Nanos, Nanos)) -> Op {
    let own = value.map(|_| revision);
    Op { value, revision: own, as_of: Some(revision), ..op(4, Call::Read(Level::Linearizable), span) }
}

fn told(value: Option<Value>, revision: u64, at: Nanos) -> Delivery {
    Delivery {
        subscriber: 1,
        session: 1,
        node: 1,
        read_node: 1,
        key: 0,
        told: at * SECOND,
        read: at * SECOND,
        value,
        revision: value.map(|_| revision),
        as_of: Some(revision),
        at_least: Some(revision),
    }
}

fn stand(value: Option<Value>) -> Stand {
    Stand { subscriber: 1, name: "one".into(), connected: true, known: vec![(0, value)] }
}

fn state(node: u64, hash: &str) -> StateAt {
    StateAt { node, applied: 40, rows: 1, hash: hash.into() }
}

/// Some entries at the end of the log of a node.
fn log(node: u64) -> Vec<Logged> {
    let entry = |index| Logged { node, term: 1, index, key: None, value: None };
    let of = |index, value| Logged { key: Some(0), value, ..entry(index) };
    (29..40).map(|index| if index == 30 { of(30, None) } else { entry(index) }).chain([of(40, Some(C))]).collect()
}

/// A publish, a compare-and-set, a removal, a publish of unknown outcome that turns up, all told.
fn sound() -> History {
    History {
        ops: vec![
            put(A, 10, (1, 2)),
            read(Some(A), 10, (3, 4)),
            cas(A, B, 20, (5, 6)),
            read(Some(B), 20, (7, 8)),
            remove(30, (9, 10)),
            read(None, 30, (11, 12)),
            put(C, 40, (13, NEVER)),
            read(Some(C), 40, (17, 18)),
        ],
        deliveries: vec![told(Some(A), 10, 2), told(Some(B), 20, 6), told(None, 30, 10), told(Some(C), 40, 19)],
        silences: vec![],
        faults: vec![Fault {
            kind: "kill".into(),
            detail: "all".into(),
            from: 14 * SECOND,
            to: 15 * SECOND,
            evidence: Some("gone".into()),
            skipped: None,
        }],
        stands: vec![stand(Some(C))],
        states: vec![state(1, "x"), state(2, "x")],
        logs: [1, 2].into_iter().flat_map(log).collect(),
        panics: vec![],
        strays: vec![],
        decoys: 1,
    }
}

fn failed(history: &History) -> Vec<&'static str> {
    all(history).into_iter().filter(|it| it.verdict != Verdict::True).map(|it| it.name).collect()
}

#[test]
fn a_sound_history_passes_every_check() {
    assert_eq!(failed(&sound()), Vec::<&str>::new(), "{:#?}", all(&sound()));
}

/// Plants something, and names a check that must say so.
fn planted(name: &str, expected: &[&str], plant: impl FnOnce(&mut History)) {
    let mut history = sound();
    plant(&mut history);
    let failed = failed(&history);
    for check in expected {
        assert!(failed.contains(check), "{name}: {check} passed; failed: {failed:?}");
    }
}

#[test]
fn anomalies_of_writes_and_reads_are_found() {
    planted("a lost write is not there", &["linearizable", "reads"], |it| {
        it.ops[1] = read(None, 10, (3, 4));
    });
    planted("a stale read", &["linearizable", "reads"], |it| it.ops[3] = read(Some(A), 10, (7, 8)));
    planted("what was removed is back", &["linearizable", "reads"], |it| it.ops[5] = read(Some(B), 20, (11, 12)));
    planted("a removal lost", &["linearizable", "reads"], |it| it.ops[7] = read(Some(B), 20, (17, 18)));
    planted("a phantom", &["linearizable", "reads"], |it| it.ops[1].value = Some(Value(99)));
    planted("something that nobody asked for is told", &["P9-isolation"], |it| it.strays.push("k1 of OTHER".into()));
    planted("nothing is there to be isolated from", &["P9-isolation"], |it| it.decoys = 0);
    planted("a foreign content", &["reads"], |it| it.ops[1].value = Some(Value::FOREIGN));
    planted("from the future", &["linearizable", "reads"], |it| it.ops[0].invoked = 5 * SECOND);
    planted("a write that failed is read", &["reads"], |it| {
        it.ops[0].outcome = Outcome::Fail;
    });
    planted("a compare-and-set over something else", &["linearizable", "writes-in-order"], |it| {
        it.ops[2] = cas(C, B, 20, (5, 6));
    });
    planted("a conflict where it would have held", &["linearizable"], |it| {
        it.ops[2].outcome = Outcome::Conflict;
        it.ops[2].revision = None;
        it.ops.truncate(3);
    });
    planted("revisions against time", &["linearizable", "writes-in-order"], |it| it.ops[2].revision = Some(5));
    planted("one revision twice", &["writes-in-order"], |it| it.ops[4].revision = Some(20));
    planted("two revisions of one content", &["writes-in-order"], |it| it.ops[1].revision = Some(9));
    planted("an unknown write turns up and goes again", &["linearizable", "reads"], |it| {
        it.ops.push(read(None, 40, (19, 20)));
    });
    planted("an answer older than it says", &["reads"], |it| {
        it.ops[3] = Op { call: Call::Read(Level::Local), ..read(Some(A), 10, (7, 8)) };
        it.ops[3].as_of = Some(20);
    });
    planted("minRevision ignored", &["reads"], |it| it.ops[1].call = Call::Read(Level::AtLeast(11)));
    planted("a node goes back", &["node-monotonic"], |it| {
        it.ops.push(Op { call: Call::Read(Level::Local), as_of: None, ..read(Some(A), 10, (9, 11)) });
    });
    planted("a node goes back after a restart, and stays there", &["node-monotonic"], |it| {
        it.faults.push(Fault { from: 8 * SECOND, to: 9 * SECOND, ..it.faults[0].clone() });
        it.ops.push(Op { call: Call::Read(Level::Local), as_of: None, ..read(Some(A), 10, (13, 14)) });
    });
    planted("a node forgets what it acknowledged", &["node-monotonic"], |it| {
        it.ops[1] = Op { call: Call::Read(Level::Local), as_of: None, ..read(None, 10, (3, 4)) };
    });
    planted("a read as of before a write of another key", &["reads"], |it| {
        it.ops.push(Op { key: 7, ..put(Value(77), 15, (2, 3)) });
        it.ops.push(Op { key: 8, ..read(None, 14, (4, 5)) });
    });
}

#[test]
fn anomalies_of_pushes_are_found() {
    planted("the last value is missed", &["P1-converges"], |it| it.stands[0] = stand(Some(B)));
    planted("a subscriber that is gone proves nothing", &["P1-converges"], |it| it.stands[0].connected = false);
    planted("told late", &["P2-in-time"], |it| {
        it.faults.clear();
        it.deliveries[0].read = 8 * SECOND;
    });
    planted("told backwards", &["P3-never-back"], |it| it.deliveries.push(told(Some(B), 20, 20)));
    planted("told that nothing is there", &["P3-never-back"], |it| it.deliveries.push(told(None, 40, 20)));
    planted("told what was there before nothing was", &["P3-never-back"], |it| {
        it.deliveries[2].as_of = Some(41);
    });
    planted("told a phantom", &["P4-committed-only"], |it| it.deliveries[1].value = Some(Value(99)));
    planted("told before it was written", &["P4-committed-only"], |it| {
        it.deliveries[1].read = 4 * SECOND;
        it.deliveries[0].read = SECOND;
    });
    planted("a poll sleeps through a change", &["P5-no-lost-wake-up"], |it| {
        it.faults.clear();
        let known = vec![(0, Some(A))];
        it.silences.push(Silence { subscriber: 1, node: 1, begun: 4 * SECOND, ended: 9 * SECOND, known });
    });
    planted("what was told cannot be read elsewhere", &["P6-told-is-readable"], |it| {
        it.deliveries[1] = Delivery { read_node: 2, at_least: Some(20), as_of: Some(20), ..told(Some(A), 10, 6) };
    });
    planted("no removal was told", &["P7-removals-are-told"], |it| {
        it.deliveries.remove(2);
    });
    planted("the same over and over", &["P8-twice-is-rare"], |it| {
        let last = it.deliveries[3];
        it.deliveries.extend([last; 9]);
    });
}

#[test]
fn of_two_removals_the_one_that_nobody_knows_may_be_the_one_that_was_told() {
    let mut history = sound();
    // A removal of unknown outcome, told as of 32, while one that is known to be at 34 was on its way already.
    let gone = Op { revision: None, ..remove(0, (9, NEVER)) };
    history.ops.extend([gone, Op { process: 5, ..put(Value(78), 31, (10, 11)) }]);
    history.ops.push(Op { process: 6, ..remove(34, (9, 13)) });
    let unknown = Delivery { as_of: Some(32), ..told(None, 34, 12) };
    let deliveries = [told(Some(Value(78)), 31, 11), unknown, told(Some(Value(79)), 33, 13)];
    history.ops.push(Op { process: 7, ..put(Value(79), 33, (12, 13)) });
    history.deliveries.splice(3..3, deliveries);
    let check = all(&history).into_iter().find(|it| it.name == "P3-never-back").unwrap();
    assert_eq!(check.verdict, Verdict::True, "{check:#?}");
}

#[test]
fn anomalies_of_logs_are_found() {
    let last = log(1).len() - 1;
    planted("an acknowledged removal is not in a log", &["log-replay"], |it| it.logs[1].key = None);
    planted("two logs", &["log-replay"], |it| it.logs[3].term = 2);
    planted("a hole", &["log-replay"], |it| {
        it.logs.remove(4);
    });
    planted("another content", &["log-replay"], |it| it.logs[last].value = Some(A));
    planted("a content that nobody wrote", &["log-replay"], |it| {
        it.logs[5] = Logged { key: Some(0), value: Some(Value(99)), ..it.logs[5] };
    });
    planted("a failed write is in the log", &["log-replay"], |it| it.ops[6].outcome = Outcome::Fail);
    planted("once asked for, twice in the log", &["log-replay"], |it| {
        for node in [0, last + 1] {
            it.logs[node + 6] = Logged { key: Some(0), value: Some(C), ..it.logs[node + 6] };
        }
    });
    planted("asked for again, and done again", &["log-replay"], |it| {
        it.ops[6] = Op { sent: 2, ..put(C, 40, (13, 16)) };
        for node in [0, last + 1] {
            it.logs[node + 6] = Logged { key: Some(0), value: Some(C), ..it.logs[node + 6] };
        }
    });
    planted("a log was not read", &["log-replay"], |it| it.logs.truncate(last + 1));
}

#[test]
fn differing_states_panics_and_faults_that_do_not_bite_are_found() {
    planted("two states", &["equal-state"], |it| it.states[1].hash = "y".into());
    planted("states that cannot be compared", &["equal-state"], |it| it.states[1].applied = 41);
    planted("a panic", &["no-panic"], |it| it.panics.push("thread panicked".into()));
    planted("a fault that did not bite", &["coverage"], |it| it.faults[0].evidence = None);
    planted("no faults at all", &["coverage"], |it| it.faults.clear());
    planted("no writes at all", &["coverage", "linearizable"], |it| it.ops.clear());
}

#[test]
fn a_fault_that_cannot_be_tried_is_named_and_does_not_fail_the_run() {
    let mut history = sound();
    let skipped = Some("no nft here".into());
    history.faults.push(Fault { kind: "partition".into(), evidence: None, skipped, ..history.faults[0].clone() });
    assert_eq!(failed(&history), Vec::<&str>::new());
    let coverage = coverage::check(&history);
    assert!(coverage.notes.iter().any(|it| it.contains("partition: no nft here")), "{coverage:?}");
}
