//! Whether a silent client is still there: it is asked.
use std::time::Duration;

use tokio::time::Instant;

/// A client that says nothing for this long is asked whether it is there. Nacos: `KEEP_ALIVE_TIME`.
const IDLE: Duration = Duration::from_secs(20);
/// It has this long to answer, each time.
const ANSWER: Duration = Duration::from_secs(5);
/// After so many questions without an answer it is gone. (Nacos asks once; under load an answer may be late.)
const ASKED_MAX: u32 = 3;

/// What a client was asked since it last gave a sign of life.
#[derive(Default)]
pub(super) struct Detection {
    asked: u32,
    last: Option<Instant>,
}

/// What to do about a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this.
    AskAt(Instant),
    Ask,
    Gone,
}

impl Detection {
    /// It gave an answer, which may be in the very microsecond of the question: times do not tell.
    pub(super) fn answered(&mut self) {
        self.asked = 0;
    }

    /// What to do at `now` about a client that last gave a sign of life at `active`.
    pub(super) fn next(&mut self, active: Instant, now: Instant) -> Step {
        let last = self.last.filter(|last| *last >= active && self.asked > 0);
        if last.is_none() {
            self.asked = 0;
        }
        let at = last.map_or(active + IDLE, |last| last + ANSWER);
        if now < at {
            return Step::AskAt(at);
        }
        if self.asked >= ASKED_MAX {
            return Step::Gone;
        }
        self.asked += 1;
        self.last = Some(now);
        Step::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_asked_three_times_and_a_sign_of_life_begins_anew() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut detection = Detection::default();
        assert_eq!(detection.next(began, after(19)), Step::AskAt(after(20)));
        assert_eq!(detection.next(began, after(20)), Step::Ask);
        assert_eq!(detection.next(began, after(24)), Step::AskAt(after(25)));
        // It asks something itself instead of answering.
        assert_eq!(detection.next(after(24), after(25)), Step::AskAt(after(44)));
        assert_eq!(detection.next(after(24), after(44)), Step::Ask);
        // In the moment of the question.
        detection.answered();
        assert_eq!(detection.next(after(44), after(44)), Step::AskAt(after(64)));
        assert_eq!(detection.next(after(45), after(46)), Step::AskAt(after(65)));
        for at in [65, 70, 75] {
            assert_eq!(detection.next(after(45), after(at)), Step::Ask);
        }
        assert_eq!(detection.next(after(45), after(79)), Step::AskAt(after(80)));
        assert_eq!(detection.next(after(45), after(80)), Step::Gone);
    }
}
