//! The runtime as openraft sees it: tokio, except that a simulation can say where chance comes from.
//!
//! openraft asks for chance by a function without arguments, so the seed travels with the task: a task that is spawned by
//! a seeded one is seeded too. Without a seed everything is as `TokioRuntime` has it.
use std::{cell::Cell, convert::Infallible, future::Future, io, time::Duration};

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::{Rng, TryRng};

tokio::task_local! {
    static SEED: Cell<u64>;
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to spread elections, and the same on every machine.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for piece in to.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
        Ok(())
    }
}

/// A number of this task's own, if it is seeded.
fn draw() -> Option<u64> {
    let advance = |seed: &Cell<u64>| {
        let mut chance = Chance(seed.get());
        let drawn = chance.next();
        seed.set(chance.0);
        drawn
    };
    SEED.try_with(advance).ok()
}

/// Runs this with chance, and that of all it spawns, drawn from `seed`; as it is, if there is none.
pub(super) async fn seeded<T>(seed: Option<u64>, work: impl Future<Output = T>) -> T {
    match seed {
        Some(seed) => SEED.scope(Cell::new(seed), work).await,
        None => work.await,
    }
}

/// Where to do what would hold up a thread.
#[derive(Debug, Clone, Copy)]
pub(super) enum Threads {
    /// On one that may be held up.
    Others,
    /// Right here: in a simulation, where nobody knows when another thread is done.
    This,
}

impl Threads {
    pub(super) fn of(seed: Option<u64>) -> Self {
        if seed.is_some() { Self::This } else { Self::Others }
    }

    /// As the task that asks is seeded or not.
    pub(super) fn of_this_task() -> Self {
        if SEED.try_with(|_| ()).is_ok() { Self::This } else { Self::Others }
    }

    pub(super) async fn run<T, F>(self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::This => Ok(work()),
            Self::Others => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
        }
    }
}

/// See the top of this file.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Chance;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match draw() {
            Some(seed) => TokioRuntime::spawn(SEED.scope(Cell::new(seed), future)),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Chance {
        Chance(draw().unwrap_or_else(|| rand::rng().next_u64()))
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drawn() -> (u64, u64) {
        let own = Runtime::thread_rng().next_u64();
        let childs = Runtime::spawn(async { Runtime::thread_rng().next_u64() }).await.unwrap();
        (own, childs)
    }

    #[tokio::test]
    async fn a_seed_decides_what_a_task_and_its_children_draw() {
        let first = seeded(Some(7), drawn()).await;
        assert_eq!(first, seeded(Some(7), drawn()).await);
        assert_ne!(first, seeded(Some(8), drawn()).await);
        assert_ne!(first.0, first.1);
        assert_ne!(seeded(None, drawn()).await, seeded(None, drawn()).await, "without a seed it is chance");
    }

    #[tokio::test]
    async fn only_what_is_seeded_works_on_its_own_thread() {
        let here = std::thread::current().id();
        let there = || std::thread::current().id();
        assert_eq!(seeded(Some(1), async { Threads::of_this_task().run(there).await }).await.unwrap(), here);
        assert_eq!(Threads::of(Some(1)).run(there).await.unwrap(), here);
        assert_ne!(Threads::of_this_task().run(there).await.unwrap(), here);
    }
}
