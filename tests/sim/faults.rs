//! What happens to a cluster: one thing after the other, drawn from the seed. A majority may be gone for a while; data must
//! be safe even then. What a disk has said to be durable is durable: no Raft survives a disk that lies to a majority, and
//! openraft stops a leader whose follower forgets.
use std::{collections::BTreeSet, time::Duration};

use coracle::replication::{Member, Role};
use turmoil::Sim;

use crate::{
    Random, Shared,
    node::{self, Command, PORT, host},
    planted::Plant,
    world::Slot,
};

/// So many nodes there may be over a run: an id is never used again.
const NODES_EVER: u64 = 9;
/// Seeds from this one on leave out some kinds of faults each, so that what these hide behind others shows: swarm testing
/// (Groce et al., 2012).
const SWARM_SEEDS: u64 = 1_000_000;
const MEMBERS_MIN: usize = 3;
const MEMBERS_MAX: usize = 5;

/// What may happen, and how often of a hundred times.
const WEIGHTS: [(Fault, u64); 13] = [
    (Fault::Isolate, 18),
    (Fault::CutOneWay, 10),
    (Fault::Hold, 10),
    (Fault::Crash, 20),
    (Fault::PowerCut, 3),
    (Fault::FailDisk, 6),
    (Fault::StallDisk, 6),
    (Fault::Transfer, 7),
    (Fault::AddMember, 7),
    (Fault::RemoveMember, 6),
    (Fault::TurnClock, 2),
    (Fault::Suspend, 3),
    (Fault::MoveSubscriber, 2),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Isolate,
    CutOneWay,
    Hold,
    Crash,
    PowerCut,
    FailDisk,
    StallDisk,
    Transfer,
    AddMember,
    RemoveMember,
    TurnClock,
    Suspend,
    MoveSubscriber,
}

/// Something that is broken and will be mended.
enum Broken {
    Link(String, String),
    OneWay(String, String),
    Held(String, String),
    Down(u64),
}

pub(crate) struct Faults {
    shared: Shared,
    chance: Random,
    next_ms: u64,
    /// What happens in this run, and how often of all times.
    weights: Vec<(Fault, u64)>,
    /// When to mend it.
    broken: Vec<(u64, Broken)>,
    pub(crate) kinds: BTreeSet<&'static str>,
    pub(crate) count: u64,
    next_node: u64,
}

fn weights(seed: u64, plant: Plant) -> Vec<(Fault, u64)> {
    if plant == Plant::WriteStateAheadOfLog {
        // A rare coincidence is made less rare when it is to be found.
        return vec![(Fault::StallDisk, 1), (Fault::Crash, 1)];
    }
    let mut chance = Random::new(&[seed, 0x5a]);
    let happens = |_: &(Fault, u64)| seed < SWARM_SEEDS || chance.below(2) == 0;
    let some: Vec<_> = WEIGHTS.into_iter().filter(happens).collect();
    if some.is_empty() { WEIGHTS.to_vec() } else { some }
}

impl Faults {
    pub(crate) fn new(shared: Shared, seed: u64, nodes: u64) -> Self {
        let weights = weights(seed, shared.lock().plant);
        Self {
            shared,
            chance: Random::new(&[seed, 0xfa]),
            weights,
            next_ms: 2_000,
            broken: Vec::new(),
            kinds: BTreeSet::new(),
            count: 0,
            next_node: nodes + 1,
        }
    }

    fn injected(&mut self, kind: &'static str, what: &std::fmt::Arguments<'_>) {
        self.kinds.insert(kind);
        self.count += 1;
        self.shared.lock().note(&format_args!("fault: {kind} {what}"));
    }

    /// Before a tick: mends what is due, and breaks something if it is time.
    pub(crate) fn tick(&mut self, sim: &mut Sim<'_>, now_ms: u64, breaks: bool) {
        let due: Vec<Broken> = self.broken.extract_if(.., |(at, _)| *at <= now_ms).map(|(_, it)| it).collect();
        for broken in due {
            self.mend(sim, broken);
        }
        self.restart_failed(now_ms);
        let removed = std::mem::take(&mut self.shared.lock().to_retire);
        for id in removed {
            self.retire(sim, id);
        }
        if !breaks || now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + 150 + self.chance.below(900);
        let until = now_ms + 200 + self.chance.below(3_000);
        match self.draw() {
            Fault::Isolate => self.isolate(sim, until),
            Fault::CutOneWay => self.cut_one_way(sim, until),
            Fault::Hold => self.hold(sim, until),
            Fault::Crash => self.crash(sim, until, 1),
            Fault::PowerCut => self.crash(sim, until, usize::MAX),
            Fault::FailDisk => self.fail_disk(),
            Fault::StallDisk => self.stall_disk(),
            Fault::Transfer => self.transfer(),
            Fault::AddMember => self.add_member(sim),
            Fault::RemoveMember => self.remove_member(),
            Fault::TurnClock => self.turn_clock(),
            Fault::Suspend => self.suspend(sim, until),
            Fault::MoveSubscriber => self.move_subscriber(),
        }
    }

