//! The stream of one client: its introduction and its acknowledgements come in, changes of what it listens to go out.
//!
//! A change marks a key in the client's watcher; the mark becomes a message only when the connection can take one. So a
//! client that reads slowly costs one mark for each key it listens to, and holds nobody up. A push counts as delivered when
//! it was acknowledged; otherwise it is sent again (Nacos: `RpcConfigChangeNotifier`). A client that acknowledges and then
//! does not look is reminded: some forget a push that comes at the wrong moment.
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, Streaming};

use super::{
    Api,
    connection::{Connection, Moment, Spelling},
    detection::{Detection, Step},
    farewell::{self, SERVED_AFTER_END},
    transport::Transport,
};
use crate::{
    nacos::{
        names,
        wire::{
            messages::{
                Acknowledgement, ConfigChangeNotifyRequest, ConfigFuzzyWatchChangeNotifyRequest,
                ConnectionSetupRequest, InternalRequest, SetupAckRequest, group_key,
            },
            payload::Payload,
        },
    },
    service::ClientLabels,
    types::{ConfigKey, Tag},
};

/// A stream on which nobody introduces itself for this long is closed.
const INTRODUCTION: Duration = Duration::from_secs(30);
/// An acknowledgement is waited for this long. Nacos: `PUSH_TIMEOUT`.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(3);
/// The n-th retry comes n times this later.
const RETRY_STEP: Duration = Duration::from_secs(2);
/// Nacos: `nacos.config.push.maxRetryTime`.
const TRIES_MAX: u32 = 50;
/// A client that acknowledged the n-th push of a change and has not looked at it n times this later is pushed to again.
const LOOK_STEP: Duration = Duration::from_secs(1);
/// A client has this long, and so much longer for each of them, to look at what the answer to a listen request names. (One in
/// Rust, nacos_rust_client, never does.)
const LOOK_AT_ANSWER: Duration = Duration::from_secs(3);
const LOOK_AT_KEY: Duration = Duration::from_millis(2);
/// So often is a change pushed to who acknowledges and does not look: it may be of no interest. Within half a minute: a client
/// in Go with thousands of keys, on a busy machine, forgets what comes for ten seconds.
const UNSEEN_MAX: u32 = 8;

/// A client in Go lists a key again when it has read it for a listener; what its application reads is asked in the same way.
const LISTS_AGAIN: &str = "Nacos-Go-Client";
/// Who was told to go and has not acknowledged that within this time does not know the word, and is pushed to until its end.
const GOES_WITHIN: Duration = Duration::from_millis(200);

/// What is pushed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Pushed {
    /// A key changed, as the client spells it.
    Change(ConfigKey, Spelling),
    /// A key that a pattern matches came or went.
    Presence(ConfigKey),
    /// A part of what a client does not know of a pattern.
    Part(u64),
}

/// A push that was not acknowledged yet, or of which it is not known whether the client looked at what changed.
struct Flight {
    pushed: Pushed,
    tries: u32,
    sent: Moment,
    acknowledged: bool,
    /// When to try again.
    due: Instant,
}

impl Flight {
    /// Whether the client has not looked at what it was told of. Of anything but a change an acknowledgement is enough.
    fn is_unseen(&self, connection: &Connection) -> bool {
        match &self.pushed {
            Pushed::Change(key, _) => !connection.has_looked_since(key, self.sent),
            Pushed::Presence(_) | Pushed::Part(_) => false,
        }
    }
}

/// That a client was told to go.
#[derive(Clone, Copy)]
struct Told {
    id: u64,
    acknowledged: bool,
    /// It is pushed nothing until then, unless it has acknowledged it: then nothing more.
    until: Instant,
}

/// The outgoing side of a stream; it reads the incoming side itself.
pub struct Pushes {
    api: Arc<Api>,
    transport: Arc<Transport>,
    incoming: Streaming<Payload>,
    client: Option<Client>,
    timer: Pin<Box<Sleep>>,
}

/// What there is once the client has introduced itself.
struct Client {
    id: u64,
    connection: Arc<Connection>,
    /// To be sent, in this order, before anything is pushed.
    first: VecDeque<Payload>,
    /// To be pushed, with the tries made so far.
    waiting: VecDeque<(Pushed, u32)>,
    flights: BTreeMap<u64, Flight>,
    /// When which flight is due.
    due: BTreeSet<(Instant, u64)>,
    /// Which flight is the newest of a key.
    newest: BTreeMap<Pushed, u64>,
    detection: Detection,
    told_to_go: Option<Told>,
    /// It did not go in time.
    cut_off: bool,
}

