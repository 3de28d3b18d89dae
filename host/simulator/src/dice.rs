//! Random draws of a schedule.

use skein_protocol::random::Stream;

/// Draws that depend on the seed alone.
pub(crate) struct Dice(Stream);

impl Dice {
    pub(crate) fn new(seed: u64, purpose: &str) -> Dice {
        Dice(Stream::new("skein 2026-11 draws of a simulated schedule", seed, &[purpose.as_bytes()]))
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in `of` draws on average.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// One of these values, each as likely; `None` without values.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { of.get(self.below(of.len() as u64) as usize).cloned() }
    }

    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        self.0.shuffle(values);
    }

    pub(crate) fn bytes(&mut self) -> [u8; 16] {
        let [low, high] = [self.0.next_u64(), self.0.next_u64()].map(u64::to_le_bytes);
        [low, high].concat().try_into().expect("twice eight bytes")
    }
}
