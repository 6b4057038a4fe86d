//! Whether the run tried what it was to try. A fault that did not bite shows nothing, however well the rest looks.
use std::collections::BTreeMap;

use super::Check;
use crate::history::{Call, History, Outcome};

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
    check.finish()
}
