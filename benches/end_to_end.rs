//! Question: what does a client of real processes get, one node and three: publishes, reads, linearizable reads, push, memory?
//! The clients are threads of this process, with sockets and nothing else. For comparisons with peers see `peers.sh`.
use std::{path::Path, sync::Arc, sync::atomic::AtomicU64, sync::atomic::Ordering, thread, time::Duration};

use tokio::time::Instant;

#[path = "../tests/support/process.rs"]
mod process;
#[path = "support/timing.rs"]
mod timing;

use process::{Http, Server, free_port};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");
const CLIENTS: usize = 32;

fn memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|it| it.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Requests a second of many clients, each on a connection of its own.
fn load(ports: &[u16], work: impl Fn(&mut Http, u64) + Send + Sync + 'static) -> f64 {
    let span = if timing::brief() { Duration::from_millis(300) } else { Duration::from_secs(4) };
    let (work, count) = (Arc::new(work), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let (work, count, port) = (work.clone(), count.clone(), ports[at % ports.len()]);
            thread::spawn(move || {
                let mut http = Http::connect(port).expect("a connection");
                while started.elapsed() < span {
                    work(&mut http, count.fetch_add(1, Ordering::Relaxed));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no request failed");
    }
    count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn measure(name: &str, servers: &[Server]) {
    let ports: Vec<u16> = servers.iter().map(|it| it.port).collect();
    let idle = memory_kib(&servers[0]);
    let publishes = load(&ports, |http, at| {
        let content = format!("{at:0256}");
        let (status, body) = http.publish(&format!("k{}", at % 100), &content).expect("an answer");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    });
    let reads = load(&ports, |http, at| drop(http.query(&format!("k{}", at % 100)).expect("an answer")));
    let linearizable = load(&ports, |http, at| {
        let target = format!("/nacos/v1/cs/configs?dataId=k{}&group=G&consistency=linearizable", at % 100);
        assert_eq!(http.get(&target).expect("an answer").0, 200);
    });
    let mut pushes: Vec<Duration> = (0..50).map(|round| push(&ports, round)).collect();
    pushes.sort_unstable();
    println!(
        "{name}: {publishes:.0} publishes/s, {reads:.0} reads/s, {linearizable:.0} linearizable reads/s with {CLIENTS} \
         clients; told after p50 {:?}, max {:?}; {} MiB idle, {} MiB after",
        pushes[pushes.len() / 2],
        pushes[pushes.len() - 1],
        idle / 1024,
        memory_kib(&servers[0]) / 1024
    );
}

/// From the sending of a publish to the first node, to the answer of a poll at the last one.
fn push(ports: &[u16], round: u32) -> Duration {
    let last = ports[ports.len() - 1];
    let data_id = format!("push-{round}");
    let body = format!("Listening-Configs={data_id}%02G%02%01");
    let poll = thread::spawn(move || {
        let mut http = Http::connect(last).expect("a connection");
        http.post("/nacos/v1/cs/configs/listener", "Long-Pulling-Timeout: 30000\r\n", &body).expect("an answer");
        Instant::now()
    });
    thread::sleep(Duration::from_millis(20));
    let mut http = Http::connect(ports[0]).expect("a connection");
    let sent = Instant::now();
    http.publish(&data_id, "x").expect("an answer");
    poll.join().expect("a told poll").saturating_duration_since(sent)
}

fn cluster(dir: &Path) -> Vec<Server> {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let members: Vec<String> =
        ports.iter().enumerate().map(|(at, port)| format!("{}=127.0.0.1:{}", at + 1, port - 1000)).collect();
    let members = members.join(",");
    let mut servers: Vec<Server> = ports
        .iter()
        .enumerate()
        .map(|(at, port)| {
            let id = (at + 1).to_string();
            let arguments = ["--node-id", &id, "--members", &members];
            Server::spawn(PROGRAM, &dir.join(&id), *port, &arguments)
        })
        .collect();
    for server in &mut servers {
        server.wait_ready();
    }
    servers
}

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let standalone = [Server::start(PROGRAM, &dir.path().join("one"), free_port(), &["--standalone"])];
    measure("one node", &standalone);
    drop(standalone);
    measure("three nodes", &cluster(dir.path()));
}
