//! Which keys are in use. A key is used a while and then followed by a new one, so that no history of one key grows long.
use std::sync::atomic::{AtomicU32, Ordering};

use crate::random::Random;

/// Keys in use at a time.
pub const LANES: u32 = 12;
/// The last ones of them are rarely used: what is lost about such a key is not made good by its next change.
const RARE: u32 = 2;
/// One operation in so many is on a given one of these.
const RARELY: u64 = 100;
/// Operations on a key before the next one of its lane.
const USES_MAX: u32 = 250;
/// Keys of a lane that subscribers listen to.
const GENERATIONS_HEARD: u32 = 3;

/// The keys of a run.
#[derive(Default)]
pub struct Keys {
    uses: [AtomicU32; LANES as usize],
}

/// A lane to use next.
pub fn pick(random: &mut Random) -> u32 {
    match random.below(RARELY) as u32 {
        rare if rare < RARE => LANES - 1 - rare,
        _ => random.below(u64::from(LANES - RARE)) as u32,
    }
}

/// Whether a key is one of those that are rarely used.
pub fn is_rare(key: u32) -> bool {
    key % LANES >= LANES - RARE
}

impl Keys {
    /// The key of a lane to use now; counts the use.
    pub fn use_one(&self, lane: u32) -> u32 {
        let uses = self.uses[lane as usize].fetch_add(1, Ordering::Relaxed);
        uses / USES_MAX * LANES + lane
    }

    fn generation(&self, lane: u32) -> u32 {
        self.uses[lane as usize].load(Ordering::Relaxed).saturating_sub(1) / USES_MAX
    }

    /// Those that subscribers listen to.
    pub fn heard(&self) -> Vec<u32> {
        let keys = |lane: u32| {
            let newest = self.generation(lane);
            (newest.saturating_sub(GENERATIONS_HEARD - 1)..=newest).map(move |it| it * LANES + lane)
        };
        (0..LANES).flat_map(keys).collect()
    }

    /// All that were used.
    pub fn all(&self) -> Vec<u32> {
        (0..LANES).flat_map(|lane| (0..=self.generation(lane)).map(move |it| it * LANES + lane)).collect()
    }
}

/// The data id of a key.
pub fn name(key: u32) -> String {
    format!("k{key}")
}

/// Reads it back.
pub fn parse(name: &str) -> Option<u32> {
    name.strip_prefix('k').and_then(|it| it.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_lanes_are_rarely_used() {
        let mut random = Random::new(1);
        let mut uses = [0; LANES as usize];
        (0..10_000).for_each(|_| uses[pick(&mut random) as usize] += 1);
        assert!(uses[..10].iter().all(|it| *it > 800), "{uses:?}");
        assert!(uses[10..].iter().all(|it| (50..200).contains(it)), "{uses:?}");
        assert_eq!((0..LANES * 2).filter(|it| is_rare(*it)).collect::<Vec<_>>(), [10, 11, 22, 23]);
    }

    #[test]
    fn a_key_is_followed_by_another_and_the_last_ones_are_heard() {
        let keys = Keys::default();
        let used: Vec<u32> = (0..USES_MAX * 5).map(|_| keys.use_one(3)).collect();
        assert_eq!((used[0], used[USES_MAX as usize - 1], used[USES_MAX as usize]), (3, 3, 15));
        let heard: Vec<u32> = keys.heard().into_iter().filter(|it| it % LANES == 3).collect();
        assert_eq!(heard, [27, 39, 51]);
        assert_eq!(keys.all().len() as u32, LANES - 1 + 5);
        assert_eq!(parse(&name(43)), Some(43));
    }
}
