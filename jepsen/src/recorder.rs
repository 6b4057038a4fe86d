//! Where everybody writes down what happened, on one clock.
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::history::{Delivery, Fault, History, Nanos, Op, Silence};

/// A history in the making.
pub struct Recorder {
    began: Instant,
    history: Mutex<History>,
}

impl Recorder {
    pub fn new() -> Self {
        Self { began: Instant::now(), history: Mutex::default() }
    }

    pub fn now(&self) -> Nanos {
        self.began.elapsed().as_nanos() as Nanos
    }

    /// The history; never held across a wait.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn op(&self, op: Op) {
        self.history().ops.push(op);
    }

    pub fn delivery(&self, delivery: Delivery) {
        self.history().deliveries.push(delivery);
    }

    pub fn silence(&self, silence: Silence) {
        self.history().silences.push(silence);
    }

    /// A subscriber was told of what it did not ask for.
    pub fn stray(&self, subscriber: u32, what: String) {
        self.history().strays.push(format!("subscriber {subscriber} was told of {what}"));
    }

    /// Something was changed that nobody listens to.
    pub fn decoy(&self) {
        self.history().decoys += 1;
    }

    /// Says it to whoever watches, too.
    pub fn fault(&self, fault: Fault) {
        let seconds = |at: Nanos| at as f64 / 1e9;
        let what = match (&fault.skipped, &fault.evidence) {
            (Some(why), _) => format!("skipped: {why}"),
            (None, Some(evidence)) => format!("bit: {evidence}"),
            (None, None) => "DID NOT BITE".into(),
        };
        println!("{:7.1}-{:.1} s  {} ({}): {what}", seconds(fault.from), seconds(fault.to), fault.kind, fault.detail);
        self.history().faults.push(fault);
    }
}
