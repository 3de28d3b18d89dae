//! Many nodes of the protocol in virtual time, with liars, crashes and a network that loses, delays and cuts.
//!
//! A schedule is drawn from a seed and replays exactly. After every event the invariants are checked: one decision in a
//! round, no slot signed twice by an honest member, equal states after equal rounds, bounded memory, and progress after the
//! last fault. Signatures are keyed hashes, contributions and states are digests.
//!
//! ```
//! use skein_simulator::{Model, Schedule, Weather, simulate};
//!
//! let model = Model { members: 4, byzantine: 1, crashed: 0 };
//! let schedule = Schedule { seed: 1, model, rounds: 5, weather: Weather::Foul, mutant: None };
//! let outcome = simulate(schedule);
//! assert_eq!(outcome.violation, None);
//! assert!(outcome.counts.rounds >= 5);
//! assert_eq!(simulate(schedule).counts, outcome.counts);
//! ```

pub mod campaign;
mod dice;
mod keys;
mod ledger;
mod lie;
mod network;
mod seat;
mod store;
mod world;

use std::fmt;

pub use ledger::{Counts, Violation};
pub use lie::{Announces, Answers, Floods, Lies, Proposes, Serves, Votes};
use skein_protocol::mutant::Mutant as NodeMutant;
pub use store::{ALL, Readers};
pub use world::fault::Fault;

/// What is simulated; its seed determines the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Determines all faults, lies and delays.
    pub seed: u64,
    /// Members, and how many of them fail.
    pub model: Model,
    /// Rounds of the run.
    pub rounds: u64,
    /// Whether anybody lies and anything breaks.
    pub weather: Weather,
    /// How all members are broken on purpose. What the protocol itself does wrong needs the feature `mutants`.
    pub mutant: Option<Mutant>,
}

/// How many members a run has, and how many of them fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Members of the run.
    pub members: u32,
    /// Members that lie all the time.
    pub byzantine: u32,
    /// Members that are down for half of the run.
    pub crashed: u32,
}

/// Whether anybody lies and anything breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nobody lies, and nothing breaks.
    Fair,
    /// As many lie and are down as the model says, and more breaks for a while.
    Foul,
}

/// A way to break members on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Their node decides wrongly.
    Node(skein_protocol::mutant::Mutant),
    /// Others see records before the disk has kept them.
    PublishedBeforeKept,
    /// Values of another hash than announced are taken.
    UnverifiedValues,
}

impl Mutant {
    /// All ways, in the order in which they are reported.
    pub const ALL: [Mutant; 8] = [
        Mutant::Node(NodeMutant::MajorityQuorum),
        Mutant::Node(NodeMutant::NoLock),
        Mutant::PublishedBeforeKept,
        Mutant::Node(NodeMutant::UncheckedCertificate),
        Mutant::Node(NodeMutant::OneCheck),
        Mutant::Node(NodeMutant::ChargeLowersBound),
        Mutant::Node(NodeMutant::GapIsLie),
        Mutant::UnverifiedValues,
    ];
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mutant::Node(NodeMutant::MajorityQuorum) => "quorum of a bare majority",
            Mutant::Node(NodeMutant::NoLock) => "no lock",
            Mutant::Node(NodeMutant::UncheckedCertificate) => "certificate unchecked",
            Mutant::Node(NodeMutant::OneCheck) => "one check instead of b+1",
            Mutant::Node(NodeMutant::ChargeLowersBound) => "a charge lowers b",
            Mutant::Node(NodeMutant::GapIsLie) => "a gap is a lie",
            Mutant::PublishedBeforeKept => "published before it is kept",
            Mutant::UnverifiedValues => "values unverified",
        })
    }
}

/// How a schedule ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The schedule that was simulated.
    pub schedule: Schedule,
    /// How often what happened.
    pub counts: Counts,
    /// The first invariant that broke.
    pub violation: Option<Violation>,
}

/// Learning rate before the first round.
pub(crate) const LEARNING_RATE: f64 = 0.1;
/// Validation samples of each member.
pub(crate) const VALIDATION: u64 = 32;

/// What liars do and what breaks, in place of what is drawn from the seed.
#[derive(Debug, Clone)]
pub struct Attack {
    /// What all liars do all the time.
    pub lies: Lies,
    /// Faults by the round in which they begin.
    pub faults: Vec<(u64, Fault)>,
}

/// Runs a schedule to its end under an attack.
///
/// # Panics
/// As [`simulate`].
pub fn simulate_attack(schedule: Schedule, attack: &Attack) -> Outcome {
    let mut world = world(schedule);
    world.attack(attack);
    world.run()
}

/// Is told what happens in a schedule, line by line: microseconds, seat, round, and an event or an action.
pub type Tracer = Box<dyn FnMut(&str)>;

/// Runs a schedule to its end.
///
/// # Panics
/// If an assertion of a node fails, or the members do not tolerate as many liars and crashes.
pub fn simulate(schedule: Schedule) -> Outcome {
    world(schedule).run()
}

/// Runs a schedule to its end, and tells what happens.
///
/// # Panics
/// As [`simulate`].
pub fn trace(schedule: Schedule, tracer: Tracer) -> Outcome {
    let mut world = world(schedule);
    world.tracer = Some(tracer);
    world.run()
}

fn world(schedule: Schedule) -> world::World {
    #[cfg(feature = "mutants")]
    skein_protocol::mutant::choose(match schedule.mutant {
        Some(Mutant::Node(mutant)) => Some(mutant),
        _ => None,
    });
    world::World::new(schedule)
}
