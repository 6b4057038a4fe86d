//! What subscribers were told, long polls and streams alike. P1 to P9 are the numbers of `jepsen/README.md`.
use std::collections::{BTreeMap, HashMap};

use super::{
    Check,
    versions::{Key, Versions},
};
use crate::{
    history::{Call, Delivery, History, Level, Nanos, Outcome, SECOND, Value},
    run::STREAMERS,
};

/// How long after a fault nothing is said about time: an election, and what queued up.
const GRACE: Nanos = 5 * SECOND;
/// A change that is told later than this, in a healthy cluster, is as good as lost. Machines that test are slow.
const LATE: Nanos = 5 * SECOND;

/// All checks of pushes.
pub fn all(history: &History, versions: &Versions) -> Vec<Check> {
    let mut streams: BTreeMap<(u32, u32), Vec<&Delivery>> = BTreeMap::new();
    for delivery in &history.deliveries {
        streams.entry((delivery.subscriber, delivery.key)).or_default().push(delivery);
    }
    for deliveries in streams.values_mut() {
        deliveries.sort_unstable_by_key(|it| it.read);
    }
    vec![
        converges(history),
        in_time(history, versions, &streams),
        never_back(history, versions, &streams),
        committed_only(history, versions),
        no_lost_wake_up(history, versions),
        readable(versions, history),
        removals(&streams),
        repeats(&streams),
        isolated(history),
    ]
}

/// P9: nobody is told of what it did not ask for, however alike it is called.
fn isolated(history: &History) -> Check {
    let mut check = Check::new("P9-isolation");
    if history.decoys > 0 {
        check.looked_at = history.deliveries.len();
    }
    check.notes.push(format!("{} changes of the same names in another group or namespace", history.decoys));
    history.strays.iter().for_each(|it| check.anomaly(it.clone()));
    check.finish()
}

/// P1: whoever is connected at the end has the last value of every key.
fn converges(history: &History) -> Check {
    let mut check = Check::new("P1-converges");
    let mut last: HashMap<u32, (Nanos, Option<Value>)> = HashMap::new();
    for op in &history.ops {
        if (op.call, op.outcome) == (Call::Read(Level::Linearizable), Outcome::Ok) {
            let entry = last.entry(op.key).or_insert((op.invoked, op.value));
            if entry.0 <= op.invoked {
                *entry = (op.invoked, op.value);
            }
        }
    }
    for stand in &history.stands {
        if !stand.connected {
            check.unknown(format!("{} was not connected at the end", stand.name));
        }
        for (key, value) in &stand.known {
            check.looked_at += 1;
            match last.get(key) {
                Some((_, expected)) if expected == value => {}
                Some((_, expected)) => {
                    check.anomaly(format!("{} ended with {value:?} for k{key}, which is {expected:?}", stand.name));
                }
                None => check.unknown(format!("k{key} was not read at the end")),
            }
        }
    }
    check.finish()
}

/// P2: from acknowledgement to delivery.
fn in_time(history: &History, versions: &Versions, streams: &BTreeMap<(u32, u32), Vec<&Delivery>>) -> Check {
    let mut check = Check::new("P2-in-time");
    let mut waits = Vec::new();
    for deliveries in streams.values() {
        let mut before = None;
        for delivery in deliveries {
            if before.replace(delivery.value) == Some(delivery.value) {
                continue;
            }
            let Some(write) = delivery.value.and_then(|it| versions.writes.get(&it)) else { continue };
            let acknowledged = history.ops[*write].returned;
            if history.troubled(acknowledged.min(delivery.read), delivery.read, GRACE) {
                continue;
            }
            check.looked_at += 1;
            let wait = delivery.read.saturating_sub(acknowledged);
            waits.push(wait);
            if wait > LATE {
                check.anomaly(format!("told {:.1} s late: {delivery:?}", wait as f64 / SECOND as f64));
            }
        }
    }
    waits.sort_unstable();
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        if let Some(wait) = waits.get((waits.len() as f64 * part) as usize) {
            check.notes.push(format!("{name} {:.1} ms", *wait as f64 / 1e6));
        }
    }
    check.finish()
}

/// P3: what a subscriber is told of a key never goes back, also over reconnects and to other nodes. A stream that begins at
/// a node without a majority is served what the node has (`docs/CONSISTENCY.md`), so nothing is said of it then.
fn never_back(history: &History, versions: &Versions, streams: &BTreeMap<(u32, u32), Vec<&Delivery>>) -> Check {
    let mut check = Check::new("P3-never-back");
    let empty = Key::default();
    for ((subscriber, key), deliveries) in streams {
        let known = versions.keys.get(key).unwrap_or(&empty);
        let (mut floor, mut session) = (0, 0);
        for delivery in deliveries {
            check.looked_at += 1;
            let is_new = std::mem::replace(&mut session, delivery.session) != delivery.session;
            if is_new && *subscriber >= STREAMERS && history.troubled(delivery.read, delivery.read, GRACE) {
                floor = 0;
            }
            match revision(versions, delivery) {
                Some(revision) if revision < floor => {
                    check.anomaly(format!("subscriber {subscriber} had {floor} of k{key}, then {delivery:?}"));
                }
                Some(revision) => floor = revision,
                None if delivery.value.is_some() => {}
                None => {
                    let removed = known.absent_from(floor, delivery.read);
                    let open = known.may_be_removed_by(delivery.read);
                    match (removed, delivery.as_of) {
                        (None, _) if !open => check.anomaly(format!(
                            "subscriber {subscriber} had {floor} of k{key}, then nothing: {delivery:?}"
                        )),
                        // What comes was written after a state in which there was nothing.
                        (_, Some(as_of)) => floor = floor.max(as_of),
                        (Some(revision), None) if !open => floor = floor.max(revision),
                        // Of which removal this was told, nobody knows.
                        (_, None) => {}
                    }
                }
            }
        }
    }
    check.finish()
}

