//! What this node says to other members for openraft. Every call has a deadline.
use std::{
    collections::VecDeque,
    error::Error,
    future::{Future, ready},
    io::Read,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    alias::{SnapshotOf, VoteOf},
    base::{BoxFuture, BoxStream},
    error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};

use super::{
    MemberNode, TypeConfig,
    convert::{entry_to_wire, membership_to_wire, raft_id_from_wire, raft_id_to_wire, vote_from_wire, vote_to_wire},
    peers::{LINK_BYTES_PER_SECOND_MIN, Lane, Peers},
    runtime::Threads,
    wire,
};
use crate::storage::{LogStore, SnapshotFile, StateStore, codec::DecodeError};

/// A snapshot travels in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;
/// A follower may take this long over one piece of a snapshot.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);
/// A follower may take this many heartbeats to flush entries before the connection is given up.
const FLUSH_HEARTBEATS: u32 = 10;

/// How long so many bytes may take on their way: a deadline is so much later for them.
fn on_the_way(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / LINK_BYTES_PER_SECOND_MIN)
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Makes a [`PeerNetwork`] for each member.
pub(super) struct NetworkFactory {
    pub(super) peers: Arc<Peers>,
    pub(super) log: Arc<dyn LogStore>,
    pub(super) state: Arc<dyn StateStore>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> PeerNetwork {
        self.network(target, node, Lane::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberNode) -> PeerNetwork {
        self.network(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &MemberNode) -> PeerNetwork {
        self.network(target, node, Lane::Snapshot)
    }
}

impl NetworkFactory {
    fn network(&self, target: u64, node: &MemberNode, lane: Lane) -> PeerNetwork {
        let (peers, log, state) = (self.peers.clone(), self.log.clone(), self.state.clone());
        PeerNetwork { peers, log, state, target, address: node.member_address.clone(), lane }
    }
}

/// The way to one member, for one kind of message.
pub(super) struct PeerNetwork {
    peers: Arc<Peers>,
    log: Arc<dyn LogStore>,
    state: Arc<dyn StateStore>,
    target: u64,
    address: String,
    lane: Lane,
}

impl PeerNetwork {
    fn timed_out(&self, action: RPCTypes, after: Duration) -> RPCError<TypeConfig> {
        Timeout { action, id: self.peers.node(), target: self.target, timeout: after }.into()
    }

    async fn unary<T>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Rpc<T> {
        match timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => Err(self.timed_out(action, deadline)),
        }
    }

    fn vote_request(&self, rpc: &VoteRequest<TypeConfig>) -> wire::VoteRequest {
        wire::VoteRequest {
            caller: self.peers.caller(self.target),
            vote: Some(vote_to_wire(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(raft_id_to_wire),
            leadership_transfer: rpc.leadership_transfer,
        }
    }

    fn client(&self) -> Rpc<wire::peer_client::PeerClient<tonic::transport::Channel>> {
        self.peers.client(&self.address, self.lane).map_err(|status| rpc_error(&status))
    }
}

fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    if matches!(status.code(), Code::Unavailable | Code::FailedPrecondition) {
        Unreachable::from_string(reason(status)).into()
    } else {
        NetworkError::from_string(reason(status)).into()
    }
}

/// What it says, and what the system said, in one line.
fn reason(status: &Status) -> String {
    let mut root: &dyn Error = status;
    while let Some(source) = root.source() {
        root = source;
    }
    let (message, root) = (status.message(), root.to_string());
    if root.contains(message) { root } else { format!("{message}: {root}") }
}

fn garbled(err: DecodeError) -> RPCError<TypeConfig> {
    NetworkError::new(&err).into()
}

pub(super) fn vote_response(reply: wire::VoteReply) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    Ok(VoteResponse {
        vote: vote_from_wire(reply.vote)?,
        vote_granted: reply.granted,
        last_log_id: reply.last.map(raft_id_from_wire),
    })
}

pub(super) fn append_result(reply: wire::AppendReply) -> Result<StreamAppendResult<TypeConfig>, DecodeError> {
    match reply.outcome.ok_or_else(|| DecodeError("outcome is missing".into()))? {
        wire::append_reply::Outcome::Flushed(upto) => Ok(Ok(upto.last.map(raft_id_from_wire))),
        wire::append_reply::Outcome::Conflict(id) => Ok(Err(StreamAppendError::Conflict(raft_id_from_wire(id)))),
        wire::append_reply::Outcome::HigherVote(vote) => {
            Ok(Err(StreamAppendError::HigherVote(vote_from_wire(Some(vote))?)))
        }
    }
}

/// Ends a stream of appends that stands at entries which were purged: nothing follows for it to send.
///
/// openraft 0.10.0-alpha.37 goes back to the last stream that it was asked for when a message about what is committed gets no
/// answer (`ReplicationCore::select_next_payload`), even if a snapshot has been sent in its place; and with more to send it
/// does not look for what it is asked for next, so that a follower got the same message without entries for ever. It looks
/// when the stream has ended. One such message may be sent: it may say what is committed to whoever a snapshot is under way to.
fn while_it_gets_on(
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>>,
    log: Arc<dyn LogStore>,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> {
    let mut stood = false;
    input.take_while(move |rpc| {
        let next = rpc.prev_log_id.map_or(0, |it| it.index + 1);
        let stands = rpc.entries.is_empty() && log.state().purged.is_some_and(|it| it.index >= next);
        ready(!(std::mem::replace(&mut stood, stands) && stands))
    })
}

/// When each message was sent that has no answer yet, and its bytes.
#[derive(Clone, Default)]
struct Owed(Arc<Mutex<VecDeque<(Instant, u64)>>>);

impl Owed {
    fn with<T>(&self, act: impl FnOnce(&mut VecDeque<(Instant, u64)>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sent(&self, request: &wire::AppendRequest) {
        let bytes = request.entries.iter().map(|it| match &it.payload {
            Some(wire::entry::Payload::Proposal(it)) => it.len() as u64,
            Some(wire::entry::Payload::Blank(_) | wire::entry::Payload::Membership(_)) | None => 0,
        });
        self.with(|owed| owed.push_back((Instant::now(), bytes.sum())));
    }

    fn answered(&self) {
        self.with(VecDeque::pop_front);
    }

    /// Since when an answer is owed, and the bytes that may have to get there before.
    fn oldest(&self) -> Option<(Instant, u64)> {
        self.with(|owed| owed.front().map(|(since, _)| (*since, owed.iter().map(|(_, bytes)| bytes).sum())))
    }
}

/// The answers to a stream of appends, with a deadline for each that is owed.
struct Answers<S> {
    replies: S,
    owed: Owed,
    deadline: Duration,
    timed_out: RPCError<TypeConfig>,
}

impl<S: Stream<Item = Result<wire::AppendReply, Status>> + Unpin> Answers<S> {
    async fn next(&mut self) -> Option<Rpc<StreamAppendResult<TypeConfig>>> {
        let begun = Instant::now();
        loop {
            let owed = self.owed.oldest();
            let until = owed.map(|(since, bytes)| since.max(begun) + self.deadline + on_the_way(bytes));
            if until.is_some_and(|it| it <= Instant::now()) {
                return Some(Err(self.timed_out.clone()));
            }
            // While nothing is owed, something may be sent.
            match timeout_at(until.unwrap_or_else(|| Instant::now() + self.deadline), self.replies.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(reply))) => {
                    self.owed.answered();
                    return Some(append_result(reply).map_err(garbled));
                }
                Ok(Some(Err(status))) => return Some(Err(rpc_error(&status))),
                Err(_) => {}
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let mut answers = self.stream_append(Box::pin(stream::once(async { rpc })), option).await?;
        match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => Err(NetworkError::from_string("the stream ended without an answer").into()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let deadline = match self.lane {
            Lane::Heartbeat => option.hard_ttl(),
            Lane::Replication | Lane::Snapshot | Lane::Clients => option.hard_ttl() * FLUSH_HEARTBEATS,
        };
        Box::pin(async move {
            let owed = Owed::default();
            let (peers, target, sent) = (self.peers.clone(), self.target, owed.clone());
            let requests = while_it_gets_on(input, self.log.clone()).map(move |rpc| {
                let request = wire::AppendRequest {
                    caller: peers.caller(target),
                    vote: Some(vote_to_wire(&rpc.vote)),
                    previous: rpc.prev_log_id.as_ref().map(raft_id_to_wire),
                    entries: rpc.entries.into_iter().map(entry_to_wire).collect(),
                    committed: rpc.leader_commit.as_ref().map(raft_id_to_wire),
                };
                sent.sent(&request);
                request
            });
            // openraft pauses after a failure, but in here: who dials before there is something to say, dials a member that
            // refuses connections ten thousand times a second.
            let mut requests = Box::pin(requests.peekable());
            if requests.as_mut().peek().await.is_none() {
                return Ok(stream::empty().boxed());
            }
            let mut client = self.client()?;
            let is_sign_of_life = self.lane == Lane::Heartbeat;
            if is_sign_of_life {
                self.peers.presence.asks(self.target, &self.address);
            }
            let replies = self.unary(RPCTypes::AppendEntries, deadline, client.append(requests)).await;
            if is_sign_of_life && replies.is_err() {
                self.peers.presence.hears(self.target, &replies);
            }
            let replies = replies?;
            let timed_out = self.timed_out(RPCTypes::AppendEntries, deadline);
            let answers = Answers { replies, owed, deadline, timed_out };
            // Only what consensus says over there is an answer: the stream itself is open at once.
            let presence = is_sign_of_life.then_some(&self.peers.presence);
            let answers = stream::unfold(Some(answers), move |answers| async move {
                let mut answers = answers?;
                let answer = answers.next().await?;
                if let Some(presence) = presence {
                    presence.hears(target, &answer);
                }
                // After anything but success the leader starts over.
                let go_on = matches!(answer, Ok(Ok(_)));
                Some((answer, go_on.then_some(answers)))
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let mut client = self.client()?;
        self.peers.presence.asks(self.target, &self.address);
        let call = client.vote(self.vote_request(&rpc));
        let reply = self.unary(RPCTypes::Vote, option.hard_ttl(), call).await;
        self.peers.presence.hears(self.target, &reply);
        vote_response(reply?).map_err(garbled)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let mut client = self.client()?;
        self.peers.presence.asks(self.target, &self.address);
        let call = client.pre_vote(self.vote_request(&rpc));
        let reply = self.unary(RPCTypes::Vote, option.hard_ttl(), call).await;
        self.peers.presence.hears(self.target, &reply);
        vote_response(reply?).map_err(garbled)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let membership = &snapshot.meta.last_membership;
        let head = wire::SnapshotHead {
            caller: self.peers.caller(self.target),
            vote: Some(vote_to_wire(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(raft_id_to_wire),
            membership_at: membership.log_id().as_ref().map(raft_id_to_wire),
            membership: Some(membership_to_wire(membership.membership())),
            bytes: snapshot.snapshot.bytes,
        };
        let deadline = option.hard_ttl() + on_the_way(snapshot.snapshot.bytes);
        let (state, file) = (self.state.clone(), snapshot.snapshot);
        let threads = Threads::of_this_task();
        let file = threads.run(move || state.open_snapshot(&file)).await.flatten();
        let parts = file
            .map(|file| snapshot_parts(head, file, threads))
            .map_err(|err| StreamingError::Network(NetworkError::new(&err)))?;
        let mut client = self.peers.client(&self.address, self.lane).map_err(|status| rpc_error(&status))?;
        let call = self.unary(RPCTypes::InstallSnapshot, deadline, client.install_snapshot(parts));
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            reply = call => {
                let vote = vote_from_wire(reply?.vote).map_err(garbled)?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let mut client = self.client()?;
        let call = client.transfer_leader(wire::TransferLeaderRequest {
            caller: self.peers.caller(self.target),
            from_leader: Some(vote_to_wire(rpc.from_leader())),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().map(raft_id_to_wire),
        });
        let reply = self.unary(RPCTypes::TransferLeader, option.hard_ttl(), call).await?;
        match reply.outcome.ok_or_else(|| garbled(DecodeError("outcome is missing".into())))? {
            wire::transfer_leader_reply::Outcome::Accepted(_) => Ok(Ok(())),
            wire::transfer_leader_reply::Outcome::VoteChanged(vote) => {
                let actual = vote_from_wire(Some(vote)).map_err(garbled)?;
                Ok(Err(TransferLeaderError::VoteChanged { expected: *rpc.from_leader(), actual }))
            }
            wire::transfer_leader_reply::Outcome::NotFlushed(upto) => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: rpc.last_log_id().copied(),
                actual: upto.last.map(raft_id_from_wire),
            })),
        }
    }
}

/// The messages that carry a snapshot file: what it is, then its bytes. Reads as it sends; a file that cannot be read to
/// its end makes a transfer that the receiver refuses as too short.
fn snapshot_parts(
    head: wire::SnapshotHead,
    file: Box<dyn Read + Send>,
    threads: Threads,
) -> impl Stream<Item = wire::SnapshotPart> + Send + 'static {
    let head = wire::SnapshotPart { part: Some(wire::snapshot_part::Part::Head(head)) };
    let chunks = stream::unfold(file, move |mut file| async move {
        let read = threads.run(move || {
            let mut data = Vec::with_capacity(CHUNK_BYTES);
            (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut data).map(|_| (data, file))
        });
        match timeout(CHUNK_DEADLINE, read).await.map(Result::flatten) {
            Ok(Ok((data, _))) if data.is_empty() => None,
            Ok(Ok((data, file))) => {
                let chunk = wire::SnapshotChunk { crc32c: crc32c::crc32c(&data), data: Bytes::from(data) };
                Some((wire::SnapshotPart { part: Some(wire::snapshot_part::Part::Chunk(chunk)) }, file))
            }
            Ok(Err(err)) => {
                tracing::error!(%err, "read a snapshot file to send it");
                None
            }
            Err(_) => {
                tracing::error!("reading a snapshot file to send it takes too long");
                None
            }
        }
    });
    stream::iter([head]).chain(chunks)
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use tokio::time::sleep;

    use super::*;
    use crate::{
        raft::convert::{RaftEntry, to_raft_id, to_raft_vote},
        storage::{LogEntry, Payload, Vote, memory_log::MemoryLog},
        types::LogId,
    };

    fn id(index: u64) -> LogId {
        LogId { term: 1, node: 1, index }
    }

    async fn sent(log: &Arc<dyn LogStore>, asked: &[(Option<u64>, usize)]) -> usize {
        let requests = asked.iter().map(|(previous, entries)| AppendEntriesRequest {
            vote: to_raft_vote(Vote { term: 1, node: 1, committed: true }),
            prev_log_id: previous.map(|it| to_raft_id(id(it))),
            leader_commit: None,
            entries: (0..*entries)
                .map(|at| previous.map_or(0, |it| it + 1) + at as u64)
                .map(|index| RaftEntry { log_id: to_raft_id(id(index)), payload: EntryPayload::Blank })
                .collect(),
        });
        while_it_gets_on(stream::iter(requests), log.clone()).count().await
    }

    /// What comes of an answer that comes so long after the stream has begun to a message of so many bytes that was sent at
    /// that time; the deadline is 1.5 s.
    async fn answered_after(sent: u64, bytes: usize, answered: u64) -> bool {
        let owed = Owed::default();
        let (reply, replies) = tokio::sync::mpsc::unbounded_channel();
        let replies = stream::unfold(replies, |mut replies| async { replies.recv().await.map(|it| (it, replies)) });
        let deadline = Duration::from_millis(1_500);
        let timed_out = Timeout { action: RPCTypes::AppendEntries, id: 1, target: 2, timeout: deadline }.into();
        let mut answers = Answers { replies: Box::pin(replies), owed: owed.clone(), deadline, timed_out };
        let entry = wire::Entry { id: None, payload: Some(wire::entry::Payload::Proposal(vec![0; bytes].into())) };
        tokio::spawn(async move {
            sleep(Duration::from_millis(sent)).await;
            owed.sent(&wire::AppendRequest { entries: vec![entry], ..wire::AppendRequest::default() });
            sleep(Duration::from_millis(answered - sent)).await;
            let upto = wire::append_reply::Outcome::Flushed(wire::Upto { last: None });
            drop(reply.send(Ok(wire::AppendReply { outcome: Some(upto) })));
        });
        answers.next().await.is_some_and(|it| it.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_time_from_when_its_message_was_sent() {
        assert!(answered_after(0, 1, 1_400).await);
        assert!(!answered_after(0, 1, 1_600).await);
        assert!(answered_after(1_450, 1, 2_900).await, "the stream had been silent before");
        assert!(answered_after(60_000, 1, 61_000).await);
        assert!(!answered_after(60_000, 1, 61_600).await);
        assert!(answered_after(1_000, 1 << 20, 6_400).await, "so many bytes have 4 s");
        assert!(!answered_after(1_000, 1 << 20, 6_600).await);
    }

    #[tokio::test]
    async fn a_stream_that_stands_at_what_was_purged_ends() {
        let log: Arc<dyn LogStore> = Arc::new(MemoryLog::new());
        let entries = (0..10).map(|index| LogEntry { id: id(index), payload: Payload::Blank }).collect();
        log.append(entries, Box::new(drop));
        let commits_only = [(Some(9), 0), (Some(9), 0), (Some(9), 0)];
        let from_the_start = [(None, 0), (None, 0), (None, 0)];
        assert_eq!((sent(&log, &commits_only).await, sent(&log, &from_the_start).await), (3, 3), "nothing is purged");
        log.purge(id(6));
        assert_eq!(sent(&log, &commits_only).await, 3);
        assert_eq!(sent(&log, &[(Some(6), 0), (Some(6), 3), (Some(9), 0), (Some(9), 0)]).await, 4, "the next is there");
        assert_eq!(sent(&log, &[(Some(5), 0)]).await, 1, "what is committed is told");
        assert_eq!(sent(&log, &[(Some(5), 0), (Some(5), 0), (Some(5), 0)]).await, 1);
        assert_eq!(sent(&log, &from_the_start).await, 1);
    }
}
