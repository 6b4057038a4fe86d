//! Whether the run tried what it was to try. A fault that did not bite shows nothing, however well the rest looks.
use std::collections::BTreeMap;

use super::Check;
use crate::history::{Call, Fault, History, Nanos, Op, Outcome, SECOND};

/// Every planned fault bit, and every kind of operation succeeded.
pub fn check(history: &History) -> Check {
    let mut check = Check::new("coverage");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in &history.faults {
        match (&fault.skipped, &fault.evidence) {
            (Some(why), _) => check.notes.push(format!("skipped: {}: {why}", fault.kind)),
            (None, Some(_)) => {
                check.looked_at += 1;
                *kinds.entry(&fault.kind).or_default() += 1;
            }
            (None, None) => check.anomaly(format!("did not bite: {} ({})", fault.kind, fault.detail)),
        }
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    check.notes.push(format!("bit: {}", kinds.join(", ")));
    let ok = |wanted: fn(&Call) -> bool| {
        history.ops.iter().filter(|op| op.outcome == Outcome::Ok && wanted(&op.call)).count()
    };
    let counts = [
        ("publish", ok(|it| matches!(it, Call::Put { .. }))),
        ("compare-and-set", ok(|it| matches!(it, Call::Cas { .. }))),
        ("remove", ok(|it| matches!(it, Call::Delete))),
        ("read", ok(|it| matches!(it, Call::Read(_)))),
        ("deliveries", history.deliveries.len()),
    ];
    for (name, count) in counts {
        check.notes.push(format!("{count} × {name}"));
        if count == 0 {
            check.anomaly(format!("not one {name}"));
        }
    }
    check.notes.extend(writes_back(history));
    check.finish()
}

/// How long after a leader was killed the first write succeeded that was asked for after that.
fn writes_back(history: &History) -> Option<String> {
    let is_write = |op: &&Op| op.outcome == Outcome::Ok && !matches!(op.call, Call::Read(_));
    let mut writes: Vec<(Nanos, Nanos)> =
        history.ops.iter().filter(is_write).map(|op| (op.invoked, op.returned)).collect();
    writes.sort_unstable();
    let back = |fault: &Fault| {
        let after = &writes[writes.partition_point(|(invoked, _)| *invoked < fault.from)..];
        let mut first = Nanos::MAX;
        for (invoked, returned) in after {
            if *invoked > first {
                break;
            }
            first = first.min(*returned);
        }
        (first < Nanos::MAX).then(|| first - fault.from)
    };
    let leader_killed = |fault: &&Fault| fault.kind == "kill" && fault.detail == "Leader" && fault.evidence.is_some();
    let mut times: Vec<Nanos> = history.faults.iter().filter(leader_killed).filter_map(back).collect();
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    let seconds = |it: Nanos| it as f64 / SECOND as f64;
    let (half, most, last) = (at(50)?, at(99)?, times.last()?);
    Some(format!(
        "writes back after a killed leader: p50 {:.2} s, p99 {:.2} s, at most {:.2} s ({} times)",
        seconds(*half),
        seconds(*most),
        seconds(*last),
        times.len()
    ))
}
