//! Which members do not answer, said once for each time, for whoever reads the log.
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A member that answers again within this time, as after a restart, is not worth a word.
const WORTH_A_WORD: Duration = Duration::from_secs(1);
/// Who has not been asked for this long, since another one leads, may have answered others.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// A member that has not answered since it was asked.
struct Silence {
    since: Instant,
    /// When it was asked last.
    asked: Instant,
    why: String,
    told: bool,
}

/// Who says again and again what is refused is told of as often.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// What was refused last, why, and when that was told.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Option<(String, Instant)>>);

impl Refusals {
    pub(super) fn tell(&self, reason: &str) {
        if self.is_news(reason) {
            tracing::warn!(reason, "refuse what a leader sent");
        }
    }

    fn is_news(&self, reason: &str) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|(told, at)| told == reason && now - *at < REFUSED_AGAIN) {
            return false;
        }
        *last = Some((reason.to_owned(), now));
        true
    }
}

/// The members that do not answer.
#[derive(Default)]
pub(super) struct Presence(Mutex<BTreeMap<u64, Silence>>);

impl Presence {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Silence>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be said before a member is asked what it answers at once.
    pub(super) fn asks(&self, node: u64, address: &str) {
        if let Some(why) = self.silent_for_long(node) {
            tracing::warn!(address, why, "member {node} does not answer");
        }
    }

    /// What came of it; a question that is given up need not be reported.
    pub(super) fn hears<T>(&self, node: u64, answer: &Result<T, impl fmt::Display>) {
        match answer {
            Ok(_) => {
                let ended = self.lock().remove(&node);
                if let Some(Silence { since, told: true, .. }) = ended {
                    tracing::info!("member {node} answers again, after {:.1} s", since.elapsed().as_secs_f64());
                }
            }
            Err(err) => {
                if let Some(silence) = self.lock().get_mut(&node) {
                    silence.why = err.to_string();
                }
            }
        }
    }

    /// The reason, once for each time that it is worth a word.
    fn silent_for_long(&self, node: u64) -> Option<String> {
        let now = Instant::now();
        let mut all = self.lock();
        let fresh = || Silence { since: now, asked: now, why: "no answer in time".into(), told: false };
        let silence = all.entry(node).or_insert_with(fresh);
        if now - silence.asked > FORGOTTEN {
            *silence = fresh();
        }
        silence.asked = now;
        let worth = !silence.told && now - silence.since >= WORTH_A_WORD;
        silence.told |= worth;
        worth.then(|| silence.why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_member_that_does_not_answer_is_worth_one_word() {
        let presence = Presence::default();
        let refused: Result<(), &str> = Err("refused");
        let mut words = Vec::new();
        for tenth in 0..300 {
            match tenth {
                // Another one led.
                110..200 => {}
                _ => words.extend(presence.silent_for_long(2).map(|why| (tenth, why))),
            }
            match tenth {
                50 | 52 => presence.hears(2, &Ok::<(), &str>(())),
                3..60 => presence.hears(2, &refused),
                _ => {}
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let expected = [(10, "refused"), (63, "refused"), (210, "no answer in time")];
        assert_eq!(words, expected.map(|(tenth, why)| (tenth, why.to_owned())), "a second after it stopped answering");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_again_and_again_is_told_once_a_minute() {
        let refusals = Refusals::default();
        let mut told = 0;
        for _ in 0..1_300 {
            told += u32::from(refusals.is_news("it is for another node"));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(told, 3, "in 130 s");
        assert!(refusals.is_news("it is of another cluster"));
    }
}
