//! What a driver passes to a node, and what the node asks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skein_types::{Digest, PeerId};

use super::kept::Entry;
use crate::agreement::View;
use crate::convergence;
use crate::decision::Decision;
use crate::fault_model::FaultModel;
use crate::proof::Proof;
use crate::record::payload::{Announcement, Check, Evaluation, Selection};
use crate::record::{Position, Record, Slot, Statement};
use crate::standing::{Head, Standing};

/// What all members of a run know before its first round, and which of them this one is.
#[derive(Debug, Clone)]
pub struct RunTerms {
    /// The run id: records of other runs are ignored.
    pub run: Digest,
    /// This member, which is one of them.
    pub me: PeerId,
    /// All members of the run, in the order of their keys.
    pub members: BTreeSet<PeerId>,
    /// How many of them may fail.
    pub model: FaultModel,
    /// Number of the last round.
    pub rounds: u64,
    /// Most samples of a contribution: batches of a round times samples of a batch.
    pub samples_max: u64,
    /// The state is evaluated every so many rounds.
    pub evaluate_every: u64,
    /// Validation samples of each member.
    pub validation: BTreeMap<PeerId, u64>,
    /// When to lower the learning rate and when to stop.
    pub convergence: convergence::Options,
}

/// What happens to a member.
#[derive(Debug, Clone)]
pub enum Event {
    /// Nothing but time: a deadline may have passed.
    Tick,
    /// This record of the member is signed and, if it is of a kind that is signed once, kept.
    Signed(Arc<Record>),
    /// A record was read in the store of `owner`, who signed it or relays it.
    Read {
        /// The member in whose store it was.
        owner: PeerId,
        /// The record, whose signatures were checked.
        record: Arc<Record>,
    },
    /// A member's beat was read.
    Beat {
        /// The member that beats.
        peer: PeerId,
        /// What its node says of [`is_stuck`](super::Node::is_stuck).
        is_stuck: bool,
    },
    /// The member's contribution is in its store.
    Computed(Position, Contribution),
    /// The answer to [`Action::Fetch`].
    Fetched(Want, Found),
    /// The state after the round is in the store.
    Applied(Position, Digest),
    /// The state after the round is on disk.
    Saved(Position),
    /// The store lost what it held, and holds this state again.
    Restored(Head),
}

/// A member's own contribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Contribution {
    /// Hash of the values.
    pub values: Digest,
    /// Samples that it is averaged over.
    pub samples: u64,
    /// Mean training loss over these samples.
    pub loss: f64,
    /// Evaluation of the state before the round, if it was due.
    pub evaluation: Option<Evaluation>,
}

/// What a member has to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Sign the statement, keep the record in the log if its kind is signed once, then pass [`Event::Signed`].
    Sign(Statement),
    /// Keep this in the log. The log keeps entries and signed records in the order of these actions.
    Keep(Entry),
    /// Append the record to the member's store, for others to read: its own, or one that it relays.
    Publish(Arc<Record>),
    /// Serve this to all who ask, from the member's store.
    Serve(Served),
    /// Compute the contribution to a round at the state before it, and the evaluation if `is_evaluated`. A computation for
    /// another round is no longer needed.
    Compute {
        /// The round to compute for.
        position: Position,
        /// Whether the state before the round is evaluated too.
        is_evaluated: bool,
    },
    /// Get it from any of these members. A request that is under way asks them too.
    Fetch(Want, Vec<PeerId>),
    /// Drop what was asked for this round and before.
    Cancel(Position),
    /// Aggregate the contributions, which the store holds, and change the state by them, together with the standing. Pass
    /// [`Event::Applied`], and [`Event::Saved`] once the state is on disk.
    Apply(Box<Application>),
    /// Keep this state on disk, then pass [`Event::Saved`]. The tensors are those in the store; round and standing may be
    /// others, which the store takes over.
    Save(Box<Head>),
    /// Read all records of these members again.
    Reread(Vec<PeerId>),
    /// Contributions to rounds before this one are no longer needed by anybody.
    Forget(Position),
    /// Tell the owner of this host.
    Report(Report),
    /// All rounds are applied. What the member served is still there for those that are behind.
    Finish,
}

