//! What a run tells while it goes on.

use std::time::Duration;

use skein_types::PeerId;

use crate::report::RoundSummary;

/// Something that happened in a run.
pub enum Event<'a> {
    /// A peer with a database of its own found where it goes on.
    Started {
        /// The peer.
        peer: PeerId,
        /// Peers of the job.
        peers: usize,
        /// The last round that it has applied.
        round: u64,
        /// Values of the model.
        parameters: usize,
        /// Whether its database computes.
        in_database: bool,
    },
    /// All peers of this process applied a round.
    Round {
        /// What came of it.
        summary: RoundSummary<'a>,
        /// Rounds of the job.
        rounds: u64,
        /// Rounds that this run has applied each second until now.
        per_second: f64,
    },
    /// Once a second: whom the peer of this process has been waiting for, if it has.
    Waiting(Option<Waiting>),
    /// The last round is over; what follows is the evaluation of the final state.
    RoundsEnded,
}

/// Peers that a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The peers.
    pub peers: Vec<PeerId>,
    /// Peers of the job.
    pub of: usize,
    /// For how long it has waited.
    pub since: Duration,
    /// For how much longer it waits at most.
    pub until: Duration,
}

/// Where events go. It is called between two steps of the run, so it has to return at once.
pub type Sink<'a> = dyn FnMut(Event<'_>) + Send + 'a;
