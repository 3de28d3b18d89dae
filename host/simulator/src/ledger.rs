//! What honest members did, and the invariants that it must not break.

use std::collections::BTreeMap;
use std::fmt;

use skein_protocol::agreement::View;
use skein_protocol::node::Report;
use skein_protocol::record::payload::Check;
use skein_protocol::record::{Position, Record, Slot};
use skein_protocol::standing::Head;
use skein_types::{Digest, PeerId};

use crate::LEARNING_RATE;

/// An invariant that a schedule broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Two selections were decided in one round.
    TwoDecisions(Position),
    /// An honest member signed two records for one slot.
    SignedTwice(Slot),
    /// Two honest members have different states after one round.
    Diverged(Position, [PeerId; 2]),
    /// An honest member was removed.
    Removed(PeerId),
    /// Others made a member keep more than it may.
    Bytes(PeerId, usize),
    /// The run did not go on after the last fault.
    Stalled(Vec<(PeerId, Position)>),
    /// An assertion of a node failed.
    Panicked(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::TwoDecisions(position) => write!(f, "two decisions in round {position:?}"),
            Violation::SignedTwice(slot) => write!(f, "two records for one slot: {slot:?}"),
            Violation::Diverged(position, [one, other]) => {
                write!(f, "peers {one:?} and {other:?} have different states after round {position:?}")
            }
            Violation::Removed(peer) => write!(f, "honest peer {peer:?} is removed"),
            Violation::Bytes(peer, bytes) => write!(f, "others make peer {peer:?} keep {bytes} bytes"),
            Violation::Stalled(peers) => write!(f, "no progress after the last fault: {peers:?}"),
            Violation::Panicked(text) => write!(f, "an assertion failed: {text}"),
        }
    }
}

/// What happened in a schedule, so that an empty one shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Faults that were drawn.
    pub faults: u64,
    /// Rounds that some honest member decided in a view above 0.
    pub later_views: u64,
    /// Proofs that honest members found.
    pub proofs: u64,
    /// States that members took over from others.
    pub healings: u64,
    /// Eras that began with an earlier state.
    pub rollbacks: u64,
    /// Members that found their log lost.
    pub recoveries: u64,
    /// Rounds that honest members decided.
    pub rounds: u64,
    /// Records that honest members published, relays included.
    pub records: u64,
    /// Bytes of these records on the wire.
    pub bytes: u64,
    /// Events that were passed to nodes.
    pub events: u64,
    /// States of honest members with a lower learning rate than the first.
    pub lowered: u64,
    /// Most bytes that others made an honest member keep.
    pub kept_max: u64,
    /// Virtual time from begin to end, in milliseconds.
    pub elapsed_ms: u64,
}

impl Counts {
    /// Adds those of another schedule.
    pub fn add(&mut self, other: &Counts) {
        let Counts {
            faults,
            later_views,
            proofs,
            healings,
            rollbacks,
            recoveries,
            rounds,
            records,
            bytes,
            events,
            lowered,
            kept_max,
            elapsed_ms,
        } = other;
        self.faults += faults;
        self.later_views += later_views;
        self.proofs += proofs;
        self.healings += healings;
        self.rollbacks += rollbacks;
        self.recoveries += recoveries;
        self.rounds += rounds;
        self.records += records;
        self.bytes += bytes;
        self.events += events;
        self.lowered += lowered;
        self.kept_max = self.kept_max.max(*kept_max);
        self.elapsed_ms += elapsed_ms;
    }
}

/// Everything that invariants are about.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    decided: BTreeMap<Position, Digest>,
    later: BTreeMap<Position, View>,
    signed: BTreeMap<Slot, Digest>,
    states: BTreeMap<Position, (Check, PeerId)>,
    pub(crate) counts: Counts,
    pub(crate) violation: Option<Violation>,
}

impl Ledger {
    fn break_with(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// An honest member decided.
    pub(crate) fn decide(&mut self, position: Position, value: Digest) {
        if self.decided.insert(position, value).is_some_and(|before| before != value) {
            self.break_with(Violation::TwoDecisions(position));
        }
    }

    /// A record of an honest member was read by another one.
    pub(crate) fn sign(&mut self, record: &Record) {
        if !record.slot().kind.is_signed_once() {
            return;
        }
        if self.signed.insert(*record.slot(), record.hash()).is_some_and(|before| before != record.hash()) {
            self.break_with(Violation::SignedTwice(*record.slot()));
        }
    }

    /// An honest member published a record.
    pub(crate) fn publish(&mut self, record: &Record) {
        // Inquiries and answers belong to a start, not to a round.
        if !record.slot().kind.is_signed_once() {
            return;
        }
        self.counts.records += 1;
        self.counts.bytes += record.len() as u64;
    }

    /// An honest member has this state.
    pub(crate) fn reach(&mut self, peer: PeerId, head: &Head, honest: impl Fn(&PeerId) -> bool) {
        self.counts.lowered += u64::from(head.standing.progress.learning_rate < LEARNING_RATE);
        let check = head.check();
        let (before, other) = *self.states.entry(head.position).or_insert((check, peer));
        if before != check {
            self.break_with(Violation::Diverged(head.position, [other, peer]));
        }
        if let Some(removed) = head.standing.removed.iter().find(|peer| honest(peer)) {
            self.break_with(Violation::Removed(*removed));
        }
    }

    pub(crate) fn report(&mut self, report: &Report) {
        match report {
            Report::Decided { position, view, .. } => {
                let later = self.later.entry(*position).or_default();
                *later = (*later).max(*view);
            }
            Report::Proven(_) => self.counts.proofs += 1,
            Report::Healed { .. } => self.counts.healings += 1,
            Report::RolledBack { .. } => self.counts.rollbacks += 1,
            Report::Silent(_) => self.counts.recoveries += 1,
            Report::Stopped { .. } | Report::KeyUsedElsewhere(_) | Report::Differs(_) | Report::Unusable(_) => {}
        }
    }

    /// Counts at the end.
    pub(crate) fn finish(&mut self, elapsed_us: u64) {
        self.counts.elapsed_ms = elapsed_us / 1000;
        self.counts.rounds = self.decided.len() as u64;
        self.counts.later_views = self.later.values().filter(|view| **view > 0).count() as u64;
    }

    pub(crate) fn keep(&mut self, peer: PeerId, bytes: usize, bound: usize) {
        self.counts.kept_max = self.counts.kept_max.max(bytes as u64);
        if bytes > bound {
            self.break_with(Violation::Bytes(peer, bytes));
        }
    }
}
