//! `kill -9` of real processes at arbitrary moments: what was acknowledged is there afterwards, always.
//!
//! `CORACLE_CRASH_ROUNDS` sets how often the standalone server is killed (60 unless told), `CORACLE_CRASH_SEED` repeats a
//! run's moments.
#![allow(clippy::unwrap_used)]

#[path = "support/process.rs"]
mod process;
#[path = "support/random.rs"]
mod random;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use process::{Http, Server, free_port};
use random::Random;
use tokio::time::Instant;

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");
const WRITERS: usize = 6;

/// What one writer knows of its own keys: each value is a serial number, written in order, by nobody else.
#[derive(Default, Clone)]
struct Known {
    acknowledged: u64,
    sent: u64,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::vars().find(|(it, _)| it == name).map_or(default, |(_, value)| value.parse().unwrap())
}

/// Writes serials until told to stop, on any of the ports that answers; unknown outcomes stay between `acknowledged` and
/// `sent`.
fn write(ports: &[u16], writer: usize, mut known: Known, stop: &AtomicBool) -> Known {
    let key = format!("crash-{writer}");
    let (mut http, mut at) = (None::<Http>, writer);
    while !stop.load(Ordering::Relaxed) {
        let Some(connection) = http.as_mut() else {
            at += 1;
            http = Http::connect(ports[at % ports.len()]).ok();
            if http.is_none() {
                thread::sleep(Duration::from_millis(2));
            }
            continue;
        };
        let serial = known.sent + 1;
        known.sent = serial;
        // Contents of different lengths, so that records end anywhere in a sector.
        let padding = "x".repeat((serial as usize * 37) % 600);
        match connection.publish(&key, &format!("{serial}-{padding}")) {
            Ok((200, body)) if body == b"true" => known.acknowledged = serial,
            Ok((503, _)) => thread::sleep(Duration::from_millis(5)),
            // The outcome is unknown: the write may still be on its way, and must not overtake the next one.
            Ok((504, _)) => thread::sleep(Duration::from_millis(100)),
            Ok((status, body)) => panic!("{status}: {}", String::from_utf8_lossy(&body)),
            Err(_) => {
                http = None;
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
    known
}

fn check(port: u16, known: &mut [Known], round: u64) {
    let mut http = Http::connect(port).unwrap();
    for (writer, known) in known.iter_mut().enumerate() {
        let stored = http.query(&format!("crash-{writer}")).unwrap();
        let serial: u64 = stored.as_deref().map_or(0, |text| text.split('-').next().unwrap().parse().unwrap());
        assert!(
            (known.acknowledged..=known.sent).contains(&serial),
            "round {round}: writer {writer} had {} acknowledged and {} sent, and finds {serial}",
            known.acknowledged,
            known.sent
        );
        // What was seen once is not taken back.
        known.acknowledged = serial;
    }
}

/// Lets writers run while `interfere` does, and returns what they know.
fn with_writers(ports: &[u16], known: Vec<Known>, interfere: impl FnOnce()) -> Vec<Known> {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = known
        .into_iter()
        .enumerate()
        .map(|(writer, known)| {
            let (stop, ports) = (stop.clone(), ports.to_vec());
            thread::spawn(move || write(&ports, writer, known, &stop))
        })
        .collect();
    interfere();
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().map(|it| it.join().unwrap()).collect()
}

#[test]
fn a_standalone_server_keeps_what_it_acknowledged() {
    let rounds = setting("CORACLE_CRASH_ROUNDS", 60);
    let seed = setting("CORACLE_CRASH_SEED", u64::from(std::process::id()));
    println!("CORACLE_CRASH_SEED={seed}");
    let (mut random, dir, port) = (Random(seed), tempfile::tempdir().unwrap(), free_port());
    let data = dir.path().join("data");
    // A snapshot and a purge every few hundred writes, so that the kills meet them too.
    let arguments = ["--standalone", "--snapshot-entries", "700"];
    let mut known = vec![Known::default(); WRITERS];
    let mut server = Server::start(PROGRAM, &data, port, &arguments);
    for round in 0..rounds {
        known = with_writers(&[port], known, || {
            thread::sleep(Duration::from_micros(random.below(250_000)));
            server.kill();
        });
        server = Server::start(PROGRAM, &data, port, &arguments);
        check(port, &mut known, round);
    }
    let acknowledged: u64 = known.iter().map(|it| it.acknowledged).sum();
    println!("{rounds} kills, {acknowledged} writes acknowledged at the end, none lost");
    assert!(acknowledged > rounds, "the writers got somewhere");
}

struct Trio {
    servers: Vec<Server>,
    ports: Vec<u16>,
    members: String,
}

impl Trio {
    fn start(dir: &Path) -> Self {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let members: Vec<String> =
            ports.iter().enumerate().map(|(at, port)| format!("{}=127.0.0.1:{}", at + 1, port - 1000)).collect();
        let mut trio = Self { servers: Vec::new(), ports, members: members.join(",") };
        for at in 0..3 {
            let server = trio.spawn(dir, at);
            trio.servers.push(server);
        }
        for server in &mut trio.servers {
            server.wait_ready();
        }
        trio
    }

    fn spawn(&self, dir: &Path, at: usize) -> Server {
        let id = (at + 1).to_string();
        let arguments = ["--node-id", &id, "--members", &self.members, "--snapshot-entries", "2000"];
        Server::spawn(PROGRAM, &dir.join(format!("d{id}")), self.ports[at], &arguments)
    }
}

#[test]
fn a_cluster_survives_the_loss_of_one_node_and_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut trio = Trio::start(dir.path());
    let mut random = Random(7);
    let mut known = vec![Known::default(); WRITERS];
    let ports = trio.ports.clone();
    for round in 0..6 {
        let at = random.below(3) as usize;
        known = with_writers(&ports, known, || {
            thread::sleep(Duration::from_millis(300));
            trio.servers[at].kill();
            // Service is back within 3 s: a write through another node is acknowledged.
            let other = ports[(at + 1) % 3];
            let killed = Instant::now();
            let back = loop {
                let answer = Http::connect(other).and_then(|mut http| http.publish("probe", &round.to_string()));
                if matches!(answer, Ok((200, _))) {
                    break killed.elapsed();
                }
                assert!(killed.elapsed() < Duration::from_secs(20), "no writes for 20 s");
            };
            assert!(back < Duration::from_secs(3), "round {round}: writes were back after {back:?}");
        });
        trio.servers[at] = trio.spawn(dir.path(), at);
        trio.servers[at].wait_ready();
        check_linearizable(ports[at], &mut known, round);
    }
    // All three at once.
    known = with_writers(&ports, known, || {
        thread::sleep(Duration::from_millis(400));
        for server in &mut trio.servers {
            server.kill();
        }
    });
    for at in 0..3 {
        trio.servers[at] = trio.spawn(dir.path(), at);
    }
    for server in &mut trio.servers {
        server.wait_ready();
    }
    for port in ports {
        check_linearizable(port, &mut known, 99);
    }
}

fn check_linearizable(port: u16, known: &mut [Known], round: u64) {
    let mut http = Http::connect(port).unwrap();
    let barrier = "/nacos/v1/cs/configs?dataId=probe&group=G&consistency=linearizable";
    let (status, body) = http.get(barrier).unwrap();
    assert!(matches!(status, 200 | 404), "{status}: {}", String::from_utf8_lossy(&body));
    check(port, known, round);
}
