//! Splits samples into training, validation and held-out ones, and divides them among the peers.

use skein_protocol::random::Stream;
use skein_protocol::shards::{assign, shard_ranges};

/// Disjoint sets of indices into a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Samples to train on, in random order.
    pub train: Vec<u32>,
    /// Samples to validate on, in random order.
    pub validation: Vec<u32>,
    /// The last samples, held out.
    pub test: Vec<u32>,
}

impl Split {
    /// Holds out the last `test_samples`, and a random share of the others for validation: at least one sample if
    /// `validation` is not 0. `None` if nothing is left to train on.
    pub fn new(samples: usize, test_samples: u32, validation: f64, seed: u64) -> Option<Split> {
        let samples = u32::try_from(samples).ok()?;
        let rest = samples.checked_sub(test_samples)?;
        let mut order: Vec<u32> = (0..rest).collect();
        Stream::new("skein 2026-11 validation split", seed, &[]).shuffle(&mut order);
        let share = (f64::from(rest) * validation).ceil() as usize;
        let train = order.split_off(share.min(order.len()));
        (!train.is_empty()).then(|| Split { train, validation: order, test: (rest..samples).collect() })
    }
}

/// The share of each member of the roster, known by its index there, by rendezvous hashing. A member has nothing if there
/// are fewer samples than members.
pub fn shares(samples: &[u32], members: &[u32]) -> Vec<Vec<u32>> {
    let mut shares = vec![Vec::new(); members.len()];
    let ranges = shard_ranges(samples.len());
    for (range, owner) in ranges.iter().zip(assign(ranges.len(), members)) {
        shares[owner].extend_from_slice(&samples[range.clone()]);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_complete() {
        let split = Split::new(1000, 100, 0.1, 7).expect("enough samples");
        assert_eq!((split.train.len(), split.validation.len(), split.test.len()), (810, 90, 100));
        assert_eq!(split.test, (900..1000).collect::<Vec<_>>());
        let mut all = [&split.train[..], &split.validation, &split.test].concat();
        all.sort();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        assert_eq!(Split::new(1000, 100, 0.1, 7), Some(split.clone()));
        assert_ne!(Split::new(1000, 100, 0.1, 8), Some(split));
        assert_eq!(Split::new(10, 10, 0.1, 7), None);
        assert_eq!(Split::new(10, 11, 0.1, 7), None);
    }

    #[test]
    fn every_sample_has_one_owner() {
        let samples: Vec<u32> = (0..1617).rev().collect();
        let shares = shares(&samples, &[0, 1, 2, 3]);
        assert!(shares.iter().all(|share| (380..=430).contains(&share.len())), "even shares");
        let mut all = shares.concat();
        all.sort();
        assert_eq!(all, (0..1617).collect::<Vec<_>>());
    }
}
