//! What other members say to this node.
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    SnapshotMeta, StoredMembership,
    alias::{SnapshotMetaOf, SnapshotOf},
    raft::{
        AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
        VoteRequest,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

use super::{
    TypeConfig, contact,
    convert::{
        RaftEntry, entry_from_wire, membership_from_wire, place_from_wire, raft_id_from_wire, raft_id_to_wire,
        vote_from_wire, vote_to_wire,
    },
    forward, membership,
    peers::{KEEP_ALIVE, MESSAGE_BYTES_MAX, WINDOW_BYTES},
    presence::Refusals,
    read_index,
    replicator::Core,
    runtime::Threads,
    state_machine::to_raft_snapshot,
    wire::{
        self,
        peer_server::{Peer, PeerServer},
    },
};
use crate::{
    net::{ByteStream, Connection},
    replication::AdministrationError,
    storage::{SnapshotFile, StateStore, codec::DecodeError},
};

/// After a failure to take a connection, as without a file descriptor, the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections that come to a socket.
pub(super) fn tcp(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    paused_by_failures(TcpListenerStream::new(listener).map(|socket| {
        let socket = socket?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }))
}

/// Who takes them asks for the next one at once, whatever came of the last.
fn paused_by_failures<T>(incoming: impl Stream<Item = io::Result<T>>) -> impl Stream<Item = io::Result<T>> {
    incoming.then(|socket| async {
        if let Err(err) = &socket {
            tracing::warn!(%err, "take a connection of another member");
            sleep(ACCEPT_PAUSE).await;
        }
        socket
    })
}

/// A connection that is no socket.
pub(super) struct Other(pub(super) Connection);

impl Connected for Other {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Other {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, to)
    }
}

impl AsyncWrite for Other {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Serves other members until `stopped` resolves.
pub(super) async fn serve<C: Connected + ByteStream>(
    core: Arc<Core>,
    incoming: impl Stream<Item = io::Result<C>>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let service = PeerServer::new(PeerService { core, receiving: Arc::default(), refusals: Arc::default() })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        // A member whose machine is gone says nothing more: without this its half of a snapshot would keep others out for ever.
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stopped)
        .await
}

struct PeerService {
    core: Arc<Core>,
    /// One snapshot at a time comes in.
    receiving: Arc<tokio::sync::Mutex<()>>,
    refusals: Arc<Refusals>,
}

fn garbled(err: DecodeError) -> Status {
    Status::invalid_argument(err.to_string())
}

fn failed(err: impl std::fmt::Display) -> Status {
    Status::unavailable(err.to_string())
}

pub(super) fn append_request(it: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let entries: Vec<RaftEntry> = it.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?;
    let prev_log_id = it.previous.map(place_from_wire).transpose()?;
    // Consensus takes it for granted.
    let mut next = prev_log_id.as_ref().map_or(Some(0), |it| it.index.checked_add(1));
    for entry in &entries {
        if next != Some(entry.log_id.index) {
            return Err(DecodeError(format!("entry {} does not follow what is before it", entry.log_id.index)));
        }
        next = entry.log_id.index.checked_add(1);
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(it.vote)?,
        prev_log_id,
        entries,
        leader_commit: it.committed.map(place_from_wire).transpose()?,
    })
}

pub(super) fn vote_request(it: &wire::VoteRequest) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    let mut request = VoteRequest::new(vote_from_wire(it.vote)?, it.last.map(raft_id_from_wire));
    request.leadership_transfer = it.leadership_transfer;
    Ok(request)
}

pub(super) fn vote_reply(it: &openraft::raft::VoteResponse<TypeConfig>) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(vote_to_wire(&it.vote)),
        granted: it.vote_granted,
        last: it.last_log_id.as_ref().map(raft_id_to_wire),
    }
}

