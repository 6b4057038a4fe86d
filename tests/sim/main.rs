//! Whole clusters in one thread and in simulated time: see README.md beside this file.
//!
//! `CORACLE_SIM_SEED=7 cargo test --test sim` runs one seed; `CORACLE_SIM_RUNS=1000` runs that many, from that seed on or from
//! 1; `CORACLE_SIM_SECONDS` says how long faults are injected in each, in simulated seconds; `CORACLE_SIM_TRACE=1` prints every event,
//! `CORACLE_SIM_LOG=openraft=debug` what consensus logs besides.
#![allow(clippy::unwrap_used)]

mod faults;
mod invariants;
mod node;
mod oracle;
mod planted;
mod workload;
mod world;

use std::{collections::BTreeMap, time::Duration};

use coracle::replication::Role;
use planted::Plant;
use turmoil::{Builder, Sim};

use crate::{
    faults::Faults,
    invariants::Invariants,
    world::{Shared, World},
};

const RUNS: u64 = 4;
const SECONDS: u64 = 12;
/// Between two looks at everything.
const TICK: Duration = Duration::from_millis(4);
/// A planted fault must show within so many runs.
const SEEDS_TO_FIND: u64 = 20;
/// After everything is mended, every node must take a write within this time.
const SERVE_MS_MAX: u64 = 20_000;
/// And when nobody writes any more, all must be equal and every subscriber must know, within this time.
const CONVERGE_MS_MAX: u64 = 15_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(parts: &[u64]) -> Self {
        Self(Self::mix(parts))
    }

    pub(crate) fn mix(parts: &[u64]) -> u64 {
        parts.iter().fold(0, |sum, part| Self(sum ^ part).below(u64::MAX))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What a run came to.
#[derive(Debug)]
struct Report {
    violation: Option<String>,
    events: String,
    hash: u64,
    simulated: Duration,
    faults: u64,
    kinds: Vec<&'static str>,
    checks: u64,
    leaders: usize,
    operations: BTreeMap<&'static str, u64>,
    counts: BTreeMap<String, u64>,
}

struct Run<'a> {
    sim: Sim<'a>,
    shared: Shared,
    faults: Faults,
    invariants: Invariants,
}

