//! Linearizable reads without a log entry (Raft dissertation, 6.4: ReadIndex). Reads that wait share the next round.
//!
//! Whether this node still leads is asked by messages of our own. Consensus can ask, too, but takes the answer to one message
//! for the answer to a later one without entries that was sent after it (openraft 0.10.0-alpha.37,
//! `InflightAppendQueue::drain_acked`): a leader that was stopped while others elected one in its place, and goes on, finds
//! an old answer and takes itself for the leader.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::{LinearizerOption, error::Fatal};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{TypeConfig, convert::vote_to_wire, peers::Lane, replicator::Core, wire};
use crate::{
    planted::{self, Bug},
    replication::ProposeError,
    types::{Revision, limits},
};

/// Reads that may wait for a round.
const READS_WAITING_MAX: usize = 65_536;
/// How long to wait before asking again who leads.
const LEADER_POLL: Duration = Duration::from_millis(20);

type Answer = oneshot::Sender<Result<Revision, ProposeError>>;

/// The rounds of one node, one at a time.
pub(super) struct ReadIndex(mpsc::Sender<Answer>);

impl ReadIndex {
    pub(super) fn start(core: Arc<Core>) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Answer>(READS_WAITING_MAX);
        tokio::spawn(async move {
            let mut round = Vec::new();
            while waiting.recv_many(&mut round, READS_WAITING_MAX).await > 0 {
                let result = ask(&core).await;
                for answer in round.drain(..) {
                    // Whoever asked may have gone.
                    drop(answer.send(result.clone()));
                }
            }
        });
        Self(queue)
    }

    /// A revision that includes everything acknowledged anywhere before this call.
    pub(super) async fn get(&self) -> Result<Revision, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(answer).map_err(|_| ProposeError::Unavailable("too many reads are waiting".into()))?;
        answered.await.unwrap_or_else(|_| Err(ProposeError::Unavailable("this node is stopping".into())))
    }
}

/// A revision that includes everything acknowledged anywhere before this call, asked for by itself.
pub(super) async fn ask(core: &Core) -> Result<Revision, ProposeError> {
    let deadline = Instant::now() + limits::READ_BARRIER_TIMEOUT;
    let mut why = "no leader is known".to_owned();
    while Instant::now() < deadline {
        let answer = match core.leader() {
            Some((leader, _)) if core.is_me(leader) => timeout_at(deadline, ask_here(core)).await,
            Some((leader, address)) => timeout_at(deadline, ask_there(core, leader, &address)).await,
            None => Ok(Err(why.clone())),
        };
        match answer {
            Ok(Ok(revision)) => return Ok(revision),
            Ok(Err(err)) => why = err,
            Err(_) => break,
        }
        sleep(LEADER_POLL).await;
    }
    Err(ProposeError::Unavailable(format!("a linearizable read needs a leader with a majority: {why}")))
}

/// Asks a majority whether this node still leads.
pub(super) async fn ask_here(core: &Core) -> Result<Revision, String> {
    if planted::is(Bug::ReadWithoutQuorum) {
        return Ok(core.applier.state().applied().revision());
    }
    // What was committed is looked up, and a majority asked, after this was called: the order of the two does not matter, if
    // both are about one term.
    let committed = async {
        let linearizer = core.raft.get_read_linearizer(LinearizerOption::new(None, true)).await;
        linearizer.map(|it| *it.read_log_id()).map_err(|err| err.to_string())
    };
    let (committed, term) = tokio::try_join!(committed, confirm(core))?;
    if committed.committed_leader_id().term == term {
        Ok(Revision(committed.index()))
    } else {
        Err("the lead changed meanwhile".into())
    }
}

/// The vote of this node: that of its leader, or of whom it would have as one.
///
/// # Errors
/// When consensus has stopped.
pub(super) async fn current_vote(core: &Core) -> Result<wire::Vote, Fatal<TypeConfig>> {
    // By the core of consensus: what the metrics say may be older than a vote that was given already.
    core.raft.with_raft_state(|state| vote_to_wire(state.vote_ref())).await
}

/// Waits until a majority of the voters has said, asked after this was called, that its vote is still this node's, and returns
/// the term. No leader of a later one was elected before this was called then: any majority shares a voter with this one.
async fn confirm(core: &Core) -> Result<u64, String> {
    let standing = core.raft.with_raft_state(|state| {
        let membership = state.membership_state.effective();
        let nodes: Vec<(u64, String)> =
            membership.nodes().map(|(id, node)| (*id, node.member_address.clone())).collect();
        (vote_to_wire(state.vote_ref()), membership.get_joint_config().clone(), nodes)
    });
    let (vote, voters, nodes) = standing.await.map_err(|err| err.to_string())?;
    if !vote.committed || !core.is_me(vote.node) {
        return Err("this node does not lead".into());
    }
    let mut confirmed = BTreeSet::from([vote.node]);
    // While the cluster changes there are two sets of voters, and a majority of each decides.
    let is_enough =
        |confirmed: &BTreeSet<u64>| voters.iter().all(|it| it.intersection(confirmed).count() > it.len() / 2);
    let is_asked = |id: &u64| !core.is_me(*id) && voters.iter().any(|it| it.contains(id));
    let asked = nodes.iter().filter(|(id, _)| is_asked(id));
    let mut answers: FuturesUnordered<_> = asked.map(|(id, address)| follows(core, *id, address, vote)).collect();
    let mut why = "there are no other voters".to_owned();
    while !is_enough(&confirmed) {
        match answers.next().await {
            Some(Ok(id)) => drop(confirmed.insert(id)),
            Some(Err(err)) => why = err,
            None => return Err(format!("a majority has not confirmed that this node leads: {why}")),
        }
    }
    Ok(vote.term)
}

/// Whether the vote of another node is still this one.
async fn follows(core: &Core, id: u64, address: &str, vote: wire::Vote) -> Result<u64, String> {
    let asked = async {
        let mut client = core.peers.client(address, Lane::Heartbeat)?;
        client.current_vote(wire::CurrentVoteRequest { caller: core.peers.caller(id) }).await
    };
    let reply = match timeout(limits::READ_BARRIER_TIMEOUT, asked).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(format!("node {id}: {}", status.message())),
        Err(_) => return Err(format!("node {id} does not answer")),
    };
    let same = reply.vote.is_some_and(|it| (it.term, it.node) == (vote.term, vote.node));
    if same { Ok(id) } else { Err(format!("node {id} has another leader")) }
}

async fn ask_there(core: &Core, leader: u64, address: &str) -> Result<Revision, String> {
    let mut client = core.peers.client(address, Lane::Clients).map_err(|err| err.to_string())?;
    let request = wire::ReadIndexRequest { caller: core.peers.caller(leader) };
    let reply = client.read_index(request).await.map_err(|err| err.to_string())?;
    match reply.into_inner().outcome {
        Some(wire::read_index_reply::Outcome::Index(index)) => Ok(Revision(index)),
        Some(wire::read_index_reply::Outcome::Unavailable(why)) => Err(why),
        None => Err("the leader's answer cannot be understood".into()),
    }
}
