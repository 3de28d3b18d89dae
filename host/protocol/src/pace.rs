//! Whom a round waits for, and how long. It decides pace, never what is aggregated.
//!
//! Members show by beats that they are alive. One that misses three of them is suspected and not waited for. One that beats is
//! waited for up to [`CONTRIBUTION_FACTOR`] times what the contribution that made the set large enough took, within the
//! bounds. One that beat and still missed its round is on probation: it is waited for a quarter longer than the
//! others took, until it has been in time for [`PROBATION_ROUNDS`] rounds running. Only arrivals count, never how long this
//! member waited in vain, or each wait would lengthen the next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_types::PeerId;

use crate::agreement::ViewStep;
use crate::slot::View;

/// Interval of beats.
pub const BEAT: Duration = Duration::from_millis(250);
/// How long a member has to be silent to be suspected, unless a host sets another bound: it then missed three beats.
pub const SILENT: Duration = Duration::from_millis(750);
/// First timer of a view.
const VIEW_MIN: Duration = Duration::from_secs(1);
/// Rounds running in which a member on probation has to be in time.
pub const PROBATION_ROUNDS: u32 = 3;
/// How much longer than the contribution that made the set large enough the others may take.
pub const CONTRIBUTION_FACTOR: u32 = 10;
/// How long a suspect has for its proposal: it may have been suspected wrongly.
const SUSPECT_PROPOSES: Duration = Duration::from_millis(100);

/// Bounds of the waits of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceOptions {
    /// After how much silence a member is suspected; `None` among peers of one process, which never are.
    pub silent: Option<Duration>,
    /// Shortest wait for a member that beats, once the set is large enough; and for one that was never heard.
    pub wait_min: Duration,
    /// Longest wait for a member that beats, once the set is large enough; and longest timer of a view.
    pub wait_max: Duration,
}

/// What this member knows of the others' presence.
#[derive(Debug, Clone)]
pub struct Pace {
    options: PaceOptions,
    begun: Duration,
    beats: BTreeMap<PeerId, Duration>,
    /// Members on probation, with the rounds running in which they were in time.
    probation: BTreeMap<PeerId, u32>,
}

impl Pace {
    /// Knows nothing yet. A member that was never heard may still be starting.
    pub fn new(options: PaceOptions, now: Duration) -> Pace {
        assert!(options.wait_min <= options.wait_max, "`wait_min` is at most `wait_max`");
        Pace { options, begun: now, beats: BTreeMap::new(), probation: BTreeMap::new() }
    }

    /// The bounds that it was made with.
    pub fn options(&self) -> PaceOptions {
        self.options
    }

    /// The member was heard.
    pub fn hear(&mut self, peer: PeerId, now: Duration) {
        self.beats.insert(peer, now);
    }

    /// When the member becomes a suspect unless it is heard; `None` if nobody is suspected.
    pub fn suspected_at(&self, peer: &PeerId) -> Option<Duration> {
        let silent = self.options.silent?;
        Some(match self.beats.get(peer) {
            Some(heard) => *heard + silent,
            None => self.begun + silent.max(self.options.wait_min),
        })
    }

    /// Whether the member is suspected.
    pub fn is_suspect(&self, peer: &PeerId, now: Duration) -> bool {
        self.suspected_at(peer).is_some_and(|at| at <= now)
    }

    /// Whether the member beat and still missed a round.
    pub fn is_on_probation(&self, peer: &PeerId) -> bool {
        self.probation.contains_key(peer)
    }

    /// Until when the members that beat are waited for: the contribution that made the set large enough took `enough`.
    pub fn deadline(&self, begun: Duration, enough: Duration) -> Duration {
        let further = enough * (CONTRIBUTION_FACTOR - 1);
        begun + enough + further.clamp(self.options.wait_min, self.options.wait_max)
    }

    /// Until when members on probation are waited for, if all others took `others`.
    pub fn probation_deadline(&self, begun: Duration, others: Duration) -> Duration {
        begun + others + (others / 4).min(self.options.wait_max)
    }

    /// A round gathered these contributions in time; those members were waited for.
    pub fn gathered(&mut self, now: Duration, in_time: &BTreeSet<PeerId>, members: &BTreeSet<PeerId>) {
        for peer in members {
            if !in_time.contains(peer) {
                if !self.is_suspect(peer, now) {
                    self.probation.insert(*peer, 0);
                }
            } else if let Some(rounds) = self.probation.get_mut(peer) {
                *rounds += 1;
                if *rounds >= PROBATION_ROUNDS {
                    self.probation.remove(peer);
                }
            }
        }
    }

