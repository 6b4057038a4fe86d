//! Those who want to hear over gRPC: pushes on a stream. Now and then they publish, as applications do.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    client::Shared,
    grpc::{Client, Message},
    history::{Call, Delivery, NEVER, Nanos, Op, Outcome, Value, hex_md5},
    keys,
    random::Random,
    subscriber::Belief,
};

/// How often to look for keys that are new, and to publish.
const ROUND: Duration = Duration::from_millis(400);
/// Rounds between two signs of life, as clients give them.
const ROUNDS_BETWEEN_SIGNS: u32 = 8;
/// Before trying again after something failed.
const RETRY: Duration = Duration::from_millis(50);

/// A client with a stream.
pub struct Streamer {
    pub shared: Shared,
    pub number: u32,
    /// The slot it keeps to; `None`: any, another one each time.
    pub pinned: Option<usize>,
    pub belief: Arc<Belief>,
    pub random: Random,
}

struct Session {
    client: Client,
    number: u32,
    node: u64,
    listened: Vec<u32>,
    /// All that were listened to: a push may be under way when that ends.
    asked: BTreeSet<u32>,
}

impl Streamer {
    /// Listens until the task is dropped.
    pub async fn run(mut self) {
        let (mut number, mut serial) = (0, 0);
        loop {
            number += 1;
            let slots = self.shared.targets.len() as u64;
            let slot = self.pinned.unwrap_or_else(|| self.random.below(slots) as usize);
            let node = self.shared.targets.get(slot).0;
            if let Ok(client) = Client::connect(self.shared.targets.grpc(slot)).await {
                let mut session = Session { client, number, node, listened: Vec::new(), asked: BTreeSet::new() };
                // Why it ended does not matter: a new session begins.
                drop(self.session(&mut session, &mut serial).await);
            }
            self.belief.set_connected(false);
            sleep(RETRY).await;
        }
    }

    async fn session(&mut self, session: &mut Session, serial: &mut u32) -> Result<(), String> {
        let mut rounds = 0u32;
        loop {
            self.listen(session).await?;
            self.belief.set_connected(true);
            if rounds.is_multiple_of(ROUNDS_BETWEEN_SIGNS) {
                session.client.ask("HealthCheckRequest", &json!({})).await?;
            }
            rounds += 1;
            let until = Instant::now() + ROUND;
            while let Ok(message) = timeout_at(until, session.client.next()).await {
                self.told(session, message?).await?;
            }
            if !*self.shared.stopping.borrow() {
                self.publish(session, serial).await?;
            }
        }
    }

    /// Listens to keys that are new, and no longer to those that are old.
    async fn listen(&mut self, session: &mut Session) -> Result<(), String> {
        let heard = self.shared.keys.heard();
        let new: Vec<u32> = heard.iter().filter(|it| !session.listened.contains(it)).copied().collect();
        let old: Vec<u32> = session.listened.iter().filter(|it| !heard.contains(it)).copied().collect();
        for (keys, listen) in [(&old, false), (&new, true)] {
            if keys.is_empty() {
                continue;
            }
            session.asked.extend(keys);
            let known = self.belief.known(keys);
            let contexts: Vec<Json> = known.iter().map(context).collect();
            let asked = json!({ "listen": listen, "configListenContexts": contexts });
            let (kind, answer) = session.client.ask("ConfigBatchListenRequest", &asked).await?;
            if kind != "ConfigChangeBatchListenResponse" || answer["resultCode"] != 200 {
                return Err(answer.to_string());
            }
            let told = self.shared.recorder.now();
            for changed in answer["changedConfigs"].as_array().into_iter().flatten() {
                self.read(session, changed, told).await?;
            }
        }
        session.listened = heard;
        Ok(())
    }

    async fn told(&mut self, session: &mut Session, (kind, message): Message) -> Result<(), String> {
        let told = self.shared.recorder.now();
        match &*kind {
            "ConfigChangeNotifyRequest" => {
                session.client.acknowledge("ConfigChangeNotifyResponse", &message).await?;
                self.read(session, &message, told).await
            }
            "ClientDetectionRequest" => session.client.acknowledge("ClientDetectionResponse", &message).await,
            "ConnectResetRequest" => Err("sent away".into()),
            _ => Ok(()),
        }
    }