impl Pushes {
    pub(super) fn new(api: Arc<Api>, transport: Arc<Transport>, incoming: Streaming<Payload>) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + INTRODUCTION));
        Self { api, transport, incoming, client: None, timer }
    }

    /// Reads all that came in. `Ready`: the client is gone.
    fn poll_incoming(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.incoming.poll_next_unpin(context)) {
                Some(Ok(payload)) => {
                    if !self.receive(&payload) {
                        return Poll::Ready(());
                    }
                }
                Some(Err(err)) => {
                    tracing::debug!(connection = %self.transport.id, %err, "a client's stream broke");
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            }
        }
    }

    /// `false`: the client is not taken.
    fn receive(&mut self, payload: &Payload) -> bool {
        if payload.kind() == "ConnectionSetupRequest" {
            return self.client.is_some() || self.introduce(payload);
        }
        let Some(client) = &mut self.client else { return true };
        client.connection.touch();
        client.detection.answered();
        match serde_json::from_slice::<Acknowledgement>(&payload.json()) {
            // Clients answer with whatever type and result: the number is what counts.
            Ok(Acknowledgement { request_id: Some(id) }) => {
                id.parse().into_iter().for_each(|id| client.acknowledged(id, payload))
            }
            Ok(Acknowledgement { request_id: None }) => {}
            Err(err) => tracing::debug!(connection = %self.transport.id, %err, "a message that is no JSON"),
        }
        true
    }

    fn introduce(&mut self, payload: &Payload) -> bool {
        let setup: ConnectionSetupRequest = match serde_json::from_slice(&payload.json()) {
            Ok(setup) => setup,
            Err(err) => {
                tracing::debug!(connection = %self.transport.id, %err, "an introduction that cannot be read");
                return false;
            }
        };
        // A node that is still loading would tell lies about what is missing.
        if !self.api.services.caught_up() {
            return false;
        }
        let mut labels = setup.labels.unwrap_or_default();
        // Some put `app_` before the labels that an application sets.
        let mut tags =
            ["app_Vipserver-Tag", "Vipserver-Tag"].into_iter().filter_map(|name| labels.remove(name).flatten());
        let tag = tags.find_map(|it| Tag::parse(&it).ok());
        let declared = payload.metadata.as_ref().and_then(|it| names::address(&it.client_ip));
        let ip = declared.map_or_else(|| self.transport.peer.ip().to_string(), str::to_owned);
        let client = ClientLabels { ip, asked_tag: None, carried_tag: tag };
        let lists_again = setup.client_version.as_deref().is_some_and(|it| it.starts_with(LISTS_AGAIN));
        let connection = Arc::new(Connection::new(client, lists_again, self.api.services.watcher()));
        if !self.transport.register(&connection) {
            return false;
        }
        let Some(id) = self.api.connections.enter(&connection) else {
            self.transport.deregister();
            return false;
        };
        let mut client = Client::new(id, connection);
        if setup.ability_table.is_some() {
            let ability_table = BTreeMap::from([("fuzzyWatch".to_owned(), true)]);
            let message = SetupAckRequest { headers: BTreeMap::new(), ability_table, module: "internal" };
            client.first.push_back(Payload::new("SetupAckRequest", &message));
        }
        tracing::debug!(connection = %self.transport.id, version = ?setup.client_version, "a client came");
        self.client = Some(client);
        true
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Payload, Status>>> {
        loop {
            if self.poll_incoming(context).is_ready() {
                return Poll::Ready(None);
            }
            let Some(client) = &mut self.client else {
                ready!(self.timer.as_mut().poll(context));
                return Poll::Ready(None);
            };
            match client.next(&self.api, &self.transport, context) {
                Next::Send(payload) => return Poll::Ready(Some(Ok(payload))),
                Next::End => return Poll::Ready(None),
                // An end without an error is none for a client in Python (3.2).
                Next::Leave => return Poll::Ready(Some(Err(Status::unavailable("this server is stopping")))),
                Next::Wait(due) => {
                    if self.timer.deadline() != due {
                        self.timer.as_mut().reset(due);
                    }
                    ready!(self.timer.as_mut().poll(context));
                }
            }
        }
    }
}

impl Stream for Pushes {
    type Item = Result<Payload, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.transport.streamed();
        self.poll(context)
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            self.transport.stream_ended();
            if client.cut_off {
                self.transport.deregister_at(Instant::now() + SERVED_AFTER_END);
            } else {
                self.transport.deregister();
            }
            self.api.connections.leave(client.id);
        }
    }
}

/// What a client's stream does next.
enum Next {
    Send(Payload),
    /// Nothing before this.
    Wait(Instant),
    End,
    /// It was told to go and did not.
    Leave,
}

