//! One run: start, load, break, heal, look, judge.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    check::{self, Verdict},
    client::{Shared, Worker},
    cluster::{self, Cluster, Place},
    disk::mount::Mounted,
    history::{Call, History, Level, Stand, Value},
    http::Http,
    keys::{self, Keys},
    logfile,
    nemesis::{
        Nemesis,
        plan::{self, Step},
        process,
    },
    net::{self, Net},
    random::Random,
    recorder::Recorder,
    report::{self, Meta},
    streamer::Streamer,
    subscriber::{Belief, Poller},
};

/// Clients that keep to each node, and such that go about.
const WORKERS_PINNED: u32 = 3;
const WORKERS_ROAMING: u32 = 4;
/// Between two faults.
const BREATH: Duration = Duration::from_millis(700);
/// How long subscribers may take to hear of the last change.
const CONVERGE_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// How long subscribers may take to listen again after they were told.
const LISTEN_AGAIN: Duration = Duration::from_millis(700);
/// One of so many keys is removed at the end.
const REMOVED_AT_THE_END: usize = 4;
/// From one change that nobody listens to to the next, and how long one may take.
const DECOY_PACE: Duration = Duration::from_millis(100);
const DECOY_PATIENCE: Duration = Duration::from_secs(1);
/// The first number of the clients that write and read at the end.
const FINAL: u32 = 5_000;
/// The first number of subscribers over gRPC.
pub const STREAMERS: u32 = 1_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub program: PathBuf,
    pub nodes: usize,
    pub seed: u64,
    pub out: PathBuf,
    /// How long nothing is broken at the beginning.
    pub baseline: Duration,
    /// When no further fault is begun.
    pub faults_until: Duration,
    /// Whether the plan is repeated, in another order each time, until then.
    pub repeat: bool,
    /// In the order of the plan, or as the seed says.
    pub in_order: bool,
    /// Only faults whose kind begins with one of these, between commas.
    pub only: Option<String>,
    /// From one operation of a client to its next.
    pub pace: Duration,
    /// Entries between two snapshots of a node.
    pub snapshot_entries: u64,
    /// The prefix of the network namespaces; or why there are none.
    pub namespaces: Result<String, String>,
}

/// Runs, judges, and writes history and reports.
pub async fn run(options: Options) -> Result<Verdict, String> {
    fs::create_dir_all(&options.out).map_err(|err| format!("{}: {err}", options.out.display()))?;
    let began = Instant::now();
    let recorder = Arc::new(Recorder::new());
    let (cluster, disks) = places(&options)?;
    let net = options.namespaces.clone().map(|prefix| Net::new(&prefix, options.nodes));
    let random = Random::new(options.seed);
    let (clocks, recorder_of_faults) = (process::clocks(), recorder.clone());
    let mut nemesis = Nemesis { cluster, net, disks, clocks, recorder: recorder_of_faults, random };
    for slot in 0..options.nodes {
        nemesis.cluster.start(slot, false).map_err(|err| format!("start {}: {err}", options.program.display()))?;
    }
    nemesis.settle().await?;
    let (stop, stopping) = watch::channel(false);
    let keys = Arc::new(Keys::default());
    let shared =
        Shared { recorder: recorder.clone(), targets: nemesis.cluster.targets.clone(), keys: keys.clone(), stopping };
    let mut load = Load::start(&options, &shared);
    break_things(&options, &mut nemesis, began).await;
    stop.send_replace(true);
    while load.workers.join_next().await.is_some() {}
    let healed = nemesis.settle().await;
    if healed.is_ok() {
        finish(&mut nemesis, &shared, &mut load).await;
    }
    let panics = nemesis.cluster.panics();
    let kills = nemesis.cluster.kills;
    let crashes = |disks: &Vec<Mounted>| disks.iter().map(|it| it.disk().crashes).sum();
    let power_losses = nemesis.disks.as_ref().map_or(0, crashes);
    drop(nemesis);
    load.subscribers.abort_all();
    let mut history = std::mem::take(&mut *recorder.history());
    history.panics = panics;
    history.panics.extend(healed.err().map(|why| format!("the cluster did not heal: {why}")));
    judge(&options, &history, began, (kills, power_losses))
}

