//! Events that a run reports while it runs.

use std::time::Duration;

use skein_protocol::round::Ended;
use skein_types::{Digest, PeerId};

use crate::report::RoundSummary;

/// Something that happened in a run.
pub enum Event<'a> {
    /// A peer with its own database found where to continue.
    Started {
        /// The job identity.
        job: Digest,
        /// The run id.
        run: Digest,
        /// The peer of this process.
        peer: PeerId,
        /// Peers of the job.
        peers: usize,
        /// The last round that it has applied.
        round: u64,
        /// Values of the model.
        parameters: usize,
        /// Whether its database aggregates by itself.
        in_database: bool,
    },
    /// The run resumes a state that is as far as the job goes, or farther: no round follows.
    NothingLeft {
        /// The last round that was applied.
        round: u64,
        /// Rounds of the job.
        rounds: u64,
    },
    /// All peers of this process applied a round.
    Round {
        /// The round as its peers reported it.
        summary: RoundSummary<'a>,
        /// Rounds of the job.
        rounds: u64,
        /// Rounds per second since the run began.
        per_second: f64,
    },
    /// Once a second: the peers that the peer of this process has been waiting for, if it has.
    Waiting(Option<Waiting>),
    /// Peers are awaited for longer than before, and may have ended. Reported once for the same peers.
    Ended(&'a Ended),
    /// The last round ended; the evaluation of the final state follows.
    RoundsEnded,
}

/// Peers that a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Peers that it waits for.
    pub peers: Vec<PeerId>,
    /// Peers of the job.
    pub of: usize,
    /// For how long it has waited.
    pub since: Duration,
    /// For how much longer it waits at most.
    pub until: Duration,
}

/// Receives events. It is called between two steps of the run, so it has to return at once.
pub type Sink<'a> = dyn FnMut(Event<'_>) + Send + 'a;
