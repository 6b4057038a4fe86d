//! Who leads, for all that this node can tell.
//!
//! Consensus says who has been elected, which stays true when most of the nodes are gone: without a majority nobody else can
//! be elected, nor does a leader step down. So a leader is one only as long as a majority answers it, and for a follower as
//! long as it hears it.
use std::{
    sync::{Mutex, PoisonError, Weak},
    time::Duration,
};

use openraft::{Instant as _, alias::WatchReceiverOf, async_runtime::watch::WatchReceiver, metrics::RaftServerMetrics};
use tokio::time::{Instant, sleep};

use super::{TypeConfig, replicator::Core};

/// A leader that gives no sign of life for this long, some twenty heartbeats, leads no more.
const SILENT: Duration = Duration::from_secs(3);
/// How often to look, where nothing tells of a change.
const LOOK: Duration = Duration::from_secs(1);

/// When this node last heard a leader.
pub(super) struct Heard(Mutex<Instant>);

impl Heard {
    pub(super) fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ago(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    Nobody,
    /// It was elected, and nothing shows that it still leads.
    Silent(u64),
    Is(u64),
}

impl Lead {
    pub(super) fn leader(self) -> Option<u64> {
        match self {
            Self::Is(leader) => Some(leader),
            Self::Silent(_) | Self::Nobody => None,
        }
    }
}

impl Core {
    pub(super) fn lead(&self) -> Lead {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(leader) = metrics.current_leader else { return Lead::Nobody };
        let alone = || metrics.membership_config.membership().voter_ids().all(|id| self.is_me(id));
        let silent_for = match metrics.last_quorum_acked {
            // Who has nobody to ask is a majority by itself.
            _ if self.is_me(leader) && alone() => Duration::ZERO,
            // Before the first answer the time runs from the election.
            Some(at) if self.is_me(leader) => at.elapsed(),
            Some(_) | None => self.heard.ago(),
        };
        if silent_for < SILENT { Lead::Is(leader) } else { Lead::Silent(leader) }
    }
}

/// Says so when another node leads, or none, for whoever reads the log.
pub(super) async fn tell(core: Weak<Core>, mut metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>) {
    let (mut elected, mut told) = (None, Lead::Nobody);
    loop {
        let Some(core) = core.upgrade() else { return };
        let now = metrics.borrow_watched().current_leader;
        if now != elected {
            elected = now;
            // It may need a moment until it is heard.
            core.heard.again();
            core.metrics.leader_changes.inc_by(u64::from(now.is_some()));
        }
        let lead = core.lead();
        match lead {
            _ if lead == told => {}
            Lead::Is(leader) if core.is_me(leader) => tracing::info!("this node leads"),
            Lead::Is(leader) => tracing::info!("node {leader} leads"),
            Lead::Silent(leader) if core.is_me(leader) => {
                tracing::warn!("this node led, and no majority answers any more: nothing can be written");
            }
            Lead::Silent(leader) => {
                tracing::warn!(
                    "node {leader} led, and is not heard any more: nothing can be written until one is elected"
                );
            }
            Lead::Nobody => tracing::info!("no node leads; one is being elected"),
        }
        told = lead;
        drop(core);
        tokio::select! {
            changed = metrics.changed() => {
                // Consensus has stopped.
                if changed.is_err() {
                    return;
                }
            }
            () = sleep(LOOK) => {}
        }
    }
}
