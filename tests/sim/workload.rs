//! What clients do at each node: publish, compare and set, delete, read, listen. All of it runs inside the node, so that it
//! goes when the node goes, with outcomes that nobody knows.
use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use coracle::{
    raft::RaftReplicator,
    replication::Administration,
    service::{self, ClientLabels, Found, Interest, Seen, ServiceError, Written},
    state_machine::{StateReader, Visible, visible},
    types::{
        Attributes, Author, ConfigKey, Consistency, Content, Digest, NamespaceId, Precondition, Publication, Revision,
    },
};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    Random,
    node::{Command, Context},
    oracle::{Outcome, Place, Read, Wish},
};

pub(crate) const KEYS: u64 = 6;
/// The address that beta versions are for.
pub(crate) const BETA_IP: &str = "10.0.0.1";
/// A subscriber looks this often whether it is to go elsewhere.
const LOOK: Duration = Duration::from_millis(25);
const POLL: Duration = Duration::from_secs(2);

pub(crate) fn key(number: u64) -> ConfigKey {
    ConfigKey::new(&NamespaceId::public(), "g", &format!("k{number}")).unwrap()
}

fn labels(beta: bool) -> ClientLabels {
    let ip = if beta { BETA_IP } else { "10.0.0.2" };
    ClientLabels { ip: ip.into(), ..ClientLabels::default() }
}

/// What a client sees of a key.
pub(crate) fn seen(reader: &dyn StateReader, number: u64, beta: bool) -> Option<Visible> {
    visible(&*reader.versions(&key(number))?, &labels(beta))
}

/// Does one thing after the other until the workload ends.
pub(crate) async fn work(context: Context, mut chance: Random) {
    let mut last_read: BTreeMap<u64, Digest> = BTreeMap::new();
    loop {
        sleep(Duration::from_millis(10 + chance.below(120))).await;
        if context.shared.lock().quiet {
            continue;
        }
        let number = chance.below(KEYS);
        let (formal, beta) = (Place { key: number, beta: false }, Place { key: number, beta: true });
        let sees_beta = chance.below(2) == 0;
        match chance.below(100) {
            0..=31 => publish(&context, formal, None).await,
            32..=41 => publish(&context, beta, None).await,
            42..=54 => {
                let expected = last_read.get(&number).copied().unwrap_or(Digest::of(b"never written"));
                publish(&context, formal, Some(expected)).await;
            }
            55..=60 => remove(&context, formal).await,
            61..=64 => remove(&context, beta).await,
            65..=79 => {
                read(&context, number, sees_beta, Consistency::Linearizable).await;
            }
            80..=89 => {
                let floor = context.shared.lock().oracle.acknowledged;
                read(&context, number, sees_beta, Consistency::AtLeast(Revision(floor))).await;
            }
            _ => {
                if let Some(digest) = read(&context, number, sees_beta, Consistency::Local).await
                    && !sees_beta
                {
                    last_read.insert(number, digest);
                }
            }
        }
    }
}

fn outcome(result: Result<Written, ServiceError>) -> Outcome {
    match result {
        Ok(written) => Outcome::Written { revision: written.revision.0, changed: written.changed },
        Err(ServiceError::Rejected(_)) => Outcome::Rejected,
        Err(ServiceError::Unavailable(_)) => Outcome::NotWritten,
        Err(ServiceError::OutcomeUnknown(_)) => Outcome::Unknown,
        Err(ServiceError::Internal(_)) => Outcome::Failed,
    }
}

async fn publish(context: &Context, place: Place, expected: Option<Digest>) {
    let (operation, value) = {
        let mut world = context.shared.lock();
        let value = world.oracle.next_value();
        (world.invoke(context.id, Wish::Put { place, value: value.clone(), expected }), value)
    };
    let precondition = expected.map_or(Precondition::None, Precondition::DigestIsOrAbsent);
    let publication = Publication {
        key: key(place.key),
        variant: place.variant(),
        content: Content::new(value),
        attributes: Attributes::default(),
        beta_ips: if place.beta { vec![BETA_IP.into()] } else { Vec::new() },
        precondition,
        author: Author::default(),
    };
    let result = context.services.publish(publication, None).await;
    context.shared.lock().complete(context.id, operation, outcome(result));
}

async fn remove(context: &Context, place: Place) {
    let operation = context.shared.lock().invoke(context.id, Wish::Delete { place });
    let result = context.services.remove(key(place.key), place.variant(), None).await;
    context.shared.lock().complete(context.id, operation, outcome(result));
}

/// Reads, and has the oracle judge what was read. Gives back the digest.
async fn read(context: &Context, number: u64, beta: bool, consistency: Consistency) -> Option<Digest> {
    let floor = context.shared.lock().read_floor(context.id, consistency);
    let result = context.services.get(&key(number), &labels(beta), consistency).await;
    let mut world = context.shared.lock();
    let Ok(found) = result else {
        world.count("reads refused");
        return None;
    };
    world.was_read(judged(context, number, beta, consistency, floor, &found));
    found.value.map(|it| it.record.content.digest())
}

