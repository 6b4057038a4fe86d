//! Which faults there are, and in which order a run tries them.
use std::fmt;

use crate::random::Random;

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Leader,
    Follower,
    /// A majority, the leader among it.
    Most,
    All,
}

/// Who does not hear whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The leader is alone.
    LeaderInMinority,
    /// A follower is alone.
    LeaderInMajority,
    /// The leader hears nobody, but is heard.
    LeaderDeaf,
    /// Nobody hears the leader, but it hears.
    LeaderMute,
    /// The leader and one follower do not hear each other; the others hear both.
    Bridge,
    /// Each hears only the next.
    Ring,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Kill(Target),
    /// Killed, and started again at once: before anybody misses it.
    Bounce(Target),
    /// SIGSTOP for so many milliseconds.
    Pause(Target, u64),
    Transfer,
    Partition(Shape),
    /// Percentage of messages lost, on all ways or only from and to one follower.
    Loss(Target, u32),
    /// So many kbit a second leave a node: messages queue and come late.
    Slow(Target, u32),
    /// Kill, and lose what was not flushed; `torn`: but for some sectors.
    PowerLoss(Target, bool),
    /// Remove, wipe, and add under a new id.
    Replace(Target),
    /// The wall clock of a node jumps and runs at another pace.
    Clock(Target),
    /// No space left for a while.
    DiskFull(Target),
    /// Flushes fail, and then the power goes.
    DiskError(Target),
    /// A bit flips in the log of a node that is down.
    BitFlip(Target),
}

impl Step {
    /// The kind, as coverage counts it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Bounce(_) => "bounce",
            Self::Pause(..) => "pause",
            Self::Transfer => "transfer",
            Self::Partition(Shape::LeaderInMinority) => "partition-leader-minority",
            Self::Partition(Shape::LeaderInMajority) => "partition-leader-majority",
            Self::Partition(Shape::LeaderDeaf) => "partition-leader-deaf",
            Self::Partition(Shape::LeaderMute) => "partition-leader-mute",
            Self::Partition(Shape::Bridge) => "partition-bridge",
            Self::Partition(Shape::Ring) => "partition-ring",
            Self::Loss(..) => "loss",
            Self::Slow(..) => "slow-link",
            Self::PowerLoss(Target::All, _) => "power-loss-all",
            Self::PowerLoss(..) => "power-loss",
            Self::Replace(_) => "membership",
            Self::Clock(_) => "clock",
            Self::DiskFull(_) => "disk-full",
            Self::DiskError(_) => "disk-error",
            Self::BitFlip(_) => "bit-flip",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The plan of a short run: everything at least once, what is quick more often.
pub const PLAN: &[Step] = &[
    Step::Partition(Shape::LeaderInMinority),
    Step::Partition(Shape::LeaderInMajority),
    Step::Partition(Shape::LeaderDeaf),
    Step::Partition(Shape::LeaderMute),
    Step::Partition(Shape::Bridge),
    Step::Partition(Shape::Ring),
    Step::Kill(Target::Leader),
    Step::Kill(Target::Follower),
    Step::Kill(Target::Most),
    Step::Kill(Target::All),
    Step::Bounce(Target::Leader),
    Step::Bounce(Target::All),
    Step::Bounce(Target::Leader),
    Step::PowerLoss(Target::Leader, false),
    Step::PowerLoss(Target::Follower, true),
    Step::PowerLoss(Target::All, false),
    Step::PowerLoss(Target::All, true),
    Step::Pause(Target::Leader, 300),
    Step::Pause(Target::Leader, 1_500),
    Step::Pause(Target::Follower, 1_500),
    Step::Pause(Target::Leader, 5_000),
    Step::Loss(Target::Follower, 20),
    Step::Loss(Target::All, 5),
    Step::Transfer,
    Step::Replace(Target::Follower),
    Step::Transfer,
    Step::Replace(Target::Leader),
    Step::Clock(Target::Leader),
    Step::Clock(Target::Follower),
    Step::DiskFull(Target::Follower),
    Step::DiskError(Target::Leader),
    Step::BitFlip(Target::Follower),
    Step::Slow(Target::Leader, 400),
    Step::Slow(Target::Follower, 150),
    Step::Slow(Target::All, 600),
    Step::Partition(Shape::LeaderInMinority),
    Step::Kill(Target::Leader),
    Step::PowerLoss(Target::All, true),
    Step::Bounce(Target::Follower),
    Step::PowerLoss(Target::Leader, true),
    Step::Transfer,
    Step::PowerLoss(Target::Most, false),
    Step::Bounce(Target::Most),
    Step::Pause(Target::Follower, 300),
    Step::Kill(Target::Leader),
    Step::Transfer,
    Step::BitFlip(Target::Follower),
];

/// The same in an order that the seed says.
pub fn shuffled(random: &mut Random) -> Vec<Step> {
    let mut left = PLAN.to_vec();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        order.push(left.swap_remove(random.below(left.len() as u64) as usize));
    }
    order
}
