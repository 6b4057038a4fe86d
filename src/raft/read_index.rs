//! Linearizable reads without a log entry (Raft dissertation, 6.4: ReadIndex). Reads that wait share the next round.
use std::{sync::Arc, time::Duration};

use openraft::ReadPolicy;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{peers::Lane, replicator::Core, wire};
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
    let linearizer = core.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|err| err.to_string())?;
    Ok(Revision(linearizer.read_log_id().index()))
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