    /// When to look whether a proposer is suspected, unless it is or nothing is expected of it.
    pub fn timer_looks_at(&self, step: ViewStep, proposer: &PeerId, now: Duration) -> Option<Duration> {
        self.suspected_at(proposer).filter(|at| step == ViewStep::Propose && *at > now)
    }

    /// How long a step of a view may take. The bounds double with each view, so that in the end all that honest members send
    /// arrives in time.
    pub fn timer(&self, view: View, step: ViewStep, proposer: &PeerId, now: Duration) -> Duration {
        let is_unlikely = step == ViewStep::Propose && view < 8 && self.is_suspect(proposer, now);
        let first = if is_unlikely { SUSPECT_PROPOSES } else { VIEW_MIN };
        first.saturating_mul(1 << view.min(20)).min(self.options.wait_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: PaceOptions =
        PaceOptions { silent: Some(SILENT), wait_min: Duration::from_secs(1), wait_max: Duration::from_secs(60) };
    const PEERS: [PeerId; 2] = [PeerId([1; 32]), PeerId([2; 32])];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn only_who_misses_three_beats_is_suspected() {
        let mut pace = Pace::new(OPTIONS, ms(0));
        assert!(!pace.is_suspect(&PEERS[0], ms(999)));
        assert!(pace.is_suspect(&PEERS[0], ms(1000)), "never heard");
        pace.hear(PEERS[0], ms(800));
        assert!(!pace.is_suspect(&PEERS[0], ms(1549)));
        assert!(pace.is_suspect(&PEERS[0], ms(1550)));
        let one_process = Pace::new(PaceOptions { silent: None, ..OPTIONS }, ms(0));
        assert!(!one_process.is_suspect(&PEERS[0], ms(1 << 40)));
    }

    #[test]
    fn a_member_that_beats_is_waited_for_as_long_as_the_others_suggest() {
        let pace = Pace::new(OPTIONS, ms(0));
        assert_eq!(pace.deadline(ms(5), ms(10)), ms(1015), "never below the least wait");
        assert_eq!(pace.deadline(ms(5), ms(500)), ms(5005));
        assert_eq!(pace.deadline(ms(5), ms(30_000)), ms(90_005), "never above the longest");
        assert_eq!(pace.probation_deadline(ms(5), ms(400)), ms(505));
    }

    #[test]
    fn who_beats_and_misses_its_round_is_trusted_again_after_three_in_time() {
        let mut pace = Pace::new(OPTIONS, ms(0));
        let both = BTreeSet::from(PEERS);
        let first = BTreeSet::from([PEERS[0]]);
        pace.gathered(ms(1), &first, &both);
        assert!(pace.is_on_probation(&PEERS[1]) && !pace.is_on_probation(&PEERS[0]));
        for in_time in [&both, &both, &first, &both, &both] {
            pace.gathered(ms(2), in_time, &both);
            assert!(pace.is_on_probation(&PEERS[1]));
        }
        pace.gathered(ms(2), &both, &both);
        assert!(!pace.is_on_probation(&PEERS[1]));
        pace.gathered(ms(2000), &first, &both);
        assert!(!pace.is_on_probation(&PEERS[1]), "it was silent, which says nothing about its speed");
    }

    #[test]
    fn views_take_longer_each_time_and_a_silent_proposer_costs_little() {
        let mut pace = Pace::new(OPTIONS, ms(0));
        let timer = |pace: &Pace, view, step| pace.timer(view, step, &PEERS[0], ms(1000));
        assert_eq!(timer(&pace, 0, ViewStep::Propose), ms(100));
        assert_eq!(timer(&pace, 0, ViewStep::Prevote), ms(1000));
        pace.hear(PEERS[0], ms(900));
        assert_eq!(timer(&pace, 0, ViewStep::Propose), ms(1000));
        assert_eq!(timer(&pace, 3, ViewStep::Propose), ms(8000));
        assert_eq!(timer(&pace, 99, ViewStep::Precommit), ms(60_000));
        let looks_at = |now, step| pace.timer_looks_at(step, &PEERS[0], ms(now));
        assert_eq!(looks_at(1000, ViewStep::Propose), Some(ms(1650)), "when it is suspected unless it beats");
        assert_eq!(looks_at(1650, ViewStep::Propose), None, "it is");
        assert_eq!(looks_at(1000, ViewStep::Prevote), None, "others vote too");
    }
}
