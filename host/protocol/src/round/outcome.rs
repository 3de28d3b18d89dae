//! Results of a round: the next step, the agreement, and the reason why it cannot be finished.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use skein_types::{Digest, PeerId, counted};

use crate::round::announcement::{Announcement, Vote};

/// Why a peer is accused: no honest peer does this, whatever the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Misbehaviour {
    /// Its store holds bytes that are not a record it signed.
    #[error("a record that it did not sign")]
    Unsigned,
    /// The record is of another job.
    #[error("a record of another job")]
    WrongJob,
    /// The record builds on another state than this round.
    #[error("a record that builds on another state")]
    WrongState,
    /// The payload is not one that an honest peer writes.
    #[error("a malformed payload")]
    Payload,
    /// It signed two different records of a kind for this round.
    #[error("two different records of one kind")]
    Equivocation,
    /// The values do not have the announced hash.
    #[error("values that do not have the announced hash")]
    Hash,
    /// The contribution has another length than the model.
    #[error("a contribution of the wrong length")]
    Shape,
    /// The contribution holds a NaN or an infinity.
    #[error("a contribution that is not finite")]
    NonFinite,
}

/// Why a peer's contribution is not aggregated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Absence {
    /// No announcement came before the deadline.
    #[error("no announcement before the deadline")]
    Silent,
    /// The announced values could not be read before the deadline.
    #[error("values out of reach")]
    Unreachable,
    /// The peer is accused, and its contribution not agreed on.
    #[error("accused: {0}")]
    Accused(Misbehaviour),
    /// This peer held its contribution, but most others did not.
    #[error("not held by most peers")]
    Outvoted,
}

/// What the peers agreed to aggregate.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Contributions in the order of their peers' keys.
    pub peers: BTreeMap<PeerId, Announcement>,
    /// Peers whose contribution is not aggregated, and why.
    pub absent: BTreeMap<PeerId, Absence>,
}

/// A contribution to fetch, and the peers to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The owner's announcement, which the values have to match.
    pub announcement: Announcement,
    /// Peers that should have it, in the order in which to ask.
    pub holders: Vec<PeerId>,
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Read records, until `until` at most.
    Wait {
        /// Deadline, on the driver's clock.
        until: Duration,
    },
    /// Fetch these contributions, until `until` at most. Call [`hold`](super::Round::hold) for each that was verified
    /// and stored, [`accuse`](super::Round::accuse) for an owner whose values do not match its announcement, and
    /// [`miss`](super::Round::miss) for one that no holder has.
    Fetch {
        /// Contributions to fetch, by owner.
        wanted: BTreeMap<PeerId, Wanted>,
        /// Deadline, on the driver's clock.
        until: Duration,
    },
    /// Sign and publish this vote. Then pass it to [`receive`](super::Round::receive), unless it is new and the round
    /// [is decided](super::Round::is_decided).
    Vote(Vote),
    /// Aggregate and update, then publish the state hash and call [`applied`](super::Round::applied).
    Aggregate(Agreement),
    /// The round is finished.
    Finish {
        /// Peers that voted and did not confirm their state in time.
        unconfirmed: BTreeSet<PeerId>,
        /// Peers whose state differs, too few to doubt this peer's state.
        differing: BTreeSet<PeerId>,
    },
}

/// Peers of which nothing was read after the previous round. Why is not known: a peer that has applied its last round
/// leaves like one that is stopped between two rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The peers, at least one.
    pub peers: BTreeSet<PeerId>,
    /// The latest round of their records.
    pub round: u64,
}

/// Peers that a message names.
const NAMED_MAX: usize = 3;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ended { peers, round } = self;
        let named: Vec<String> = peers.iter().take(NAMED_MAX).map(|peer| format!("{peer:?}")).collect();
        let more = if peers.len() > NAMED_MAX { ", …" } else { "" };
        let [peer, was, its] =
            if peers.len() == 1 { ["peer", "it was", "its"] } else { ["peers", "they were", "their"] };
        write!(
            f,
            "{peer} {}{more} published nothing after round {round}: {was} stopped, or {its} `train.rounds` is {round}, which \
             has to be the same on all hosts",
            named.join(", ")
        )
    }
}

/// Why a round cannot be finished. Nothing of it was applied, except for [`RoundError::Diverged`] after a check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// More peers are accused than the job tolerates.
    #[error(
        "{} {} accused, but the job tolerates at most {faults}",
        counted(*accused, "peer"),
        if *accused == 1 { "is" } else { "are" }
    )]
    Accused {
        /// Peers that a majority accuses.
        accused: usize,
        /// Byzantine peers that the job tolerates.
        faults: u32,
    },
    /// Too few peers take part.
    #[error(
        "{heard} of {roster} peers took part within {} s, {majority} are needed: restart the others, then this one{}",
        .waited.as_secs(),
        .ended.as_ref().map(|ended| format!("; {ended}")).unwrap_or_default()
    )]
    Minority {
        /// Peers whose contributions or votes are here, this peer included.
        heard: usize,
        /// Peers of the job.
        roster: usize,
        /// Peers that have to take part.
        majority: usize,
        /// How long this peer waited for them.
        waited: Duration,
        /// Those of the others that may have ended with the previous round.
        ended: Option<Ended>,
    },
    /// No contribution is held by a majority.
    #[error("no contribution is held by a majority of the peers")]
    Nothing,
    /// The others agreed on a contribution that this peer cannot fetch.
    #[error("no peer provided the contribution of peer {0:?} within `train.wait.max`, although it is agreed on")]
    Lacking(PeerId),
    /// The others are so far ahead that they no longer keep what this peer missed.
    #[error(
        "this peer has the state of round {state} and needs the one of round {needed}, because the others no longer \
         keep what it missed: stop all peers, copy the checkpoint of another to this one, and start them again"
    )]
    Behind {
        /// Last round that this peer applied.
        state: u64,
        /// Last round that at least one honest peer applied.
        needed: u64,
    },
    /// Enough peers have one other state for at least one of them to be honest.
    #[error("the state is {mine} here and {other} at {peers} other peers: this peer is out of step")]
    Diverged {
        /// State hash of this peer.
        mine: Digest,
        /// Peers that have the other state.
        peers: usize,
        /// State hash of those peers.
        other: Digest,
    },
}
