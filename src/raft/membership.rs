//! Who is in the cluster: taking a standalone directory over, adding, removing, handing over the lead.
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use openraft::{
    ChangeMembers, Membership, RaftMetrics, async_runtime::watch::WatchReceiver, error::ClientWriteError,
    error::RaftError,
};
use prost::Message;
use tokio::time::{Instant, sleep, timeout};

use super::{MemberNode, TypeConfig, convert::membership_to_wire, peers::Lane, replicator::Core, wire};
use crate::{
    replication::AdministrationError,
    storage::{LogEntry, LogStore, Payload, Vote},
    types::{LogId, is_address},
};

/// How long a change of members may take: a new member must first get a snapshot.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
/// A learner that lacks no more entries than this may vote: it has them in a moment.
const LAG_MAX: u64 = 1_000;
/// How long handing over the lead may take when an administrator asks.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(5);
/// How often to look whether the lead has gone over.
const TRANSFER_POLL: Duration = Duration::from_millis(2);

/// Makes the log of a standalone node the log of a one-voter cluster: its last entry from now on says who votes. Does
/// nothing to a log that is empty or has a vote.
///
/// # Errors
/// When the log cannot be written.
pub fn adopt_standalone(log: &dyn LogStore, node: u64, member_address: &str) -> io::Result<()> {
    let state = log.state();
    let Some(last) = state.last.filter(|_| state.vote.is_none()) else { return Ok(()) };
    let nodes = BTreeMap::from([(node, MemberNode { member_address: member_address.into() })]);
    let membership = Membership::new(vec![BTreeSet::from([node])], nodes).map_err(io::Error::other)?;
    let id = LogId { index: last.index + 1, ..last };
    let entry = LogEntry { id, payload: Payload::Membership(membership_to_wire(&membership).encode_to_vec().into()) };
    log.append(vec![entry], Box::new(drop));
    log.save_committed(id);
    let (done, is_done) = std::sync::mpsc::sync_channel(1);
    let vote = Vote { term: last.term, node: last.node, committed: true };
    log.save_vote(
        vote,
        Box::new(move |result| {
            // The receiver waits below.
            drop(done.send(result));
        }),
    );
    is_done.recv().unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))
}

/// What an administrator asks.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Add(u64, String),
    Remove(u64),
    TransferLeadership(u64),
}

/// Does it here, or has the leader do it.
pub(super) async fn administer(core: &Arc<Core>, request: Request) -> Result<(), AdministrationError> {
    match core.leader() {
        Some((leader, _)) if core.is_me(leader) => administer_here(core, request).await,
        Some((leader, address)) => administer_there(core, leader, &address, request).await,
        None => Err(AdministrationError::Unavailable("no leader is known; most of the nodes must be up".into())),
    }
}

/// Does it as the leader.
pub(super) async fn administer_here(core: &Core, request: Request) -> Result<(), AdministrationError> {
    match request {
        Request::Add(node, address) => add(core, node, address).await,
        Request::Remove(node) => remove(core, node).await,
        Request::TransferLeadership(to) => transfer_leadership(core, to, TRANSFER_DEADLINE).await,
    }
}

async fn administer_there(
    core: &Core,
    leader: u64,
    address: &str,
    request: Request,
) -> Result<(), AdministrationError> {
    let request = match request {
        Request::Add(id, member_address) => wire::administer_request::Request::Add(wire::Node { id, member_address }),
        Request::Remove(node) => wire::administer_request::Request::Remove(node),
        Request::TransferLeadership(to) => wire::administer_request::Request::TransferLeadership(to),
    };
    let request = wire::AdministerRequest { caller: core.peers.caller(leader), request: Some(request) };
    let unavailable = |why: String| AdministrationError::Unavailable(format!("ask the leader, node {leader}: {why}"));
    let mut client = core.peers.client(address, Lane::Clients).map_err(|err| unavailable(err.to_string()))?;
    let reply = match timeout(CHANGE_DEADLINE + TRANSFER_DEADLINE, client.administer(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(unavailable(status.message().into())),
        Err(_) => return Err(unavailable("it takes too long; see `coracle cluster status`".into())),
    };
    match reply.outcome {
        Some(wire::administer_reply::Outcome::Done(_)) => Ok(()),
        Some(wire::administer_reply::Outcome::Refused(why)) => Err(AdministrationError::Refused(why)),
        Some(wire::administer_reply::Outcome::Unavailable(why)) => Err(AdministrationError::Unavailable(why)),
        None => Err(unavailable("its answer cannot be understood".into())),
    }
}

/// First a learner, that votes only once it has caught up: a new node never holds up a majority.
async fn add(core: &Core, node: u64, member_address: String) -> Result<(), AdministrationError> {
    let known = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&node).cloned()
    };
    if node == 0 {
        return Err(AdministrationError::Refused("node ids begin at 1".into()));
    }
    if !is_address(&member_address) {
        return Err(AdministrationError::Refused(format!("{member_address:?} is not an address: HOST:PORT")));
    }
    if let Some(known) = known.filter(|it| it.member_address != member_address) {
        return Err(AdministrationError::Refused(format!(
            "node {node} is a member already, at {}. A node with a new disk needs a new id; remove the old one later",
            known.member_address
        )));
    }
    let change = async {
        let added = core.raft.add_learner(node, MemberNode { member_address }, false).await.map_err(refused)?;
        caught_up(core, node, added.log_id.index).await?;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([node]));
        core.raft.change_membership(voters, true).await.map_err(refused)?;
        Ok(())
    };
    match timeout(CHANGE_DEADLINE, change).await {
        Ok(result) => result,
        Err(_) => Err(AdministrationError::Unavailable(format!(
            "node {node} has not caught up within {CHANGE_DEADLINE:?}; is it started, and reachable at its member \
             address? It stays a learner; ask again when it is"
        ))),
    }
}

