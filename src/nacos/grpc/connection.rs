//! A client that has introduced itself: what it listens to, and a word that can be put in for it from outside its stream.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use super::{farewell::Successor, patterns::Patterns, questions::Questions};
use tokio::{
    sync::{OnceCell, watch},
    time::Instant,
};

use crate::{
    service::{ClientLabels, Services, Watcher},
    types::{ConfigKey, limits},
};

/// Nothing is pushed for this long after the answer to a listen request: a client in Go (nacos-sdk-go 2.3) that handles a
/// push before the answer takes its key for up to date, and looks again only after five minutes.
const QUIET_AFTER_LISTENING: Duration = Duration::from_millis(20);
/// A client that listens without a pause is pushed to all the same, after this long.
const QUIET_MAX: Duration = Duration::from_secs(2);

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
    /// When it last asked for the content, or was found to have it.
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
    pub(super) watcher: Watcher,
    listens: Mutex<BTreeMap<ConfigKey, Listened>>,
    pub(super) patterns: Patterns,
    pub(super) questions: Questions,
    /// Microseconds from [`Connection::began`] to the last sign of life.
    active: AtomicU64,
    began: Instant,
    farewell: Mutex<Farewell>,
    listening: Mutex<Listening>,
    /// Named in the answer to a listen request, and not yet expected to be looked at.
    announced: Mutex<Vec<Announced>>,
    caught_up: OnceCell<()>,
}

#[derive(Default)]
struct Farewell {
    /// Set once, when the client has to go.
    until: Option<Instant>,
    waker: Option<Waker>,
}

/// What the answer to a listen request said to have changed.
pub(super) struct Announced {
    pub(super) at: Moment,
    pub(super) keys: Vec<(ConfigKey, Spelling)>,
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
    fn quiet_until(&self, now: Instant) -> Option<Instant> {
        let most = self.since? + QUIET_MAX;
        let until = if self.in_flight > 0 { most } else { self.answered.unwrap_or(now) + QUIET_AFTER_LISTENING };
        Some(until.min(most))
    }
}

/// A listen request that is being answered. Nothing is pushed until a moment after its answer.
pub(super) struct ListenRequest<'a>(&'a Connection);

impl Drop for ListenRequest<'_> {
    fn drop(&mut self) {
        let mut listening = self.0.listening();
        listening.in_flight -= 1;
        listening.answered = Some(Instant::now());
        drop(listening);
        self.0.watcher.wake();
    }
}

/// A client listens to more keys than it may.
pub(super) struct TooManyKeys;

impl Connection {
    pub(super) fn new(labels: ClientLabels, watcher: Watcher) -> Self {
        Self {
            labels,
            watcher,
            listens: Mutex::default(),
            patterns: Patterns::default(),
            questions: Questions::default(),
            active: AtomicU64::new(0),
            began: Instant::now(),
            farewell: Mutex::default(),
            listening: Mutex::default(),
            announced: Mutex::default(),
            caught_up: OnceCell::new(),
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
        self.caught_up.get_or_init(|| services.catch_up(limits::CATCH_UP_MAX)).await;
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while a listen request is answered.
    pub(super) fn begin_listening(&self) -> ListenRequest<'_> {
        let mut listening = self.listening();
        let now = Instant::now();
        if listening.quiet_until(now).is_none_or(|until| until <= now) {
            listening.since = Some(now);
        }
        listening.in_flight += 1;
        ListenRequest(self)
    }

    /// Until when nothing is pushed, unless that is over; who asks is woken when a listen request has been answered.
    pub(super) fn quiet_until(&self, now: Instant) -> Option<Instant> {
        self.listening().quiet_until(now).filter(|until| *until > now)
    }

    /// Registers: whatever changes from now on is pushed. Comparing comes after it.
    pub(super) fn listen(&self, keys: &[(ConfigKey, Spelling)]) -> Result<(), TooManyKeys> {
        let mut listens = self.listens();
        for (key, spelling) in keys {
            listens.entry(key.clone()).or_default().set(*spelling, true);
        }
        if listens.len() > limits::STREAM_KEYS_MAX {
            for (key, _) in keys {
                listens.remove(key);
            }
            let gone = keys.iter().map(|(key, _)| key.clone()).collect();
            self.watcher.remove(&gone);
            return Err(TooManyKeys);
        }
        self.watcher.add(keys.iter().map(|(key, _)| key.clone()));
        Ok(())
    }

    pub(super) fn unlisten(&self, keys: &[(ConfigKey, Spelling)]) {
        let mut listens = self.listens();
        let mut gone = BTreeSet::new();
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

    /// It asks for the content of these keys, or has it.
    pub(super) fn look<'a>(&self, keys: impl IntoIterator<Item = &'a ConfigKey>) {
        let looked = self.moment();
        let mut listens = self.listens();
        for key in keys {
            if let Some(listened) = listens.get_mut(key) {
                listened.looked = looked;
            }
        }
    }

    /// It is told by the answer to a listen request that these have changed.
    pub(super) fn announce(&self, keys: Vec<(ConfigKey, Spelling)>) {
        if !keys.is_empty() {
            let at = self.moment();
            self.announced.lock().unwrap_or_else(PoisonError::into_inner).push(Announced { at, keys });
        }
    }

    /// What it was told by answers to listen requests since this was last asked.
    pub(super) fn take_announced(&self) -> Vec<Announced> {
        std::mem::take(&mut *self.announced.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it asked for the content of a key after that, or was found to have it; or does not listen to it any more.
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
