//! The streams of an HTTP/2 connection, in the task of the connection.
//!
//! With a task for each stream, every request is handed from one task to another and back, between threads at that, and
//! both are woken for it. Here a request that needs not wait is read, answered and written in one turn of one task; what a
//! stream waits for still wakes that stream alone.
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{StreamExt, stream::FuturesUnordered, task::AtomicWaker};

/// After so many rounds other tasks have a turn.
const ROUNDS_MAX: usize = 16;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the HTTP library leaves the streams that begin.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Vec<Stream>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Begun {
    fn execute(&self, stream: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
    }
}

/// Says that there is something to do. While the task is at it, that is enough; otherwise the task is woken.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    at_work: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order, as the task looks at them in the other: one of the two notices.
        if !self.rung.swap(true, Ordering::SeqCst) && !self.at_work.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

/// The streams of one connection. Dropping them cancels what they do.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) begun: Begun,
    open: FuturesUnordered<Stream>,
    bell: Arc<Bell>,
}

impl Streams {
    /// Goes on with the connection and with its streams, then has `send` send what was written; ready when the connection has
    /// ended.
    pub(super) fn poll_with<T>(
        &mut self,
        mut connection: Pin<&mut impl Future<Output = T>>,
        send: impl Fn(&mut Context<'_>),
        context: &mut Context<'_>,
    ) -> Poll<T> {
        let bell = Waker::from(self.bell.clone());
        let mut inner = Context::from_waker(&bell);
        self.bell.task.register(context.waker());
        self.bell.at_work.store(true, Ordering::SeqCst);
        for _ in 0..ROUNDS_MAX {
            self.bell.rung.store(false, Ordering::SeqCst);
            if let Poll::Ready(ended) = connection.as_mut().poll(&mut inner) {
                send(&mut inner);
                return Poll::Ready(ended);
            }
            self.open.extend(self.begun.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
            while let Poll::Ready(Some(())) = self.open.poll_next_unpin(&mut inner) {}
            // A stream that has said something rings, so that the connection sends it.
            if !self.bell.rung.load(Ordering::SeqCst) {
                break;
            }
        }
        send(&mut inner);
        self.bell.at_work.store(false, Ordering::SeqCst);
        if self.bell.rung.load(Ordering::SeqCst) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        pin::pin,
        time::Duration,
    };

    use hyper::rt::Executor;
    use tokio::{
        sync::mpsc,
        time::{sleep, timeout},
    };

    use super::*;

    /// A connection that begins a stream for each request and ends when the streams have given all answers.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn streams_go_on_whoever_wakes_them() {
        const REQUESTS: usize = 2_000;
        let mut streams = Streams::default();
        let begun = streams.begun.clone();
        let (requests, mut incoming) = mpsc::channel(8);
        let (answers, mut outgoing) = mpsc::channel(REQUESTS);
        tokio::spawn(async move {
            for at in 0..REQUESTS {
                requests.send(at).await.unwrap();
            }
            pending::<()>().await;
        });
        let mut answered = 0;
        let mut connection = pin!(poll_fn(move |context| {
            while let Poll::Ready(Some(at)) = incoming.poll_recv(context) {
                let answers = answers.clone();
                begun.execute(async move {
                    // At once, after others had a turn, woken by another thread, woken by a timer.
                    match at % 4 {
                        0 => {}
                        1 => tokio::task::yield_now().await,
                        2 => tokio::spawn(async {}).await.unwrap(),
                        _ => sleep(Duration::from_micros(50)).await,
                    }
                    answers.send(at).await.unwrap();
                });
            }
            while let Poll::Ready(Some(_)) = outgoing.poll_recv(context) {
                answered += 1;
            }
            if answered == REQUESTS { Poll::Ready(()) } else { Poll::Pending }
        }));
        let all = poll_fn(|context| streams.poll_with(connection.as_mut(), |_| {}, context));
        timeout(Duration::from_secs(60), all).await.expect("a wake-up was lost");
    }

    #[tokio::test]
    async fn a_stream_that_is_never_done_lets_others_have_a_turn() {
        let mut streams = Streams::default();
        let begun = streams.begun.clone();
        begun.execute(poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let mut connection = pin!(pending::<()>());
        let busy = poll_fn(|context| streams.poll_with(connection.as_mut(), |_| {}, context));
        assert!(timeout(Duration::from_millis(20), busy).await.is_err());
    }
}
