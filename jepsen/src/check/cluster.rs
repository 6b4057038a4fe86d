//! The nodes as such: the same state everywhere, and no line that only a bug writes.
use super::Check;
use crate::history::History;

/// Equal state at equal index.
pub fn states(history: &History) -> Check {
    let mut check = Check::new("equal-state");
    for pair in history.states.windows(2) {
        check.looked_at += 1;
        let [a, b] = pair else { continue };
        if a.applied != b.applied {
            check.unknown(format!("nodes {} and {} stand at {} and {}", a.node, b.node, a.applied, b.applied));
        } else if (a.rows, &a.hash) != (b.rows, &b.hash) {
            check.anomaly(format!("two states at entry {}: {a:?}, {b:?}", a.applied));
        }
    }
    check.finish()
}

/// No panic.
pub fn panics(history: &History) -> Check {
    let mut check = Check::new("no-panic");
    check.looked_at = 1;
    for line in &history.panics {
        check.anomaly(line.clone());
    }
    check
}
