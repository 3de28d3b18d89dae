//! Payloads of a round's records, as bytes and as values.

use skein_types::Digest;
use skein_types::PeerId;

/// Describes a peer's contribution, and carries an evaluation if one was due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Announcement {
    /// Hash of the contribution's values.
    pub values: Digest,
    /// Samples that the contribution is averaged over.
    pub samples: u64,
    /// Mean training loss over these samples.
    pub loss: f64,
    /// Evaluation of the state that the round builds on, over the peer's share of the validation set, if it was due.
    pub evaluation: Option<Evaluation>,
}

/// Sums over a part of the validation set; sums of parts add up to the sums of the whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Samples evaluated, at least 1.
    pub samples: u64,
    /// Samples classified correctly; `None` if the task is not a classification.
    pub correct: Option<u64>,
    /// Loss summed over the samples.
    pub loss_sum: f64,
}

/// Most samples that a peer may claim: sums over all peers stay far below 2^64.
const SAMPLES_MAX: u64 = 1 << 40;

/// Wire value for a missing count of correct samples.
const NO_CORRECT: u64 = u64::MAX;

/// The contributions that a peer holds at the end of gathering, and the peers that it accuses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vote {
    /// Peers whose contribution is held and valid, with the hash of their announcement, sorted by key.
    pub held: Vec<(PeerId, Digest)>,
    /// Peers that sent something no honest peer sends, sorted by key.
    pub accused: Vec<PeerId>,
}

impl Evaluation {
    /// Adds up all parts, in the order given; `None` if there are none.
    pub fn total(parts: impl IntoIterator<Item = Evaluation>) -> Option<Evaluation> {
        parts.into_iter().reduce(|sum, part| Evaluation {
            samples: sum.samples + part.samples,
            correct: sum.correct.zip(part.correct).map(|(sum, part)| sum + part),
            loss_sum: sum.loss_sum + part.loss_sum,
        })
    }

    /// Mean loss over the samples.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Share of samples classified correctly, from 0 to 1; `None` if the task is not a classification.
    pub fn accuracy(&self) -> Option<f64> {
        self.correct.map(|correct| correct as f64 / self.samples as f64)
    }
}

impl Announcement {
    /// Encodes the payload, little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [&self.values.0[..], &self.samples.to_le_bytes(), &self.loss.to_le_bytes()].concat();
        if let Some(evaluation) = &self.evaluation {
            bytes.extend_from_slice(&evaluation.samples.to_le_bytes());
            bytes.extend_from_slice(&evaluation.correct.unwrap_or(NO_CORRECT).to_le_bytes());
            bytes.extend_from_slice(&evaluation.loss_sum.to_le_bytes());
        }
        bytes
    }

    /// Decodes a payload; `None` if no honest peer would write it.
    pub fn decode(bytes: &[u8]) -> Option<Announcement> {
        let (values, rest) = bytes.split_first_chunk()?;
        let (samples, rest) = take_u64(rest)?;
        let (loss, rest) = take_u64(rest)?;
        let evaluation = match rest {
            [] => None,
            rest => {
                let (samples, rest) = take_u64(rest)?;
                let (correct, rest) = take_u64(rest)?;
                let (loss_sum, rest) = take_u64(rest)?;
                let loss_sum = f64::from_bits(loss_sum);
                let correct = (correct != NO_CORRECT).then_some(correct);
                let counted = is_count(samples) && correct.is_none_or(|correct| correct <= samples);
                let sound = rest.is_empty() && loss_sum.is_finite() && counted;
                Some(sound.then_some(Evaluation { samples, correct, loss_sum })?)
            }
        };
        let loss = f64::from_bits(loss);
        (is_count(samples) && loss.is_finite()).then_some(Announcement {
            values: Digest(*values),
            samples,
            loss,
            evaluation,
        })
    }
}

impl Vote {
    /// Encodes the payload, little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.held.len() as u32).to_le_bytes().to_vec();
        for (peer, announcement) in &self.held {
            bytes.extend_from_slice(&peer.0);
            bytes.extend_from_slice(&announcement.0);
        }
        bytes.extend(self.accused.iter().flat_map(|peer| peer.0));
        bytes
    }

    /// Decodes a payload; `None` if no honest peer would write it.
    pub fn decode(bytes: &[u8]) -> Option<Vote> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let held_bytes = (u32::from_le_bytes(*count) as usize).checked_mul(64)?;
        let (held, accused) = rest.split_at_checked(held_bytes)?;
        if accused.len() % 32 != 0 {
            return None;
        }
        let peer = |bytes: &[u8]| PeerId(bytes.try_into().expect("a chunk of 32 bytes"));
        let digest = |bytes: &[u8]| Digest(bytes.try_into().expect("a chunk of 32 bytes"));
        let held: Vec<_> = held.chunks(64).map(|entry| (peer(&entry[..32]), digest(&entry[32..]))).collect();
        let accused: Vec<_> = accused.chunks(32).map(peer).collect();
        let sorted = held.is_sorted_by(|a, b| a.0 < b.0) && accused.is_sorted_by(|a, b| a < b);
        sorted.then_some(Vote { held, accused })
    }
}

fn is_count(samples: u64) -> bool {
    (1..=SAMPLES_MAX).contains(&samples)
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(field, rest)| (u64::from_le_bytes(*field), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn announcements_round_trip(values: [u8; 32], samples in 1u64..1 << 40, loss in -1e9f64..1e9, evaluated: bool) {
            let evaluation = evaluated.then_some(Evaluation { samples, correct: (samples % 3 > 0).then_some(samples / 2), loss_sum: loss });
            let announcement = Announcement { values: Digest(values), samples, loss, evaluation };
            prop_assert_eq!(Announcement::decode(&announcement.encode()), Some(announcement));
        }

        #[test]
        fn votes_round_trip(held: std::collections::BTreeMap<[u8; 32], [u8; 32]>, accused: std::collections::BTreeSet<[u8; 32]>) {
            let held = held.into_iter().map(|(peer, hash)| (PeerId(peer), Digest(hash))).collect();
            let vote = Vote { held, accused: accused.into_iter().map(PeerId).collect() };
            prop_assert_eq!(Vote::decode(&vote.encode()), Some(vote));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Announcement::decode(&bytes), Vote::decode(&bytes));
        }
    }

    #[test]
    fn payloads_that_no_honest_peer_writes_are_refused() {
        let good = Announcement { values: Digest([1; 32]), samples: 1, loss: 0.5, evaluation: None };
        let evaluation = |correct, loss_sum| Some(Evaluation { samples: 3, correct: Some(correct), loss_sum });
        for bad in [
            Announcement { samples: 0, ..good },
            Announcement { samples: u64::MAX, ..good },
            Announcement { loss: f64::NAN, ..good },
            Announcement { evaluation: evaluation(4, 0.0), ..good },
            Announcement { evaluation: evaluation(1, f64::INFINITY), ..good },
        ] {
            assert_eq!(Announcement::decode(&bad.encode()), None, "{bad:?}");
        }
        let a = (PeerId([1; 32]), Digest([0; 32]));
        let b = (PeerId([2; 32]), Digest([0; 32]));
        for held in [vec![b, a], vec![a, a]] {
            assert_eq!(Vote::decode(&Vote { held, accused: vec![] }.encode()), None, "unsorted or twice");
        }
    }
}