impl Run<'_> {
    fn new(seed: u64, plant: Plant) -> Self {
        let nodes = if seed.is_multiple_of(3) { 5 } else { 3 };
        let mut sim = Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(86_400))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(faults::LATENCY_MAX)
            .tcp_capacity(65_536)
            .ephemeral_ports(8_000..=65_535)
            .build();
        let shared = Shared::new(World::new(seed, nodes, plant));
        for id in 1..=nodes {
            faults::add_host(&mut sim, &shared, id);
        }
        let faults = Faults::new(shared.clone(), seed, nodes);
        Self { sim, shared, faults, invariants: Invariants::default() }
    }

    fn now_ms(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }

    /// One tick. `false` when something was violated.
    fn tick(&mut self, breaks: bool) -> bool {
        let now = self.now_ms();
        self.shared.lock().tick(now);
        self.faults.tick(&mut self.sim, now, breaks);
        if let Err(err) = self.sim.step() {
            self.shared.lock().violated(format!("a node ended: {err}"));
        }
        let mut world = self.shared.lock();
        self.invariants.check(&mut world);
        world.violation.is_none()
    }

    fn until(&mut self, within_ms: u64, what: &str, mut reached: impl FnMut(&World) -> bool) -> bool {
        let deadline = self.now_ms() + within_ms;
        while self.now_ms() < deadline {
            if reached(&self.shared.lock()) {
                return true;
            }
            if !self.tick(false) {
                return false;
            }
        }
        let mut world = self.shared.lock();
        let stands: Vec<String> = world
            .slots
            .iter()
            .map(|(id, slot)| {
                let status = slot.running.as_ref().map(|it| it.replicator.status());
                let status = status.map(|it| (it.leader, it.term, it.last_log, it.applied, it.not_ready));
                format!("n{id} {}: {status:?}", if slot.removed { "removed" } else { "" })
            })
            .collect();
        let waiting: Vec<String> = (0..world.sessions.len())
            .filter(|at| !world.sessions[*at].attached)
            .map(|at| format!("subscriber {at} waits at n{}", world.sessions[at].node))
            .collect();
        let stands = [stands, waiting].concat().join("\n");
        world.violated(format!("after healing, not within {within_ms} ms: {what}\n{stands}"));
        false
    }

    fn faults_for(&mut self, seconds: u64) -> bool {
        while self.now_ms() < seconds * 1_000 {
            if !self.tick(true) {
                return false;
            }
        }
        true
    }

    /// Everything is mended: the cluster must serve, agree, and tell everybody.
    fn recover(&mut self) -> bool {
        self.faults.heal(&mut self.sim);
        let all_run = |world: &World| world.slots.values().all(|slot| slot.removed || slot.running.is_some());
        if !self.until(SERVE_MS_MAX, "every node has started", all_run) {
            return false;
        }
        self.shared.lock().slots.values_mut().for_each(|slot| slot.written = 0);
        // Of those who vote now: a removal that was on its way may come through meanwhile, and who is removed is told nothing.
        let serves = |world: &World| {
            let members = world.members();
            let mut voters = members.iter().filter(|(_, role)| *role != Role::Learner).map(|(id, _)| &world.slots[id]);
            !members.is_empty() && voters.all(|slot| slot.written > 0 || slot.removed)
        };
        if !self.until(SERVE_MS_MAX, "every voter takes a write", serves) {
            return false;
        }
        self.shared.lock().quiet = true;
        // A change of members that was on its way may have come through meanwhile.
        let members = self.shared.lock().members();
        let others: Vec<u64> = self.shared.lock().slots.keys().copied().collect();
        for id in others.into_iter().filter(|id| !members.iter().any(|(it, _)| it == id)) {
            self.faults.retire(&mut self.sim, id);
        }
        self.until(CONVERGE_MS_MAX, "all nodes are equal and every subscriber knows", converged)
    }

    fn report(self) -> Report {
        let mut world = self.shared.lock();
        if world.violation.is_none() {
            let verdict = world.oracle.all_judged();
            world.check(verdict);
        }
        Report {
            violation: world.violation.clone(),
            events: world.events(),
            hash: world.hash(),
            simulated: self.sim.elapsed(),
            faults: self.faults.count,
            kinds: self.faults.kinds.iter().copied().collect(),
            checks: world.oracle.checks,
            leaders: self.invariants.leaders(),
            operations: world.oracle.counts(),
            counts: world.counts.clone(),
        }
    }
}

/// P1, and equal states of equal revisions everywhere.
fn converged(world: &World) -> bool {
    let running: Vec<_> = world.slots.values().filter_map(|slot| slot.running.as_ref()).collect();
    let stands: Vec<_> = running.iter().map(|it| (it.state.applied().revision(), it.state.witness())).collect();
    let frontier = world.oracle.frontier().unwrap_or_default();
    let all_equal = stands.windows(2).all(|it| it[0] == it[1]) && stands.first().is_some_and(|it| it.0.0 == frontier);
    let all_know = world.sessions.iter().all(|session| {
        session.attached
            && (0..workload::KEYS).all(|key| {
                let (_, text) = world.oracle.at(key, session.beta, frontier);
                let digest = text.map(|text| coracle::types::Digest::of(text.as_bytes()));
                session.known.get(&key).and_then(|known| known.digest) == digest
            })
    });
    all_equal && all_know
}

/// What the libraries log, too, if `CORACLE_SIM_LOG` has a filter for it.
fn log() {
    if let Some((_, filter)) = std::env::vars().find(|(name, _)| name == "CORACLE_SIM_LOG") {
        let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap();
        // Another test of this process may have set it.
        drop(tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).try_init());
    }
}

fn run(seed: u64, seconds: u64, plant: Plant) -> Report {
    log();
    let mut run = Run::new(seed, plant);
    if run.faults_for(seconds) {
        run.recover();
    }
    run.report()
}