/// Waits until a learner has what there was when it was added, and nearly all that came since. openraft, asked to wait, takes
/// one that was never heard of for caught up as long as the log has fewer entries than `replication_lag_threshold`.
async fn caught_up(core: &Core, node: u64, added: u64) -> Result<(), AdministrationError> {
    let is_removed = |metrics: &RaftMetrics<TypeConfig>| {
        let membership = &metrics.membership_config;
        let is_newer = membership.log_id().as_ref().is_some_and(|id| id.index >= added);
        is_newer && membership.membership().get_node(&node).is_none()
    };
    let has_caught_up = |metrics: &RaftMetrics<TypeConfig>| {
        let Some(replication) = &metrics.replication else { return true };
        if is_removed(metrics) {
            return true;
        }
        let matched = replication.get(&node).and_then(Option::as_ref).map(|it| it.index);
        matched.is_some_and(|it| it >= added && it + LAG_MAX >= metrics.last_log_index.unwrap_or_default())
    };
    match core.raft.wait(None).metrics(has_caught_up, "a learner has caught up").await {
        Ok(metrics) if metrics.replication.is_none() => Err(leader_changed()),
        Ok(metrics) if is_removed(&metrics) => {
            Err(AdministrationError::Refused(format!("node {node} was removed meanwhile")))
        }
        Ok(_) => Ok(()),
        Err(err) => Err(AdministrationError::Unavailable(err.to_string())),
    }
}

fn leader_changed() -> AdministrationError {
    AdministrationError::Unavailable("the leader changed meanwhile; look at the status and ask again".into())
}

async fn remove(core: &Core, node: u64) -> Result<(), AdministrationError> {
    let (voters, known) = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (membership.voter_ids().collect::<Vec<_>>(), membership.get_node(&node).is_some())
    };
    if !known {
        return Err(AdministrationError::Refused(format!("node {node} is not a member")));
    }
    if voters == [node] {
        return Err(AdministrationError::Refused(format!("node {node} is the only voter; add another one first")));
    }
    let change = async {
        if voters.contains(&node) {
            let change = ChangeMembers::RemoveVoters(BTreeSet::from([node]));
            core.raft.change_membership(change, false).await.map_err(refused)?;
        } else {
            let change = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
            core.raft.change_membership(change, false).await.map_err(refused)?;
        }
        Ok(())
    };
    match timeout(CHANGE_DEADLINE, change).await {
        Ok(result) => result,
        Err(_) => Err(AdministrationError::Unavailable("the change is not committed yet; look at the status".into())),
    }
}

fn refused(err: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> AdministrationError {
    match err {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_)) => {
            leader_changed()
        }
        RaftError::APIError(err) => AdministrationError::Refused(err.to_string()),
        RaftError::Fatal(err) => AdministrationError::Unavailable(err.to_string()),
    }
}

/// Of these voters the one whose log is longest, as far as this leader knows.
pub(super) fn most_up_to_date(core: &Core, voters: &[u64]) -> Option<u64> {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    let replication = metrics.replication.as_ref()?;
    let matched = |id: &u64| replication.get(id).copied().flatten().map(|it| it.index);
    voters.iter().copied().max_by_key(matched)
}

/// Hands the lead to another voter and waits until it has it.
pub(super) async fn transfer_leadership(core: &Core, to: u64, within: Duration) -> Result<(), AdministrationError> {
    if !core.raft.voter_ids().any(|id| id == to) {
        return Err(AdministrationError::Refused(format!("node {to} is not a voter")));
    }
    if core.leader().is_some_and(|(leader, _)| leader == to) {
        return Ok(());
    }
    let failed = |err: openraft::error::Fatal<TypeConfig>| AdministrationError::Unavailable(err.to_string());
    core.raft.trigger().transfer_leader(to).await.map_err(failed)?;
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if core.leader().is_some_and(|(leader, _)| leader == to) {
            return Ok(());
        }
        sleep(TRANSFER_POLL).await;
    }
    Err(AdministrationError::Unavailable(format!("node {to} has not taken the lead within {within:?}")))
}
