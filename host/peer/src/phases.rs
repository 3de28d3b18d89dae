//! The time that each phase of a round takes.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::pool::ms;

/// Parts of a round, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Gradients, and the evaluation if it is due; gradients are summed as they arrive.
    Compute,
    /// The peer's own average.
    Average,
    /// Announcements and contributions of the others.
    Gather,
    /// Votes on the contributions to aggregate.
    Vote,
    /// Aggregation of the contributions that the peers agreed on.
    Aggregate,
    /// The optimizer and the hash of the state.
    Update,
    /// The comparison of the peers' states.
    Check,
}

impl Phase {
    const ALL: [Phase; 7] =
        [Phase::Compute, Phase::Average, Phase::Gather, Phase::Vote, Phase::Aggregate, Phase::Update, Phase::Check];

    fn name(self) -> &'static str {
        match self {
            Phase::Compute => "compute",
            Phase::Average => "average",
            Phase::Gather => "gather",
            Phase::Vote => "vote",
            Phase::Aggregate => "aggregate",
            Phase::Update => "update",
            Phase::Check => "check",
        }
    }
}

/// Milliseconds that each phase took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Phases(BTreeMap<Phase, f64>);

impl Phases {
    /// Adds the time since `begun`.
    pub fn add(&mut self, phase: Phase, begun: Instant) {
        *self.0.entry(phase).or_default() += ms(begun.elapsed());
    }

    /// Adds other phases, each divided by `divisor`.
    pub fn merge(&mut self, other: &Phases, divisor: f64) {
        for (phase, ms) in &other.0 {
            *self.0.entry(*phase).or_default() += ms / divisor;
        }
    }

    /// Every phase by name, in order.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        Phase::ALL.map(|phase| (phase.name(), self.0.get(&phase).copied().unwrap_or_default())).to_vec()
    }

    /// Milliseconds by phase, as a JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        self.named()
            .into_iter()
            .map(|(name, ms)| (name.to_owned(), ms.into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}