    fn draw(&mut self) -> Fault {
        let mut dice = self.chance.below(self.weights.iter().map(|(_, weight)| weight).sum());
        for (fault, weight) in &self.weights {
            match dice.checked_sub(*weight) {
                Some(left) => dice = left,
                None => return *fault,
            }
        }
        unreachable!("the dice is below the sum of the weights")
    }

    fn pick(&mut self, from: &[u64]) -> Option<u64> {
        (!from.is_empty()).then(|| from[self.chance.below(from.len() as u64) as usize])
    }

    fn present(&self) -> Vec<u64> {
        self.shared.lock().slots.iter().filter(|(_, slot)| !slot.removed).map(|(id, _)| *id).collect()
    }

    fn isolate(&mut self, sim: &Sim<'_>, until: u64) {
        let nodes = self.present();
        let Some(victim) = self.pick(&nodes) else { return };
        // From everybody, or from a part.
        let all = self.chance.below(2) == 0;
        for other in nodes.into_iter().filter(|it| *it != victim) {
            if all || self.chance.below(2) == 0 {
                sim.partition(host(victim), host(other));
                self.broken.push((until, Broken::Link(host(victim), host(other))));
            }
        }
        self.injected("partition", &format_args!("n{victim}, all: {all}"));
    }

    fn cut_one_way(&mut self, sim: &Sim<'_>, until: u64) {
        let nodes = self.present();
        let Some(victim) = self.pick(&nodes) else { return };
        let deaf = self.chance.below(2) == 0;
        for other in nodes.into_iter().filter(|it| *it != victim) {
            let (from, to) = if deaf { (host(other), host(victim)) } else { (host(victim), host(other)) };
            sim.partition_oneway(from.clone(), to.clone());
            self.broken.push((until, Broken::OneWay(from, to)));
        }
        self.injected("one-way partition", &format_args!("n{victim}, deaf: {deaf}"));
    }

    fn hold(&mut self, sim: &Sim<'_>, until: u64) {
        let nodes = self.present();
        let (Some(one), Some(other)) = (self.pick(&nodes), self.pick(&nodes)) else { return };
        if one != other {
            sim.hold(host(one), host(other));
            self.broken.push((until, Broken::Held(host(one), host(other))));
            self.injected("hold", &format_args!("n{one} n{other}"));
        }
    }

    /// Whoever leads hears nobody for a while, and then everything at once: as a process that was stopped and goes on.
    fn suspend(&mut self, sim: &Sim<'_>, until: u64) {
        let leads = |running: &node::Running| {
            let status = running.replicator.status();
            (status.leader == Some(status.node)).then_some((status.term, status.node))
        };
        let leader = self.shared.lock().slots.values().filter_map(|slot| slot.running.as_ref().and_then(leads)).max();
        let Some((_, leader)) = leader else { return };
        for other in self.present().into_iter().filter(|it| *it != leader) {
            sim.hold(host(leader), host(other));
            self.broken.push((until, Broken::Held(host(leader), host(other))));
        }
        self.injected("suspend", &format_args!("n{leader}"));
    }

    fn crash(&mut self, sim: &mut Sim<'_>, until: u64, count: usize) {
        let mut running = self.shared.lock().running();
        let kind = if count == 1 { "crash" } else { "power cut" };
        for _ in 0..count {
            let Some(victim) = self.pick(&running) else { return };
            running.retain(|it| *it != victim);
            let lost = self.stop(sim, victim);
            let apart = self.chance.below(500);
            self.broken.push((until + apart, Broken::Down(victim)));
            self.injected(kind, &format_args!("n{victim}, which loses {lost} writes"));
        }
    }

    fn stop(&mut self, sim: &mut Sim<'_>, victim: u64) -> usize {
        sim.crash(host(victim));
        let mut world = self.shared.lock();
        world.node_stopped(victim);
        // What was in flight there will never return.
        let lost = world.slots.get_mut(&victim).map_or(0, |slot| slot.disk.lose_power(&mut self.chance));
        if lost > 0 {
            world.count("crashes that lost unsynced writes");
        }
        lost
    }

    fn fail_disk(&mut self) {
        let running = self.shared.lock().running();
        let Some(victim) = self.pick(&running) else { return };
        let log = {
            let mut world = self.shared.lock();
            let slot = world.slots.get_mut(&victim).unwrap();
            slot.disk_failed = true;
            slot.disk.log.clone()
        };
        // Tells those who wait for it, so not under the lock.
        log.fail("the disk has failed");
        self.injected("failed sync", &format_args!("n{victim}"));
    }

    fn stall_disk(&mut self) {
        let running = self.shared.lock().running();
        let Some(victim) = self.pick(&running) else { return };
        let millis = 50 + self.chance.below(1_500);
        let world = self.shared.lock();
        world.slots[&victim].disk.stalled_ms.store(millis, std::sync::atomic::Ordering::Relaxed);
        drop(world);
        self.injected("slow sync", &format_args!("n{victim}, {millis} ms"));
    }

