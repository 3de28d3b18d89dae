//! Who trains on which samples, and in which order.
//!
//! Samples are split into shards, and every peer computes by itself which peer has which shard: by rendezvous
//! hashing (Thaler and Ravishankar, 1998) with bounded loads, so that no peer starves, and a lost peer's shards
//! spread over the others, which keep theirs.

use std::ops::Range;

use crate::random::Stream;

/// Most shards that samples are split into. Enough for even loads among dozens of peers.
const SHARDS_MAX: usize = 1024;

/// Splits `samples` samples into shards. Every shard has at least one sample, and sizes differ by at most one.
pub fn shard_ranges(samples: usize) -> Vec<Range<usize>> {
    let shards = samples.min(SHARDS_MAX);
    (0..shards).map(|shard| shard * samples / shards..(shard + 1) * samples / shards).collect()
}

/// The member that has each of `shards` shards, by its position in `members`. Members are known by their index in the
/// roster, so the same roster with other keys divides the samples alike.
///
/// Each member gets `shards / members` of them, rounded up or down. The order of `members` changes nothing.
pub fn assign(shards: usize, members: &[u32]) -> Vec<usize> {
    assert!(!members.is_empty(), "a job has at least one peer");
    let mut loads = vec![0; members.len()];
    let floor = shards / members.len();
    let extra = shards % members.len();
    (0..shards)
        .map(|shard| {
            // Once `extra` peers have one shard more than the others, no other peer may.
            let full = loads.iter().filter(|load| **load > floor).count() >= extra;
            let cap = if full { floor } else { floor + 1 };
            let free = (0..members.len()).filter(|member| loads[*member] < cap);
            let chosen = free.max_by_key(|member| (score(members[*member], shard), members[*member]));
            let chosen = chosen.expect("the caps sum to the number of shards");
            loads[chosen] += 1;
            chosen
        })
        .collect()
}

fn score(member: u32, shard: usize) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("skein 2026-11 rendezvous of members and shards");
    hasher.update(&member.to_le_bytes()).update(&(shard as u64).to_le_bytes());
    let bytes = hasher.finalize();
    u64::from_le_bytes(*bytes.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// The order in which a peer visits its samples: shuffled anew in every epoch.
///
/// It depends on the position alone, so a resumed run continues from its position without saved state.
#[derive(Debug, Clone)]
pub struct EpochSampler {
    seed: u64,
    member: u32,
    samples: Vec<u32>,
    epoch: Option<(u64, Vec<u32>)>,
}

impl EpochSampler {
    /// A sampler of `samples`, of which there is at least one, for the peer with the index `member` in the roster.
    pub fn new(seed: u64, member: u32, samples: Vec<u32>) -> EpochSampler {
        assert!(!samples.is_empty(), "a peer has at least one sample");
        EpochSampler { seed, member, samples, epoch: None }
    }

    /// Returns `count` samples from `position` on. The last sample of an epoch is followed by the first of the next.
    pub fn take(&mut self, position: u64, count: usize) -> Vec<u32> {
        (position..position + count as u64).map(|position| self.at(position)).collect()
    }

    fn at(&mut self, position: u64) -> u32 {
        let len = self.samples.len() as u64;
        let epoch = position / len;
        if self.epoch.as_ref().is_none_or(|(current, _)| *current != epoch) {
            let mut order = self.samples.clone();
            let parts = [&self.member.to_le_bytes()[..], &epoch.to_le_bytes()];
            Stream::new("skein 2026-11 order of samples", self.seed, &parts).shuffle(&mut order);
            self.epoch = Some((epoch, order));
        }
        let (_, order) = self.epoch.as_ref().expect("the epoch was set above");
        order[(position % len) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(count: u32) -> Vec<u32> {
        (0..count).collect()
    }

    proptest! {
        #[test]
        fn shards_cover_every_sample_once(samples in 1usize..5000) {
            let ranges = shard_ranges(samples);
            prop_assert_eq!(ranges[0].start, 0);
            prop_assert_eq!(ranges[ranges.len() - 1].end, samples);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(ranges.iter().all(|range| !range.is_empty()));
        }

        #[test]
        fn loads_are_even(shards in 1usize..300, count in 1u32..12) {
            let owners = assign(shards, &members(count));
            let loads: Vec<_> = (0..count as usize).map(|peer| owners.iter().filter(|o| **o == peer).count()).collect();
            let min = loads.iter().min().copied();
            let max = loads.iter().max().copied();
            prop_assert!(max.zip(min).is_some_and(|(max, min)| max - min <= 1), "{:?}", loads);
        }
    }

    #[test]
    fn the_order_of_peers_changes_nothing_and_a_lost_peer_moves_little() {
        let members = members(4);
        let owner = |members: &[u32]| -> Vec<u32> { assign(1000, members).iter().map(|o| members[*o]).collect() };
        let before = owner(&members);
        let mut reversed = members.clone();
        reversed.reverse();
        assert_eq!(owner(&reversed), before);

        let after = owner(&members[..3]);
        let moved = before.iter().zip(&after).filter(|(a, b)| **a != members[3] && a != b).count();
        assert!(moved < 150, "{moved} of the 750 shards of the other peers moved");
    }

    #[test]
    fn an_epoch_visits_every_sample_once_and_the_next_in_another_order() {
        let mut order = EpochSampler::new(1, 0, (10..60).collect());
        let first = order.take(0, 50);
        let second = order.take(50, 50);
        let sorted = |values: &[u32]| {
            let mut values = values.to_vec();
            values.sort();
            values
        };
        assert_eq!(sorted(&first), (10..60).collect::<Vec<_>>());
        assert_eq!(sorted(&second), sorted(&first));
        assert_ne!(first, second);
        let mut resumed = EpochSampler::new(1, 0, (10..60).collect());
        assert_eq!(resumed.take(45, 10), [&first[45..], &second[..5]].concat(), "a position is enough to resume");
    }
}
