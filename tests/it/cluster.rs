//! What a cluster survives: a leader that goes, restarts, members that come and leave, a standalone node that grows.
use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    time::Duration,
};

use coracle::{
    replication::{Administration, AdministrationError, Member, Role, SnapshotPolicy},
    types::{Consistency, KeyPattern, Revision},
};
use tokio::time::{Instant, timeout};

use crate::harness::{Cluster, Disk, Mode, PATIENCE, adopt, open_stores, start_member};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_leader_goes() {
    let mut cluster = Cluster::start(Mode::Raft(3), Disk::Files).await;
    for at in 0..50 {
        cluster.first().publish_until_acknowledged(&format!("k{at}"), "1").await;
    }
    let leader = cluster.wait_for_leader().await;
    cluster.stop_node(leader).await;
    let gone = Instant::now();
    cluster.first().publish_until_acknowledged("after", "1").await;
    assert!(gone.elapsed() < Duration::from_secs(10), "writes go on after {:?}", gone.elapsed());
    for node in cluster.nodes.values() {
        node.replicator.read_barrier(Consistency::Linearizable).await.unwrap();
        for at in 0..50 {
            assert_eq!(node.text(&format!("k{at}")), Some("1".into()));
        }
    }
    cluster.start_node(leader).await;
    let last = cluster.nodes[&leader].publish_until_acknowledged("back", "1").await;
    cluster.converge(last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_may_stop_and_come_back() {
    let mut cluster = Cluster::start(Mode::Raft(3), Disk::Files).await;
    let mut last = Revision(0);
    for at in 0..30 {
        last = cluster.first().publish_until_acknowledged(&format!("k{at}"), &at.to_string()).await;
    }
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for id in &ids {
        cluster.stop_node(*id).await;
    }
    for id in &ids {
        cluster.start_node(*id).await;
    }
    cluster.wait_for_leader().await;
    cluster.converge(last).await;
    for at in 0..30 {
        assert_eq!(cluster.last().text(&format!("k{at}")), Some(at.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_restarts_does_not_go_on_in_its_old_term() {
    // Others may have entries of that term that it has not: it replicates before its own disk has them.
    let mut cluster = Cluster::start(Mode::Raft(1), Disk::Files).await;
    cluster.first().publish_until_acknowledged("k", "1").await;
    let before = cluster.first().replicator.status().term;
    cluster.stop_node(1).await;
    cluster.start_node(1).await;
    cluster.wait_for_leader().await;
    cluster.first().publish_until_acknowledged("k", "2").await;
    let after = cluster.first().replicator.status().term;
    assert!(after > before, "term {after} after term {before}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_refuses_writes_and_linearizable_reads() {
    let mut cluster = Cluster::start(Mode::Raft(3), Disk::Memory).await;
    let last = cluster.first().publish_until_acknowledged("k", "1").await;
    cluster.converge(last).await;
    cluster.stop_node(2).await;
    cluster.stop_node(3).await;
    assert!(cluster.first().publish("k", "2").await.is_err());
    assert!(cluster.first().replicator.read_barrier(Consistency::Linearizable).await.is_err());
    assert_eq!(cluster.first().text("k"), Some("1".into()), "local reads go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_left_of_a_majority_says_that_nobody_leads() {
    for leader_stays in [true, false] {
        let mut cluster = Cluster::start(Mode::Raft(3), Disk::Memory).await;
        let last = cluster.first().publish_until_acknowledged("k", "1").await;
        cluster.converge(last).await;
        let leader = cluster.wait_for_leader().await;
        let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
        let (stays, gone) = if leader_stays { (leader, others) } else { (others[0], vec![leader, others[1]]) };
        assert_eq!(cluster.nodes[&stays].replicator.status().leader, Some(leader));
        for id in gone {
            cluster.stop_node(id).await;
        }
        let told = timeout(PATIENCE, async {
            loop {
                let status = cluster.nodes[&stays].replicator.status();
                if let (None, Some(why)) = (status.leader, status.not_ready) {
                    return why;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert_eq!(told.await.expect("it is told"), "no leader; 2 of 3 voters must be up");
    }
}

/// Asks until a leader took it: one may change at any time on a busy machine, and has to hear from a majority first when it
/// is new; the answer then says to ask again.
async fn administered<F: Future<Output = Result<(), AdministrationError>>>(mut ask: impl FnMut() -> F) {
    let done = timeout(PATIENCE, async {
        let mut asked_before = false;
        loop {
            match ask().await {
                Ok(()) => return,
                Err(AdministrationError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                // It was done, though nobody could say so.
                Err(AdministrationError::Refused(why)) if asked_before && why.contains("not a member") => return,
                Err(err) => panic!("{err:?}"),
            }
            asked_before = true;
        }
    });
    done.await.expect("a change is made");
}

async fn add(cluster: &Cluster, through: u64, id: u64) {
    administered(|| async { cluster.raft(through).add(member(cluster, id)).await }).await;
}

fn member(cluster: &Cluster, id: u64) -> Member {
    Member { node: id, member_address: cluster.places[&id].address.to_string(), http_address: String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_nobody_can_reach_never_votes() {
    let mut cluster = Cluster::start(Mode::Raft(1), Disk::Memory).await;
    cluster.first().publish_until_acknowledged("k", "1").await;
    let place = cluster.place(2).await;
    cluster.places.insert(2, place);
    for wrong in ["nowhere", ":7848", "host:", "host:0", "host:99999"] {
        let refused = cluster.raft(1).add(Member { member_address: wrong.into(), ..member(&cluster, 2) }).await;
        assert!(matches!(refused, Err(AdministrationError::Refused(_))), "{wrong}: {refused:?}");
    }
    // Longer than an election takes; the command waits for a minute.
    let added = timeout(Duration::from_secs(3), cluster.raft(1).add(member(&cluster, 2))).await;
    assert!(added.is_err(), "{added:?}");
    cluster.first().publish("k", "2").await.expect("a learner is not needed for a majority");
    // Whoever starts it now and asks again has a second voter.
    cluster.start_node(2).await;
    add(&cluster, 1, 2).await;
    let last = cluster.first().publish_until_acknowledged("k", "3").await;
    cluster.converge(last).await;
    let members = cluster.first().replicator.status().members;
    assert!(members.len() == 2 && members.iter().all(|(_, role)| *role != Role::Learner), "{members:?}");
}

/// Small snapshots, so that a new member gets one instead of the log.
const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy { entries: 50, bytes: 1 << 30, entries_kept: 10 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_by_snapshot_and_leave() {
    let mut cluster = Cluster::start_with(Mode::Raft(3), Disk::Files, SNAPSHOTS).await;
    for at in 0..200 {
        cluster.first().publish_until_acknowledged(&format!("k{at}"), &"x".repeat(at * 10 + 1)).await;
    }
    // Whoever leads has the beginning in a snapshot only.
    for node in cluster.nodes.values() {
        node.has_purged(50).await;
    }
    let place = cluster.place(4).await;
    cluster.places.insert(4, place);
    cluster.start_node(4).await;
    assert!(!cluster.nodes[&4].replicator.caught_up(), "it cannot say that there is nothing");
    // Nothing matches it, so that no entry marks it.
    let watcher = cluster.nodes[&4].hub.watch([]);
    watcher.add_pattern(&KeyPattern::parse("public>>g>>nothing-*").unwrap());
    // Asked of whoever: a follower hands it to the leader.
    for id in 1..=3 {
        add(&cluster, id, 4).await;
    }
    let dirty = timeout(PATIENCE, poll_fn(|context| watcher.poll_changed(context))).await.expect("it is told");
    assert!(dirty.patterns, "the state came as a snapshot, which marks everybody: {dirty:?}");
    let ready = async {
        while cluster.nodes[&4].replicator.status().not_ready.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, ready).await.expect("the new node becomes ready");
    assert!(cluster.nodes[&4].text("k0").is_some() && cluster.nodes[&4].text("k199").is_some(), "ready is loaded");
    let last = cluster.nodes[&4].publish_until_acknowledged("from-the-new-one", "1").await;
    cluster.converge(last).await;
    assert_eq!(cluster.nodes[&4].text("k199").map(|it| it.len()), Some(1991));

    let leader = cluster.wait_for_leader().await;
    let other = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    administered(|| async { cluster.raft(other).transfer_leadership(other).await }).await;
    administered(|| async { cluster.raft(other).remove(leader).await }).await;
    cluster.stop_node(leader).await;
    let last = cluster.first().publish_until_acknowledged("after", "1").await;
    cluster.converge(last).await;
    let members = cluster.first().replicator.status().members;
    assert_eq!(members.len(), 3, "{members:?}");
    assert!(!members.iter().any(|(_, role)| *role == Role::Learner), "{members:?}");
    let refused = cluster.raft(other).remove(99).await;
    assert!(matches!(refused, Err(AdministrationError::Refused(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_directory_becomes_a_cluster_with_all_its_data() {
    let mut cluster = Cluster::start_with(Mode::Standalone, Disk::Files, SNAPSHOTS).await;
    for at in 0..120 {
        cluster.first().publish_until_acknowledged(&format!("k{at}"), &at.to_string()).await;
    }
    let (place, node) = (cluster.places.remove(&0).unwrap(), cluster.nodes.remove(&0).unwrap());
    drop(node);

    let (log, state) = open_stores(&place.dir);
    adopt(&*log, 1, place.address);
    adopt(&*log, 1, place.address);
    let node = start_member(1, place.address, log, state, SNAPSHOTS).await;
    node.raft.as_ref().unwrap().form(&BTreeMap::from([(1, place.address.to_string())])).await.unwrap();
    cluster.places.insert(1, place);
    cluster.nodes.insert(1, node);
    cluster.wait_for_leader().await;
    assert_eq!(cluster.first().text("k119"), Some("119".into()));
    cluster.first().publish_until_acknowledged("k0", "changed").await;

    for id in 2..=3 {
        let place = cluster.place(id).await;
        cluster.places.insert(id, place);
        cluster.start_node(id).await;
        add(&cluster, 1, id).await;
    }
    let last = cluster.last().publish_until_acknowledged("k1", "changed").await;
    cluster.converge(last).await;
    for node in cluster.nodes.values() {
        assert_eq!(node.text("k0"), Some("changed".into()));
        assert_eq!(node.text("k119"), Some("119".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handing_over_the_lead_takes_no_election() {
    let cluster = Cluster::start(Mode::Raft(3), Disk::Memory).await;
    cluster.first().publish_until_acknowledged("k", "1").await;
    let leader = cluster.wait_for_leader().await;
    let next = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    let started = Instant::now();
    cluster.raft(leader).transfer_leadership(next).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(700), "took {:?}", started.elapsed());
    cluster.nodes[&leader].publish_until_acknowledged("k", "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_contents_do_not_fill_the_disk_with_log() {
    let policy = SnapshotPolicy { entries: 1_000_000, bytes: 4 << 20, entries_kept: 500_000 };
    for mode in [Mode::Standalone, Mode::Raft(1)] {
        let cluster = Cluster::start_with(mode, Disk::Files, policy).await;
        for at in 0..24 {
            cluster.first().publish_until_acknowledged("large", &format!("{at}").repeat(500_000)).await;
        }
        let log = cluster.places.values().next().unwrap().dir.join("log");
        let log_bytes = || -> u64 {
            let files = std::fs::read_dir(&log).unwrap().flatten();
            files.filter_map(|it| it.metadata().ok()).map(|it| it.len()).sum()
        };
        let started = Instant::now();
        // 18 MB were written; a segment is 1 MiB here.
        while log_bytes() > 10 << 20 {
            assert!(started.elapsed() < PATIENCE, "{mode:?}: the log has {} bytes", log_bytes());
            cluster.first().publish_until_acknowledged("small", &started.elapsed().as_millis().to_string()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(cluster.first().text("large").is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_newest_snapshot_is_damaged_writes_another_one() {
    let policy = SnapshotPolicy { entries: 30, bytes: 1 << 30, entries_kept: 10 };
    let mut cluster = Cluster::start_with(Mode::Raft(1), Disk::Files, policy).await;
    let mut last = Revision(0);
    for at in 0..130 {
        last = cluster.first().publish_until_acknowledged(&format!("k{}", at % 7), &at.to_string()).await;
    }
    cluster.first().has_purged(60).await;
    let dir = cluster.places[&1].dir.clone();
    cluster.stop_node(1).await;
    let files = std::fs::read_dir(dir.join("data/snapshots")).unwrap().map(|it| it.unwrap().path());
    // Their names begin with the revision, in digits of one number.
    let newest = files.filter(|it| it.extension().is_some_and(|it| it == "snap")).max().expect("there is a snapshot");
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[..64].fill(0xa5);
    std::fs::write(&newest, bytes).unwrap();
    cluster.start_node(1).await;
    cluster.wait_for_leader().await;
    let next = cluster.first().publish_until_acknowledged("after", "1").await;
    assert!(next > last);
    assert_eq!(cluster.first().text("k3"), Some("129".into()), "129 was the last, and 3 is what seven leaves of it");
}
