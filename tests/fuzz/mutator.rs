//! Inputs that are nearly right: those of a corpus, changed in a few places by numbers that a seed repeats.
use crate::random::Random;

/// Numbers at which programs go wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 7, 127, 255, 256, 65_535, 1 << 20, u32::MAX as u64 >> 1, u32::MAX as u64, u64::MAX >> 1, u64::MAX];

pub(crate) struct Mutator {
    pub(crate) random: Random,
    pub(crate) words: &'static [&'static str],
    pub(crate) bytes_max: usize,
}

impl Mutator {
    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound.max(1) as u64) as usize
    }

    /// One input, made of those.
    pub(crate) fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let at = self.below(corpus.len());
        let mut input = corpus[at].clone();
        // Most with one or two changes, few with many.
        let changes = 1 << self.below(5);
        for _ in 0..1 + self.below(changes) {
            let other = self.below(corpus.len());
            self.change(&mut input, &corpus[other]);
        }
        input.truncate(self.bytes_max);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        let length = 1 << self.below(7);
        let end = (at + self.below(length) + 1).min(input.len());
        match self.below(11) {
            0 | 1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 if at < input.len() => input[at] = self.below(256) as u8,
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                drop(input.splice(to..to, piece));
            }
            5 => {
                let from = self.below(other.len() + 1);
                let until = (from + self.below(length * 4) + 1).min(other.len());
                drop(input.splice(at..at, other[from..until].iter().copied()));
            }
            6 => {
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
            7 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                drop(input.splice(at..at, word.bytes()));
            }
            8 => self.number(input, at),
            9 => self.digits(input, at),
            _ => {
                let byte = self.below(256) as u8;
                drop(input.splice(at..at, std::iter::repeat_n(byte, length)));
            }
        }
    }

    /// Writes a number over what stands there, or nearly that number.
    fn number(&mut self, input: &mut [u8], at: usize) {
        let width = 1 << self.below(4);
        let number = NUMBERS[self.below(NUMBERS.len())];
        let number = number.wrapping_add(self.below(3) as u64).wrapping_sub(1);
        let bytes = if self.below(4) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
        for (to, from) in input.iter_mut().skip(at).zip(&bytes[..width]) {
            *to = *from;
        }
    }

    /// Replaces digits by other ones.
    fn digits(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(from) = input[at..].iter().position(u8::is_ascii_digit).map(|it| it + at) else { return };
        let end = input[from..].iter().position(|it| !it.is_ascii_digit()).map_or(input.len(), |it| it + from);
        let number = NUMBERS[self.below(NUMBERS.len())].to_string();
        drop(input.splice(from..end, number.into_bytes()));
    }
}
