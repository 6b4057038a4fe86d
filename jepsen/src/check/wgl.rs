//! Is there an order of concurrent operations that a sequential object could have seen? The search of Wing and Gong with
//! Lowe's memory, and one more cut: an operation that has to be placed yet, and cannot be after a state of this rank, ends
//! the branch.
use std::{collections::HashSet, hash::Hash, time::Duration};

use tokio::time::Instant;

/// An object that is used by one at a time.
pub trait Model {
    type State: Clone + Eq + Hash;
    type Call;

    /// Before anything happened.
    fn initial() -> Self::State;
    /// The state after `call`, if `call` can have its outcome in `state`.
    fn step(state: &Self::State, call: &Self::Call) -> Option<Self::State>;
    /// Never falls along any order.
    fn rank(state: &Self::State) -> u64;
    /// The highest rank in which `call` can still be placed.
    fn latest(call: &Self::Call) -> u64;
}

/// An operation and when it was under way.
pub struct Span<C> {
    pub call: C,
    pub invoked: u64,
    /// `u64::MAX`: it may happen at any later time, or never.
    pub returned: u64,
}

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// There is one.
    Found,
    /// There is none. Among those that can be placed first, this operation was never reached.
    None { stuck: usize },
    /// The search took too long.
    TooLong,
}

/// Looking at the clock costs more than a step.
const STEPS_BETWEEN_LOOKS: u32 = 4_096;
const NOWHERE: usize = usize::MAX;

/// The events that are not placed, in the order of time, as a list that gives back what it was taken.
struct Events {
    /// `(operation, is its return)`; the last one is the head of the ring.
    what: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    returns: Vec<usize>,
    head: usize,
}

impl Events {
    fn of<C>(spans: &[Span<C>]) -> Self {
        let mut what = Vec::with_capacity(spans.len() * 2);
        for (at, span) in spans.iter().enumerate() {
            what.push((span.invoked, false, at));
            if span.returned != u64::MAX {
                what.push((span.returned, true, at));
            }
        }
        // Of two events at one time the call is first: that allows more orders, not fewer.
        what.sort_unstable();
        let what: Vec<(usize, bool)> = what.into_iter().map(|(_, is_return, at)| (at, is_return)).collect();
        let head = what.len();
        let mut returns = vec![NOWHERE; spans.len()];
        for (event, (at, is_return)) in what.iter().enumerate() {
            if *is_return {
                returns[*at] = event;
            }
        }
        let next = (0..=head).map(|it| if it == head { 0 } else { it + 1 }).collect();
        let previous = (0..=head).map(|it| if it == 0 { head } else { it - 1 }).collect();
        Self { what, next, previous, returns, head }
    }

    fn unlink(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn relink(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = event;
        self.previous[after] = event;
    }

    /// Takes an operation out, given the event of its call.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        let back = self.returns[self.what[call].0];
        if back != NOWHERE {
            self.unlink(back);
        }
    }

    fn put_back(&mut self, call: usize) {
        let back = self.returns[self.what[call].0];
        if back != NOWHERE {
            self.relink(back);
        }
        self.relink(call);
    }
}

/// Searches for an order.
pub fn order<M: Model>(spans: &[Span<M::Call>], time_max: Duration) -> Order {
    let mut events = Events::of(spans);
    let mut left = spans.iter().filter(|it| it.returned != u64::MAX).count();
    let mut placed = vec![0u64; spans.len().div_ceil(64)];
    let mut seen: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut taken: Vec<(usize, M::State)> = Vec::new();
    let mut state = M::initial();
    let (began, mut steps) = (Instant::now(), 0u32);
    let mut furthest = (0, 0);
    let mut event = events.next[events.head];
    while left > 0 {
        steps = steps.wrapping_add(1);
        if steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && began.elapsed() > time_max {
            return Order::TooLong;
        }
        let call = (event != events.head).then(|| events.what[event]).filter(|(_, is_return)| !is_return);
        if let Some((at, _)) = call {
            let after = M::step(&state, &spans[at].call);
            let after = after.filter(|after| !is_dead::<M>(&events, spans, at, M::rank(after)));
            if let Some(after) = after {
                placed[at / 64] |= 1 << (at % 64);
                if seen.insert((placed.clone(), after.clone())) {
                    taken.push((event, std::mem::replace(&mut state, after)));
                    events.lift(event);
                    left -= usize::from(spans[at].returned != u64::MAX);
                    event = events.next[events.head];
                    continue;
                }
                placed[at / 64] &= !(1 << (at % 64));
            }
            event = events.next[event];
            continue;
        }
        // Here something has returned that is not placed.
        if event != events.head && taken.len() >= furthest.0 {
            furthest = (taken.len(), events.what[event].0);
        }
        let Some((last, before)) = taken.pop() else { return Order::None { stuck: furthest.1 } };
        let at = events.what[last].0;
        state = before;
        placed[at / 64] &= !(1 << (at % 64));
        left += usize::from(spans[at].returned != u64::MAX);
        events.put_back(last);
        event = events.next[last];
    }
    Order::Found
}

