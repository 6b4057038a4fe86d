//! Injects faults, each until it has bitten and healed. What shows that it bit is returned with it.
mod disk;
pub mod plan;
pub mod process;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    cluster::Cluster,
    disk::mount::Mounted,
    history::Fault,
    nemesis::plan::{Shape, Step, Target},
    net::Net,
    random::Random,
    recorder::Recorder,
};

/// How long a partition lasts: several elections, and less than a node's patience with a write.
const PARTITION: Duration = Duration::from_secs(3);
/// How long messages are lost, or late.
const LOSS: Duration = Duration::from_secs(4);

/// Whatever can be broken. What cannot be says why.
pub struct Nemesis {
    pub cluster: Cluster,
    pub net: Result<Net, String>,
    pub disks: Result<Vec<Mounted>, String>,
    pub clocks: Result<(), String>,
    pub recorder: Arc<Recorder>,
    pub random: Random,
}

/// What was done, and what shows that it bit.
pub struct Bite {
    detail: String,
    evidence: Option<String>,
}

type Bitten = Result<Bite, String>;

fn bite(detail: impl Into<String>, evidence: impl Into<String>) -> Bitten {
    Ok(Bite { detail: detail.into(), evidence: Some(evidence.into()) })
}

impl Nemesis {
    /// Injects one fault, heals, waits until all is well, and writes it down.
    pub async fn inject(&mut self, step: Step) {
        let from = self.recorder.now();
        let skipped = self.cannot(step);
        let done = match &skipped {
            Some(_) => Ok(Bite { detail: step.to_string(), evidence: None }),
            None => self.attempt(step).await,
        };
        let (detail, evidence) = match done {
            Ok(bite) => (bite.detail, bite.evidence),
            Err(why) => (format!("{step}: {why}"), None),
        };
        let to = self.recorder.now();
        self.recorder.fault(Fault { kind: step.kind().into(), detail, from, to, evidence, skipped });
    }

    /// Why a fault cannot be tried here.
    fn cannot(&self, step: Step) -> Option<String> {
        match step {
            Step::Partition(_) | Step::Loss(..) | Step::Slow(..) => self.net.as_ref().err().cloned(),
            Step::PowerLoss(..) | Step::DiskFull(_) | Step::DiskError(_) | Step::BitFlip(_) => {
                self.disks.as_ref().err().cloned()
            }
            Step::Clock(_) => self.clocks.as_ref().err().cloned(),
            Step::Kill(_) | Step::Bounce(_) | Step::Pause(..) | Step::Transfer | Step::Replace(_) => None,
        }
    }

    async fn attempt(&mut self, step: Step) -> Bitten {
        let bitten = match step {
            Step::Kill(target) => self.kill(target).await,
            Step::Bounce(target) => self.bounce(target).await,
            Step::Pause(target, millis) => self.pause(target, Duration::from_millis(millis)).await,
            Step::Transfer => self.transfer().await,
            Step::Partition(shape) => self.partition(shape).await,
            Step::Loss(target, percent) => self.loss(target, percent).await,
            Step::Slow(target, kbit) => self.slow(target, kbit).await,
            Step::PowerLoss(target, torn) => self.power_loss(target, torn).await,
            Step::Replace(target) => self.replace(target).await,
            Step::Clock(target) => self.clock(target).await,
            Step::DiskFull(target) => self.disk_full(target).await,
            Step::DiskError(target) => self.disk_error(target).await,
            Step::BitFlip(target) => self.bit_flip(target).await,
        };
        self.settle().await?;
        bitten
    }

    /// Waits until all nodes serve.
    pub async fn settle(&mut self) -> Result<(), String> {
        for slot in 0..self.cluster.len() {
            self.cluster.wait_ready(slot).await?;
        }
        self.cluster.wait_leader().await.map(drop)
    }

    /// The slots that a target means, the leader first where it is among them.
    async fn slots(&mut self, target: Target) -> Result<Vec<usize>, String> {
        let leader = self.cluster.wait_leader().await?;
        let mut others: Vec<usize> = (0..self.cluster.len()).filter(|it| *it != leader).collect();
        let turn = self.random.below(others.len() as u64) as usize;
        others.rotate_left(turn);
        let most = self.cluster.len() / 2 + 1;
        Ok(match target {
            Target::Leader => vec![leader],
            Target::Follower => vec![others[0]],
            Target::Most => [leader].into_iter().chain(others).take(most).collect(),
            Target::All => [leader].into_iter().chain(others).collect(),
        })
    }

    fn net(&self) -> Result<&Net, String> {
        self.net.as_ref().map_err(Clone::clone)
    }

    async fn partition(&mut self, shape: Shape) -> Bitten {
        let all = self.slots(Target::All).await?;
        let (leader, others) = (all[0], &all[1..]);
        let both = |a: usize, b: usize| [(a, b), (b, a)];
        let pairs: Vec<(usize, usize)> = match shape {
            Shape::LeaderInMinority => others.iter().flat_map(|it| both(leader, *it)).collect(),
            Shape::LeaderInMajority => {
                let alone = others[0];
                all.iter().filter(|it| **it != alone).flat_map(|it| both(alone, *it)).collect()
            }
            Shape::LeaderDeaf => others.iter().map(|it| (*it, leader)).collect(),
            Shape::LeaderMute => others.iter().map(|it| (leader, *it)).collect(),
            Shape::Bridge => both(leader, others[0]).to_vec(),
            Shape::Ring => {
                let hears = |at: usize, from: usize| from == at || from == (at + 1) % all.len();
                let places = || 0..all.len();
                let every = places().flat_map(|at| places().map(move |from| (from, at)));
                every.filter(|(from, at)| !hears(*at, *from)).map(|(from, at)| (all[from], all[at])).collect()
            }
        };
        self.net()?.cut(&pairs).map_err(|err| err.to_string())?;
        sleep(PARTITION).await;
        self.healed(format!("{shape:?}, node {} led", self.cluster.id(leader))).await
    }

    async fn healed(&self, detail: String) -> Bitten {
        let seen = self.cluster.leader().await.map(|it| self.cluster.id(it));
        let dropped = self.net()?.heal().map_err(|err| err.to_string())?;
        let seen = seen.map_or("nobody".into(), |it| format!("node {it}"));
        let evidence = (dropped > 0).then(|| format!("{dropped} packets dropped; then {seen} led"));
        Ok(Bite { detail, evidence })
    }

    async fn loss(&mut self, target: Target, percent: u32) -> Bitten {
        let all: Vec<usize> = (0..self.cluster.len()).collect();
        let hit = self.slots(target).await?;
        let pairs: Vec<(usize, usize)> = all
            .iter()
            .flat_map(|from| all.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from != to && (hit.contains(from) || hit.contains(to)))
            .collect();
        self.net()?.lose(&pairs, percent).map_err(|err| err.to_string())?;
        sleep(LOSS).await;
        self.healed(format!("{percent} % of the messages of {} nodes", hit.len())).await
    }

    async fn slow(&mut self, target: Target, kbit: u32) -> Bitten {
        let hit = self.slots(target).await?;
        self.net()?.slow(&hit, kbit).map_err(|err| err.to_string())?;
        sleep(LOSS).await;
        let waited = self.net()?.fast(&hit).map_err(|err| err.to_string())?;
        let evidence = (waited > 0).then(|| format!("{waited} packets had to wait"));
        Ok(Bite { detail: format!("{kbit} kbit/s from {} nodes", hit.len()), evidence })
    }
}