    /// A node whose disk failed has stopped by itself; it comes back with another disk that has what was durable.
    fn restart_failed(&mut self, now_ms: u64) {
        let mut world = self.shared.lock();
        let gone: Vec<u64> = world
            .slots
            .iter()
            .filter(|(_, slot)| slot.disk_failed && slot.running.is_none() && !slot.removed)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let slot = world.slots.get_mut(&id).unwrap();
            slot.disk_failed = false;
            slot.disk.lose_power(&mut self.chance);
            if !self.broken.iter().any(|(_, it)| matches!(it, Broken::Down(down) if *down == id)) {
                self.broken.push((now_ms + 100 + self.chance.below(1_000), Broken::Down(id)));
            }
        }
    }

    fn ask(&mut self, command: Command) -> bool {
        let running = self.shared.lock().running();
        let Some(asked) = self.pick(&running) else { return false };
        let world = self.shared.lock();
        world.slots[&asked].running.as_ref().is_some_and(|it| it.commands.send(command).is_ok())
    }

    fn transfer(&mut self) {
        let running = self.shared.lock().running();
        let Some(to) = self.pick(&running) else { return };
        if self.ask(Command::Transfer(to)) {
            self.injected("transfer", &format_args!("to n{to}"));
        }
    }

    fn add_member(&mut self, sim: &mut Sim<'_>) {
        let members = self.shared.lock().members();
        let waiting =
            self.present().into_iter().find(|id| !members.iter().any(|(it, role)| it == id && *role != Role::Learner));
        let id = match waiting {
            Some(id) => id,
            None if members.len() < MEMBERS_MAX && self.next_node <= NODES_EVER => {
                let id = self.next_node;
                self.next_node += 1;
                self.shared.lock().slots.insert(id, Slot::new(0));
                add_host(sim, &self.shared, id);
                id
            }
            None => return,
        };
        let member = Member { node: id, member_address: format!("{}:{PORT}", host(id)), http_address: String::new() };
        if self.ask(Command::Add(member)) {
            self.injected("add", &format_args!("n{id}"));
        }
    }

    fn remove_member(&mut self) {
        let members = self.shared.lock().members();
        let ids: Vec<u64> = members.iter().map(|(id, _)| *id).collect();
        if ids.len() <= MEMBERS_MIN {
            return;
        }
        let Some(victim) = self.pick(&ids) else { return };
        if self.ask(Command::Remove(victim)) {
            self.injected("remove", &format_args!("n{victim}"));
        }
    }

    fn turn_clock(&mut self) {
        let nodes = self.present();
        let Some(victim) = self.pick(&nodes) else { return };
        let skew = self.chance.below(3_600_000);
        self.shared.lock().slots.get_mut(&victim).unwrap().skew_ms = skew;
        self.injected("clock", &format_args!("n{victim} by {skew} ms"));
    }

    fn move_subscriber(&mut self) {
        let sessions = self.shared.lock().sessions.len() as u64;
        let at = self.chance.below(sessions) as usize;
        self.shared.lock().move_session(at);
        self.injected("move", &format_args!("subscriber {at}"));
    }

    fn mend(&mut self, sim: &mut Sim<'_>, broken: Broken) {
        match broken {
            Broken::Link(one, other) => sim.repair(one, other),
            Broken::OneWay(from, to) => sim.repair_oneway(from, to),
            Broken::Held(one, other) => sim.release(one, other),
            Broken::Down(id) => {
                let removed = self.shared.lock().slots[&id].removed;
                if !removed && self.shared.lock().slots[&id].running.is_none() {
                    sim.bounce(host(id));
                }
            }
        }
    }

    /// Mends everything, and stops for good whoever is not a member.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        let nodes: Vec<u64> = self.shared.lock().slots.keys().copied().collect();
        for (at, one) in nodes.iter().enumerate() {
            for other in &nodes[at + 1..] {
                sim.release(host(*one), host(*other));
                sim.repair(host(*one), host(*other));
            }
        }
        self.restart_failed(0);
        for (_, broken) in std::mem::take(&mut self.broken) {
            if matches!(broken, Broken::Down(_)) {
                self.mend(sim, broken);
            }
        }
        self.shared.lock().note(&format_args!("healed"));
    }

    /// Nodes that have been removed do not come back.
    pub(crate) fn retire(&mut self, sim: &mut Sim<'_>, id: u64) {
        if sim.is_host_running(host(id)) {
            self.stop(sim, id);
        }
        let mut world = self.shared.lock();
        world.slots.get_mut(&id).unwrap().removed = true;
        // Whoever waits for it to come back goes elsewhere.
        world.node_stopped(id);
        world.note(&format_args!("n{id} is retired"));
    }
}

pub(crate) fn add_host(sim: &mut Sim<'_>, shared: &Shared, id: u64) {
    let shared = shared.clone();
    sim.host(host(id), move || node::live(shared.clone(), id));
}

/// A message takes between one and this many milliseconds.
pub(crate) const LATENCY_MAX: Duration = Duration::from_millis(12);
