//! Waiting until a configuration is not what a client believes it to be.
use std::{collections::BTreeSet, future::Future, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{ServiceError, Services};
use crate::{
    planted::{self, Bug},
    state_machine::{ClientLabels, visible},
    types::{ConfigKey, Consistency, Digest, KeyPattern},
    watch::Watcher,
};

/// What a client believes about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// The key.
    pub key: ConfigKey,
    /// What the client has.
    pub seen: Seen,
}

/// What a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: it believes that there is nothing.
    Absent,
    /// A content of this digest.
    Digest(Digest),
    /// Something that no content has for a digest: it is always told.
    Unrecognized,
}

impl Services {
    /// The places in `interests` whose content is not what the client has seen. Most polls are of keys that changed: one
    /// look before [`Services::wait_for_change`] saves those the registration.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] while the node cannot tell a key that is missing from one that it has not loaded yet.
    pub fn stale_now(&self, interests: &[Interest], client: &ClientLabels) -> Result<Vec<usize>, ServiceError> {
        self.loaded()?;
        Ok(self.stale(interests, client))
    }

    /// The same once there are any; none when nothing changes within `wait`, or when `stopping` resolves.
    pub async fn wait_for_change(
        &self,
        interests: &[Interest],
        client: &ClientLabels,
        wait: Duration,
        stopping: impl Future<Output = ()>,
    ) -> Vec<usize> {
        let deadline = Instant::now() + wait;
        // Register first, compare second: a change between the two then marks the watcher. A look before it does not count.
        let mut watcher = self.hub.watch(interests.iter().map(|interest| interest.key.clone()));
        let mut stopping = std::pin::pin!(stopping);
        let mut compares = !planted::is(Bug::CompareBeforeRegister);
        loop {
            let stale = if compares { self.stale(interests, client) } else { Vec::new() };
            compares = true;
            if !stale.is_empty() {
                self.metrics.pushes.inc();
                return stale;
            }
            // A mark may be spurious (A, B, A): compare again.
            tokio::select! {
                biased;
                changed = timeout_at(deadline, watcher.changed()) => {
                    if changed.is_err() {
                        return Vec::new();
                    }
                }
                () = &mut stopping => return Vec::new(),
            }
        }
    }

    /// A watcher of nothing yet, for a connection that lives long. Whoever uses it keeps the order: register, then compare.
    pub fn watcher(&self) -> Watcher {
        self.hub.watch([])
    }

    /// Whether this node can tell a key that is missing from one that it has not loaded yet.
    pub fn caught_up(&self) -> bool {
        self.replicator.caught_up()
    }

    /// Waits until this node has applied all that was acknowledged anywhere before, but no longer than `within`: a client
    /// that comes from another node is not told something older than it heard there. `false`: it is not known whether it has.
    pub async fn catch_up(&self, within: Duration) -> bool {
        let barrier = self.replicator.read_barrier(Consistency::Linearizable);
        // No majority, or a slow one: what there is here is better than nothing.
        match timeout(within, barrier).await {
            Ok(Ok(_)) => return true,
            Ok(Err(err)) => tracing::debug!(%err, "a client came before this node knew what the others have"),
            Err(_) => tracing::debug!("a client came before this node knew what the others have"),
        }
        false
    }

    /// The keys that match and have a formal version. Answered from memory, in the time of a look at every key.
    pub fn matching(&self, pattern: &KeyPattern) -> BTreeSet<ConfigKey> {
        self.state.list(&|key| pattern.matches(key)).into_iter().map(|(key, _)| key).collect()
    }

    /// Whether a key has a formal version. Touches no disk.
    pub fn exists(&self, key: &ConfigKey) -> bool {
        self.state.versions(key).is_some_and(|versions| versions.formal.is_some())
    }

    /// The places in `interests` whose content is not what the client has seen. Touches no disk.
    pub fn stale(&self, interests: &[Interest], client: &ClientLabels) -> Vec<usize> {
        let is_stale = |interest: &Interest| {
            let current = self.state.versions(&interest.key).and_then(|versions| visible(&versions, client));
            match (current, interest.seen) {
                (None, Seen::Absent) => false,
                (Some(current), Seen::Digest(seen)) => current.head.digest != seen,
                (Some(_), Seen::Absent) | (None, Seen::Digest(_)) | (_, Seen::Unrecognized) => true,
            }
        };
        interests.iter().enumerate().filter(|(_, interest)| is_stale(interest)).map(|(at, _)| at).collect()
    }
}