fn judge(
    options: &Options,
    history: &History,
    began: Instant,
    (kills, power_losses): (u64, u64),
) -> Result<Verdict, String> {
    let checking = Instant::now();
    let checks = check::all(history);
    let verdict = checks.iter().fold(Verdict::True, |all, it| all.and(it.verdict));
    let meta = Meta {
        verdict,
        seed: options.seed,
        nodes: options.nodes,
        program: options.program.display().to_string(),
        network: options.namespaces.clone().map_or_else(|why| format!("loopback: {why}"), |_| "namespaces".into()),
        seconds: began.elapsed().as_secs_f64(),
        kills,
        power_losses,
        checking_seconds: checking.elapsed().as_secs_f64(),
    };
    report::write(&options.out, &meta, &checks, history).map_err(|err| format!("write the report: {err}"))?;
    report::print(&meta, &checks, &options.out);
    Ok(verdict)
}

/// Where each node lives, on a disk of its own if that can be had.
fn places(options: &Options) -> Result<(Cluster, Result<Vec<Mounted>, String>), String> {
    let loopback = cluster::loopback(options.nodes);
    if loopback.len() < options.nodes {
        return Err("no free ports".into());
    }
    let (mut places, mut disks) = (Vec::new(), Ok(Vec::new()));
    for (slot, address) in loopback.into_iter().enumerate() {
        let dir = options.out.join(format!("n{}", slot + 1));
        make_empty(&dir)?;
        let mounted = Mounted::new(&dir).map_err(|err| format!("no FUSE here: {err}"));
        disks = disks.and_then(|mut disks: Vec<Mounted>| {
            disks.push(mounted?);
            Ok(disks)
        });
        let namespace = options.namespaces.as_ref().ok().map(|prefix| net::node(prefix, slot));
        let log = options.out.join(format!("n{}.log", slot + 1));
        fs::write(&log, "").map_err(|err| format!("{}: {err}", log.display()))?;
        let address = if namespace.is_some() { net::http(slot) } else { address };
        places.push(Place { namespace, address, data: dir.join("data"), log, clock: None });
    }
    Ok((Cluster::new(options.program.clone(), options.snapshot_entries, places), disks))
}

fn make_empty(dir: &Path) -> Result<(), String> {
    let made = cluster::wipe(dir).and_then(|()| fs::create_dir_all(dir));
    made.map_err(|err| format!("{}: {err}", dir.display()))
}

/// Everybody who works on the cluster.
struct Load {
    workers: JoinSet<()>,
    subscribers: JoinSet<()>,
    beliefs: Vec<(u32, String, Arc<Belief>)>,
}

impl Load {
    fn start(options: &Options, shared: &Shared) -> Self {
        let mut load = Self { workers: JoinSet::new(), subscribers: JoinSet::new(), beliefs: Vec::new() };
        let pinned = (0..options.nodes).flat_map(|slot| (0..WORKERS_PINNED).map(move |_| Some(slot)));
        for (number, slot) in pinned.chain((0..WORKERS_ROAMING).map(|_| None)).enumerate() {
            load.workers.spawn(Worker::new(shared.clone(), number as u32, slot, options.seed).run(options.pace));
        }
        for (number, slot) in (0..options.nodes).map(Some).chain([None, None]).enumerate() {
            let number = number as u32;
            let named = slot.map_or("any node".to_owned(), |slot| format!("node {}", slot + 1));
            let random = |number: u32| Random::new(options.seed ^ u64::from(number) << 32);
            let belief = load.belief(number, format!("long poll {number} at {named}"));
            let poller = Poller { shared: shared.clone(), number, pinned: slot, belief, random: random(number) };
            load.subscribers.spawn(poller.run());
            let number = STREAMERS + number;
            let belief = load.belief(number, format!("stream {number} at {named}"));
            let streamer = Streamer { shared: shared.clone(), number, pinned: slot, belief, random: random(number) };
            load.subscribers.spawn(streamer.run());
        }
        load.workers.spawn(decoy(shared.clone()));
        load
    }

    fn belief(&mut self, number: u32, name: String) -> Arc<Belief> {
        let belief = Arc::new(Belief::default());
        self.beliefs.push((number, name, belief.clone()));
        belief
    }
}

/// Changes what nobody listens to: the data ids that are, in another group or namespace.
async fn decoy(shared: Shared) {
    let mut serial = 0;
    while !*shared.stopping.borrow() {
        serial += 1;
        let slot = serial % shared.targets.len();
        let heard = shared.keys.heard();
        let name = keys::name(heard[serial % heard.len()]);
        let place = if serial % 2 == 0 { "group=OTHER" } else { "group=G&tenant=elsewhere" };
        let target = format!("/nacos/v1/cs/configs?dataId={name}&{place}&content=decoy-{serial}");
        let answer = Http::new(shared.targets.get(slot).1, DECOY_PATIENCE).request("POST", &target, "", "").await;
        if answer.is_ok_and(|it| it.status == 200) {
            shared.recorder.decoy();
        }
        sleep(DECOY_PACE).await;
    }
}

