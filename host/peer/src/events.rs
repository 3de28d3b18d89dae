//! Events that a run reports while it runs.

use std::fmt;
use std::time::Duration;

use skein_types::{Digest, PeerId};

use crate::report::RoundSummary;

/// Most peers that a message names.
const NAMED_MAX: usize = 8;

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
    /// The host of another peer is about to do something else, and the run goes on without it.
    Differs {
        /// The peer.
        peer: PeerId,
        /// What differs, as what follows a colon.
        differences: String,
    },
    /// The last round ended; the evaluation of the final state follows.
    RoundsEnded,
}

/// Peers that fell silent after they signed the state after a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The peers.
    pub peers: Vec<PeerId>,
    /// That round.
    pub round: u64,
}

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

/// How long a wait lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The run goes on without the peers after so long.
    AtMost(Duration),
    /// The run needs so many peers to go on, itself included.
    Needs(usize),
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
    /// For how much longer it waits.
    pub until: Until,
}

/// Receives events. It is called between two steps of the run, so it has to return at once.
pub type Sink<'a> = dyn FnMut(Event<'_>) + Send + 'a;