fn judged(
    context: &Context,
    key: u64,
    beta: bool,
    consistency: Consistency,
    floor: u64,
    found: &service::Read<Option<Found>>,
) -> Read {
    let record = found.value.as_ref().map(|it| &it.record);
    Read {
        node: context.id,
        key,
        beta,
        consistency,
        floor,
        revision: found.revision.0,
        modified: record.map(|it| it.modified.0),
        text: record.map(|it| it.content.text().to_owned()),
    }
}

/// Serves the subscribers that come to this node.
pub(crate) async fn serve_subscribers(context: Context) {
    loop {
        let arrived = context.shared.lock().sessions_for(context.id);
        for (session, epoch) in arrived {
            tokio::spawn(subscribe(context.clone(), session, epoch));
        }
        sleep(LOOK).await;
    }
}

/// One connection of a subscriber. Half of them poll, the others hold a watcher as a stream does.
async fn subscribe(context: Context, session: usize, epoch: u64) {
    // As the server does with a client that comes from elsewhere; without a majority this one does not listen at all,
    // since only then can it be held that it never hears of something older.
    let arrived = loop {
        if context.shared.lock().sessions[session].epoch != epoch {
            return;
        }
        match context.replicator.read_barrier(Consistency::Linearizable).await {
            // A node that is still loading does not answer polls.
            Ok(revision) if context.replicator.caught_up() => break revision,
            Ok(_) | Err(_) => sleep(LOOK).await,
        }
    };
    if !context.shared.lock().attach(session, epoch, context.id, arrived.0) {
        return;
    }
    if session.is_multiple_of(2) {
        poll(&context, session, epoch).await
    } else {
        stream(&context, session, epoch).await
    }
}

async fn poll(context: &Context, session: usize, epoch: u64) {
    loop {
        let interests: Vec<Interest> = {
            let world = context.shared.lock();
            if world.sessions[session].epoch != epoch {
                return;
            }
            let seen = |number| world.sessions[session].known.get(&number).and_then(|it| it.digest);
            let interest =
                |number| Interest { key: key(number), seen: seen(number).map_or(Seen::Absent, Seen::Digest) };
            (0..KEYS).map(interest).collect()
        };
        let labels = labels(context.shared.lock().sessions[session].beta);
        let changed = match context.services.stale_now(&interests, &labels) {
            Ok(stale) if stale.is_empty() => {
                context.services.wait_for_change(&interests, &labels, POLL, pending()).await
            }
            Ok(stale) => stale,
            Err(_) => {
                sleep(LOOK).await;
                continue;
            }
        };
        changed.into_iter().for_each(|at| deliver(context, session, epoch, at as u64));
    }
}

async fn stream(context: &Context, session: usize, epoch: u64) {
    // Register, compare, wait.
    let mut watcher = context.hub.watch((0..KEYS).map(key));
    (0..KEYS).for_each(|number| deliver(context, session, epoch, number));
    loop {
        let marked = tokio::time::timeout(POLL, watcher.changed()).await.unwrap_or_default();
        if context.shared.lock().sessions[session].epoch != epoch {
            return;
        }
        (0..KEYS).filter(|it| marked.contains(&key(*it))).for_each(|it| deliver(context, session, epoch, it));
    }
}

/// The subscriber reads a key where it is connected; what is new to it counts as delivered.
fn deliver(context: &Context, session: usize, epoch: u64, number: u64) {
    let beta = context.shared.lock().sessions[session].beta;
    let visible = seen(&*context.reader, number, beta);
    let record = visible.and_then(|it| context.reader.record(&key(number), &it.variant).unwrap());
    let revision = context.reader.revision().0;
    let text = record.as_ref().map(|it| it.content.text().to_owned());
    let modified = record.as_ref().map(|it| it.modified.0);
    context.shared.lock().delivered(session, epoch, context.id, number, revision, modified, text);
}

/// Does what the simulation asks of this node.
pub(crate) async fn obey(context: Context, raft: Arc<RaftReplicator>, mut asked: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = asked.recv().await {
        let (context, raft) = (context.clone(), raft.clone());
        tokio::spawn(async move {
            match command {
                Command::Add(member) => {
                    let node = member.node;
                    let result = raft.add(member).await;
                    context.shared.lock().changed_members("add", node, &result);
                }
                Command::Remove(node) => {
                    let result = raft.remove(node).await;
                    context.shared.lock().changed_members("remove", node, &result);
                }
                Command::Transfer(node) => {
                    let result = raft.transfer_leadership(node).await;
                    context.shared.lock().changed_members("transfer to", node, &result);
                }
                Command::Query { key, beta, told } => query(&context, key, beta, told).await,
            }
        });
    }
}

/// P6: what was told of somewhere can be read everywhere, or an honest error says that it cannot.
async fn query(context: &Context, number: u64, beta: bool, told: u64) {
    let consistency = Consistency::AtLeast(Revision(told));
    if let Ok(found) = context.services.get(&key(number), &labels(beta), consistency).await {
        let mut world = context.shared.lock();
        world.was_read(judged(context, number, beta, consistency, told, &found));
        world.count("notified, then read elsewhere");
    }
}
