//! What a run knows: the nodes, the subscribers, the oracle, what was violated, and a hash of all that happened.
use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard},
};

use coracle::{
    clock::ManualClock,
    replication::{AdministrationError, Role},
    types::{Consistency, Digest, Millis},
};

use crate::{
    Random,
    node::{Command, Disk, PORT, Running, host, locked},
    oracle::{Oracle, Outcome, Read, Wish},
    planted::Plant,
    workload::{KEYS, seen},
};

pub(crate) const SESSIONS: usize = 4;
/// A subscriber that waits knows what its node has, but for this long at most: it is woken in the same instant.
const UNAWARE_MS_MAX: u64 = 60;
/// So many of the last events are shown with a violation.
const EVENTS_KEPT: usize = 40;

/// A run, as its nodes share it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        locked(&self.0)
    }
}

/// A node that is or was.
pub(crate) struct Slot {
    pub(crate) disk: Disk,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) skew_ms: u64,
    pub(crate) life: u64,
    pub(crate) running: Option<Running>,
    pub(crate) removed: bool,
    pub(crate) disk_failed: bool,
    /// Acknowledged anywhere when this life began.
    floor_at_start: u64,
    /// Told to anybody by this node in this life.
    told: u64,
    pub(crate) written: u64,
}

impl Slot {
    pub(crate) fn new(cluster: u64) -> Self {
        Self {
            disk: Disk::new(cluster),
            clock: Arc::default(),
            skew_ms: 0,
            life: 0,
            running: None,
            removed: false,
            disk_failed: false,
            floor_at_start: 0,
            told: 0,
            written: 0,
        }
    }
}

/// What a subscriber knows of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    revision: u64,
    pub(crate) digest: Option<Digest>,
}