/// Whether something that must be placed, and is under way now, cannot be placed any more. `except` is placed just now.
fn is_dead<M: Model>(events: &Events, spans: &[Span<M::Call>], except: usize, rank: u64) -> bool {
    let mut event = events.next[events.head];
    while event != events.head {
        let (at, is_return) = events.what[event];
        if is_return {
            if at == except {
                event = events.next[event];
                continue;
            }
            return false;
        }
        if at != except && spans[at].returned != u64::MAX && M::latest(&spans[at].call) < rank {
            return true;
        }
        event = events.next[event];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register without revisions.
    struct Register;

    enum Do {
        Write(u64),
        Read(u64),
    }

    impl Model for Register {
        type State = u64;
        type Call = Do;

        fn initial() -> u64 {
            0
        }

        fn step(state: &u64, call: &Do) -> Option<u64> {
            match call {
                Do::Write(value) => Some(*value),
                Do::Read(value) => (state == value).then_some(*state),
            }
        }

        fn rank(_: &u64) -> u64 {
            0
        }

        fn latest(_: &Do) -> u64 {
            u64::MAX
        }
    }

    fn search(spans: Vec<(Do, u64, u64)>) -> Order {
        let spans: Vec<_> =
            spans.into_iter().map(|(call, invoked, returned)| Span { call, invoked, returned }).collect();
        order::<Register>(&spans, Duration::from_secs(5))
    }

    /// All orders, one after the other.
    fn exhaustive(spans: &[(u64, u64, bool, u64)], placed: &mut Vec<usize>, state: u64) -> bool {
        let open: Vec<usize> = (0..spans.len()).filter(|it| !placed.contains(it)).collect();
        if open.iter().all(|it| spans[*it].1 == u64::MAX) {
            return true;
        }
        let first_return = open.iter().map(|it| spans[*it].1).min().unwrap_or(u64::MAX);
        for at in open {
            let (invoked, _, is_write, value) = spans[at];
            if invoked <= first_return && (is_write || state == value) {
                placed.push(at);
                if exhaustive(spans, placed, if is_write { value } else { state }) {
                    return true;
                }
                placed.pop();
            }
        }
        false
    }

    #[test]
    fn small_histories_are_judged_as_by_hand() {
        use Do::{Read, Write};
        let never = u64::MAX;
        assert_eq!(search(vec![]), Order::Found);
        assert_eq!(search(vec![(Write(1), 0, 1), (Read(1), 2, 3)]), Order::Found);
        assert_eq!(search(vec![(Write(1), 0, 1), (Read(0), 2, 3)]), Order::None { stuck: 1 });
        assert_eq!(search(vec![(Write(1), 0, 3), (Read(0), 1, 2)]), Order::Found);
        // One of unknown outcome may come late, or never.
        assert_eq!(search(vec![(Write(1), 0, never), (Read(0), 2, 3), (Read(1), 4, 5)]), Order::Found);
        assert_eq!(search(vec![(Write(1), 0, never), (Read(0), 2, 3)]), Order::Found);
        assert!(matches!(search(vec![(Write(1), 0, never), (Read(1), 2, 3), (Read(0), 4, 5)]), Order::None { .. }));
    }

    #[test]
    fn the_search_agrees_with_trying_everything() {
        let mut random = crate::random::Random::new(11);
        let (mut found, mut none) = (0, 0);
        for _ in 0..3_000 {
            let spans: Vec<(u64, u64, bool, u64)> = (0..7)
                .map(|_| {
                    let invoked = random.below(30);
                    let returned = if random.below(8) == 0 { u64::MAX } else { invoked + 1 + random.below(12) };
                    (invoked, returned, random.below(2) == 0, random.below(3))
                })
                .collect();
            let expected = exhaustive(&spans, &mut Vec::new(), 0);
            let calls = spans.iter().map(|(invoked, returned, is_write, value)| {
                (if *is_write { Do::Write(*value) } else { Do::Read(*value) }, *invoked, *returned)
            });
            let got = search(calls.collect());
            assert_eq!(got == Order::Found, expected, "{spans:?}");
            *(if expected { &mut found } else { &mut none }) += 1;
        }
        assert!(found > 300 && none > 300, "{found} with an order, {none} without");
    }
}
