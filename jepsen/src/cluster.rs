//! The nodes: real processes, started, stopped and asked how they stand.
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::{history::StateAt, http::Http};

/// How long a node may take to start, and a cluster to find a leader, on a busy machine.
const START_MAX: Duration = Duration::from_secs(30);
/// How long a change of members may take: a new one gets a snapshot first.
const CHANGE_MAX: Duration = Duration::from_secs(60);
/// How often to look whether something has come about.
const POLL: Duration = Duration::from_millis(20);
/// A node that does not answer a question about itself within this time does not answer.
const STATUS_MAX: Duration = Duration::from_secs(1);

/// Where the nodes are. A slot is a place for a node: its id changes when it loses its disk.
pub struct Targets {
    slots: Vec<(AtomicU64, SocketAddr)>,
}

impl Targets {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The id of the node there, and where it serves HTTP.
    pub fn get(&self, slot: usize) -> (u64, SocketAddr) {
        let (id, address) = &self.slots[slot];
        (id.load(Ordering::Relaxed), *address)
    }

    /// Where it serves gRPC.
    pub fn grpc(&self, slot: usize) -> SocketAddr {
        let (_, address) = self.get(slot);
        SocketAddr::new(address.ip(), address.port() + 1000)
    }
}

/// How a node says it stands.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub node: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub applied: Option<u64>,
    pub rows: u64,
    pub state_hash: String,
    pub ready: bool,
    pub members: Vec<MemberStatus>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    pub node: u64,
    pub role: String,
}

/// Where a node lives.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its network namespace; `None`: this one.
    pub namespace: Option<String>,
    pub address: SocketAddr,
    pub data: PathBuf,
    pub log: PathBuf,
    /// A file that says how its wall clock is off; `None`: it cannot be.
    pub clock: Option<PathBuf>,
}

struct Node {
    place: Place,
    child: Option<Child>,
}

/// All nodes of a run. They are killed when it is dropped.
pub struct Cluster {
    program: PathBuf,
    snapshot_entries: u64,
    nodes: Vec<Node>,
    pub targets: std::sync::Arc<Targets>,
    next_id: u64,
    /// How many running processes were killed.
    pub kills: u64,
}

/// sled panics when it cannot flush while it is closed. A node that closes it so has failed already and is about to end, and
/// nothing rests on sled.
const SLED_ENDS: &str = "sled-0.34.7/src/pagecache/logger.rs:467";

/// The library that fakes wall clocks.
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

