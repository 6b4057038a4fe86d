//! The index from keys to watchers, and what a watcher holds.
use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    mem,
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

use super::sync::{Arc, Mutex, MutexGuard};
use crate::types::{ConfigKey, KeyPattern};

/// All registrations of a node.
#[derive(Default)]
pub struct Hub(Mutex<Index>);

#[derive(Default)]
struct Index {
    next_id: u64,
    /// Who watches a key, by the watchers' ids. No map is empty.
    watchers: BTreeMap<ConfigKey, BTreeMap<u64, Arc<Mailbox>>>,
    /// The same for patterns: one that many clients watch is matched once.
    pattern_watchers: BTreeMap<KeyPattern, BTreeMap<u64, Arc<Mailbox>>>,
    watcher_count: usize,
}

/// What a watcher has to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// These keys.
    pub keys: BTreeSet<ConfigKey>,
    /// Everything that its patterns match: the state was replaced.
    pub patterns: bool,
}

/// What a watcher has not taken yet. At most one mark for each key it watches or that a pattern of it matched.
#[derive(Default)]
struct Mailbox(Mutex<Marks>);

#[derive(Default)]
struct Marks {
    dirty: Dirty,
    waker: Option<Waker>,
}

impl Mailbox {
    fn mark(&self, key: ConfigKey) {
        self.wake_after(|dirty| {
            dirty.keys.insert(key);
        });
    }

    fn wake_after(&self, change: impl FnOnce(&mut Dirty)) {
        let waker = {
            let mut marks = lock(&self.0);
            change(&mut marks.dirty);
            marks.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_take(&self, context: &Context<'_>) -> Poll<Dirty> {
        let mut marks = lock(&self.0);
        if marks.dirty != Dirty::default() {
            return Poll::Ready(mem::take(&mut marks.dirty));
        }
        marks.set_waker(context);
        Poll::Pending
    }
}

impl Marks {
    fn set_waker(&mut self, context: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }
}

impl Hub {
    /// Registers a watcher of these keys. Every change from now on marks it.
    pub fn watch(self: &Arc<Self>, keys: impl IntoIterator<Item = ConfigKey>) -> Watcher {
        let id = {
            let mut index = lock(&self.0);
            index.next_id += 1;
            index.next_id
        };
        let watcher = Watcher {
            hub: self.clone(),
            id,
            mailbox: Arc::default(),
            keys: Mutex::default(),
            patterns: Mutex::default(),
        };
        watcher.add(keys);
        // Counted when it is registered: who sees it in the count finds its keys.
        lock(&self.0).watcher_count += 1;
        watcher
    }

    /// Marks whoever watches one of these keys, or a pattern that matches it. Never waits for a watcher and never drops a mark.
    pub fn publish<'a>(&self, keys: impl IntoIterator<Item = &'a ConfigKey>) {
        let mut to_mark = Vec::new();
        {
            let index = lock(&self.0);
            for key in keys {
                for mailbox in index.watchers.get(key).into_iter().flat_map(|it| it.values()) {
                    to_mark.push((mailbox.clone(), key.clone()));
                }
                for (_, watchers) in index.pattern_watchers.iter().filter(|(pattern, _)| pattern.matches(key)) {
                    to_mark.extend(watchers.values().map(|mailbox| (mailbox.clone(), key.clone())));
                }
            }
        }
        // Outside the lock: waking thousands of tasks must not hold up registrations.
        for (mailbox, key) in to_mark {
            mailbox.mark(key);
        }
    }

    /// After a snapshot replaced the state no event tells what changed: everybody must look again.
    pub fn mark_all(&self) {
        let (keys, by_pattern): (Vec<ConfigKey>, Vec<Arc<Mailbox>>) = {
            let index = lock(&self.0);
            let by_pattern = index.pattern_watchers.values().flat_map(|it| it.values().cloned());
            (index.watchers.keys().cloned().collect(), by_pattern.collect())
        };
        self.publish(&keys);
        for mailbox in by_pattern {
            mailbox.wake_after(|dirty| dirty.patterns = true);
        }
    }

    /// How many watchers there are.
    pub fn watcher_count(&self) -> usize {
        lock(&self.0).watcher_count
    }

    /// How many keys are watched by somebody.
    pub fn watched_key_count(&self) -> usize {
        lock(&self.0).watchers.len()
    }

    /// How many patterns are watched by somebody.
    pub fn watched_pattern_count(&self) -> usize {
        lock(&self.0).pattern_watchers.len()
    }

    fn register(&self, id: u64, mailbox: &Arc<Mailbox>, keys: &[ConfigKey]) {
        let mut index = lock(&self.0);
        for key in keys {
            index.watchers.entry(key.clone()).or_default().insert(id, mailbox.clone());
        }
    }

    fn deregister(&self, id: u64, keys: &[ConfigKey]) {
        let mut index = lock(&self.0);
        for key in keys {
            take_out(&mut index.watchers, key, id);
        }
    }
}

fn take_out<K: Ord>(watchers: &mut BTreeMap<K, BTreeMap<u64, Arc<Mailbox>>>, of: &K, id: u64) {
    if let Some(those) = watchers.get_mut(of) {
        those.remove(&id);
        if those.is_empty() {
            watchers.remove(of);
        }
    }
}

/// A registration. A long poll holds one for one request, a stream for one connection. Dropping it deregisters.
pub struct Watcher {
    hub: Arc<Hub>,
    id: u64,
    mailbox: Arc<Mailbox>,
    /// What is registered, each key once, in order.
    keys: Mutex<Vec<ConfigKey>>,
    patterns: Mutex<BTreeSet<KeyPattern>>,
}

impl Watcher {
    /// Watches these keys too; those watched already are left as they are.
    pub fn add(&self, keys: impl IntoIterator<Item = ConfigKey>) {
        let mut added: Vec<ConfigKey> = keys.into_iter().collect();
        added.sort_unstable();
        added.dedup();
        let mut watched = lock(&self.keys);
        added.retain(|key| watched.binary_search(key).is_err());
        self.hub.register(self.id, &self.mailbox, &added);
        watched.extend(added);
        watched.sort_unstable();
    }