/// A subscriber, which goes from node to node.
pub(crate) struct Session {
    /// It sees beta versions.
    pub(crate) beta: bool,
    pub(crate) node: u64,
    pub(crate) epoch: u64,
    /// The epoch that a node serves, or is about to.
    taken: u64,
    pub(crate) attached: bool,
    pub(crate) known: BTreeMap<u64, Known>,
    newest: u64,
    unaware_since: Option<u64>,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) plant: Plant,
    pub(crate) now_ms: u64,
    pub(crate) slots: BTreeMap<u64, Slot>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) oracle: Oracle,
    /// The workload has ended.
    pub(crate) quiet: bool,
    pub(crate) violation: Option<String>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) chance: Random,
    trace: bool,
    /// Removed by the cluster, and to be shut down.
    pub(crate) to_retire: Vec<u64>,
    hash: DefaultHasher,
    events: Vec<String>,
    founders: BTreeMap<u64, String>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: u64, plant: Plant) -> Self {
        let founders: BTreeMap<u64, String> = (1..=nodes).map(|id| (id, format!("{}:{PORT}", host(id)))).collect();
        let session = |at: usize| Session {
            beta: at >= SESSIONS / 2,
            node: at as u64 % nodes + 1,
            epoch: 1,
            taken: 0,
            attached: false,
            known: BTreeMap::new(),
            newest: 0,
            unaware_since: None,
        };
        Self {
            seed,
            plant,
            now_ms: 0,
            slots: founders.keys().map(|id| (*id, Slot::new(77))).collect(),
            sessions: (0..SESSIONS).map(session).collect(),
            oracle: Oracle::default(),
            quiet: false,
            violation: None,
            counts: BTreeMap::new(),
            chance: Random::new(&[seed, 0x77]),
            trace: std::env::vars().any(|(name, _)| name == "CORACLE_SIM_TRACE"),
            to_retire: Vec::new(),
            hash: DefaultHasher::new(),
            events: Vec::new(),
            founders,
        }
    }

    /// Puts an event into the history.
    pub(crate) fn note(&mut self, event: &fmt::Arguments<'_>) {
        let event = format!("{:>7} ms  {event}", self.now_ms);
        event.hash(&mut self.hash);
        if self.trace {
            eprintln!("{event}");
        }
        if self.events.len() == EVENTS_KEPT {
            self.events.remove(0);
        }
        self.events.push(event);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn events(&self) -> String {
        self.events.join("\n")
    }

    pub(crate) fn count(&mut self, what: &str) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// The first violation is the one that is told: what comes after may follow from it.
    pub(crate) fn violated(&mut self, what: String) {
        self.note(&format_args!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(crate) fn check(&mut self, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.violated(what);
        }
    }

    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for slot in self.slots.values() {
            slot.clock.set(Millis(1_700_000_000_000 + now_ms + slot.skew_ms));
        }
    }

    /// The members, if this node is to form the cluster.
    pub(crate) fn forms(&self, id: u64) -> Option<BTreeMap<u64, String>> {
        (id == 1 && self.slots[&id].life == 1).then(|| self.founders.clone())
    }

    pub(crate) fn node_started(&mut self, id: u64, running: Running) {
        let acknowledged = self.oracle.acknowledged;
        let slot = self.slots.get_mut(&id).unwrap();
        (slot.running, slot.floor_at_start, slot.told) = (Some(running), acknowledged, 0);
        self.note(&format_args!("n{id} has started"));
    }

    /// Whoever was connected goes elsewhere.
    pub(crate) fn node_stopped(&mut self, id: u64) {
        drop(self.slots.get_mut(&id).and_then(|slot| slot.running.take()));
        for session in 0..self.sessions.len() {
            if self.sessions[session].node == id {
                self.move_session(session);
            }
        }
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.slots.iter().filter(|(_, slot)| slot.running.is_some()).map(|(id, _)| *id).collect()
    }

    /// Who the members are, by the node that has applied most.
    pub(crate) fn members(&self) -> Vec<(u64, Role)> {
        let newest = self.slots.values().filter_map(|slot| slot.running.as_ref());
        let newest = newest.max_by_key(|running| running.state.applied().revision());
        let members = newest.map(|running| running.replicator.status().members).unwrap_or_default();
        members.into_iter().map(|(member, role)| (member.node, role)).collect()
    }

    pub(crate) fn move_session(&mut self, at: usize) {
        let mut nodes = self.running();
        if nodes.is_empty() {
            // Somebody who will be back.
            nodes = self.slots.iter().filter(|(_, slot)| !slot.removed).map(|(id, _)| *id).collect();
        }
        let to = nodes[self.chance.below(nodes.len() as u64) as usize];
        let session = &mut self.sessions[at];
        session.epoch += 1;
        (session.node, session.attached, session.unaware_since) = (to, false, None);
    }

    /// Subscribers that nobody serves yet and that want to come to this node. A node that has failed takes nobody, though what
    /// is left of its tasks may ask: whoever it took would wait for ever.
    pub(crate) fn sessions_for(&mut self, id: u64) -> Vec<(usize, u64)> {
        let mut arrived = Vec::new();
        if self.slots[&id].running.is_none() {
            return arrived;
        }
        for (at, session) in self.sessions.iter_mut().enumerate() {
            if session.node == id && session.taken != session.epoch {
                session.taken = session.epoch;
                arrived.push((at, session.epoch));
            }
        }
        arrived
    }

    pub(crate) fn attach(&mut self, at: usize, epoch: u64, node: u64, revision: u64) -> bool {
        let session = &mut self.sessions[at];
        if session.epoch != epoch {
            return false;
        }
        session.attached = true;
        if session.newest > revision {
            let what = format!("P3: subscriber {at} knows {}, n{node} took it at {revision}", session.newest);
            self.violated(what);
        }
        self.count("subscribers connected");
        true
    }

    pub(crate) fn invoke(&mut self, node: u64, wish: Wish) -> usize {
        self.note(&format_args!("n{node} {wish:?}"));
        self.oracle.invoke(node, wish)
    }

    pub(crate) fn complete(&mut self, node: u64, operation: usize, outcome: Outcome) {
        self.note(&format_args!("n{node} operation {operation}: {outcome:?}"));
        if let (Outcome::Written { revision, .. }, Some(slot)) = (&outcome, self.slots.get_mut(&node)) {
            slot.told = slot.told.max(*revision);
            slot.written += 1;
        }
        let verdict = self.oracle.complete(operation, outcome);
        self.check(verdict);
    }

    /// What a read that begins now must include.
    pub(crate) fn read_floor(&self, node: u64, consistency: Consistency) -> u64 {
        let told = self.slots.get(&node).map_or(0, |slot| slot.told);
        match consistency {
            Consistency::Local => told,
            Consistency::AtLeast(revision) => told.max(revision.0),
            Consistency::Linearizable => told.max(self.oracle.acknowledged),
        }
    }

    pub(crate) fn was_read(&mut self, mut read: Read) {
        self.note(&format_args!("{read:?}"));
        if let Some(slot) = self.slots.get_mut(&read.node) {
            slot.told = slot.told.max(read.revision);
            if read.text.is_none() {
                // "There is nothing" is said only by a node that has loaded all that was acknowledged before it started.
                read.floor = read.floor.max(slot.floor_at_start);
            }
        }
        let verdict = self.oracle.was_read(read);
        self.check(verdict);
    }

    /// A subscriber looked at a key; if it is new to it, it was told.
    #[expect(clippy::too_many_arguments, reason = "all of it is one event")]
    pub(crate) fn delivered(
        &mut self,
        at: usize,
        epoch: u64,
        node: u64,
        key: u64,
        revision: u64,
        modified: Option<u64>,
        text: Option<String>,
    ) {
        let session = &mut self.sessions[at];
        if session.epoch != epoch {
            return;
        }
        let beta = session.beta;
        let digest = text.as_ref().map(|it| Digest::of(it.as_bytes()));
        let known = session.known.get(&key).copied();
        if known.is_some_and(|known| known.digest == digest) {
            return;
        }
        // What is not there, or not there any more for this one, is so as of what the node has applied.
        let told = modified.filter(|_| !beta).unwrap_or(revision);
        session.newest = session.newest.max(told);
        session.known.insert(key, Known { revision: told, digest });
        self.note(&format_args!("subscriber {at} at n{node}: k{key} {text:?} of {told}"));
        self.count("pushes");
        if known.is_some_and(|known| known.revision > told) {
            self.violated(format!("P3: subscriber {at} knew {known:?} of k{key} and is told of {told}"));
        }
        let consistency = Consistency::Local;
        self.was_read(Read { node, key, beta, consistency, floor: told, revision, modified, text });
        let nodes = self.running();
        let asked = nodes[self.chance.below(nodes.len() as u64) as usize];
        if let Some(running) = &self.slots[&asked].running {
            // Whoever stops meanwhile does not answer.
            drop(running.commands.send(Command::Query { key, beta, told }));
        }
    }

    pub(crate) fn changed_members(&mut self, what: &str, node: u64, result: &Result<(), AdministrationError>) {
        self.note(&format_args!("{what} n{node}: {result:?}"));
        if result.is_ok() {
            self.count(&format!("{what} done"));
            if what == "remove" {
                self.to_retire.push(node);
            }
        }
    }

    /// P5: nobody waits who does not know what its node has.
    pub(crate) fn look_for_lost_wakeups(&mut self) {
        for at in 0..self.sessions.len() {
            let session = &self.sessions[at];
            let Some(running) = self.slots.get(&session.node).and_then(|it| it.running.as_ref()) else { continue };
            if !session.attached {
                continue;
            }
            let unaware = (0..KEYS).find(|number| {
                let has = seen(&*running.state, *number, session.beta).map(|it| it.head.digest);
                session.known.get(number).and_then(|it| it.digest) != has
            });
            let (node, now) = (session.node, self.now_ms);
            let session = &mut self.sessions[at];
            match (unaware, session.unaware_since) {
                (None, _) => session.unaware_since = None,
                (Some(_), None) => session.unaware_since = Some(now),
                (Some(key), Some(since)) if now - since > UNAWARE_MS_MAX => {
                    session.unaware_since = None;
                    self.violated(format!("P5: subscriber {at} waits at n{node} and does not know its k{key}"));
                }
                (Some(_), Some(_)) => {}
            }
            self.oracle.checks += 1;
        }
    }
}
