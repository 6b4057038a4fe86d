//! What a history must look like. Checkers see histories only: neither nodes nor sockets.
pub mod cluster;
pub mod coverage;
pub mod linear;
pub mod log;
pub mod push;
pub mod sweep;
pub mod versions;
pub mod wgl;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::history::History;

/// How many anomalies of one check are told; the others are counted.
const SHOWN_MAX: usize = 6;

/// What a check says. `Unknown` is not a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    True,
    False,
    Unknown,
}

impl Verdict {
    /// The worse of two: false, then unknown, then true.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::True, Self::True) => Self::True,
        }
    }
}

/// A check and what it found.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// How many things were looked at. None at all is `Unknown`.
    pub looked_at: usize,
    pub anomalies: usize,
    /// The first of them, in words.
    pub shown: Vec<String>,
    /// Figures for a person.
    pub notes: Vec<String>,
}

impl Check {
    /// A check that has seen nothing yet.
    pub fn new(name: &'static str) -> Self {
        Self { name, verdict: Verdict::True, looked_at: 0, anomalies: 0, shown: Vec::new(), notes: Vec::new() }
    }

    /// What must not be is.
    pub fn anomaly(&mut self, what: String) {
        self.verdict = Verdict::False;
        self.anomalies += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(what);
        }
    }

    /// It cannot be told.
    pub fn unknown(&mut self, why: String) {
        self.verdict = self.verdict.and(Verdict::Unknown);
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(why);
        }
    }

    /// A check that looked at nothing shows nothing.
    pub fn finish(mut self) -> Self {
        if self.looked_at == 0 {
            self.unknown("there was nothing to look at".into());
        }
        self
    }
}

/// All checks.
pub fn all(history: &History) -> Vec<Check> {
    let versions = versions::Versions::of(history);
    let mut checks = vec![
        linear::check(history, &versions),
        sweep::writes(history, &versions),
        sweep::reads(history, &versions),
        sweep::nodes(history, &versions),
    ];
    checks.extend(push::all(history, &versions));
    checks.push(log::check(history, &versions));
    checks.push(cluster::states(history));
    checks.push(cluster::panics(history));
    checks.push(coverage::check(history));
    checks
}
