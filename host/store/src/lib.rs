//! A peer's store: the state of the job, the contributions of the round, and the records that peers exchange.
//!
//! Its ports are narrow traits: [`StateStore`], [`GradientSums`], [`Contributions`] and [`RecordLog`]. Other peers read it
//! as a [`PeerStore`]. [`Embedded`] keeps everything in this process; the crate `skein-redis` keeps it in a database.
//!
//! The store itself computes on tensors, so that a database with the kernels can do so where the values are. Every
//! store computes the same bits: sums over batches follow the tree of [`skein_kernels::tree`] in any order of arrival,
//! and the kernels compute averages and updates.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! use skein_store::{Embedded, GradientSums, BatchSlot, PeerStore, State, StateStore};
//! use skein_types::PeerId;
//!
//! let store = Embedded::default();
//! let me = PeerId([1; 32]);
//! store.set_state(State::new(0, vec![0.0; 2].into(), vec![])).await?;
//! // The second of two batches arrives first, and is delivered twice.
//! let slot = |index, samples| BatchSlot { index, count: 2, samples, loss: 0.5 };
//! store.accumulate(1, slot(1, 1), vec![4.0, 0.0]).await?;
//! store.accumulate(1, slot(1, 1), vec![4.0, 0.0]).await?;
//! store.accumulate(1, slot(0, 3), vec![0.0, 8.0]).await?;
//! let average = store.average(1, me).await?;
//! assert_eq!(average.samples, 4);
//! assert_eq!(*store.contribution(1, me).await?.expect("it was just averaged"), [1.0, 6.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocking;
mod embedded;
mod error;
mod step;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skein_kernels::rule::Rule;
use skein_kernels::update::Change;
use skein_types::{Digest, PeerId, Statistics, Values};

pub use blocking::{blocking, statistics_of};
pub use embedded::Embedded;
pub use error::StoreError;
pub use step::next_state;

/// Parameters and optimizer state after a round.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    round: u64,
    parameters: Values,
    slots: Vec<Values>,
}

impl State {
    /// The state after `round`; 0 is the state before the first.
    ///
    /// # Panics
    /// If a slot is not as long as the parameters.
    pub fn new(round: u64, parameters: Values, slots: Vec<Values>) -> State {
        assert!(slots.iter().all(|slot| slot.len() == parameters.len()), "a slot is not as long as the parameters");
        State { round, parameters, slots }
    }

    /// The last round that was applied.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// All parameters as one vector.
    pub fn parameters(&self) -> &Values {
        &self.parameters
    }

    /// Vectors of optimizer state.
    pub fn slots(&self) -> &[Values] {
        &self.slots
    }

    /// The hashes of the state; reads all values that were not hashed before.
    pub fn digests(&self) -> StateDigests {
        let slots = self.slots.iter().map(|slot| slot.statistics().hash).collect();
        StateDigests { round: self.round, parameters: self.parameters.statistics().hash, slots }
    }
}

/// The hashes of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDigests {
    /// The last round that was applied.
    pub round: u64,
    /// Hash of the parameters.
    pub parameters: Digest,
    /// Hashes of the vectors of optimizer state.
    pub slots: Vec<Digest>,
}

/// One batch among those of a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchSlot {
    /// Index of the batch, from 0.
    pub index: u32,
    /// Batches of the round.
    pub count: u32,
    /// Samples of the batch: the weight of its gradient.
    pub samples: u32,
    /// Mean loss over them.
    pub loss: f32,
}

/// The result of [`GradientSums::accumulate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulated {
    /// The gradient was added to the sum.
    Counted,
    /// The batch had been counted before, or the round is closed: the gradient was dropped.
    Duplicate,
}

/// A round's gradients, averaged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Average {
    /// Hash of the values.
    pub hash: Digest,
    /// Samples of all batches together.
    pub samples: u64,
    /// Mean loss over them.
    pub loss: f64,
    /// Whether all values are finite. A weighted sum of finite gradients may overflow; every other peer refuses the
    /// result.
    pub finite: bool,
}

/// How a round changes the state.
#[derive(Debug, Clone)]
pub struct Update {
    /// The round to apply; the state must be that of the round before.
    pub round: u64,
    /// The aggregate gradient, or the contributions to aggregate.
    pub aggregate: Aggregate,
    /// How the aggregate changes the state.
    pub change: Change,
}

