//! What a client is asked on its stream for somebody who waits for the answer. Knows numbers and messages, not what is asked.
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::nacos::wire::payload::Payload;

/// A client is asked no more than this at once: people ask, and one question has all they want to know.
const ASKED_MAX: usize = 16;

/// The questions to one client. Most clients are never asked anything.
#[derive(Default)]
pub(super) struct Questions(Mutex<Option<Box<Asked>>>);

#[derive(Default)]
struct Asked {
    unsent: VecDeque<(u64, Payload)>,
    waiting: BTreeMap<u64, oneshot::Sender<Payload>>,
}

/// A question; dropped, it is forgotten.
pub(super) struct Question<'a> {
    questions: &'a Questions,
    id: u64,
    answered: oneshot::Receiver<Payload>,
}

impl Question<'_> {
    /// Waits for the answer. `None`: the client is asked too much already.
    pub(super) async fn answer(&mut self) -> Option<Payload> {
        (&mut self.answered).await.ok()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut asked = self.questions.asked();
        if let Some(it) = &mut *asked {
            it.waiting.remove(&self.id);
            it.unsent.retain(|(id, _)| *id != self.id);
            if it.waiting.is_empty() && it.unsent.is_empty() {
                *asked = None;
            }
        }
    }
}

impl Questions {
    fn asked(&self) -> MutexGuard<'_, Option<Box<Asked>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question of this number in line; the stream has to be woken then.
    pub(super) fn ask(&self, id: u64, payload: Payload) -> Question<'_> {
        let (answer, answered) = oneshot::channel();
        let mut asked = self.asked();
        let it = asked.get_or_insert_default();
        if it.waiting.len() < ASKED_MAX {
            it.unsent.push_back((id, payload));
            it.waiting.insert(id, answer);
        }
        drop(asked);
        Question { questions: self, id, answered }
    }

    /// What is to be sent next.
    pub(super) fn next(&self) -> Option<Payload> {
        self.asked().as_mut()?.unsent.pop_front().map(|(_, payload)| payload)
    }

    /// Takes what a client said, if it answers a question.
    pub(super) fn answered(&self, id: u64, payload: &Payload) {
        let waiting = self.asked().as_mut().and_then(|it| it.waiting.remove(&id));
        if let Some(waiting) = waiting {
            // Who asked may have gone meanwhile.
            drop(waiting.send(payload.clone()));
        }
    }
}
