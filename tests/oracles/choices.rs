//! A source of choices: a seed, which gives the same ones in every run, or bytes, as a fuzzer has
//! them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a generator draws from.
#[derive(Debug)]
pub struct Choices<'a>(Source<'a>);

#[derive(Debug)]
enum Source<'a> {
    Seed(u64),
    Bytes(&'a [u8]),
}

impl<'a> Choices<'a> {
    /// Those that `seed` gives. Neighbouring seeds have nothing in common.
    pub const fn seeded(seed: u64) -> Choices<'static> {
        Choices(Source::Seed(seed))
    }

    /// Those that `bytes` spell. Behind their end each choice is the first.
    pub const fn spelled(bytes: &'a [u8]) -> Self {
        Self(Source::Bytes(bytes))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let drawn = match &mut self.0 {
            // SplitMix64: it takes any seed.
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut drawn = *state;
                drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                drawn ^ (drawn >> 31)
            }
            // One byte where one will do, so that what a fuzzer changes is one choice.
            Source::Bytes(rest) => {
                let mut drawn = 0;
                for _ in 0..if end <= 256 { 1 } else { 4 } {
                    let (first, behind) = rest.split_first().unwrap_or((&0, &[]));
                    drawn = drawn << 8 | u64::from(*first);
                    *rest = behind;
                }
                drawn
            }
        };
        usize::try_from(drawn % u64::try_from(end).unwrap()).unwrap()
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// One of `from`.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Up to `most` of `atoms`, one behind the other.
    pub fn text(&mut self, atoms: &[&str], most: usize) -> String {
        (0..self.below(most + 1)).map(|_| self.pick(atoms)).collect()
    }

    /// `original` with up to four edits, as bits fall over and lines are cut.
    pub fn mutation_of(&mut self, original: &[u8]) -> Vec<u8> {
        let mut message = original.to_vec();
        for _ in 0..=self.below(4) {
            if message.len() < 2 {
                break;
            }
            let at = self.below(message.len());
            let until = at + self.below(16.min(message.len() - at));
            match self.below(6) {
                0 => message[at] ^= 1 << self.below(8),
                1 => message[at] = u8::try_from(self.below(256)).unwrap(),
                2 => message[at] = self.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                3 => message.insert(at, u8::try_from(self.below(256)).unwrap()),
                4 => drop(message.drain(at..until)),
                _ => {
                    let again = message[at..until].to_vec();
                    drop(message.splice(at..at, again));
                }
            }
        }
        message
    }
}

/// So many cases are drawn of most.
pub const CASES: u64 = 50_000;

/// How often `case` had each outcome, by its name, in so many cases from as many seeds.
///
/// # Panics
///
/// If a case does, with its number: [`Choices::seeded`] gives it again.
#[track_caller]
pub fn outcomes(cases: u64, mut case: impl FnMut(&mut Choices<'_>) -> &'static str) -> Outcomes {
    let mut found = BTreeMap::new();
    for number in 0..cases {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&mut Choices::seeded(number))));
        let Ok(outcome) = outcome else { panic!("in case {number}") };
        *found.entry(outcome).or_default() += 1;
    }
    Outcomes(found)
}

/// How often there was each outcome.
#[derive(Debug)]
pub struct Outcomes(BTreeMap<&'static str, usize>);

impl Outcomes {
    /// Holds that each of these came up once in a hundred times or more, so that agreement is not
    /// agreement on nothing.
    #[track_caller]
    pub fn came_up(&self, expected: &[&str]) {
        let all: usize = self.0.values().sum();
        for outcome in expected {
            let times = self.0.get(outcome).copied().unwrap_or_default();
            assert!(all <= 100 * times, "{outcome}: {times} of {self:?}");
        }
    }
}
