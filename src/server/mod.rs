//! The composition root: the only folder that sees everything, and knows no rules.
mod accept;
mod banner;
mod data_dir;
mod grpc;
mod http;
mod node;
mod options;
mod outgoing;
mod streams;

use std::{
    error::Error,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

pub use node::{MemberOptions, Mode};
pub use options::Options;

use self::{
    accept::Places,
    node::{Node, Place},
    options::DESCRIPTORS_WANTED,
};
use crate::{
    admin,
    clock::{Clock, SystemClock},
    metrics::Metrics,
    nacos::{self, http::Api},
    replication::Status,
    service::Services,
    settings::Settings,
};

/// The usual limit, where it could not be raised.
const DESCRIPTORS_USUAL: u64 = 1_024;
/// With fewer, an operator is told.
const DESCRIPTORS_MANY: u64 = 16_384;

/// Why a server did not start; says what to do, in a sentence.
#[derive(Debug)]
pub struct StartError(String);

impl StartError {
    fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }

    fn caused(what: &str, err: impl fmt::Display) -> Self {
        Self(format!("{what}: {err}"))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for StartError {}

/// A running server.
pub struct Server {
    node: Node,
    services: Arc<Services>,
    http_address: SocketAddr,
    grpc_address: SocketAddr,
    grpc: grpc::Serving,
    stopping: watch::Sender<bool>,
    serving: JoinHandle<()>,
    data: PathBuf,
    started: Instant,
}

impl Server {
    /// Opens the data, takes part, and serves.
    ///
    /// # Errors
    /// [`StartError`]: a taken port, a directory that cannot be used, damage that cannot be healed.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let started = Instant::now();
        let listener = bind(options.http, "HTTP", "--port").await?;
        let http_address = listener.local_addr().map_err(|err| StartError::caused("listen", err))?;
        let grpc_listener = bind(options.grpc, "gRPC", "--port (gRPC is served on --port + 1000)").await?;
        let grpc_address = grpc_listener.local_addr().map_err(|err| StartError::caused("listen", err))?;
        let metrics = Metrics::new();
        let (stopping, stopped) = watch::channel(false);
        let place = Place { data: options.data.clone(), snapshots: options.snapshots, http: http_address };
        let node = Node::start(&place, &options.mode, &metrics).await?;
        let services = Arc::new(Services::new(
            Arc::new(SystemClock),
            node.replicator.clone(),
            node.administration.clone(),
            node.reader.clone(),
            node.hub.clone(),
            metrics.clone(),
        ));
        let clients = Arc::new(nacos::grpc::Api {
            services: services.clone(),
            metrics: metrics.clone(),
            reads: options.reads,
            content_bytes_max: options.content_bytes_max,
            connections: Arc::default(),
            next_request: AtomicU64::new(1),
        });
        let api = Arc::new(Api {
            services: services.clone(),
            clients: clients.clone(),
            metrics: metrics.clone(),
            content_bytes_max: options.content_bytes_max,
            port: http_address.port(),
            stopping: stopped.clone(),
        });
        let places = Places::within(options.descriptors);
        let grpc = grpc::Serving::start(grpc_listener, places.but_a_few(), clients);
        let site = nacos::http::Site::new(api, admin::router(services.clone(), metrics));
        let serving = tokio::spawn(http::serve(listener, places, site, stopped));
        Ok(Self { node, services, http_address, grpc_address, grpc, stopping, serving, data: options.data, started })
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        self.services.status()
    }

    /// Hands over the lead, answers what waits, writes out what is only in memory, and ends. Takes at most about 4 s.
    pub async fn stop(self) {
        // First: while clients are sent away, writes through the others go on.
        self.node.leave().await;
        self.stopping.send_replace(true);
        let ((), served) = tokio::join!(self.grpc.stop(), self.serving);
        if let Err(err) = served {
            tracing::error!(%err, "serve HTTP");
        }
        drop(self.services);
        self.node.stop().await;
    }

    fn announce(&self, quiet: bool) {
        let heads = self.node.reader.list(&|_| true);
        let now = SystemClock.now();
        let last = heads.iter().map(|(_, head)| head.modified_at).max();
        banner::announce(
            &banner::Ready {
                http: self.http_address,
                grpc: self.grpc_address,
                data: &self.data,
                status: &self.status(),
                configs: heads.len(),
                last_write: last.map(|at| Duration::from_millis(now.0.saturating_sub(at.0))),
                took: self.started.elapsed(),
            },
            quiet,
        );
    }
}

/// Runs a server until it is told to stop or has failed.
///
/// # Errors
/// [`StartError`] when it cannot start, or the node has failed for good.
pub async fn run(settings: &Settings) -> Result<(), StartError> {
    let mut options = Options::from_settings(settings).map_err(StartError::new)?;
    let quiet = settings.on("quiet").map_err(StartError::new)?;
    let on_signal = |kind| signal(kind).map_err(|err| StartError::caused("listen for signals", err));
    let (mut terminate, mut interrupt) = (on_signal(SignalKind::terminate())?, on_signal(SignalKind::interrupt())?);
    // Every client that waits has a descriptor of its own; the usual soft limit of 1,024 is for programs with few.
    match rlimit::increase_nofile_limit(DESCRIPTORS_WANTED) {
        Ok(limit) => {
            if limit < DESCRIPTORS_MANY {
                tracing::warn!(
                    "only {limit} open files are allowed, one for each client; see `ulimit -n` (LimitNOFILE)"
                );
            }
            options.descriptors = limit;
        }
        Err(err) => {
            tracing::warn!(%err, "raise the limit of open files");
            options.descriptors = DESCRIPTORS_USUAL;
        }
    }
    let server = Server::start(options).await?;
    server.announce(quiet);
    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        why = server.node.failed() => Some(why),
    };
    if let Some(why) = failed {
        return Err(StartError(format!("this node has failed: {why}; what was acknowledged is on the other nodes")));
    }
    let started = Instant::now();
    tokio::select! {
        () = server.stop() => tracing::info!("stopped cleanly in {:.1} s", started.elapsed().as_secs_f64()),
        _ = terminate.recv() => tracing::warn!("stopped at once by a second signal"),
        _ = interrupt.recv() => tracing::warn!("stopped at once by a second signal"),
    }
    Ok(())
}

