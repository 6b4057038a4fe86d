//! The long poll.
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode};

use super::{
    Api,
    answer::{Answer, caused, failure, illegal_name, json, plain},
    call::Call,
    config::never_cache,
};
use crate::{
    nacos::{
        names,
        wire::listening::{self, Line},
    },
    service::{ClientLabels, Interest, Seen},
    types::{Digest, InvalidName, limits},
};

static PROBE_MODIFY_RESPONSE: HeaderName = HeaderName::from_static("probe-modify-response");
static PROBE_MODIFY_RESPONSE_NEW: HeaderName = HeaderName::from_static("probe-modify-response-new");

/// A poll that has been read. Small: thousands of these wait at once.
pub(super) struct Poll {
    interests: Box<[Interest]>,
    /// Which of them named their tenant: only those hear it back.
    spelled: Box<[bool]>,
    client: Box<ClientLabels>,
    hold: Hold,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Answer at once, in headers: clients without `Long-Pulling-Timeout`.
    ShortPoll,
    /// Answer at once.
    NoHangUp,
    /// Answer when something changes, or after this long.
    Wait(Duration),
}

/// Reads the request and lets go of it.
pub(super) fn prepare(call: Call) -> Result<Poll, Box<Answer>> {
    let invalid = || Box::new(caused("invalid probeModify"));
    let text = call.params.filled("Listening-Configs").ok_or_else(invalid)?;
    let text = listening::decode_twice(text);
    let lines = listening::decode(&text).map_err(|listening::Malformed| invalid())?;
    if lines.len() > limits::LISTEN_KEYS_MAX {
        return Err(invalid());
    }
    let refused = |err: InvalidName| illegal_name(&err);
    let interests = lines.iter().map(interest).collect::<Result<_, _>>().map_err(refused)?;
    let spelled = lines.iter().map(|line| line.tenant.is_some_and(|it| !it.trim().is_empty())).collect();
    let hold = hold(&call)?;
    Ok(Poll { interests, spelled, client: Box::new(call.labels()?), hold })
}

fn interest(line: &Line<'_>) -> Result<Interest, InvalidName> {
    let key = names::key(line.data_id, line.group, line.tenant.unwrap_or_default())?;
    let seen = if line.md5.is_empty() {
        Seen::Absent
    } else {
        Digest::from_hex(line.md5).map_or(Seen::Unrecognized, Seen::Digest)
    };
    Ok(Interest { key, seen })
}

fn hold(call: &Call) -> Result<Hold, Box<Answer>> {
    let Some(timeout) = call.headers.get("long-pulling-timeout") else { return Ok(Hold::ShortPoll) };
    let timeout = timeout.to_str().unwrap_or_default();
    let millis: i64 = timeout.parse().map_err(|_| Box::new(caused(&format!("For input string: \"{timeout}\""))))?;
    if call.header("long-pulling-timeout-no-hangup") == Some("true") {
        return Ok(Hold::NoHangUp);
    }
    let asked = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    let wait = asked.saturating_sub(limits::LONG_POLL_MARGIN);
    Ok(Hold::Wait(wait.clamp(limits::LONG_POLL_WAIT_MIN, limits::LONG_POLL_WAIT_MAX)))
}

/// The answer, if there is no need to wait for it.
pub(super) fn answer_now(api: &Api, poll: &Poll) -> Option<Answer> {
    match api.services.stale_now(&poll.interests, &poll.client) {
        Ok(stale) if stale.is_empty() && matches!(poll.hold, Hold::Wait(_)) => None,
        Ok(stale) => Some(tell(poll, &stale)),
        Err(err) => Some(failure(&err)),
    }
}

/// The answer, once something has changed, the time is over or the server stops.
pub(super) async fn wait(api: &Api, poll: &Poll) -> Answer {
    let wait = match poll.hold {
        Hold::ShortPoll | Hold::NoHangUp => Duration::ZERO,
        Hold::Wait(wait) => wait,
    };
    tell(poll, &api.services.wait_for_change(&poll.interests, &poll.client, wait, api.stopping()).await)
}

fn tell(poll: &Poll, changed: &[usize]) -> Answer {
    let encoded = listening::encode_changed(changed.iter().map(|at| {
        let key = &poll.interests[*at].key;
        (key.data_id(), key.group(), if poll.spelled[*at] { key.namespace() } else { "" })
    }));
    if poll.hold != Hold::ShortPoll {
        let mut answer = plain(StatusCode::OK, encoded);
        never_cache(answer.headers_mut());
        return answer;
    }
    let old = changed.iter().map(|at| &poll.interests[*at].key);
    let old: String = old.map(|key| format!("{}:{};", key.data_id(), key.group())).collect();
    let mut answer = plain(StatusCode::OK, "");
    never_cache(answer.headers_mut());
    // Names and escapes are ASCII: both can be header values.
    for (name, value) in [(&PROBE_MODIFY_RESPONSE, &*old), (&PROBE_MODIFY_RESPONSE_NEW, encoded.trim_end())] {
        answer.headers_mut().extend(HeaderValue::from_str(value).ok().map(|value| (name.clone(), value)));
    }
    answer
}

/// Nacos 3.0.3 answers both v1 queries for subscribers with an empty map, whoever listens.
fn no_subscribers() -> Answer {
    json(&serde_json::json!({ "collectStatus": 200, "lisentersGroupkeyStatus": {} }))
}

pub(super) fn subscribers_of_key(_api: &Api, call: &Call) -> Answer {
    match call.key() {
        Ok(_) => no_subscribers(),
        Err(refused) => *refused,
    }
}

pub(super) fn subscribers_by_ip(_api: &Api, call: &Call) -> Answer {
    match call.required("ip") {
        Ok(_) => no_subscribers(),
        Err(refused) => *refused,
    }
}
