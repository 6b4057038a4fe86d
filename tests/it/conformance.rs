//! One suite for every way to run: standalone, one voter, three voters; in memory and on disk. Writes go to the first
//! node, reads and watches to the last.
use std::collections::BTreeSet;

use coracle::types::{Command, Consistency, Content, Precondition, Rejection, Reply, Variant};
use tokio::time::timeout;

use crate::harness::{Cluster, Disk, Mode, PATIENCE, key, publication};

async fn suite(mode: Mode, disk: Disk) {
    let cluster = Cluster::start(mode, disk).await;
    reads_see_what_was_acknowledged(&cluster).await;
    preconditions_are_decided_in_order(&cluster).await;
    a_change_marks_the_watchers_of_every_node(&cluster).await;
    what_is_refused_changes_nothing(&cluster).await;
    many_writers_are_all_answered(&cluster).await;
}

async fn reads_see_what_was_acknowledged(cluster: &Cluster) {
    for round in 0..20 {
        let (text, node) = (round.to_string(), cluster.last());
        let Reply::Applied(revision) = node.publish("ryw", &text).await.unwrap() else { panic!("applied") };
        assert_eq!(node.text("ryw"), Some(text.clone()), "the node that acknowledged has applied");
        for other in cluster.nodes.values() {
            let seen = other.replicator.read_barrier(Consistency::Linearizable).await.unwrap();
            assert!(seen >= revision);
            assert_eq!(other.text("ryw"), Some(text.clone()), "a linearizable read sees it everywhere");
        }
    }
}

async fn preconditions_are_decided_in_order(cluster: &Cluster) {
    let node = cluster.first();
    let cas = |text: &str, precondition| {
        let publication = publication("cas", text);
        node.propose(Command::PublishConfig(Box::new(coracle::types::Publication { precondition, ..publication })))
    };
    let digest = |text: &str| Content::new(text).digest();
    assert!(matches!(cas("1", Precondition::DigestIsOrAbsent(digest("x"))).await.unwrap(), Reply::Applied(_)));
    let failed = Reply::Rejected(Rejection::PreconditionFailed { current: Some(digest("1")) });
    assert_eq!(cas("2", Precondition::DigestIsOrAbsent(digest("x"))).await.unwrap(), failed);
    assert_eq!(cas("2", Precondition::Absent).await.unwrap(), failed);
    assert_eq!(cas("2", Precondition::DigestUnknown).await.unwrap(), failed);
    assert!(matches!(cas("2", Precondition::DigestIsOrAbsent(digest("1"))).await.unwrap(), Reply::Applied(_)));
    assert_eq!(node.text("cas"), Some("2".into()));
}

async fn a_change_marks_the_watchers_of_every_node(cluster: &Cluster) {
    let (first, last) = (cluster.first(), cluster.last());
    let before = first.publish_until_acknowledged("watched", "1").await;
    cluster.converge(before).await;
    let mut watcher = last.hub.watch([key("watched"), key("other")]);
    first.publish_until_acknowledged("watched", "2").await;
    let changed = timeout(PATIENCE, watcher.changed()).await.unwrap();
    assert_eq!(changed, BTreeSet::from([key("watched")]));
    assert_eq!(last.text("watched"), Some("2".into()), "who wakes finds the new value");

    let remove = Command::RemoveConfig { key: key("watched"), variant: Variant::Formal, created: None };
    assert!(matches!(first.propose(remove.clone()).await.unwrap(), Reply::Applied(_)));
    assert_eq!(timeout(PATIENCE, watcher.changed()).await.unwrap(), BTreeSet::from([key("watched")]));
    assert_eq!(last.text("watched"), None);
    assert!(matches!(first.propose(remove).await.unwrap(), Reply::Unchanged(_)));
}

async fn what_is_refused_changes_nothing(cluster: &Cluster) {
    let node = cluster.first();
    let before = node.publish_until_acknowledged("refused", "1").await;
    cluster.converge(before).await;
    let witness = cluster.last().state.witness();
    let publication = coracle::types::Publication { precondition: Precondition::Absent, ..publication("refused", "2") };
    let reply = node.propose(Command::PublishConfig(Box::new(publication))).await.unwrap();
    assert!(matches!(reply, Reply::Rejected(_)));
    cluster.converge(node.replicator.read_barrier(Consistency::Linearizable).await.unwrap()).await;
    assert_eq!(cluster.last().state.witness(), witness);
}

async fn many_writers_are_all_answered(cluster: &Cluster) {
    let nodes: Vec<_> = cluster.nodes.values().collect();
    let writes = (0..300).map(|at| {
        let node = nodes[at % nodes.len()];
        async move { node.publish_until_acknowledged(&format!("many-{}", at % 50), &at.to_string()).await }
    });
    let revisions: BTreeSet<_> = futures_util::future::join_all(writes).await.into_iter().collect();
    assert_eq!(revisions.len(), 300, "every write has a revision of its own");
    cluster.converge(*revisions.last().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_in_memory() {
    suite(Mode::Standalone, Disk::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_on_disk() {
    suite(Mode::Standalone, Disk::Files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_voter_in_memory() {
    suite(Mode::Raft(1), Disk::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_voter_on_disk() {
    suite(Mode::Raft(1), Disk::Files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_in_memory() {
    suite(Mode::Raft(3), Disk::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_on_disk() {
    suite(Mode::Raft(3), Disk::Files).await;
}
