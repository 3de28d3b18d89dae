//! What a round learns about the other peers for the next one: which are suspects, and which are ahead.
//!
//! It decides how long a peer is waited for, never what is aggregated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_types::PeerId;

/// The other peers as they were last seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Presence {
    /// Peers that did not finish the previous round, and were not heard since.
    suspects: BTreeSet<PeerId>,
    /// The latest round of which each peer signed a record.
    newest: BTreeMap<PeerId, u64>,
    /// When the previous round began to gather, and the peers that missed it.
    before: Option<(Duration, BTreeSet<PeerId>)>,
    /// How long peers took that announced the previous round after its end.
    late: Vec<Duration>,
}

impl Presence {
    /// Whether the peer missed a round and was not heard since.
    pub fn is_suspect(&self, peer: &PeerId) -> bool {
        self.suspects.contains(peer)
    }

    /// The peer signed a record of `round`. A record older than the round before `current`, the round here, does not
    /// show that the peer is back.
    pub(crate) fn hear(&mut self, peer: PeerId, round: u64, current: u64) {
        let newest = self.newest.entry(peer).or_insert(round);
        *newest = round.max(*newest);
        if round >= current.saturating_sub(1) {
            self.suspects.remove(&peer);
        }
    }

    /// The peer announced the previous round after its end, which shows how long to wait for it.
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

    /// The latest round that `peers` peers have reached; `None` if fewer were heard.
    pub(crate) fn newest_of(&self, peers: usize) -> Option<u64> {
        let mut rounds: Vec<u64> = self.newest.values().copied().collect();
        rounds.sort_unstable_by(|a, b| b.cmp(a));
        rounds.get(peers.checked_sub(1)?).copied()
    }

    /// The presence after a round that began to gather at `opened`, and that the peers in `missed` did not finish.
    pub(crate) fn after(&self, opened: Duration, missed: BTreeSet<PeerId>) -> Presence {
        Presence {
            suspects: missed.clone(),
            newest: self.newest.clone(),
            before: Some((opened, missed)),
            late: Vec::new(),
        }
    }
}
