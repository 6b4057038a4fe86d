//! Writers and readers: one operation after the other, each written down with what its answer proves.
use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    cluster::Targets,
    history::{Call, Level, NEVER, Op, Outcome, Value, hex_md5},
    http::{Answer, Http, Lost},
    keys::{self, Keys},
    random::Random,
    recorder::Recorder,
};

/// Shorter than a node's own patience of 5 s: a client that waits for a node that is cut off says nothing about others.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// What all clients share.
#[derive(Clone)]
pub struct Shared {
    pub recorder: Arc<Recorder>,
    pub targets: Arc<Targets>,
    pub keys: Arc<Keys>,
    /// Becomes `true` when nobody writes any more.
    pub stopping: watch::Receiver<bool>,
}

/// A write of unknown outcome is sent again so often, with its request id, by one client in two. It stays unknown if none of
/// these is answered.
const REPEATS_MAX: u32 = 3;
/// Before it is sent again.
const REPEAT_PAUSE: Duration = Duration::from_millis(150);

/// Percentages of puts, compare-and-sets, removals and linearizable reads; the rest are local reads.
const MIX: [u64; 4] = [30, 16, 8, 26];

/// One client.
pub struct Worker {
    shared: Shared,
    /// The slot it keeps to; `None`: any.
    pinned: Option<usize>,
    number: u32,
    /// Counts up after each unknown outcome.
    incarnation: u32,
    serial: u32,
    /// Counts the writes that have a request id.
    requests: u32,
    random: Random,
    connections: HashMap<usize, Http>,
    /// What it saw last of each lane's key.
    seen: HashMap<u32, (u32, Value)>,
    /// The newest revision it was told of.
    floor: u64,
}

impl Worker {
    pub fn new(shared: Shared, number: u32, pinned: Option<usize>, seed: u64) -> Self {
        let random = Random::new(seed ^ u64::from(number) << 20);
        let (connections, seen) = (HashMap::new(), HashMap::new());
        Self { shared, pinned, number, incarnation: 0, serial: 0, requests: 0, random, connections, seen, floor: 0 }
    }