impl Cluster {
    pub fn new(program: PathBuf, snapshot_entries: u64, places: Vec<Place>) -> Self {
        let slots = places.iter().zip(1..).map(|(place, id)| (AtomicU64::new(id), place.address)).collect();
        let next_id = places.len() as u64 + 1;
        let nodes = places.into_iter().map(|place| Node { place, child: None }).collect();
        Self { program, snapshot_entries, nodes, targets: std::sync::Arc::new(Targets { slots }), next_id, kills: 0 }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn place(&self, slot: usize) -> &Place {
        &self.nodes[slot].place
    }

    pub fn id(&self, slot: usize) -> u64 {
        self.targets.get(slot).0
    }

    /// The slot of a node.
    pub fn slot_of(&self, id: u64) -> Option<usize> {
        (0..self.len()).find(|slot| self.id(*slot) == id)
    }

    fn member_address(&self, slot: usize) -> String {
        let address = self.place(slot).address;
        format!("{}:{}", address.ip(), address.port() - 1000)
    }

    /// Starts the node of a slot. `join`: it waits to be added.
    pub fn start(&mut self, slot: usize, join: bool) -> io::Result<()> {
        let members: Vec<String> = (0..self.len())
            .filter(|it| !join || *it == slot)
            .map(|it| format!("{}={}", self.id(it), self.member_address(it)))
            .collect();
        let (id, place) = (self.id(slot), self.place(slot));
        let log = fs::OpenOptions::new().create(true).append(true).open(&place.log)?;
        let mut command = match &place.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        if let Some(clock) = &place.clock {
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_CACHE_DURATION", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command
            .args(["server", "--quiet", "--node-id", &id.to_string(), "--members", &members.join(",")])
            .args(["--listen", &place.address.ip().to_string(), "--port", &place.address.port().to_string()])
            .args(["--snapshot-entries", &self.snapshot_entries.to_string(), "--log-format", "text"])
            .arg("--data")
            .arg(&place.data);
        if join {
            command.arg("--join");
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.nodes[slot].child = Some(child);
        Ok(())
    }

    /// Under which clock the node starts from now on.
    pub fn set_clock(&mut self, slot: usize, file: Option<PathBuf>) {
        self.nodes[slot].place.clock = file;
    }

    pub fn pid(&self, slot: usize) -> Option<u32> {
        self.nodes[slot].child.as_ref().map(Child::id)
    }

    /// `kill -9`; returns when the process is gone, with how it ended.
    pub fn kill(&mut self, slot: usize) -> io::Result<String> {
        let Some(mut child) = self.nodes[slot].child.take() else { return Ok("was not running".into()) };
        child.kill()?;
        let status = child.wait()?;
        self.kills += 1;
        Ok(format!("pid {} gone ({status})", child.id()))
    }

    /// Whether the process has ended by itself, and how.
    pub fn ended(&mut self, slot: usize) -> Option<String> {
        let child = self.nodes[slot].child.as_mut()?;
        let status = child.try_wait().ok().flatten()?;
        self.nodes[slot].child = None;
        Some(status.to_string())
    }

    /// Sends a signal by its name.
    pub fn signal(&self, slot: usize, name: &str) -> io::Result<()> {
        let Some(pid) = self.pid(slot) else { return Err(io::Error::other("it does not run")) };
        let status = Command::new("kill").args([name, &pid.to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill {name} {pid}: {status}"))) }
    }

    /// The letter that the kernel gives the state of the process.
    pub fn process_state(&self, slot: usize) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid(slot)?)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    pub async fn status(&self, slot: usize) -> Option<Status> {
        let mut http = Http::new(self.targets.get(slot).1, STATUS_MAX);
        let answer = http.get("/coracle/v1/status").await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The slot of the leader, if those that answer know one.
    pub async fn leader(&self) -> Option<usize> {
        let mut newest: Option<(u64, u64)> = None;
        for slot in 0..self.len() {
            if let Some(status) = self.status(slot).await
                && status.leader == Some(status.node)
            {
                newest = newest.max(Some((status.term, status.node)));
            }
        }
        self.slot_of(newest?.1)
    }

    /// Waits for a leader.
    pub async fn wait_leader(&self) -> Result<usize, String> {
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline {
            if let Some(leader) = self.leader().await {
                return Ok(leader);
            }
            sleep(POLL).await;
        }
        Err(format!("no leader within {START_MAX:?}"))
    }

    /// Waits until a node can serve.
    pub async fn wait_ready(&mut self, slot: usize) -> Result<(), String> {
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline {
            if self.status(slot).await.is_some_and(|it| it.ready) {
                return Ok(());
            }
            if let Some(how) = self.ended(slot) {
                return Err(format!("node {} ended: {how}: {}", self.id(slot), self.last_words(slot)));
            }
            sleep(POLL).await;
        }
        Err(format!("node {} was not ready within {START_MAX:?}: {}", self.id(slot), self.last_words(slot)))
    }

    /// The last line of a node's log.
    pub fn last_words(&self, slot: usize) -> String {
        let log = fs::read_to_string(&self.place(slot).log).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    /// Asks a node to change the cluster, until it is done.
    pub async fn administer(&self, slot: usize, method: &str, path: &str, body: &str) -> Result<(), String> {
        let deadline = Instant::now() + CHANGE_MAX;
        loop {
            let mut http = Http::new(self.targets.get(slot).1, CHANGE_MAX);
            let headers = "Content-Type: application/json\r\n";
            let why = match http.request(method, path, headers, body).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("{method} {path}: {} {}", answer.status, answer.text()),
                Err(lost) => format!("{method} {path}: {lost}"),
            };
            if Instant::now() > deadline {
                return Err(why);
            }
            sleep(POLL * 5).await;
        }
    }

    /// Takes the node of a slot out, gives the slot an empty disk and a new id, and adds that. `by` is another slot.
    pub async fn replace(&mut self, slot: usize, by: usize) -> Result<(), String> {
        let old = self.id(slot);
        self.administer(by, "DELETE", &format!("/coracle/v1/cluster/members/{old}"), "").await?;
        self.kill(slot).map_err(|err| err.to_string())?;
        wipe(&self.place(slot).data).map_err(|err| format!("wipe: {err}"))?;
        self.targets.slots[slot].0.store(self.next_id, Ordering::Relaxed);
        self.next_id += 1;
        self.start(slot, true).map_err(|err| err.to_string())?;
        let body = format!(r#"{{"node":{},"memberAddress":"{}"}}"#, self.id(slot), self.member_address(slot));
        self.administer(by, "POST", "/coracle/v1/cluster/members", &body).await?;
        self.wait_ready(slot).await
    }

    /// Waits until all nodes have applied the same entry, and returns what each says of its state then.
    pub async fn equal_states(&self) -> Vec<StateAt> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let mut states = Vec::new();
            for slot in 0..self.len() {
                if let Some(status) = self.status(slot).await {
                    let Status { node, applied, rows, state_hash: hash, .. } = status;
                    states.push(StateAt { node, applied: applied.unwrap_or(0), rows, hash });
                }
            }
            let equal = states.len() == self.len() && states.windows(2).all(|it| it[0].applied == it[1].applied);
            if equal || Instant::now() > deadline {
                return states;
            }
            sleep(POLL).await;
        }
    }

    /// Lines that only a bug writes.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let log = fs::read_to_string(&node.place.log).unwrap_or_default();
            let is_bug = |line: &&str| {
                (line.contains("panicked at") || line.contains("stack overflow")) && !line.contains(SLED_ENDS)
            };
            let lines = log.lines().filter(is_bug);
            found.extend(lines.map(|line| format!("{}: {line}", node.place.log.display())));
        }
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for slot in 0..self.nodes.len() {
            if let Err(err) = self.kill(slot) {
                eprintln!("kill node {}: {err}", self.id(slot));
            }
        }
    }
}

/// Removes what is in a folder, but not the folder, which may be a mount.
pub fn wipe(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

/// Addresses on loopback, with their neighbours at −1000 and +1000 free.
pub fn loopback(count: usize) -> Vec<SocketAddr> {
    let free = |port: u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let start = 24_000 + (std::process::id() % 300) as u16 * 10;
    let ports = (start..31_000).filter(|port| [port - 1000, *port, port + 1000].into_iter().all(free));
    ports.take(count).map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).collect()
}