fn setting(name: &str) -> Option<u64> {
    std::env::vars().find(|(it, _)| it == name).map(|(_, value)| value.parse().unwrap())
}

#[test]
fn clusters_keep_their_promises() {
    let one = setting("CORACLE_SIM_SEED");
    let first = one.unwrap_or(1);
    let runs = setting("CORACLE_SIM_RUNS").unwrap_or(if one.is_some() { 1 } else { RUNS });
    let seconds = setting("CORACLE_SIM_SECONDS").unwrap_or(SECONDS);
    let (mut simulated, mut faults, mut checks) = (Duration::ZERO, 0, 0);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let started = tokio::time::Instant::now();
    for seed in first..first + runs {
        let report = run(seed, seconds, Plant::Nothing);
        if let Some(violation) = &report.violation {
            panic!(
                "{}\n\nseed {seed}: {violation}\nrepeat it: CORACLE_SIM_SEED={seed} CORACLE_SIM_SECONDS={seconds} cargo \
                 test --test sim clusters_keep_their_promises",
                report.events
            );
        }
        simulated += report.simulated;
        (faults, checks) = (faults + report.faults, checks + report.checks);
        let operations = report.operations.into_iter().map(|(name, count)| (name.to_owned(), count));
        for (name, count) in operations.chain(report.counts) {
            *counts.entry(name).or_default() += count;
        }
        *counts.entry("leaders".into()).or_default() += report.leaders as u64;
        println!("seed {seed}: {} faults {:?}, history {:016x}", report.faults, report.kinds, report.hash);
    }
    println!(
        "{} simulated s in {:.1} s, {faults} faults, {checks} checks, {counts:?}",
        simulated.as_secs(),
        started.elapsed().as_secs_f64()
    );
}

/// Without that flag tokio draws the order of some wake-ups from the system, which nobody can seed.
#[test]
#[cfg_attr(not(tokio_unstable), ignore = "only with RUSTFLAGS='--cfg tokio_unstable' turmoil can seed tokio")]
fn one_seed_gives_one_history() {
    let [first, second] = [(); 2].map(|()| run(5, 8, Plant::Nothing));
    assert_eq!(first.violation, None);
    assert_eq!(first.hash, second.hash, "\n{}\n\n{}", first.events, second.events);
}

/// Whether one of these seeds shows the planted fault, by a violation that says one of these words.
fn finds(plant: Plant, expected: &[&str]) {
    for seed in 1..=SEEDS_TO_FIND {
        let Some(violation) = run(seed, SECONDS, plant).violation else { continue };
        assert!(expected.iter().any(|it| violation.contains(it)), "{plant:?}, seed {seed}: {violation}");
        println!("{plant:?} is found with seed {seed}: {violation}");
        return;
    }
    panic!("{plant:?} is not found with {SEEDS_TO_FIND} seeds");
}

#[test]
fn a_log_that_acknowledges_before_it_syncs_is_found() {
    finds(
        Plant::AcknowledgeBeforeSync,
        &["but its log ends at", "has failed although", "without", "has applied", "lost"],
    );
}

#[test]
fn waking_before_the_value_can_be_read_is_found() {
    finds(Plant::AnnounceBeforeReadable, &["P5", "a stale read", "but at that revision"]);
}

#[test]
fn a_linearizable_read_without_a_majority_is_found() {
    finds(Plant::ReadWithoutBarrier, &["a stale read", "P3"]);
}

#[test]
fn saying_that_nothing_was_written_without_knowing_is_found() {
    finds(Plant::UnknownIsUnavailable, &["nothing was written"]);
}

#[test]
fn a_state_that_is_written_ahead_of_the_log_is_found() {
    finds(Plant::WriteStateAheadOfLog, &["but its log ends at"]);
}

#[test]
fn a_node_that_does_not_say_what_is_beta_is_found() {
    finds(Plant::ForgetBeta, &["P5", "but at that revision"]);
}

#[test]
fn a_node_that_applies_differently_is_found() {
    finds(Plant::ApplyDifferently, &["has the state", "but at that revision"]);
}