/// Something that the others may want.
#[derive(Debug, Clone)]
pub enum Served {
    /// For [`Want::Announcement`]: its values are in the store.
    Announcement(Arc<Record>),
    /// For [`Want::Selection`]
    Selection(Position, Digest, Selection),
    /// For [`Want::Decision`]
    Decision(Arc<Decision>),
}

/// How a decided selection changes the state.
#[derive(Debug, Clone, PartialEq)]
pub struct Application {
    /// The round to apply.
    pub position: Position,
    /// The contributions in the order of aggregation.
    pub announcements: Vec<(PeerId, Announcement)>,
    /// Byzantine members that the rule has to tolerate.
    pub byzantine: u32,
    /// The standing after the round, whose learning rate counts for this round.
    pub standing: Standing,
}

/// Something that other members have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// The announcement of a member that has this hash.
    Announcement(Position, PeerId, Digest),
    /// The values of a member's contribution, by their hash, to be verified and stored.
    Values(Position, PeerId, Digest),
    /// The selection that has this hash.
    Selection(Position, Digest),
    /// The decision of a round.
    Decision(Position),
    /// The state after a round, by its hashes, to be verified, and stored in place of the member's own unless it comes when
    /// [`Node::wants`](super::Node::wants) it no longer.
    State(Position, Check),
}

impl Want {
    /// The round that it belongs to.
    pub fn position(&self) -> Position {
        match self {
            Want::Announcement(position, ..)
            | Want::Values(position, ..)
            | Want::Selection(position, ..)
            | Want::Decision(position)
            | Want::State(position, ..) => *position,
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone)]
pub enum Found {
    /// [`Want::Announcement`]
    Announcement(Arc<Record>),
    /// [`Want::Values`]: they have the hash, the length of the model, and finite values, and will be in the store when they are
    /// to be applied.
    Values,
    /// [`Want::Selection`]
    Selection(Selection),
    /// [`Want::Decision`]
    Decision(Arc<Decision>),
    /// [`Want::State`]: the tensors have the hash, and are in the store.
    State(Standing),
    /// All that were asked have it no longer, or not yet.
    Missing,
    /// Somebody who may have it did not answer.
    Unreachable,
    /// Its owner has values that are not what it announced, or of another length, or not finite.
    Wrong,
}

/// Why a member's contribution is not in a decision, as this member saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Absence {
    /// No announcement was read.
    #[error("no announcement in time")]
    Silent,
    /// The announced values could not be read.
    #[error("values out of reach")]
    Unreachable,
    /// The values are not what was announced.
    #[error("values that are not as announced, of the wrong length, or not finite")]
    Wrong,
    /// It announced something that does not belong to the round.
    #[error("an announcement on another state, or with a claim out of bounds")]
    Unsound,
    /// This member held the contribution, but the decision is without it.
    #[error("not in the decision")]
    Unselected,
    /// The member is proven Byzantine.
    #[error("removed: it signed two records for one slot")]
    Removed,
}

/// Something that the owner of a host should know.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The members decided a round.
    Decided {
        /// The decided round.
        position: Position,
        /// Views that it took, from 0.
        view: View,
        /// Members whose contribution is not in it.
        absent: BTreeMap<PeerId, Absence>,
    },
    /// A member signed two records for one slot.
    Proven(Proof),
    /// Somebody else signs with this member's key.
    KeyUsedElsewhere(Slot),
    /// The convergence rules end training with the state before the round.
    Stopped {
        /// The decided round that is not applied.
        position: Position,
        /// Its contributions, with the evaluations that ended training.
        announcements: Vec<(PeerId, Announcement)>,
    },
    /// The member took over a certified state instead of applying rounds itself.
    Healed {
        /// The round that it had applied.
        from: Position,
        /// The round whose state it has now.
        to: Position,
    },
    /// The member's state is not the one that enough others certify.
    Differs(Position),
    /// The member lost its log, and signs nothing before this round.
    Silent(Position),
    /// The member's own contribution cannot be announced: its loss, samples or evaluation are out of bounds or not finite.
    Unusable(Position),
    /// An era begins with the state after this round, because values of a decided round are lost.
    RolledBack {
        /// The last applied round of the era before.
        from: Position,
        /// Where the new era begins.
        to: Position,
    },
}