/// The gradient that changes the state.
#[derive(Debug, Clone)]
pub enum Aggregate {
    /// Values that were aggregated outside the store.
    Values(Values),
    /// Contributions of the round, to be aggregated in the store that holds them.
    Contributions {
        /// The rule, with its Byzantine peers, parameters and weights.
        rule: Rule,
        /// The contributors, in the order of aggregation.
        peers: Vec<PeerId>,
    },
}

/// The part of a peer's store that other peers read. Rounds are numbered from 1.
#[async_trait]
pub trait PeerStore: Send + Sync {
    /// A contribution that the peer holds: its own, or a copy of another's.
    async fn contribution(&self, round: u64, peer: PeerId) -> Result<Option<Values>, StoreError>;

    /// Returns the records after number `after` (0: from the first that is still kept), each with its number. Waits up
    /// to `wait` for one, then returns an empty list.
    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;

    /// What the peer serves under a name; `None` if it serves nothing there.
    async fn served(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// The state after `round` with the metadata of that round; `None` if the peer has another state by now.
    async fn state_after(&self, round: u64) -> Result<Option<(State, Vec<u8>)>, StoreError>;
}

/// The state of a job at one peer: parameters, optimizer state, and the metadata of rounds.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Whether rules run where the contributions are, so that [`Aggregate::Contributions`] saves fetching them.
    fn aggregates(&self) -> bool;

    /// Something that changes when the store may have lost what it held: it differs after every start of its server.
    async fn instance(&self) -> Result<String, StoreError>;

    /// The hashes of the current state.
    async fn digests(&self) -> Result<StateDigests, StoreError>;

    /// The last round that was applied, and the parameters after it.
    async fn parameters(&self) -> Result<(u64, Values), StoreError>;

    /// The current state with all its values.
    async fn state(&self) -> Result<State, StoreError>;

    /// Replaces the state, to start or resume a job.
    async fn set_state(&self, state: State) -> Result<(), StoreError>;

    /// Advances the state by one round and returns its hashes. A round that was applied before is not applied again,
    /// and the state does not change.
    async fn apply(&self, update: Update) -> Result<StateDigests, StoreError>;

    /// Keeps what a peer needs to resume after a round, until the round is pruned.
    async fn put_round_metadata(&self, round: u64, metadata: Vec<u8>) -> Result<(), StoreError>;

    /// Returns the metadata of a round, or `None` if it has none.
    async fn round_metadata(&self, round: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Drops sums, contributions and metadata of all rounds before `round`.
    async fn prune_before(&self, round: u64) -> Result<(), StoreError>;
}

/// The gradients of a round, summed as they arrive.
#[async_trait]
pub trait GradientSums: Send + Sync {
    /// Adds the gradient of one batch to the sum of `round`, weighted by its samples. A batch counts once, however
    /// often and in whatever order batches arrive.
    async fn accumulate(&self, round: u64, slot: BatchSlot, gradient: Vec<f32>) -> Result<Accumulated, StoreError>;

    /// Averages the batches of `round`, all of which must have arrived, into the contribution of `peer`.
    async fn average(&self, round: u64, peer: PeerId) -> Result<Average, StoreError>;
}

/// The contributions of a round: the peer's own, stored by [`GradientSums::average`], and those of others.
#[async_trait]
pub trait Contributions: PeerStore {
    /// Keeps a contribution and returns its statistics.
    async fn put_contribution(&self, round: u64, peer: PeerId, values: Values) -> Result<Statistics, StoreError>;
}

/// The records that a peer publishes.
#[async_trait]
pub trait RecordLog: PeerStore {
    /// Appends a record for others to read.
    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError>;

    /// Serves bytes under names, until `round` is pruned; without a round, until they are replaced.
    async fn serve(&self, round: Option<u64>, served: Vec<(String, Vec<u8>)>) -> Result<(), StoreError>;
}

/// The ports of a peer's own store.
#[derive(Clone)]
pub struct Ports {
    /// The state of the job.
    pub state: Arc<dyn StateStore>,
    /// The gradients of a round.
    pub sums: Arc<dyn GradientSums>,
    /// The contributions of a round.
    pub contributions: Arc<dyn Contributions>,
    /// Records that the peer publishes for the others.
    pub records: Arc<dyn RecordLog>,
}

impl Ports {
    /// All ports of one store.
    pub fn of(store: impl StateStore + GradientSums + Contributions + RecordLog + 'static) -> Ports {
        let store = Arc::new(store);
        Ports { state: store.clone(), sums: store.clone(), contributions: store.clone(), records: store }
    }
}
