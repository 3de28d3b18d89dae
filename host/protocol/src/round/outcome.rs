//! What comes of a round: the next step, what was agreed on, and why it cannot be finished.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_types::Digest;
use skein_types::PeerId;

use crate::announcement::{Announcement, Vote};

/// Why a peer is charged: no honest peer does this, whatever the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Charge {
    /// Its store holds bytes that are no record it signed.
    #[error("a record that it did not sign")]
    Unsigned,
    /// The record is of another job.
    #[error("a record of another job")]
    WrongJob,
    /// The record builds on another state than this round.
    #[error("a record that builds on another state")]
    WrongState,
    /// The payload is malformed or senseless.
    #[error("a malformed payload")]
    Payload,
    /// It signed two different records of a kind for this round.
    #[error("two different records of one kind")]
    Equivocation,
    /// The values do not have the announced hash.
    #[error("values of another hash than announced")]
    Hash,
    /// The contribution has another length than the model.
    #[error("a contribution of the wrong length")]
    Shape,
    /// The contribution holds a NaN or an infinity.
    #[error("a contribution that is not finite")]
    NonFinite,
}

/// Why a peer is not part of what is aggregated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Absence {
    /// No announcement came before the deadline.
    #[error("no announcement before the deadline")]
    Silent,
    /// The announced values could not be had before the deadline.
    #[error("values out of reach")]
    Unreachable,
    /// It was caught.
    #[error("charged: {0}")]
    Charged(Charge),
    /// This peer held its contribution, but most others did not.
    #[error("not held by most peers")]
    Outvoted,
}

/// What the peers agreed to aggregate.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Contributions in the order of their peers' keys.
    pub peers: BTreeMap<PeerId, Announcement>,
    /// Who is missing, and why.
    pub absent: BTreeMap<PeerId, Absence>,
}

/// A contribution to get.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// What was announced of it.
    pub announcement: Announcement,
    /// Who has it, in the order in which to ask.
    pub holders: Vec<PeerId>,
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Read records, until then at the longest.
    Wait {
        /// On the driver's clock.
        until: Duration,
    },
    /// Get these contributions, until then at the longest. Tell [`hold`](super::Round::hold) of each that was verified
    /// and stored, [`charge`](super::Round::charge) of an owner whose values are not what it announced, and
    /// [`miss`](super::Round::miss) of one that nobody has.
    Fetch {
        /// By owner.
        wanted: BTreeMap<PeerId, Wanted>,
        /// On the driver's clock.
        until: Duration,
    },
    /// Sign and publish this vote, and take it in by [`receive`](super::Round::receive); but not if it is new and the round
    /// [is decided](super::Round::is_decided).
    Vote(Vote),
    /// Aggregate and update, then publish the state's hash and tell [`applied`](super::Round::applied).
    Aggregate(Agreement),
    /// The round is over.
    Finish {
        /// Peers that voted and did not confirm their state in time.
        unconfirmed: BTreeSet<PeerId>,
        /// Peers whose state differs, fewer than it takes to doubt the own one.
        differing: BTreeSet<PeerId>,
    },
}

/// Why a round cannot be finished. Nothing of it was applied, except for [`Refusal::Diverged`] after a check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More peers are charged than the job tolerates.
    #[error("{charged} peers are charged where the job tolerates {faults} faults")]
    Charged {
        /// Peers that a majority charges.
        charged: usize,
        /// What the job tolerates.
        faults: u32,
    },
    /// Too few peers take part.
    #[error(
        "{heard} of {roster} peers took part within {} s, and it takes {majority}: start the others again, then this one",
        .waited.as_secs()
    )]
    Minority {
        /// Peers whose contributions or votes are here, the own included.
        heard: usize,
        /// All peers.
        roster: usize,
        /// Peers that it takes.
        majority: usize,
        /// How long they were waited for.
        waited: Duration,
    },
    /// No contribution is held by a majority.
    #[error("no contribution is held by a majority of the peers")]
    Nothing,
    /// Others agreed on a contribution that cannot be had here.
    #[error("the contribution of peer {0:?} is agreed on, and no peer gave it within `train.wait.max`")]
    Lacking(PeerId),
    /// The others went on without this peer for longer than they keep what it missed.
    #[error(
        "this peer has the state of round {state} and needs the one of round {needed} to go on with the others, who no \
         longer keep what it missed: end all peers, give this one the checkpoint of another, and start them again"
    )]
    Behind {
        /// The last round that was applied here.
        state: u64,
        /// The last round that was applied by enough others for at least one of them to be honest.
        needed: u64,
    },
    /// So many peers have one other state that at least one of them is honest.
    #[error("the state is {mine} here and {other} at {peers} other peers: this peer is out of step")]
    Diverged {
        /// State hash here.
        mine: Digest,
        /// How many peers have the other one.
        peers: usize,
        /// Their state hash.
        other: Digest,
    },
}
