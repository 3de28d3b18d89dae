//! Names of keys. All keys of a peer carry one hash tag, so that a cluster keeps them on one node; what others may
//! read has `public` in its name, so that one pattern is all that their user is given.

use skein_types::{Digest, PeerId};

/// Digits of a digest that tell jobs and peers of one database apart.
const DIGITS: usize = 16;

/// The keys of one peer in one job.
#[derive(Debug, Clone)]
pub(crate) struct Keys(String);

impl Keys {
    pub(crate) fn new(job: Digest, peer: PeerId) -> Keys {
        let short = |digest: Digest| digest.to_string()[..DIGITS].to_owned();
        Keys(format!("skein:{{{}:{}}}", short(job), short(Digest(peer.0))))
    }

    /// The round and the hashes of the state; of a database with the module, how many slots there are.
    pub(crate) fn state(&self) -> String {
        format!("{}:state", self.0)
    }

    /// The parameters where the database computes.
    pub(crate) fn parameters(&self) -> String {
        format!("{}:parameters", self.0)
    }

    /// A vector of optimizer state where the database computes.
    pub(crate) fn slot(&self, slot: usize) -> String {
        format!("{}:slot:{slot}", self.0)
    }

    /// Values of a state by their hash, where the database only keeps them: whoever else writes a state at the same time
    /// writes others, or the same.
    pub(crate) fn values(&self, hash: Digest) -> String {
        format!("{}:values:{hash}", self.0)
    }

    /// The batches of a round that have come: a sum in the module, else how many there are in all.
    pub(crate) fn sum(&self, round: u64) -> String {
        format!("{}:sum:{round}", self.0)
    }

    /// One gradient as it came.
    pub(crate) fn gradient(&self, round: u64, index: u32) -> String {
        format!("{}:gradient:{round}:{index}", self.0)
    }

    /// An aggregate that was computed elsewhere, on its way into the state.
    pub(crate) fn aggregate(&self, round: u64) -> String {
        format!("{}:aggregate:{round}", self.0)
    }

    /// What the peer has to know of a round when it goes on from there.
    pub(crate) fn note(&self, round: u64) -> String {
        format!("{}:note:{round}", self.0)
    }

    /// Keys that belong to a round, by the round: what there is to forget.
    pub(crate) fn rounds(&self) -> String {
        format!("{}:rounds", self.0)
    }

    /// The stream of tasks.
    pub(crate) fn tasks(&self) -> String {
        format!("{}:tasks", self.0)
    }

    /// What became of the tasks of a round.
    pub(crate) fn round_of_tasks(&self, round: u64) -> String {
        format!("{}{round}", self.rounds_of_tasks())
    }

    /// What all such keys begin with.
    pub(crate) fn rounds_of_tasks(&self) -> String {
        format!("{}:tasks:", self.0)
    }

    /// The workers at the queue; what the keys begin with that say of one each that it still is there.
    pub(crate) fn workers(&self) -> String {
        format!("{}:workers", self.0)
    }

    /// The stream that wakes whoever waits for tasks to be done.
    pub(crate) fn events(&self) -> String {
        format!("{}:events", self.0)
    }

    /// The stream of tasks that nobody could carry out.
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

    pub(crate) fn records(&self) -> String {
        format!("{}:public:records", self.0)
    }
}
