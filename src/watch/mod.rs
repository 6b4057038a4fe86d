//! Who wants to hear about which key. Carries keys, never contents: a woken reader fetches the newest value itself, so
//! a subscriber needs no queue, only a set of dirty keys.
//!
//! What a watch promises:
//! 1. *Commit before publish*: whoever wakes finds the new value (`replication::Applier` keeps this).
//! 2. *Register before compare*: a change after the registration marks the watcher (`service::listen` keeps this).
//! 3. *A mark may be spurious*: compare again before answering.
//! 4. *A snapshot marks everybody*: no event tells what it changed. Who watches a pattern looks up what matches again.
//! 5. *Dropping the [`Watcher`] deregisters*: a time-out, a cancelled request, a closed connection leave nothing behind.
//! 6. *A push counts as delivered only when acknowledged*; otherwise the key is marked again ([`Watcher::mark`]).
mod hub;

/// The primitives that the hub is built on, in one place so that a model checker can stand in for them.
mod sync {
    pub(super) use std::sync::{Arc, Mutex, MutexGuard};
}

pub use hub::{Dirty, Hub, Watcher};
