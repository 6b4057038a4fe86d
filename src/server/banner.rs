//! What a person sees when the server is ready; what a log collector sees instead.
use std::{io::IsTerminal, net::SocketAddr, path::Path, time::Duration};

use crate::replication::Status;

/// The facts of a start.
pub(super) struct Ready<'a> {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) data: &'a Path,
    pub(super) status: &'a Status,
    pub(super) configs: usize,
    /// How long ago the last change was made, if there was one.
    pub(super) last_write: Option<Duration>,
    pub(super) took: Duration,
}

/// Prints a block on a terminal, one JSON line otherwise; neither when told to be quiet.
pub(super) fn announce(ready: &Ready<'_>, quiet: bool) {
    if quiet {
        return;
    }
    if std::io::stderr().is_terminal() {
        eprint!("{}", block(ready));
    } else {
        eprintln!("{}", line(ready));
    }
}

fn mode(status: &Status) -> String {
    if status.standalone { "standalone".into() } else { format!("node {}", status.node) }
}

fn block(ready: &Ready<'_>) -> String {
    let http = ready.http;
    let mut out = format!(
        "\n  coracle {}  {} · data {} · pid {}\n\n",
        env!("CARGO_PKG_VERSION"),
        mode(ready.status),
        ready.data.display(),
        std::process::id()
    );
    out += &format!("  HTTP API   http://{http}/nacos       Nacos v1 compatible\n");
    out += &format!("  gRPC       {}                 Nacos 2.x and 3.x clients\n", ready.grpc);
    out += &format!("  Metrics    http://{http}/metrics     Health  /readyz\n\n");
    if let Some(ago) = ready.last_write {
        out += &format!("  {} configurations · last write {} ago\n\n", ready.configs, human(ago));
    }
    if http.ip().is_loopback() {
        out += "  ! Listening on loopback only. To let other machines in:  --listen 0.0.0.0\n\n";
    } else {
        out += "  ! There is no authentication yet: keep this port on a private network.\n\n";
    }
    if ready.status.standalone {
        let server = if http.port() == 8848 { String::new() } else { format!(" --server {http}") };
        out += "  Try, in a second terminal:\n";
        out += &format!("    coracle config set   app.yaml 'greeting: hello'{server}\n");
        out += &format!("    coracle config watch app.yaml{server}\n\n");
    }
    out + &format!("  ready in {} ms\n\n", ready.took.as_millis())
}

fn line(ready: &Ready<'_>) -> String {
    let line = serde_json::json!({
        "event": "ready",
        "version": env!("CARGO_PKG_VERSION"),
        "mode": if ready.status.standalone { "standalone" } else { "member" },
        "node": ready.status.node,
        "http": format!("http://{}/nacos", ready.http),
        "grpc": ready.grpc.to_string(),
        "data": ready.data.display().to_string(),
        "pid": std::process::id(),
        "configs": ready.configs,
        "last_write_seconds_ago": ready.last_write.map(|it| it.as_secs()),
        "ready_ms": ready.took.as_millis() as u64,
    });
    line.to_string()
}

fn human(ago: Duration) -> String {
    let seconds = ago.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}
