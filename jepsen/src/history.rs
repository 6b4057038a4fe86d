//! What was asked, told and broken in a run, on one clock: that of the control process.
use std::fmt;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

/// Nanoseconds since the run began.
pub type Nanos = u64;
/// The return of an operation of which nobody knows whether it will still happen.
pub const NEVER: Nanos = u64::MAX;
/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// A content. Every write has one of its own, so that a content says which write it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Value(pub u64);

impl Value {
    /// A content that no write of a run has.
    pub const FOREIGN: Self = Self(u64::MAX);

    /// The n-th content of a writer.
    pub fn new(writer: u32, serial: u32) -> Self {
        Self(u64::from(writer) << 32 | u64::from(serial))
    }

    /// Reads a content back.
    pub fn parse(text: &str) -> Self {
        let parts = text.strip_prefix('v').and_then(|it| it.split_once('-'));
        let numbers = parts.and_then(|(writer, serial)| Some((writer.parse().ok()?, serial.parse().ok()?)));
        numbers.map_or(Self::FOREIGN, |(writer, serial)| Self::new(writer, serial))
    }

    /// What clients of Nacos compare.
    pub fn md5(self) -> String {
        hex_md5(self.to_string().as_bytes())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}-{}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// The MD5 of some bytes, as Nacos spells it.
pub fn hex_md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How new a read was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// What the node has applied.
    Local,
    /// At least this revision.
    AtLeast(u64),
    /// Everything that was acknowledged before.
    Linearizable,
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    Put { value: Value },
    Cas { expected: Value, value: Value },
    Delete,
    Read(Level),
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// A compare-and-set found something else.
    Conflict,
    /// It certainly did not happen, and never will.
    Fail,
    /// It may have happened, may happen, or may never.
    Info,
}

/// One operation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Who asked. A process has one operation at a time; it gets a new number after `Info`.
    pub process: u32,
    /// The id of the node that was asked.
    pub node: u64,
    pub key: u32,
    pub call: Call,
    pub invoked: Nanos,
    /// [`NEVER`] for `Info`.
    pub returned: Nanos,
    pub outcome: Outcome,
    /// What a read saw.
    pub value: Option<Value>,
    /// Of a write, its own; of a read, that of the content. Not known over gRPC.
    pub revision: Option<u64>,
    /// Of a read: the answer is at least as new as this.
    pub as_of: Option<u64>,
    /// How often it was sent, each time with the same request id.
    #[serde(default = "once")]
    pub sent: u32,
}

const fn once() -> u32 {
    1
}

impl Op {
    /// The content it writes: `Some(None)` for a removal.
    pub fn writes(&self) -> Option<Option<Value>> {
        match self.call {
            Call::Put { value } | Call::Cas { value, .. } => Some(Some(value)),
            Call::Delete => Some(None),
            Call::Read(_) => None,
        }
    }
}

/// A subscriber was told of a key, and has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub subscriber: u32,
    /// Counts the connections of a subscriber.
    pub session: u32,
    /// The id of the node that told.
    pub node: u64,
    /// The id of the node that was read.
    pub read_node: u64,
    pub key: u32,
    pub told: Nanos,
    pub read: Nanos,
    pub value: Option<Value>,
    pub revision: Option<u64>,
    pub as_of: Option<u64>,
    /// The revision that the read had to have at least.
    pub at_least: Option<u64>,
}

/// A long poll that said nothing had changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    pub subscriber: u32,
    pub node: u64,
    pub begun: Nanos,
    pub ended: Nanos,
    /// What the subscriber had.
    pub known: Vec<(u32, Option<Value>)>,
}

/// A fault that was injected, or one that could not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind.
    pub kind: String,
    /// What exactly was done.
    pub detail: String,
    pub from: Nanos,
    pub to: Nanos,
    /// What shows that it bit; `None` when nothing did.
    pub evidence: Option<String>,
    /// Why it could not be tried here.
    pub skipped: Option<String>,
}

/// Where a subscriber stood at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stand {
    pub subscriber: u32,
    /// A person's name for it.
    pub name: String,
    /// Whether it was connected when it was asked.
    pub connected: bool,
    /// What it believes of each key that it listens to.
    pub known: Vec<(u32, Option<Value>)>,
}

/// A node's answer about its state at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateAt {
    pub node: u64,
    pub applied: u64,
    pub rows: u64,
    pub hash: String,
}

/// An entry of a node's log, as it stands in its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    pub node: u64,
    pub term: u64,
    pub index: u64,
    /// `None`: it is not about a key.
    pub key: Option<u32>,
    /// `None`: a removal.
    pub value: Option<Value>,
}

/// Everything that was recorded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    pub ops: Vec<Op>,
    pub deliveries: Vec<Delivery>,
    pub silences: Vec<Silence>,
    pub faults: Vec<Fault>,
    pub stands: Vec<Stand>,
    pub states: Vec<StateAt>,
    pub logs: Vec<Logged>,
    /// Lines of the nodes' logs that no healthy program writes.
    pub panics: Vec<String>,
    /// What subscribers were told of without having asked for it.
    pub strays: Vec<String>,
    /// Changes of configurations that nobody listens to, but for one part of their names the same as those that are.
    pub decoys: u64,
}

impl History {
    /// Whether a fault was going on, or had ended less than `grace` before, at any time of the span.
    pub fn troubled(&self, from: Nanos, to: Nanos, grace: Nanos) -> bool {
        let hurts = |it: &Fault| it.skipped.is_none() && it.from <= to && from <= it.to.saturating_add(grace);
        self.faults.iter().any(hurts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_say_which_write_they_came_from() {
        let value = Value::new(7, 12);
        assert_eq!(value.to_string(), "v7-12");
        assert_eq!(Value::parse("v7-12"), value);
        for foreign in ["", "v", "v7", "7-12", "vx-1", "v1--1"] {
            assert_eq!(Value::parse(foreign), Value::FOREIGN, "{foreign:?}");
        }
        assert_eq!(hex_md5(b"hello"), "5d41402abc4b2a76b9719d911017c592");
    }
}