/// Takes a port, or says who has it.
async fn bind(address: SocketAddr, what: &str, flag: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|err| {
        if err.kind() == std::io::ErrorKind::AddrInUse {
            let holder = holder_of(address.port()).map_or(String::new(), |it| format!(" by {it}"));
            let port = address.port();
            StartError(format!("{port} ({what}) is in use{holder}; name another port with {flag}, or stop who has it"))
        } else if err.kind() == std::io::ErrorKind::PermissionDenied {
            StartError(format!("{address} ({what}) is not permitted: {err}; name a port above 1023 with {flag}"))
        } else {
            StartError(format!("cannot listen on {address} ({what}): {err}; see --listen and {flag}"))
        }
    })
}

/// Which process listens on a port, as far as /proc tells.
fn holder_of(port: u16) -> Option<String> {
    let listening = |table: &str| -> Option<String> {
        let table = std::fs::read_to_string(table).ok()?;
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields.get(1)?.rsplit_once(':')?.1;
            // State 0A: listening.
            let found = fields.get(3) == Some(&"0A") && u16::from_str_radix(local, 16) == Ok(port);
            found.then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
        })
    };
    let socket = listening("/proc/net/tcp").or_else(|| listening("/proc/net/tcp6"))?;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let has = |it: std::fs::DirEntry| std::fs::read_link(it.path()).is_ok_and(|it| it.as_os_str() == &*socket);
        if descriptors.flatten().any(has) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("pid {} ({})", process.file_name().to_string_lossy(), name.trim()));
        }
    }
    None
}