pub(super) fn append_reply(result: StreamAppendResult<TypeConfig>) -> wire::AppendReply {
    let outcome = match result {
        Ok(upto) => wire::append_reply::Outcome::Flushed(wire::Upto { last: upto.as_ref().map(raft_id_to_wire) }),
        Err(StreamAppendError::Conflict(id)) => wire::append_reply::Outcome::Conflict(raft_id_to_wire(&id)),
        Err(StreamAppendError::HigherVote(vote)) => wire::append_reply::Outcome::HigherVote(vote_to_wire(&vote)),
    };
    wire::AppendReply { outcome: Some(outcome) }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<wire::AppendReply, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let core = self.core.clone();
        // A message that cannot be read ends the stream, with the reason; the leader opens another one.
        let refused = Arc::<Mutex<Option<Status>>>::default();
        let why = refused.clone();
        let refusals = self.refusals.clone();
        let requests = stream::unfold(request.into_inner(), move |mut requests| {
            let (core, refused, refusals) = (core.clone(), refused.clone(), refusals.clone());
            async move {
                let request = match requests.next().await? {
                    Ok(request) => request,
                    Err(status) => {
                        tracing::debug!(%status, "the stream of a leader broke");
                        return None;
                    }
                };
                let checked = core.peers.check_leader(request.caller.as_ref());
                match checked.and_then(|_| append_request(request).map_err(garbled)) {
                    Ok(request) => {
                        core.heard.again();
                        Some((request, requests))
                    }
                    Err(status) => {
                        refusals.tell(status.message());
                        *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                        None
                    }
                }
            }
        });
        let replies = self.core.raft.stream_append(requests).map(|result| Ok(append_reply(result.map_err(failed)?)));
        let refusal = stream::once(async move { why.lock().unwrap_or_else(PoisonError::into_inner).take() });
        let refusal = refusal.filter_map(|status| async { status.map(Err) });
        Ok(Response::new(replies.chain(refusal).boxed()))
    }

    async fn pre_vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.caller.as_ref())?;
        let response = self.core.raft.pre_vote(vote_request(&request).map_err(garbled)?).await.map_err(failed)?;
        Ok(Response::new(vote_reply(&response)))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.caller.as_ref())?;
        let response = self.core.raft.vote(vote_request(&request).map_err(garbled)?).await.map_err(failed)?;
        Ok(Response::new(vote_reply(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderReply>, Status> {
        use wire::transfer_leader_reply::Outcome;
        let request = request.into_inner();
        self.core.peers.check_leader(request.caller.as_ref())?;
        let from = vote_from_wire(request.from_leader).map_err(garbled)?;
        let request = TransferLeaderRequest::new(from, request.to, request.last.map(raft_id_from_wire));
        let outcome = match self.core.raft.handle_transfer_leader(request).await.map_err(failed)? {
            Ok(()) => Outcome::Accepted(true),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Outcome::VoteChanged(vote_to_wire(&actual)),
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                Outcome::NotFlushed(wire::Upto { last: actual.as_ref().map(raft_id_to_wire) })
            }
        };
        Ok(Response::new(wire::TransferLeaderReply { outcome: Some(outcome) }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let coming = Status::unavailable("a snapshot is coming in");
        let receiving = self.receiving.clone().try_lock_owned().map_err(|_| coming)?;
        let core = self.core.clone();
        // Whoever sends it may go away meanwhile: what is being installed must not be written over by the next one.
        let installed = tokio::spawn(async move {
            let installed = take_snapshot(&core, request.into_inner()).await;
            drop(receiving);
            installed
        });
        installed.await.map_err(failed)?
    }

    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Result<Response<wire::ProposeReply>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.caller.as_ref())?;
        let placed = forward::place_for_follower(&self.core, request.proposals).await;
        let outcomes = placed.into_iter().map(forward::placed_to_wire).collect();
        Ok(Response::new(wire::ProposeReply { outcomes }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        self.core.peers.check(request.into_inner().caller.as_ref())?;
        let outcome = match read_index::ask_here(&self.core).await {
            Ok(revision) => wire::read_index_reply::Outcome::Index(revision.0),
            Err(why) => wire::read_index_reply::Outcome::Unavailable(why),
        };
        Ok(Response::new(wire::ReadIndexReply { outcome: Some(outcome) }))
    }

    async fn current_vote(
        &self,
        request: Request<wire::CurrentVoteRequest>,
    ) -> Result<Response<wire::CurrentVoteReply>, Status> {
        self.core.peers.check(request.into_inner().caller.as_ref())?;
        let vote = read_index::current_vote(&self.core).await.map_err(failed)?;
        Ok(Response::new(wire::CurrentVoteReply { vote: Some(vote) }))
    }

    async fn administer(
        &self,
        request: Request<wire::AdministerRequest>,
    ) -> Result<Response<wire::AdministerReply>, Status> {
        let request = request.into_inner();
        self.core.peers.check(request.caller.as_ref())?;
        let request = match request.request.ok_or_else(|| Status::invalid_argument("the request is missing"))? {
            wire::administer_request::Request::Add(node) => membership::Request::Add(node.id, node.member_address),
            wire::administer_request::Request::Remove(node) => membership::Request::Remove(node),
            wire::administer_request::Request::TransferLeadership(to) => membership::Request::TransferLeadership(to),
        };
        let outcome = match membership::administer_here(&self.core, request).await {
            Ok(()) => wire::administer_reply::Outcome::Done(true),
            Err(AdministrationError::Refused(why)) => wire::administer_reply::Outcome::Refused(why),
            Err(AdministrationError::Unavailable(why)) => wire::administer_reply::Outcome::Unavailable(why),
        };
        Ok(Response::new(wire::AdministerReply { outcome: Some(outcome) }))
    }

    async fn contact(&self, request: Request<wire::ContactRequest>) -> Result<Response<wire::ContactReply>, Status> {
        self.core.peers.check(request.into_inner().caller.as_ref())?;
        Ok(Response::new(contact::answer(self.core.http, self.core.serves())))
    }
}

/// Receives a snapshot, checks it, and has consensus install it.
async fn take_snapshot(
    core: &Core,
    mut parts: Streaming<wire::SnapshotPart>,
) -> Result<Response<wire::SnapshotReply>, Status> {
    let head = match parts.message().await?.and_then(|it| it.part) {
        Some(wire::snapshot_part::Part::Head(head)) => head,
        Some(wire::snapshot_part::Part::Chunk(_)) | None => {
            return Err(Status::invalid_argument("a snapshot begins with its head"));
        }
    };
    core.peers.check_leader(head.caller.as_ref())?;
    let vote = vote_from_wire(head.vote).map_err(garbled)?;
    let membership = membership_from_wire(head.membership.unwrap_or_default()).map_err(garbled)?;
    let announced = SnapshotMeta {
        last_log_id: head.last.map(raft_id_from_wire),
        last_membership: StoredMembership::new(head.membership_at.map(raft_id_from_wire), membership),
    };
    let state = core.applier.state().clone();
    let threads = Threads::of(core.seed);
    receive(&mut parts, &state, head.bytes, threads).await?;
    // What a bad disk elsewhere made of the file must not stop this node.
    let verified = threads.run(move || state.verify(&state.incoming_path())).await.map_err(failed)?;
    let snapshot = as_announced(&announced, verified.map_err(|err| Status::data_loss(err.to_string()))?)?;
    let response = core.raft.install_full_snapshot(vote, snapshot).await.map_err(failed)?;
    Ok(Response::new(wire::SnapshotReply { vote: Some(vote_to_wire(&response.vote)) }))
}

/// Consensus goes by what a snapshot is announced to be, the state by what is in the file: they must say the same.
fn as_announced(
    announced: &SnapshotMetaOf<TypeConfig>,
    file: SnapshotFile,
) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, Status> {
    let snapshot = to_raft_snapshot(file).map_err(failed)?;
    if snapshot.meta == *announced {
        Ok(snapshot)
    } else {
        Err(Status::data_loss(format!("the snapshot is of {}, but was announced as of {announced}", snapshot.meta)))
    }
}

/// Writes the pieces of a snapshot to a file and waits until the disk has them.
async fn receive(
    parts: &mut Streaming<wire::SnapshotPart>,
    state: &Arc<dyn StateStore>,
    bytes: u64,
    threads: Threads,
) -> Result<(), Status> {
    let creating = state.clone();
    let mut file = threads.run(move || creating.create_incoming()).await.flatten().map_err(failed)?;
    let mut written = 0;
    while let Some(part) = parts.message().await? {
        let chunk = match part.part {
            Some(wire::snapshot_part::Part::Chunk(chunk)) => chunk,
            Some(wire::snapshot_part::Part::Head(_)) | None => {
                return Err(Status::invalid_argument("a snapshot has one head"));
            }
        };
        if crc32c::crc32c(&chunk.data) != chunk.crc32c {
            return Err(Status::data_loss("a piece of the snapshot was damaged on its way"));
        }
        written += chunk.data.len() as u64;
        if written > bytes {
            return Err(Status::data_loss(format!("the snapshot has more than the {bytes} bytes it is said to have")));
        }
        file = threads.run(move || file.write_all(&chunk.data).map(|()| file)).await.flatten().map_err(failed)?;
    }
    if written != bytes {
        return Err(Status::data_loss(format!("the snapshot has {written} bytes, not {bytes}")));
    }
    threads.run(move || file.finish()).await.flatten().map_err(failed)
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, Membership};

    use super::*;
    use crate::{
        raft::convert::entry_to_wire,
        storage::{Applied, codec::wire as log_wire},
        types::LogId,
    };

    #[test]
    fn a_snapshot_that_is_not_what_was_announced_is_refused() {
        let file = |index| SnapshotFile {
            path: "incoming".into(),
            applied: Applied { last: Some(LogId { term: 1, node: 1, index }), membership: None },
            bytes: 9,
        };
        let announced = to_raft_snapshot(file(5)).unwrap().meta;
        assert_eq!(as_announced(&announced, file(5)).unwrap().meta, announced);
        assert!(as_announced(&announced, file(6)).is_err());
        let elsewhere = SnapshotMeta {
            last_membership: StoredMembership::new(announced.last_log_id, Membership::default()),
            ..announced
        };
        assert!(as_announced(&elsewhere, file(5)).is_err(), "with another membership");
    }

    #[tokio::test(start_paused = true)]
    async fn without_file_descriptors_connections_are_waited_for_at_leisure() {
        let tries = stream::repeat_with(|| Err::<(), _>(io::ErrorKind::Other.into()));
        let mut incoming = Box::pin(paused_by_failures(tries));
        let began = tokio::time::Instant::now();
        for _ in 0..100 {
            assert!(incoming.next().await.is_some_and(|it| it.is_err()));
        }
        assert!(began.elapsed() >= 99 * ACCEPT_PAUSE);
    }

    #[test]
    fn entries_that_leave_a_hole_are_refused() {
        let id = |index| log_wire::Id { term: 1, node: 1, index };
        let blank = |index| RaftEntry { log_id: raft_id_from_wire(id(index)), payload: EntryPayload::Blank };
        let request = |previous: Option<u64>, indexes: &[u64]| wire::AppendRequest {
            caller: None,
            vote: Some(wire::Vote { term: 1, node: 1, committed: true }),
            previous: previous.map(id),
            entries: indexes.iter().map(|it| entry_to_wire(blank(*it))).collect(),
            committed: None,
        };
        for (previous, indexes) in
            [(None, &[][..]), (None, &[0, 1]), (Some(5), &[6]), (Some(5), &[6, 7, 8]), (Some(5), &[])]
        {
            assert!(append_request(request(previous, indexes)).is_ok(), "{previous:?} {indexes:?}");
        }
        for (previous, indexes) in [(None, &[1][..]), (Some(5), &[5]), (Some(5), &[86, 87]), (Some(5), &[6, 8])] {
            assert!(append_request(request(previous, indexes)).is_err(), "{previous:?} {indexes:?}");
        }
    }
}
