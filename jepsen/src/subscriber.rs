//! Those who want to hear: long polls. What they are told they read, at once, and write down.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    client::{self, Shared},
    history::{Delivery, Nanos, Silence, Stand, Value},
    http::Http,
    keys,
    random::Random,
};

/// Longer than a server holds a poll (10 s, the least it allows).
const POLL_PATIENCE: Duration = Duration::from_secs(14);
/// Longer than a server waits for a revision.
const READ_PATIENCE: Duration = Duration::from_secs(7);
/// Between two polls: what changes meanwhile is told together.
const PAUSE: Duration = Duration::from_millis(40);
/// Before trying again after something failed.
const RETRY: Duration = Duration::from_millis(50);

/// What a subscriber believes, for all to see.
#[derive(Default)]
pub struct Belief {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    connected: bool,
    known: BTreeMap<u32, Option<Value>>,
}

impl Belief {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_connected(&self, connected: bool) {
        self.inner().connected = connected;
    }

    pub fn set(&self, key: u32, value: Option<Value>) {
        self.inner().known.insert(key, value);
    }

    /// What it believes of these keys. Those that it is not asked about are forgotten.
    pub fn of(&self, keys: &[u32]) -> Vec<(u32, Option<Value>)> {
        let mut inner = self.inner();
        inner.known.retain(|key, _| keys.contains(key));
        keys.iter().map(|key| (*key, inner.known.get(key).copied().flatten())).collect()
    }

    /// The same, and nothing is forgotten.
    pub fn known(&self, keys: &[u32]) -> Vec<(u32, Option<Value>)> {
        let inner = self.inner();
        keys.iter().map(|key| (*key, inner.known.get(key).copied().flatten())).collect()
    }

    pub fn stand(&self, subscriber: u32, name: &str, keys: &[u32]) -> Stand {
        let connected = self.inner().connected;
        Stand { subscriber, name: name.to_owned(), connected, known: self.of(keys) }
    }
}

/// A client that polls.
pub struct Poller {
    pub shared: Shared,
    pub number: u32,
    /// The slot it keeps to; `None`: it goes about, and asks each node for what it knows from the others.
    pub pinned: Option<usize>,
    pub belief: Arc<Belief>,
    pub random: Random,
}

/// A connection to a node.
struct Session {
    slot: usize,
    node: u64,
    poll: Http,
    read: Http,
}

impl Poller {
    /// Polls until the task is dropped.
    pub async fn run(mut self) {
        let (mut number, mut floor, mut first_node) = (0, 0, None);
        loop {
            let slots = self.shared.targets.len() as u64;
            let slot = self.pinned.unwrap_or_else(|| self.random.below(slots) as usize);
            let (node, address) = self.shared.targets.get(slot);
            number += 1;
            let mut session = Session {
                slot,
                node,
                poll: Http::new(address, POLL_PATIENCE),
                read: Http::new(address, READ_PATIENCE),
            };
            // One node never goes back by itself; that another one does not has to be asked for.
            let asks = *first_node.get_or_insert(node) != node || self.pinned.is_none();
            while self.round(&mut session, number, &mut floor, asks).await.is_some() {
                sleep(PAUSE).await;
                if self.shared.targets.get(slot).0 != node || self.pinned.is_none() && self.random.below(20) == 0 {
                    break;
                }
            }
            sleep(RETRY).await;
        }
    }

    /// One poll, and reading what it told. `None`: something failed.
    async fn round(&mut self, session: &mut Session, number: u32, floor: &mut u64, asks: bool) -> Option<()> {
        let listened = self.shared.keys.heard();
        let known = self.belief.of(&listened);
        let begun = self.shared.recorder.now();
        let answer = session.poll.request("POST", "/nacos/v1/cs/configs/listener", HEADERS, &body(&known)).await;
        let Some(answer) = answer.ok().filter(|it| it.status == 200) else {
            self.belief.set_connected(false);
            return None;
        };
        self.belief.set_connected(true);
        let told = self.shared.recorder.now();
        if answer.body.is_empty() {
            let (subscriber, node) = (self.number, session.node);
            self.shared.recorder.silence(Silence { subscriber, node, begun, ended: told, known });
            return Some(());
        }
        let at_least = answer.number("coracle-revision").filter(|_| asks).map(|it| it.max(*floor));
        for (key, name) in changed(&answer.text()) {
            let Some(key) = key.filter(|it| listened.contains(it)) else {
                self.shared.recorder.stray(self.number, name);
                continue;
            };
            let read = self.read(session, number, key, told, at_least).await;
            let Some(as_of) = read else {
                self.belief.set_connected(false);
                return None;
            };
            *floor = (*floor).max(as_of);
        }
        Some(())
    }

    /// Reads a key: where it was told, or, one time in three for those that go about, at another node.
    async fn read(
        &mut self,
        session: &mut Session,
        number: u32,
        key: u32,
        told: Nanos,
        at_least: Option<u64>,
    ) -> Option<u64> {
        let mut target = format!("/nacos/v1/cs/configs?dataId={}&group=G", keys::name(key));
        if let Some(revision) = at_least {
            target.push_str(&format!("&minRevision={revision}"));
        }
        let elsewhere = self.pinned.is_none() && self.random.below(3) == 0;
        let (read_node, answer) = if elsewhere {
            let slot = (session.slot + 1) % self.shared.targets.len();
            let (node, address) = self.shared.targets.get(slot);
            (node, Http::new(address, READ_PATIENCE).get(&target).await)
        } else {
            (session.node, session.read.get(&target).await)
        };
        let read = self.shared.recorder.now();
        let answer = answer.ok()?;
        let (value, revision) = match answer.status {
            200 => (Some(client::content(&answer)), answer.number("coracle-content-revision")),
            404 => (None, None),
            _ => return None,
        };
        let (subscriber, node, as_of) = (self.number, session.node, answer.number("coracle-revision"));
        self.belief.set(key, value);
        self.shared.recorder.delivery(Delivery {
            subscriber,
            session: number,
            node,
            read_node,
            key,
            told,
            read,
            value,
            revision,
            as_of,
            at_least,
        });
        Some(as_of.unwrap_or(0))
    }
}

const HEADERS: &str = "Content-Type: application/x-www-form-urlencoded\r\nLong-Pulling-Timeout: 10000\r\n";

fn body(known: &[(u32, Option<Value>)]) -> String {
    let line = |(key, value): &(u32, Option<Value>)| {
        format!("{}%02G%02{}%01", keys::name(*key), value.map(Value::md5).unwrap_or_default())
    };
    let lines: String = known.iter().map(line).collect();
    format!("Listening-Configs={lines}")
}

/// The keys that an answer names, `None` for what is none of a run, and each as it is written.
fn changed(text: &str) -> Vec<(Option<u32>, String)> {
    let lines = text.trim().split("%01").filter(|it| !it.is_empty());
    let key = |line: &str| line.strip_suffix("%02G").and_then(keys::parse);
    lines.map(|line| (key(line), line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_group_or_namespace_is_no_key_of_a_run() {
        let text = "k7%02G%01k8%02OTHER%01k9%02G%02elsewhere%01\n";
        let keys: Vec<Option<u32>> = changed(text).into_iter().map(|it| it.0).collect();
        assert_eq!(keys, [Some(7), None, None]);
    }
}
