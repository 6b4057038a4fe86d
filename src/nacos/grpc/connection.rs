//! A client that has introduced itself: what it listens to, and a word that can be put in for it from outside its stream.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{farewell::Successor, patterns::Patterns, questions::Questions};
use crate::{
    service::{ClientLabels, Services, Watcher},
    types::{ConfigKey, limits},
};

/// Nothing is pushed for this long after the answer to a listen request: a client in Go (nacos-sdk-go 2.3) that handles a
/// push before the answer takes its key for up to date, and looks again only after five minutes.
const QUIET_AFTER_LISTENING: Duration = Duration::from_millis(20);
/// A client that listens without a pause is pushed to all the same, after this long.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// A client that came while this node could not find out what the others have is compared with them again after this long.
const CATCH_UP_PAUSE: Duration = Duration::from_secs(5);

/// How a client spells the tenant of a key. Only the default namespace has more than one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spelling {
    /// Absent, null or blank: a push leaves the tenant out.
    Blank,
    /// By its name.
    Named,
}

/// A moment in the life of a connection: microseconds since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

/// How a client listens to one key.
#[derive(Debug, Clone, Copy, Default)]
struct Listened {
    blank: bool,
    named: bool,
    /// When it last was given the content, or found to have it.
    looked: Moment,
}

impl Listened {
    fn set(&mut self, spelling: Spelling, listens: bool) {
        match spelling {
            Spelling::Blank => self.blank = listens,
            Spelling::Named => self.named = listens,
        }
    }

    fn spellings(self) -> impl Iterator<Item = Spelling> {
        [(self.blank, Spelling::Blank), (self.named, Spelling::Named)].into_iter().filter(|it| it.0).map(|it| it.1)
    }
}

/// A client. It lives as long as its stream; requests on the same TCP connection find it there.
pub(super) struct Connection {
    /// What decides which versions it sees.
    pub(super) labels: ClientLabels,
    /// Whether it lists again what it has read for its listeners: then no query of its is known to be for them.
    pub(super) lists_again: bool,
    pub(super) watcher: Watcher,
    listens: Mutex<BTreeMap<ConfigKey, Listened>>,
    pub(super) patterns: Patterns,
    pub(super) questions: Questions,
    /// Microseconds from [`Connection::began`] to the last sign of life.
    active: AtomicU64,
    began: Instant,
    farewell: Mutex<Farewell>,
    listening: Mutex<Listening>,
    pub(super) announced: Announced,
    catch_up: CatchUp,
}

#[derive(Default)]
struct Farewell {
    /// Set once, when the client has to go.
    until: Option<Instant>,
    waker: Option<Waker>,
}

/// The listen requests of a client.
#[derive(Default)]
struct Listening {
    in_flight: usize,
    /// Since when there has been no pause.
    since: Option<Instant>,
    /// When the last answer was given.
    answered: Option<Instant>,
}

impl Listening {
    fn begin(&mut self, now: Instant) {
        // A pause is one that is over: that pushes were held back for too long is none.
        if self.in_flight == 0 && self.answered.is_none_or(|at| at + QUIET_AFTER_LISTENING <= now) {
            self.since = Some(now);
        }
        self.in_flight += 1;
    }

    fn end(&mut self, now: Instant) {
        self.in_flight -= 1;
        self.answered = Some(now);
    }

    fn quiet_until(&self, now: Instant) -> Option<Instant> {
        let most = self.since? + QUIET_MAX;
        let until = if self.in_flight > 0 { most } else { self.answered.unwrap_or(now) + QUIET_AFTER_LISTENING };
        Some(until.min(most))
    }
}

/// What answers to listen requests said to have changed, and when, and what the stream has not taken note of yet. No more than
/// what is listened to: a client that does not read its stream may ask as often as it likes.
#[derive(Default)]
pub(super) struct Announced(Mutex<BTreeMap<(ConfigKey, Spelling), Moment>>);

impl Announced {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ConfigKey, Spelling), Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client is told that these have changed.
    pub(super) fn add(&self, at: Moment, keys: Vec<(ConfigKey, Spelling)>) {
        self.lock().extend(keys.into_iter().map(|it| (it, at)));
    }

    fn forget(&self, keys: &[(ConfigKey, Spelling)]) {
        let mut announced = self.lock();
        for it in keys {
            announced.remove(it);
        }
    }

    /// What it was told since this was last asked, and when.
    pub(super) fn take(&self) -> BTreeMap<(ConfigKey, Spelling), Moment> {
        std::mem::take(&mut *self.lock())
    }
}

/// Something that is to be done once, and again only where it failed.
#[derive(Default)]
struct CatchUp {
    done: AtomicBool,
    /// When it last failed; locked while it is tried.
    failed: tokio::sync::Mutex<Option<Instant>>,
}

