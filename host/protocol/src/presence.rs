//! What one round learned about the other peers that the next one has to know: who is a suspect, who is ahead.
//!
//! It decides how long a peer is waited for, never what is aggregated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_types::PeerId;

/// The other peers as they were last seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Presence {
    /// Peers that did not come to the end of the round before, and were not heard since.
    suspects: BTreeSet<PeerId>,
    /// The latest round of which each peer signed a record.
    newest: BTreeMap<PeerId, u64>,
    /// When the round before began to gather, and who missed it.
    before: Option<(Duration, BTreeSet<PeerId>)>,
    /// How long those took that announced the round before when it was over.
    late: Vec<Duration>,
}

impl Presence {
    /// Whether the peer missed a round and was not heard since.
    pub fn is_suspect(&self, peer: &PeerId) -> bool {
        self.suspects.contains(peer)
    }

    /// The peer signed a record of `round`. While `current` is the round here, older records than those of the one
    /// before it do not tell that the peer is back.
    pub(crate) fn hear(&mut self, peer: PeerId, round: u64, current: u64) {
        let newest = self.newest.entry(peer).or_insert(round);
        *newest = round.max(*newest);
        if round >= current.saturating_sub(1) {
            self.suspects.remove(&peer);
        }
    }

    /// The peer announced the round before, which was over: from this is learned how long to wait for it.
    pub(crate) fn arrive_late(&mut self, peer: PeerId, now: Duration) {
        if let Some((opened, missed)) = &mut self.before
            && missed.remove(&peer)
        {
            self.late.push(now.saturating_sub(*opened));
        }
    }

    pub(crate) fn late_arrivals(&self) -> impl Iterator<Item = Duration> {
        self.late.iter().copied()
    }

    /// The latest round of which the peer signed a record; 0 if it was never heard.
    pub(crate) fn newest(&self, peer: &PeerId) -> u64 {
        self.newest.get(peer).copied().unwrap_or_default()
    }

    /// The latest round that so many peers have reached.
    pub(crate) fn newest_of(&self, peers: usize) -> Option<u64> {
        let mut rounds: Vec<u64> = self.newest.values().copied().collect();
        rounds.sort_unstable_by(|a, b| b.cmp(a));
        rounds.get(peers.checked_sub(1)?).copied()
    }

    /// What is known after a round that began to gather at `opened`, and that these peers `missed`.
    pub(crate) fn after(&self, opened: Duration, missed: BTreeSet<PeerId>) -> Presence {
        Presence {
            suspects: missed.clone(),
            newest: self.newest.clone(),
            before: Some((opened, missed)),
            late: Vec::new(),
        }
    }
}
