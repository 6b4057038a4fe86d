//! Connections to other members, and who is who.
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;

use tokio::time::timeout;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower_service::Service;

use super::{
    presence::Presence,
    wire::{self, peer_client::PeerClient},
};
use crate::{
    net::{Connection, Dialer},
    types::limits,
};

/// How long opening a connection to a member may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A silent connection is asked for a sign of life this often, and given up after as long again.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// A message holds at most one entry of the largest content, or a group of small ones.
pub(super) const MESSAGE_BYTES_MAX: usize = limits::CONTENT_BYTES_MAX_EVER + (8 << 20);
// The last one of a group may be the largest there is.
const _: () = assert!(
    limits::GROUP_BYTES_MAX_TOTAL + limits::CONTENT_BYTES_MAX_EVER + limits::BESIDE_CONTENT_BYTES_MAX
        < MESSAGE_BYTES_MAX
);
/// What a link between members must carry in a second, in bytes.
pub(super) const LINK_BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// HTTP/2 window of a connection between members. A sign of life waits behind what is under way, and must be in time on the
/// slowest link.
pub(super) const WINDOW_BYTES: u32 = (LINK_BYTES_PER_SECOND_MIN * KEEP_ALIVE.as_secs()) as u32;

/// The id of the cluster, which fences off members of another one, or of an earlier life of this one. 0 until known.
///
/// The node that forms a cluster draws it; the others take it from the first leader they hear.
pub struct ClusterId {
    id: AtomicU64,
    save: Box<dyn Fn(u64) -> io::Result<()> + Send + Sync>,
    saving: Mutex<()>,
}

impl ClusterId {
    /// Starts from what was saved; `save` must be durable on return.
    pub fn new(saved: u64, save: impl Fn(u64) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { id: AtomicU64::new(saved), save: Box::new(save), saving: Mutex::new(()) }
    }

    /// The id, or 0.
    pub fn get(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    /// Takes this id if there is none yet.
    ///
    /// # Errors
    /// When it could not be saved, or there is another one.
    pub fn adopt(&self, id: u64) -> io::Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        match self.get() {
            0 => {
                (self.save)(id)?;
                self.id.store(id, Ordering::Release);
                Ok(())
            }
            known if known == id => Ok(()),
            known => Err(io::Error::other(format!("this node belongs to cluster {known:016x}, not to {id:016x}"))),
        }
    }
}

/// What a message is for; each has a connection of its own, so that a large one does not hold up a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Replication,
    Heartbeat,
    Snapshot,
    Clients,
}

/// The other members, as this node reaches them.
pub struct Peers {
    node: u64,
    cluster: Arc<ClusterId>,
    channels: Mutex<BTreeMap<(String, Lane), Channel>>,
    pub(super) presence: Presence,
    /// Instead of TCP.
    dialer: Option<Arc<dyn Dialer>>,
}

/// A [`Dialer`] for one address, in the words of tonic.
#[derive(Clone)]
struct Dialed(Arc<dyn Dialer>, String);

impl Service<Uri> for Dialed {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Connection>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialing = self.0.dial(self.1.clone());
        // The time is up in here, as with TCP: so tonic says that it did not connect, which tells that nothing was sent.
        Box::pin(async { Ok(TokioIo::new(timeout(CONNECT_TIMEOUT, dialing).await??)) })
    }
}

impl Peers {
    /// No connections yet: each is opened when it is first used, and again when it broke.
    pub fn new(node: u64, cluster: Arc<ClusterId>) -> Self {
        Self { node, cluster, channels: Mutex::default(), presence: Presence::default(), dialer: None }
    }

    /// Reaches the others by this instead of TCP.
    #[must_use]
    pub fn dialing(self, dialer: Arc<dyn Dialer>) -> Self {
        Self { dialer: Some(dialer), ..self }
    }

    /// This node.
    pub fn node(&self) -> u64 {
        self.node
    }

    pub(super) fn client(&self, address: &str, lane: Lane) -> Result<PeerClient<Channel>, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&(address.to_owned(), lane)) {
            Some(channel) => channel.clone(),
            None => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|err| Status::invalid_argument(format!("member address {address:?}: {err}")))?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE)
                    .keep_alive_while_idle(true)
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES);
                let channel = match &self.dialer {
                    Some(dialer) => endpoint.connect_with_connector_lazy(Dialed(dialer.clone(), address.to_owned())),
                    None => endpoint.connect_lazy(),
                };
                channels.insert((address.to_owned(), lane), channel.clone());
                channel
            }
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub(super) fn caller(&self, to: u64) -> Option<wire::Caller> {
        Some(wire::Caller { cluster: self.cluster.get(), from: self.node, to })
    }

    /// Refuses a message that is not for this node, or from another cluster.
    pub(super) fn check(&self, caller: Option<&wire::Caller>) -> Result<u64, Status> {
        let caller = caller.ok_or_else(|| Status::invalid_argument("the caller is missing"))?;
        if caller.to != self.node {
            return Err(Status::failed_precondition(format!(
                "this is node {}, not {}: the member list of node {} has a wrong address",
                self.node, caller.to, caller.from
            )));
        }
        let known = self.cluster.get();
        if known != 0 && caller.cluster != 0 && known != caller.cluster {
            return Err(Status::failed_precondition(format!(
                "node {} belongs to cluster {known:016x}, node {} to {:016x}: one of them was started with a data \
                 directory of another cluster, or lost its own",
                self.node, caller.from, caller.cluster
            )));
        }
        Ok(caller.from)
    }

    /// Like [`Peers::check`]; a leader's word also tells a new node which cluster it belongs to.
    pub(super) fn check_leader(&self, caller: Option<&wire::Caller>) -> Result<u64, Status> {
        let from = self.check(caller)?;
        let cluster = caller.map_or(0, |it| it.cluster);
        if cluster != 0 && self.cluster.get() == 0 {
            self.cluster.adopt(cluster).map_err(|err| Status::unavailable(format!("adopt the cluster id: {err}")))?;
        }
        Ok(from)
    }
}