impl CatchUp {
    /// Tries, or waits for who tries; after a failure not before [`CATCH_UP_PAUSE`] has passed.
    async fn with<F: Future<Output = bool>>(&self, attempt: impl FnOnce() -> F) {
        if self.done.load(Ordering::Relaxed) {
            return;
        }
        let mut failed = self.failed.lock().await;
        if self.done.load(Ordering::Relaxed) || failed.is_some_and(|at| at.elapsed() < CATCH_UP_PAUSE) {
            return;
        }
        if attempt().await {
            self.done.store(true, Ordering::Relaxed);
        } else {
            *failed = Some(Instant::now());
        }
    }
}

/// A listen request that is being answered. Nothing is pushed until a moment after its answer.
pub(super) struct ListenRequest<'a>(&'a Connection);

impl Drop for ListenRequest<'_> {
    fn drop(&mut self) {
        let mut listening = self.0.listening();
        listening.end(Instant::now());
        drop(listening);
        self.0.watcher.wake();
    }
}

/// A client listens to more keys than it may.
pub(super) struct TooManyKeys;

impl Connection {
    pub(super) fn new(labels: ClientLabels, lists_again: bool, watcher: Watcher) -> Self {
        Self {
            labels,
            lists_again,
            watcher,
            listens: Mutex::default(),
            patterns: Patterns::default(),
            questions: Questions::default(),
            active: AtomicU64::new(0),
            began: Instant::now(),
            farewell: Mutex::default(),
            listening: Mutex::default(),
            announced: Announced::default(),
            catch_up: CatchUp::default(),
        }
    }

    pub(super) fn moment(&self) -> Moment {
        Moment(self.began.elapsed().as_micros() as u64)
    }

    /// It gave a sign of life.
    pub(super) fn touch(&self) {
        self.active.store(self.moment().0, Ordering::Relaxed);
    }

    /// When it last gave one.
    pub(super) fn last_active(&self) -> Instant {
        self.began + Duration::from_micros(self.active.load(Ordering::Relaxed))
    }

    /// Waits, once in a connection's life, until this node is not behind what the client may have heard elsewhere.
    pub(super) async fn catch_up(&self, services: &Services) {
        self.catch_up.with(|| services.catch_up(limits::CATCH_UP_MAX)).await;
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while a listen request is answered.
    pub(super) fn begin_listening(&self) -> ListenRequest<'_> {
        let mut listening = self.listening();
        let now = Instant::now();
        listening.begin(now);
        ListenRequest(self)
    }

    /// Until when nothing is pushed, unless that is over; who asks is woken when a listen request has been answered.
    pub(super) fn quiet_until(&self, now: Instant) -> Option<Instant> {
        self.listening().quiet_until(now).filter(|until| *until > now)
    }

    /// Registers: whatever changes from now on is pushed. Comparing comes after it.
    pub(super) fn listen(&self, keys: &[(ConfigKey, Spelling)]) -> Result<(), TooManyKeys> {
        let mut listens = self.listens();
        let new: BTreeSet<&ConfigKey> =
            keys.iter().map(|(key, _)| key).filter(|it| !listens.contains_key(it)).collect();
        if listens.len() + new.len() > limits::STREAM_KEYS_MAX {
            return Err(TooManyKeys);
        }
        for (key, spelling) in keys {
            listens.entry(key.clone()).or_default().set(*spelling, true);
        }
        self.watcher.add(keys.iter().map(|(key, _)| key.clone()));
        Ok(())
    }

    pub(super) fn unlisten(&self, keys: &[(ConfigKey, Spelling)]) {
        let mut listens = self.listens();
        let mut gone = BTreeSet::new();
        self.announced.forget(keys);
        for (key, spelling) in keys {
            let Some(listened) = listens.get_mut(key) else { continue };
            listened.set(*spelling, false);
            if listened.spellings().next().is_none() {
                listens.remove(key);
                gone.insert(key.clone());
            }
        }
        // Under the lock: a listen that comes meanwhile must not be undone.
        self.watcher.remove(&gone);
    }

    /// How the client spells a key; nothing when it does not listen to it any more.
    pub(super) fn spellings(&self, key: &ConfigKey) -> impl Iterator<Item = Spelling> + use<> {
        self.listens().get(key).copied().unwrap_or_default().spellings()
    }

