//! Names of keys. All keys of a peer share one hash tag, so that a cluster keeps them on one node. Keys that other
//! peers may read have `public` in their names, so that their user needs access to one pattern only.

use skein_types::{Digest, PeerId};

use crate::Scope;

/// Version of the names and of what is under them; part of every name. A program uses the version that it writes.
pub const FORMAT: u32 = 3;

/// Digits of a digest that distinguish the runs and peers of one database.
const DIGITS: usize = 16;

/// The keys of one peer in one run.
#[derive(Debug, Clone)]
pub(crate) struct Keys(String);

impl Keys {
    pub(crate) fn new(scope: Scope) -> Keys {
        Keys(format!("skein:{FORMAT}:{}", tag(scope)))
    }

    /// The keys of a peer that belong to no run and no format: hosts of any version look there first.
    pub(crate) fn of_every_run(peer: PeerId) -> Keys {
        Keys(format!("skein:greeting:{{{}}}", short(Digest(peer.0))))
    }

    /// What the peer's host says of the run that it is in.
    pub(crate) fn greeting(&self) -> String {
        format!("{}:public:text", self.0)
    }

    /// The round and the hashes of the state; in a database with the module, the number of slots.
    pub(crate) fn state(&self) -> String {
        format!("{}:public:state", self.0)
    }

    /// The parameters, if the database computes.
    pub(crate) fn parameters(&self) -> String {
        format!("{}:public:parameters", self.0)
    }

    /// A vector of optimizer state, if the database computes.
    pub(crate) fn slot(&self, slot: usize) -> String {
        format!("{}:public:slot:{slot}", self.0)
    }

    /// Values of a state by their hash, if the database does not compute: concurrent writers write other keys, or the
    /// same values.
    pub(crate) fn values(&self, hash: Digest) -> String {
        format!("{}:public:values:{hash}", self.0)
    }

    /// The batches of a round: their sum in the module, otherwise the number expected.
    pub(crate) fn sum(&self, round: u64) -> String {
        format!("{}:sum:{round}", self.0)
    }

    /// The gradient of one batch, if the database does not compute.
    pub(crate) fn gradient(&self, round: u64, index: u32) -> String {
        format!("{}:gradient:{round}:{index}", self.0)
    }

    /// An aggregate that was computed elsewhere and is about to be applied.
    pub(crate) fn aggregate(&self, round: u64) -> String {
        format!("{}:aggregate:{round}", self.0)
    }

    /// The metadata of a round, from which a peer resumes.
    pub(crate) fn round_metadata(&self, round: u64) -> String {
        format!("{}:public:note:{round}", self.0)
    }

    /// The keys of each round, scored by the round, for pruning.
    pub(crate) fn rounds(&self) -> String {
        format!("{}:rounds", self.0)
    }

    /// The stream of tasks.
    pub(crate) fn tasks(&self) -> String {
        format!("{}:tasks", self.0)
    }

    /// The progress of the tasks of a round.
    pub(crate) fn round_of_tasks(&self, round: u64) -> String {
        format!("{}{round}", self.rounds_of_tasks())
    }

    /// The prefix of [`Keys::round_of_tasks`].
    pub(crate) fn rounds_of_tasks(&self) -> String {
        format!("{}:tasks:", self.0)
    }

    /// The set of workers at the queue, and the prefix of the keys that show that each is alive.
    pub(crate) fn workers(&self) -> String {
        format!("{}:workers", self.0)
    }

    /// The stream that wakes a host waiting for tasks.
    pub(crate) fn events(&self) -> String {
        format!("{}:events", self.0)
    }

    /// The stream of dead letters.
    pub(crate) fn dead(&self) -> String {
        format!("{}:dead", self.0)
    }

    /// Bytes by their name: components, models, batches.
    pub(crate) fn blob(&self, name: &str) -> String {
        format!("{}:blob:{name}", self.0)
    }

    pub(crate) fn contribution(&self, round: u64, peer: PeerId) -> String {
        format!("{}:public:contribution:{round}:{}", self.0, peer)
    }

    /// What the peer serves under a name.
    pub(crate) fn served(&self, name: &str) -> String {
        format!("{}:public:served:{name}", self.0)
    }

    pub(crate) fn records(&self) -> String {
        format!("{}:public:records", self.0)
    }
}

/// The hash tag of a scope.
fn tag(scope: Scope) -> String {
    format!("{{{}:{}}}", short(scope.run), short(Digest(scope.peer.0)))
}

fn short(digest: Digest) -> String {
    digest.to_string()[..DIGITS].to_owned()
}