async fn break_things(options: &Options, nemesis: &mut Nemesis, began: Instant) {
    sleep(options.baseline).await;
    let mut order = nemesis.random.clone();
    let mut rounds = 0;
    loop {
        let planned = if options.in_order && rounds == 0 { plan::PLAN.to_vec() } else { plan::shuffled(&mut order) };
        rounds += 1;
        let only = |it: &Step, only: &String| only.split(',').any(|only| it.kind().starts_with(only));
        let wanted = |it: &Step| options.only.as_ref().is_none_or(|kinds| only(it, kinds));
        let mut planned = planned.into_iter().filter(wanted);
        for step in planned.by_ref() {
            nemesis.inject(step).await;
            sleep(BREATH).await;
            if began.elapsed() > options.faults_until {
                break;
            }
        }
        if began.elapsed() > options.faults_until || !options.repeat {
            let left: Vec<String> = planned.map(|step| step.to_string()).collect();
            if !left.is_empty() {
                println!("no time left for {}", left.join(", "));
            }
            return;
        }
    }
}

/// After the last fault: one more change of each key that is heard, but of those that are rarely used; then some of them are
/// removed, and everything is read through every node. What is left as it is must have been told before.
async fn finish(nemesis: &mut Nemesis, shared: &Shared, load: &mut Load) {
    let heard = shared.keys.heard();
    let mut writer = Worker::new(shared.clone(), FINAL, None, 0);
    let often: Vec<u32> = heard.iter().copied().filter(|it| !keys::is_rare(*it)).collect();
    for (serial, key) in often.iter().enumerate() {
        let call = Call::Put { value: Value::new(FINAL, serial as u32 + 1) };
        writer.ask(serial % nemesis.cluster.len(), *key, call).await;
    }
    // Not before everybody listens again: the last change must be told, not found.
    sleep(LISTEN_AGAIN).await;
    for (serial, key) in often.iter().enumerate().step_by(REMOVED_AT_THE_END) {
        writer.ask(serial % nemesis.cluster.len(), *key, Call::Delete).await;
    }
    read_all(nemesis, shared, &heard, FINAL + 10).await;
    let expected: Vec<(u32, Option<Value>)> = {
        let history = shared.recorder.history();
        let last =
            |key: &u32| history.ops.iter().rev().find(|op| op.key == *key && is_read(op)).and_then(|op| op.value);
        heard.iter().map(|key| (*key, last(key))).collect()
    };
    let deadline = Instant::now() + CONVERGE_MAX;
    while load.beliefs.iter().any(|(_, _, belief)| belief.of(&heard) != expected) && Instant::now() < deadline {
        sleep(POLL).await;
    }
    let stands: Vec<Stand> =
        load.beliefs.iter().map(|(number, name, belief)| belief.stand(*number, name, &heard)).collect();
    shared.recorder.history().stands = stands;
    read_all(nemesis, shared, &shared.keys.all(), FINAL + 20).await;
    let states = nemesis.cluster.equal_states().await;
    shared.recorder.history().states = states;
    for slot in 0..nemesis.cluster.len() {
        // What cannot be read is missed by the check.
        match logfile::read(nemesis.cluster.id(slot), &nemesis.cluster.place(slot).data.join("log")) {
            Ok(log) => shared.recorder.history().logs.extend(log),
            Err(err) => println!("{err}"),
        }
    }
}

fn is_read(op: &crate::history::Op) -> bool {
    op.call == Call::Read(Level::Linearizable) && op.outcome == crate::history::Outcome::Ok
}

/// Reads these keys through each node, strictly and as they are there.
async fn read_all(nemesis: &Nemesis, shared: &Shared, keys: &[u32], process: u32) {
    let mut readers = JoinSet::new();
    for slot in 0..nemesis.cluster.len() {
        let mut reader = Worker::new(shared.clone(), process + slot as u32, Some(slot), 0);
        let keys = keys.to_vec();
        readers.spawn(async move {
            for key in keys {
                for level in [Level::Linearizable, Level::Local] {
                    reader.ask(slot, key, Call::Read(level)).await;
                }
            }
        });
    }
    while readers.join_next().await.is_some() {}
}