impl Client {
    fn new(id: u64, connection: Arc<Connection>) -> Self {
        Self {
            id,
            connection,
            first: VecDeque::new(),
            waiting: VecDeque::new(),
            flights: BTreeMap::new(),
            due: BTreeSet::new(),
            newest: BTreeMap::new(),
            detection: Detection::default(),
            told_to_go: None,
            cut_off: false,
        }
    }

    /// Takes note of an acknowledgement.
    fn acknowledged(&mut self, id: u64, payload: &Payload) {
        self.connection.questions.answered(id, payload);
        if let Some(told) = self.told_to_go.as_mut().filter(|it| it.id == id) {
            told.acknowledged = true;
        }
        let Some(flight) = self.flights.get_mut(&id) else { return };
        if flight.is_unseen(&self.connection) {
            if !flight.acknowledged {
                flight.acknowledged = true;
                self.due.remove(&(flight.due, id));
                flight.due = Instant::now() + LOOK_STEP * flight.tries;
                self.due.insert((flight.due, id));
            }
            return;
        }
        if let Some(Flight { pushed: Pushed::Part(part), .. }) = self.land(id) {
            self.connection.patterns.settle(part);
        }
    }

    /// Waits no longer for anything.
    fn land(&mut self, id: u64) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        self.due.remove(&(flight.due, id));
        if self.newest.get(&flight.pushed) == Some(&id) {
            self.newest.remove(&flight.pushed);
        }
        Some(flight)
    }

    fn next(&mut self, api: &Api, transport: &Transport, context: &Context<'_>) -> Next {
        let now = Instant::now();
        let farewell = self.connection.poll_farewell(context.waker());
        if farewell.is_some_and(|until| now >= until) {
            self.cut_off = true;
            return Next::Leave;
        }
        if farewell.is_some() && self.told_to_go.is_none() {
            let id = api.request_id();
            self.told_to_go = Some(Told { id, acknowledged: false, until: now + GOES_WITHIN });
            return Next::Send(farewell::reset(id, transport, api.connections.successor(self.id).as_ref()));
        }
        if let Some(payload) = self.first.pop_front() {
            return Next::Send(payload);
        }
        // Asked for first: a listen request that is answered, and a question that is asked from now on wakes who waits.
        self.connection.watcher.register_waker(context);
        if let Some(payload) = self.connection.questions.next() {
            return Next::Send(payload);
        }
        // Who goes hears the rest where it comes next. A client in Go that lists what it was pushed while it changes over takes
        // all its keys for listed there, and is deaf to them for minutes.
        let goes = self.told_to_go.is_some_and(|it| it.acknowledged);
        let leaves_until = self.told_to_go.map(|it| it.until).filter(|until| *until > now);
        let quiet_until = self.connection.quiet_until(now).max(leaves_until);
        let pushes = quiet_until.is_none() && !goes;
        while pushes && let Some((pushed, tries)) = self.next_push(api, now, context) {
            if let Some(payload) = self.push(api, now, pushed, tries) {
                return Next::Send(payload);
            }
        }
        match self.detection.next(self.connection.last_active(), now) {
            Step::AskAt(at) => {
                let at = quiet_until.map_or(at, |until| at.min(until));
                let due = self.due.first().filter(|_| pushes).map_or(at, |(due, _)| at.min(*due));
                Next::Wait(farewell.map_or(due, |until| due.min(until)))
            }
            Step::Ask => Next::Send(internal("ClientDetectionRequest", api)),
            Step::Gone => Next::End,
        }
    }

    /// What to push, with the tries made so far. `None`: nothing, and the next mark wakes who asks.
    fn next_push(&mut self, api: &Api, now: Instant, context: &Context<'_>) -> Option<(Pushed, u32)> {
        self.expect_looks(api, now);
        self.retry(now);
        loop {
            while let Some((pushed, tries)) = self.waiting.pop_front() {
                // It may have stopped listening meanwhile.
                if self.is_wanted(&pushed) {
                    return Some((pushed, tries));
                }
            }
            // Marks are taken only when there is nothing left to send: they are the queue, and it is bounded. They are asked
            // for until there are none: only then is somebody woken by the next one.
            let marked = self.connection.watcher.poll_changed(context);
            // Asked for after that, for the same reason.
            let parts = self.connection.patterns.take_fresh();
            if marked.is_pending() && parts.is_empty() {
                return None;
            }
            self.waiting.extend(parts.into_iter().map(|part| (Pushed::Part(part), 0)));
            let Poll::Ready(dirty) = marked else { continue };
            for key in dirty.keys {
                if self.connection.patterns.has_news(&api.services, &key) {
                    self.waiting.push_back((Pushed::Presence(key.clone()), 0));
                }
                let spellings = self.connection.spellings(&key);
                self.waiting.extend(spellings.map(|spelling| (Pushed::Change(key.clone(), spelling), 0)));
            }
            if dirty.patterns {
                let news = self.connection.patterns.all_news(&api.services);
                self.waiting.extend(news.into_iter().map(|key| (Pushed::Presence(key), 0)));
            }
        }
    }

    fn is_wanted(&self, pushed: &Pushed) -> bool {
        match pushed {
            Pushed::Change(key, spelling) => self.connection.spellings(key).any(|it| it == *spelling),
            Pushed::Presence(key) => self.connection.patterns.matches(key),
            Pushed::Part(part) => self.connection.patterns.is_pending(*part),
        }
    }

    /// What the answer to a listen request names is as good as pushed and acknowledged: a look at it has to follow.
    fn expect_looks(&mut self, api: &Api, now: Instant) {
        let announced = self.connection.announced.take();
        let due = now + LOOK_AT_ANSWER + LOOK_AT_KEY * u32::try_from(announced.len()).unwrap_or(u32::MAX);
        for ((key, spelling), at) in announced {
            let pushed = Pushed::Change(key, spelling);
            self.expect(api.request_id(), Flight { pushed, tries: 0, sent: at, acknowledged: true, due });
        }
    }

    /// Puts in line what was not acknowledged in time.
    fn retry(&mut self, now: Instant) {
        while let Some((due, id)) = self.due.first().copied()
            && due <= now
        {
            let Some(flight) = self.flights.get(&id) else {
                self.due.remove(&(due, id));
                continue;
            };
            let again = flight.tries < if flight.acknowledged { UNSEEN_MAX } else { TRIES_MAX };
            let seen = flight.acknowledged && !flight.is_unseen(&self.connection);
            let Some(Flight { pushed, tries, acknowledged, .. }) = self.land(id) else { continue };
            if seen {
                continue;
            }
            if again {
                self.waiting.push_back((pushed, tries));
                continue;
            }
            if acknowledged {
                tracing::debug!(?pushed, "a client acknowledged {UNSEEN_MAX} pushes and did not look");
                continue;
            }
            // Clients list all keys again every few minutes and find out by that.
            tracing::warn!(?pushed, "a client acknowledged none of {TRIES_MAX} pushes");
            if let Pushed::Part(part) = pushed {
                self.connection.patterns.settle(part);
            }
        }
    }

    /// `None`: there is nothing to say any more.
    fn push(&mut self, api: &Api, now: Instant, pushed: Pushed, tries: u32) -> Option<Payload> {
        let id = api.request_id();
        let payload = self.message(&pushed, id)?;
        let (tries, sent) = (tries + 1, self.connection.moment());
        let due = now + ACKNOWLEDGEMENT + RETRY_STEP * tries;
        self.expect(id, Flight { pushed, tries, sent, acknowledged: false, due });
        api.metrics.pushes.inc();
        Some(payload)
    }

    fn expect(&mut self, id: u64, flight: Flight) {
        // An older push of the same key need not be repeated: this one says as much.
        if let Some(older) = self.newest.insert(flight.pushed.clone(), id) {
            self.land(older);
        }
        self.due.insert((flight.due, id));
        self.flights.insert(id, flight);
    }

    fn message(&self, pushed: &Pushed, id: u64) -> Option<Payload> {
        match pushed {
            Pushed::Change(key, spelling) => {
                let message = ConfigChangeNotifyRequest {
                    headers: BTreeMap::new(),
                    request_id: id.to_string(),
                    data_id: key.data_id(),
                    group: key.group(),
                    tenant: (*spelling == Spelling::Named).then(|| key.namespace()),
                    module: "config",
                };
                Some(Payload::new("ConfigChangeNotifyRequest", &message))
            }
            Pushed::Presence(key) => {
                let message = ConfigFuzzyWatchChangeNotifyRequest {
                    headers: BTreeMap::new(),
                    request_id: id.to_string(),
                    group_key: group_key(key),
                    change_type: if self.connection.patterns.knows(key) { "CONFIG_CHANGED" } else { "DELETE_CONFIG" },
                    module: "config",
                };
                Some(Payload::new("ConfigFuzzyWatchChangeNotifyRequest", &message))
            }
            Pushed::Part(part) => self.connection.patterns.message(*part, id),
        }
    }
}

fn internal(kind: &str, api: &Api) -> Payload {
    let message =
        InternalRequest { headers: BTreeMap::new(), request_id: api.request_id().to_string(), module: "internal" };
    Payload::new(kind, &message)
}