fn revision(versions: &Versions, delivery: &Delivery) -> Option<u64> {
    let value = delivery.value?;
    delivery.revision.or_else(|| versions.revisions.get(&value).copied())
}

/// P4: only what was committed.
fn committed_only(history: &History, versions: &Versions) -> Check {
    let mut check = Check::new("P4-committed-only");
    for delivery in &history.deliveries {
        check.looked_at += 1;
        let Some(value) = delivery.value else { continue };
        match versions.writes.get(&value).map(|at| &history.ops[*at]) {
            None => check.anomaly(format!("nobody wrote {value}: {delivery:?}")),
            Some(write) if write.key != delivery.key => check.anomaly(format!("of another key: {delivery:?}")),
            Some(write) if matches!(write.outcome, Outcome::Fail | Outcome::Conflict) => {
                check.anomaly(format!("its write failed: {delivery:?}, {write:?}"));
            }
            Some(write) if write.invoked > delivery.read => {
                check.anomaly(format!("told before it was written: {delivery:?}, {write:?}"));
            }
            Some(_) => {}
        }
    }
    check.finish()
}

/// P5: a poll does not sleep through a change.
fn no_lost_wake_up(history: &History, versions: &Versions) -> Check {
    let mut check = Check::new("P5-no-lost-wake-up");
    // Polls seldom sleep under load; that there were polls at all is enough.
    check.looked_at = history.silences.len() + usize::from(!history.deliveries.is_empty());
    for silence in &history.silences {
        if history.troubled(silence.begun, silence.ended, GRACE) {
            continue;
        }
        for (key, known) in &silence.known {
            let own = known.and_then(|it| versions.revisions.get(&it)).copied();
            let newer = versions.keys.get(key).and_then(|key| key.versions.last_before(silence.ended, LATE / 2));
            if let Some((revision, value)) = newer
                && value != *known
                && own.is_none_or(|own| own < revision)
            {
                check.anomaly(format!(
                    "subscriber {} believed {known:?} of k{key} while {revision} ({value:?}) was there: {:.1} s to {:.1} s",
                    silence.subscriber,
                    silence.begun as f64 / SECOND as f64,
                    silence.ended as f64 / SECOND as f64
                ));
            }
        }
    }
    check.finish()
}

trait LastBefore {
    /// The newest version that was acknowledged at least `margin` before `time`.
    fn last_before(&self, time: Nanos, margin: Nanos) -> Option<(u64, Option<Value>)>;
}

impl LastBefore for Vec<super::versions::Version> {
    fn last_before(&self, time: Nanos, margin: Nanos) -> Option<(u64, Option<Value>)> {
        let older = self.iter().filter(|it| it.returned.saturating_add(margin) < time);
        older.max_by_key(|it| it.revision).map(|it| (it.revision, it.value))
    }
}

/// P6: what was told can be read, there and, with the revision of the telling, anywhere.
fn readable(versions: &Versions, history: &History) -> Check {
    let mut check = Check::new("P6-told-is-readable");
    let empty = Key::default();
    let mut elsewhere = 0;
    for delivery in &history.deliveries {
        check.looked_at += 1;
        elsewhere += usize::from(delivery.node != delivery.read_node);
        let (Some(wanted), Some(as_of)) = (delivery.at_least, delivery.as_of) else { continue };
        if as_of < wanted {
            check.anomaly(format!("asked for {wanted}, answered as of {as_of}: {delivery:?}"));
        }
        let key = versions.keys.get(&delivery.key).unwrap_or(&empty);
        let newer = key.at(wanted).map_or(0, |it| it.revision);
        let stale = match (delivery.value, revision(versions, delivery)) {
            (Some(_), own) => own.is_some_and(|own| own < newer),
            (None, _) => key.absent_from(wanted, delivery.read).is_none() && !key.may_be_removed_by(delivery.read),
        };
        if stale {
            check.anomaly(format!("told as of {wanted}, but what was read is older than {newer}: {delivery:?}"));
        }
    }
    check.notes.push(format!("{elsewhere} read at another node than told"));
    check.finish()
}

/// P7: a removal is a change. That none is missed is P1; here it is counted that there were some.
fn removals(streams: &BTreeMap<(u32, u32), Vec<&Delivery>>) -> Check {
    let mut check = Check::new("P7-removals-are-told");
    for deliveries in streams.values() {
        let after_something = |pair: &&[&Delivery]| pair[0].value.is_some() && pair[1].value.is_none();
        check.looked_at += deliveries.windows(2).filter(after_something).count();
    }
    check.finish()
}

/// P8: the same again, within one session. Not wrong by itself: what is read may be newer than what was told.
fn repeats(streams: &BTreeMap<(u32, u32), Vec<&Delivery>>) -> Check {
    let mut check = Check::new("P8-twice-is-rare");
    let mut repeated = 0;
    for deliveries in streams.values() {
        check.looked_at += deliveries.len();
        let same = |pair: &&[&Delivery]| pair[0].session == pair[1].session && pair[0].value == pair[1].value;
        repeated += deliveries.windows(2).filter(same).count();
    }
    check.notes.push(format!("{repeated} deliveries brought nothing new"));
    if repeated * 2 > check.looked_at {
        check.anomaly(format!("{repeated} of {} deliveries brought nothing new", check.looked_at));
    }
    check.finish()
}
