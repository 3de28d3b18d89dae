//! Numbers that every peer draws alike: a BLAKE3 output stream under a context string and a seed.
//!
//! Only multiplications and comparisons are used, so the numbers have the same bits on every machine.

/// A stream of pseudorandom numbers.
pub struct Stream(blake3::OutputReader);

impl Stream {
    /// The stream for a purpose (`context`, a constant of the program), the job's seed, and the `parts` that
    /// distinguish this draw from others of that purpose.
    pub fn new(context: &'static str, seed: u64, parts: &[&[u8]]) -> Stream {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&seed.to_le_bytes());
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Stream(hasher.finalize_xof())
    }

    /// A uniform 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A uniform number in `[-bound, bound)`, of 24 random bits.
    pub fn next_uniform(&mut self, bound: f32) -> f32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        let unit = (u32::from_le_bytes(bytes) >> 8) as f32 / (1 << 24) as f32;
        (unit * 2.0 - 1.0) * bound
    }

    /// Puts `values` into a uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// A uniform number below `bound`, by rejection.
    fn below(&mut self, bound: u64) -> u64 {
        let zone = u64::MAX - u64::MAX % bound;
        loop {
            let number = self.next_u64();
            if number < zone {
                return number % bound;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_the_same_for_the_same_purpose_and_seed_only() {
        let draw = |context, seed, part: &[u8]| Stream::new(context, seed, &[part]).next_u64();
        assert_eq!(draw("a", 1, b"x"), draw("a", 1, b"x"));
        for other in [draw("b", 1, b"x"), draw("a", 2, b"x"), draw("a", 1, b"y")] {
            assert_ne!(draw("a", 1, b"x"), other);
        }
    }

    #[test]
    fn uniform_numbers_fill_their_range_evenly() {
        let mut stream = Stream::new("test", 1, &[]);
        let values: Vec<f32> = (0..10_000).map(|_| stream.next_uniform(2.0)).collect();
        assert!(values.iter().all(|value| (-2.0..2.0).contains(value)));
        let mean = values.iter().sum::<f32>() / 1e4;
        let square = values.iter().map(|value| value * value).sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.05 && (square - 4.0 / 3.0).abs() < 0.05, "{mean} {square}");
    }

    #[test]
    fn every_order_comes_up_equally_often() {
        let mut stream = Stream::new("test", 1, &[]);
        let mut counts = std::collections::BTreeMap::<[u8; 3], u32>::new();
        for _ in 0..6000 {
            let mut values = [0, 1, 2];
            stream.shuffle(&mut values);
            *counts.entry(values).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