    /// Works at this pace until told to stop.
    pub async fn run(mut self, pause: Duration) {
        let mut next = Instant::now();
        while !*self.shared.stopping.borrow() {
            sleep_until(next).await;
            // Time lost to a node that does not answer is not made up for in a burst.
            next = (next + pause).max(Instant::now());
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let lane = keys::pick(&mut self.random);
        let key = self.shared.keys.use_one(lane);
        let call = self.choose(lane, key);
        let slots = self.shared.targets.len();
        let slot = self.pinned.unwrap_or_else(|| self.random.below(slots as u64) as usize);
        if let Some(value) = self.ask(slot, key, call).await {
            self.seen.insert(lane, (key, value));
        }
    }

    fn choose(&mut self, lane: u32, key: u32) -> Call {
        let mut dice = self.random.below(100);
        let mut falls = |share: u64| {
            let hit = dice < share;
            dice = dice.wrapping_sub(share);
            hit
        };
        let seen = self.seen.get(&lane).filter(|(it, _)| *it == key).map(|(_, value)| *value);
        if falls(MIX[0]) {
            return Call::Put { value: self.value() };
        }
        if falls(MIX[1]) {
            return match seen {
                Some(expected) => Call::Cas { expected, value: self.value() },
                None => Call::Read(Level::Linearizable),
            };
        }
        if falls(MIX[2]) {
            return Call::Delete;
        }
        if falls(MIX[3]) {
            return Call::Read(Level::Linearizable);
        }
        // One in five of the other reads asks for what this client knows to be there.
        if self.random.below(5) == 0 { Call::Read(Level::AtLeast(self.floor)) } else { Call::Read(Level::Local) }
    }

    fn value(&mut self) -> Value {
        self.serial += 1;
        Value::new(self.number, self.serial)
    }

    /// Sends a request to a slot, on the connection there; which node that is, and what it answers.
    async fn send(&mut self, slot: usize, method: &str, target: &str, headers: &str) -> (u64, Result<Answer, Lost>) {
        let (node, address) = self.shared.targets.get(slot);
        let http = self.connections.entry(slot).or_insert_with(|| Http::new(address, PATIENCE));
        (node, http.request(method, target, headers, "").await)
    }

    /// Asks, and writes down what came of it. The content that the key has now, if this tells.
    pub async fn ask(&mut self, slot: usize, key: u32, call: Call) -> Option<Value> {
        let (method, target, mut headers) = request(key, call);
        let repeats = self.number.is_multiple_of(2) && !matches!(call, Call::Read(_));
        if repeats {
            self.requests += 1;
            headers.push_str(&format!("X-Request-Id: {}-{}\r\n", self.number, self.requests));
        }
        let invoked = self.shared.recorder.now();
        let (mut node, answer) = self.send(slot, method, &target, &headers).await;
        let mut told = outcome(call, &answer);
        let mut sent = 1;
        while repeats && told.outcome == Outcome::Info && sent <= REPEATS_MAX {
            sleep(REPEAT_PAUSE).await;
            sent += 1;
            let slot = self.random.below(self.shared.targets.len() as u64) as usize;
            let (other, answer) = self.send(slot, method, &target, &headers).await;
            // Whatever else is answered says nothing of the first time: that may still be on its way.
            if let again @ Told { outcome: Outcome::Ok, .. } = outcome(call, &answer) {
                (told, node) = (again, other);
            }
        }
        let returned = if told.outcome == Outcome::Info { NEVER } else { self.shared.recorder.now() };
        let Told { outcome, value, revision, as_of } = told;
        self.floor = self.floor.max(as_of.unwrap_or(0)).max(revision.unwrap_or(0));
        let process = self.incarnation * 10_000 + self.number;
        self.shared.recorder.op(Op {
            process,
            node,
            key,
            call,
            invoked,
            returned,
            outcome,
            value,
            revision,
            as_of,
            sent,
        });
        if outcome == Outcome::Info {
            self.incarnation += 1;
        }
        match (outcome, call) {
            (Outcome::Ok, Call::Put { value } | Call::Cas { value, .. }) => Some(value),
            (Outcome::Ok, Call::Read(_)) => value,
            (_, _) => None,
        }
    }
}

fn request(key: u32, call: Call) -> (&'static str, String, String) {
    let target = format!("/nacos/v1/cs/configs?dataId={}&group=G", keys::name(key));
    match call {
        Call::Put { value } => ("POST", format!("{target}&content={value}"), String::new()),
        Call::Cas { expected, value } => {
            ("POST", format!("{target}&content={value}"), format!("casMd5: {}\r\n", expected.md5()))
        }
        Call::Delete => ("DELETE", target, String::new()),
        Call::Read(Level::Local) => ("GET", target, String::new()),
        Call::Read(Level::AtLeast(revision)) => ("GET", format!("{target}&minRevision={revision}"), String::new()),
        Call::Read(Level::Linearizable) => ("GET", format!("{target}&consistency=linearizable"), String::new()),
    }
}

struct Told {
    outcome: Outcome,
    value: Option<Value>,
    revision: Option<u64>,
    as_of: Option<u64>,
}

/// What an answer proves, by `docs/CONSISTENCY.md`.
fn outcome(call: Call, answer: &Result<Answer, Lost>) -> Told {
    let told = |outcome| Told { outcome, value: None, revision: None, as_of: None };
    let is_read = matches!(call, Call::Read(_));
    let answer = match answer {
        Ok(answer) => answer,
        Err(Lost::NotSent(_)) => return told(Outcome::Fail),
        Err(Lost::Unknown(_)) => return told(if is_read { Outcome::Fail } else { Outcome::Info }),
    };
    if is_read {
        return read(answer).unwrap_or_else(|| told(Outcome::Fail));
    }
    match answer.status {
        200 if answer.body == b"true" => Told { revision: answer.number("coracle-revision"), ..told(Outcome::Ok) },
        500 if matches!(call, Call::Cas { .. }) && answer.text().contains("Cas publish fail") => {
            told(Outcome::Conflict)
        }
        400..=499 | 503 => told(Outcome::Fail),
        _ => told(Outcome::Info),
    }
}

fn read(answer: &Answer) -> Option<Told> {
    let as_of = answer.number("coracle-revision");
    match answer.status {
        200 => {
            let revision = answer.number("coracle-content-revision");
            Some(Told { outcome: Outcome::Ok, value: Some(content(answer)), revision, as_of })
        }
        404 => Some(Told { outcome: Outcome::Ok, value: None, revision: None, as_of }),
        _ => None,
    }
}

/// The content of an answer; foreign if its digest is of another one.
pub fn content(answer: &Answer) -> Value {
    let value = Value::parse(&answer.text());
    let digest = answer.header("content-md5").unwrap_or_default();
    if digest == hex_md5(&answer.body) { value } else { Value::FOREIGN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_called_a_failure() {
        let put = Call::Put { value: Value::new(1, 1) };
        let cases = [
            (put, Err(Lost::NotSent(String::new())), Outcome::Fail),
            (put, Err(Lost::Unknown(String::new())), Outcome::Info),
            (Call::Delete, Err(Lost::Unknown(String::new())), Outcome::Info),
            (Call::Read(Level::Local), Err(Lost::Unknown(String::new())), Outcome::Fail),
        ];
        for (call, answer, expected) in cases {
            assert_eq!(outcome(call, &answer).outcome, expected, "{call:?}");
        }
    }
}
