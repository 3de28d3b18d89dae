//! What a peer reports: to its run, and to the owner of the host.

use std::collections::BTreeMap;

use skein_protocol::node::{Absence, Report, Waits};
use skein_types::{Digest, PeerId};
use tokio::time::Instant;

use super::Peer;
use super::apply::evaluation;
use super::log::OwnContribution;
use crate::checkpoint::Checkpoint;
use crate::evaluation::Evaluation;
use crate::phases::{Phase, Phases};

/// Whom a peer waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// What the round waits for; times are on the peer's clock.
    pub waits: Waits,
    /// Since when it waits.
    pub since: Instant,
    /// When it goes on without them; `None` if it needs some of them.
    pub until: Option<Instant>,
}

/// Something that a peer reports while it runs.
pub enum PeerEvent {
    /// A round was applied.
    Applied(Box<RoundReport>),
    /// This state has to be kept on disk, although no round led to it, with the peer's contribution to its round.
    Save(Box<Checkpoint>, Option<OwnContribution>),
    /// The convergence rules end training: the state before the round is final.
    Stopped(Option<Evaluation>),
}

/// One applied round as one peer saw it.
pub struct RoundReport {
    /// The peer that reports.
    pub peer: PeerId,
    /// The state after the round.
    pub checkpoint: Checkpoint,
    /// Hash of that state.
    pub state_hash: Digest,
    /// The peer's contribution, if it has to be kept beside the checkpoint.
    pub contribution: Option<OwnContribution>,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Mean training loss over the decided contributions.
    pub loss: f64,
    /// Evaluation of the state before the round, if it was due.
    pub evaluation: Option<Evaluation>,
    /// Number of contributions that were aggregated.
    pub present: usize,
    /// Peers whose contribution was not aggregated, and why.
    pub absent: BTreeMap<PeerId, Absence>,
    /// Time that each phase took.
    pub phases: Phases,
}

impl RoundReport {
    /// Number of the round.
    pub fn round(&self) -> u64 {
        self.checkpoint.position.round
    }
}

/// When the steps of the round began.
pub(super) struct Timing {
    pub(super) phases: Phases,
    pub(super) begun: Instant,
    pub(super) phase: Option<Phase>,
}

impl Timing {
    pub(super) fn turn_to(&mut self, phase: Phase) {
        self.pause();
        self.begun = Instant::now();
        self.phase = Some(phase);
    }

    pub(super) fn pause(&mut self) {
        if let Some(phase) = self.phase.take() {
            self.phases.add(phase, self.begun);
        }
    }

    pub(super) fn end(&mut self) -> Phases {
        self.pause();
        std::mem::take(&mut self.phases)
    }
}

impl Peer {
    /// Tells the owner of this host what happened.
    pub(super) fn report(&mut self, report: Report) {
        match report {
            Report::Decided { position, view, absent } => {
                tracing::debug!(round = position.round, view, ?absent, "decided");
                self.absent = absent;
            }
            Report::Stopped { position, announcements } => {
                self.stopped = evaluation(&self.work.job, position.round, &announcements);
            }
            Report::Proven(proof) => {
                let slot = proof.slot();
                tracing::warn!(peer = ?slot.peer, ?slot, "a peer signed two records for one slot: it is removed");
            }
            Report::KeyUsedElsewhere(slot) => {
                tracing::error!(?slot, "somebody else signs with the key of this peer: stop one of the two hosts");
            }
            Report::Healed { from, to } => {
                tracing::info!(from = from.round, to = to.round, "took over the state that the other peers certify");
            }
            Report::Differs(position) => tracing::warn!(
                round = position.round,
                "this peer has another state than the others certify, and takes over theirs; a function may not be \
                 deterministic"
            ),
            Report::Silent(position) => tracing::warn!(
                round = position.round,
                "this peer lost the records that it signed, and signs nothing before this round"
            ),
            Report::Unusable(position) => tracing::warn!(
                round = position.round,
                "this peer's contribution cannot be announced: its loss or its evaluation is not finite"
            ),
            Report::RolledBack { from, to } => tracing::warn!(
                from = from.round,
                to = to.round,
                "values of a decided round were lost, and the peers went on from a state that enough of them hold"
            ),
        }
    }
}