    /// Watches these keys no longer. A mark made before stays.
    pub fn remove(&self, keys: &BTreeSet<ConfigKey>) {
        let mut watched = lock(&self.keys);
        let gone: Vec<ConfigKey> = watched.extract_if(.., |key| keys.contains(key)).collect();
        self.hub.deregister(self.id, &gone);
    }

    /// Watches all keys that match, those that are not there yet too.
    pub fn add_pattern(&self, pattern: &KeyPattern) {
        let mut watched = lock(&self.patterns);
        if watched.insert(pattern.clone()) {
            let mut index = lock(&self.hub.0);
            index.pattern_watchers.entry(pattern.clone()).or_default().insert(self.id, self.mailbox.clone());
        }
    }

    /// Watches the pattern no longer. A mark made before stays.
    pub fn remove_pattern(&self, pattern: &KeyPattern) {
        let mut watched = lock(&self.patterns);
        if watched.remove(pattern) {
            take_out(&mut lock(&self.hub.0).pattern_watchers, pattern, self.id);
        }
    }

    /// Has the caller woken by the next mark or [`Watcher::wake`], without taking what is marked already.
    pub fn register_waker(&self, context: &Context<'_>) {
        lock(&self.mailbox.0).set_waker(context);
    }

    /// Wakes who waits, without a mark: there is something else to do.
    pub fn wake(&self) {
        self.mailbox.wake_after(|_| {});
    }

    /// How many keys it watches.
    pub fn key_count(&self) -> usize {
        lock(&self.keys).len()
    }

    /// Marks a key of one's own again, after a push of it was not acknowledged.
    pub fn mark(&self, key: ConfigKey) {
        self.mailbox.mark(key);
    }

    /// Waits until there is something to look at, and takes all dirty keys.
    pub async fn changed(&mut self) -> BTreeSet<ConfigKey> {
        poll_fn(|context| self.poll_changed(context)).await.keys
    }

    /// The same for a caller that is polled itself. Only the last one who asked is woken.
    pub fn poll_changed(&self, context: &Context<'_>) -> Poll<Dirty> {
        self.mailbox.poll_take(context)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.deregister(self.id, &lock(&self.keys));
        let patterns = mem::take(&mut *lock(&self.patterns));
        let mut index = lock(&self.hub.0);
        for pattern in &patterns {
            take_out(&mut index.pattern_watchers, pattern, self.id);
        }
        index.watcher_count -= 1;
    }
}

/// A panic elsewhere cannot leave these structures half changed: every change is a few infallible steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