    async fn read(&mut self, session: &mut Session, told_of: &Json, told: Nanos) -> Result<(), String> {
        let is_ours = told_of["group"] == "G" && told_of["tenant"].as_str().is_none_or(str::is_empty);
        let key = told_of["dataId"].as_str().filter(|_| is_ours).and_then(keys::parse);
        let Some(key) = key.filter(|it| session.asked.contains(it)) else {
            self.shared.recorder.stray(self.number, told_of.to_string());
            return Ok(());
        };
        let (_, answer) = session.client.ask("ConfigQueryRequest", &names(key)).await?;
        let read = self.shared.recorder.now();
        let value = match (answer["resultCode"].as_i64(), answer["errorCode"].as_i64()) {
            (Some(200), _) => Some(content(&answer)),
            (_, Some(300)) if answer["message"] == "config data not exist" => None,
            (_, _) => return Err(answer.to_string()),
        };
        self.belief.set(key, value);
        let (subscriber, node, session) = (self.number, session.node, session.number);
        self.shared.recorder.delivery(Delivery {
            subscriber,
            session,
            node,
            read_node: node,
            key,
            told,
            read,
            value,
            revision: None,
            as_of: None,
            at_least: None,
        });
        Ok(())
    }

    async fn publish(&mut self, session: &mut Session, serial: &mut u32) -> Result<(), String> {
        *serial += 1;
        let key = self.shared.keys.use_one(keys::pick(&mut self.random));
        let value = Value::new(self.number, *serial);
        let known = self.belief.known(&[key])[0].1;
        let call = match known.filter(|_| self.random.below(2) == 0) {
            Some(expected) => Call::Cas { expected, value },
            None => Call::Put { value },
        };
        let mut asked = names(key);
        asked["content"] = json!(value.to_string());
        if let Call::Cas { expected, .. } = call {
            asked["casMd5"] = json!(expected.md5());
        }
        let invoked = self.shared.recorder.now();
        let answer = session.client.ask("ConfigPublishRequest", &asked).await;
        let outcome = outcome(&answer);
        let returned = if outcome == Outcome::Info { NEVER } else { self.shared.recorder.now() };
        self.shared.recorder.op(Op {
            // A number of its own for each: the next one may begin while an unknown one is still under way.
            process: self.number * 10_000 + *serial,
            node: session.node,
            key,
            call,
            invoked,
            returned,
            outcome,
            value: None,
            revision: None,
            as_of: None,
            sent: 1,
        });
        answer.map(drop)
    }
}

/// What an answer to a publish proves, by `docs/CONSISTENCY.md`.
fn outcome(answer: &Result<Message, String>) -> Outcome {
    let Ok((kind, json)) = answer else { return Outcome::Info };
    let message = json["message"].as_str().unwrap_or_default();
    match (&**kind, json["resultCode"].as_i64(), json["errorCode"].as_i64()) {
        ("ConfigPublishResponse", Some(200), _) => Outcome::Ok,
        ("ConfigPublishResponse", _, Some(400)) | ("ErrorResponse", _, Some(300 | 301 | 503)) => Outcome::Fail,
        ("ConfigPublishResponse", _, Some(500)) if message.contains("Cas publish fail") => Outcome::Conflict,
        (_, _, _) => Outcome::Info,
    }
}

fn names(key: u32) -> Json {
    json!({ "dataId": keys::name(key), "group": "G", "tenant": "" })
}

fn context((key, value): &(u32, Option<Value>)) -> Json {
    let mut context = names(*key);
    context["md5"] = json!(value.map(Value::md5).unwrap_or_default());
    context
}

/// The content of an answer; foreign if its digest is of another one.
fn content(answer: &Json) -> Value {
    let text = answer["content"].as_str().unwrap_or_default();
    if answer["md5"] == hex_md5(text.as_bytes()) { Value::parse(text) } else { Value::FOREIGN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_called_a_failure() {
        let answer = |kind: &str, code: i64, error: i64, message: &str| {
            Ok((kind.to_owned(), json!({ "resultCode": code, "errorCode": error, "message": message })))
        };
        let cases = [
            (answer("ConfigPublishResponse", 200, 0, ""), Outcome::Ok),
            (answer("ConfigPublishResponse", 500, 500, "Cas publish fail, x"), Outcome::Conflict),
            (answer("ConfigPublishResponse", 500, 500, "the outcome is unknown"), Outcome::Info),
            (answer("ErrorResponse", 500, 503, ""), Outcome::Fail),
            (Err("gone".to_owned()), Outcome::Info),
        ];
        for (answer, expected) in cases {
            assert_eq!(outcome(&answer), expected, "{answer:?}");
        }
    }
}