    /// It was given the content of these keys, as it was at that moment or later, or has it.
    pub(super) fn look<'a>(&self, looked: Moment, keys: impl IntoIterator<Item = &'a ConfigKey>) {
        let mut listens = self.listens();
        for key in keys {
            if let Some(listened) = listens.get_mut(key) {
                listened.looked = looked.max(listened.looked);
            }
        }
    }

    /// Whether it was given the content of a key after that, or was found to have it; or does not listen to it any more.
    pub(super) fn has_looked_since(&self, key: &ConfigKey, then: Moment) -> bool {
        self.listens().get(key).is_none_or(|it| it.looked > then)
    }

    fn listens(&self) -> MutexGuard<'_, BTreeMap<ConfigKey, Listened>> {
        self.listens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it told to go elsewhere; it is cut off at `until`.
    fn send_away(&self, until: Instant) {
        let waker = {
            let mut farewell = self.farewell.lock().unwrap_or_else(PoisonError::into_inner);
            farewell.until.get_or_insert(until);
            farewell.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// When it is cut off; if it need not go, `waker` is woken when it has to.
    pub(super) fn poll_farewell(&self, waker: &Waker) -> Option<Instant> {
        let mut farewell = self.farewell.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut farewell.waker {
            Some(it) => it.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        farewell.until
    }
}

/// All clients of a node.
pub struct Connections {
    all: Mutex<All>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct All {
    next: u64,
    /// No more are taken, once this is so.
    draining: bool,
    /// Where those that are there are sent then.
    successors: Vec<Successor>,
    connections: BTreeMap<u64, Arc<Connection>>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { all: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Whether clients are being sent away.
    pub(super) fn is_draining(&self) -> bool {
        self.all().draining
    }

    /// Those that call themselves by this address, but not more than `most`.
    pub(super) fn with_ip(&self, ip: &str, most: usize) -> Vec<Arc<Connection>> {
        self.all().connections.values().filter(|it| it.labels.ip == ip).take(most).cloned().collect()
    }

    /// Where this client is sent: not all to the same server. `None`: it finds one itself.
    pub(super) fn successor(&self, id: u64) -> Option<Successor> {
        let successors = &self.all().successors;
        let at = (id as usize).checked_rem(successors.len())?;
        successors.get(at).cloned()
    }

    /// Takes a client in; `None` when the server is about to stop.
    pub(super) fn enter(&self, connection: &Arc<Connection>) -> Option<u64> {
        let mut all = self.all();
        if all.draining {
            return None;
        }
        all.next += 1;
        let id = all.next;
        all.connections.insert(id, connection.clone());
        self.count.send_replace(all.connections.len());
        Some(id)
    }

    pub(super) fn leave(&self, id: u64) {
        let mut all = self.all();
        all.connections.remove(&id);
        self.count.send_replace(all.connections.len());
    }

    /// `false`: some had to be cut off.
    pub(super) async fn drain(&self, grace: Duration, successors: Vec<Successor>) -> bool {
        let until = Instant::now() + grace;
        let everybody: Vec<Arc<Connection>> = {
            let mut all = self.all();
            all.draining = true;
            all.successors = successors;
            all.connections.values().cloned().collect()
        };
        for connection in everybody {
            connection.send_away(until);
        }
        let mut count = self.count.subscribe();
        let gone = count.wait_for(|it| *it == 0);
        if tokio::time::timeout_at(until + Duration::from_millis(200), gone).await.is_err() {
            tracing::warn!(left = self.count(), "some clients were still there");
        }
        Instant::now() < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NamespaceId;

    #[test]
    fn a_client_that_asks_again_and_again_and_never_reads_costs_no_more_than_what_it_listens_to() {
        let key = |at: u64| (ConfigKey::new(&NamespaceId::public(), "G", &format!("k{at}")).unwrap(), Spelling::Blank);
        let announced = Announced::default();
        for at in 0..1_000 {
            announced.add(Moment(at), vec![key(1), key(2)]);
            announced.add(Moment(at), vec![key(at + 3)]);
            announced.forget(&[key(at + 3)]);
        }
        assert_eq!(announced.take(), BTreeMap::from([(key(1), Moment(999)), (key(2), Moment(999))]));
        assert!(announced.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_lists_without_a_pause_is_pushed_to_all_the_same() {
        let mut listening = Listening::default();
        let mut pushes = 0;
        for _ in 0..4_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            let now = Instant::now();
            // Looked at after the request, as its answer wakes the stream.
            listening.begin(now);
            listening.end(now);
            pushes += u32::from(listening.quiet_until(now).is_none_or(|until| until <= now));
        }
        assert!(pushes > 1_900, "{pushes} times in 4 s");
        tokio::time::advance(QUIET_AFTER_LISTENING).await;
        listening.begin(Instant::now());
        assert!(listening.quiet_until(Instant::now()).is_some_and(|until| until > Instant::now()), "after a pause");
    }

    #[tokio::test(start_paused = true)]
    async fn catching_up_that_failed_is_tried_again_later_and_then_no_more() {
        let catch_up = CatchUp::default();
        let tried = std::cell::RefCell::new(Vec::new());
        for (after, succeeds) in [(0, false), (1, true), (4, true), (9, false)] {
            tokio::time::advance(Duration::from_secs(after)).await;
            catch_up
                .with(|| {
                    tried.borrow_mut().push(after);
                    std::future::ready(succeeds)
                })
                .await;
        }
        assert_eq!(*tried.borrow(), [0, 4], "at once, and when a while has passed");
    }
}
