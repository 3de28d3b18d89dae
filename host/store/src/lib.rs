//! A peer's store: the state of the job, the contributions of the round, the records that peers exchange.
//!
//! [`Store`] is the contract; [`Embedded`] keeps everything in this process. Work on tensors happens in the
//! store and not beside it, so that a store inside a database can do it where the values are. Every store gives
//! the same bits: sums over batches follow the tree of [`skein_kernels::tree`] whatever the order of arrival, and
//! averages and updates are the kernels'.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! use skein_store::{Embedded, Leaf, State, Store};
//!
//! let (store, me) = (Embedded::default(), [1; 32]);
//! store.set_state(State::new(0, vec![0.0; 2].into(), vec![])).await?;
//! // The second of two batches arrives first, and is delivered twice.
//! let leaf = |index, samples| Leaf { index, leaves: 2, samples, loss: 0.5 };
//! store.accumulate(1, leaf(1, 1), vec![4.0, 0.0]).await?;
//! store.accumulate(1, leaf(1, 1), vec![4.0, 0.0]).await?;
//! store.accumulate(1, leaf(0, 3), vec![0.0, 8.0]).await?;
//! let average = store.average(1, me).await?;
//! assert_eq!(average.samples, 4);
//! assert_eq!(*store.contribution(1, me).await?.expect("it was just averaged"), [1.0, 6.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod embedded;
mod step;
mod values;

use std::time::Duration;

use async_trait::async_trait;
use skein_kernels::Digest;
use skein_kernels::rule::Rule;
use skein_kernels::update::Change;

pub use embedded::Embedded;
pub use skein_kernels::statistics::Statistics;
pub use values::Values;

/// A peer's public key.
pub type PeerKey = [u8; 32];

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
    /// When a slot is not as long as the parameters.
    pub fn new(round: u64, parameters: Values, slots: Vec<Values>) -> State {
        assert!(slots.iter().all(|slot| slot.len() == parameters.len()), "slots as long as the parameters");
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

    /// The state by its hashes; takes a pass over values that were not hashed before.
    pub fn head(&self) -> Head {
        let slots = self.slots.iter().map(|slot| slot.statistics().hash).collect();
        Head { round: self.round, parameters: self.parameters.statistics().hash, slots }
    }
}

/// A state by its hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The last round that was applied.
    pub round: u64,
    /// Hash of the parameters.
    pub parameters: Digest,
    /// Hashes of the vectors of optimizer state.
    pub slots: Vec<Digest>,
}

/// One batch among those of a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leaf {
    /// Index of the batch, from 0.
    pub index: u32,
    /// Batches of the round.
    pub leaves: u32,
    /// Samples of the batch: the weight of its gradient.
    pub samples: u32,
    /// Mean loss over them.
    pub loss: f32,
}

/// What [`Store::accumulate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulated {
    /// The gradient counts.
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
}

/// How a round changes the state.
#[derive(Debug, Clone)]
pub struct Update {
    /// The round that is applied; the state has to be that of the round before.
    pub round: u64,
    /// What moves the state.
    pub aggregate: Aggregate,
    /// How it moves it.
    pub change: Change,
}

/// What moves the state.
#[derive(Debug, Clone)]
pub enum Aggregate {
    /// Values that were aggregated elsewhere.
    Values(Values),
    /// Contributions of the round that lie in the store, to be aggregated there.
    Contributions {
        /// How.
        rule: Rule,
        /// Whose, in this order.
        peers: Vec<PeerKey>,
    },
}

/// Why a store did not do as told. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No state was set yet.
    #[error("the store holds no state")]
    NoState,
    /// Values that are not as long as the parameters.
    #[error("{actual} values where the model has {expected}")]
    Length {
        /// Values of the model.
        expected: usize,
        /// Values that were given.
        actual: usize,
    },
    /// A batch that does not fit the others of its round.
    #[error("batch {index} of {leaves} does not fit round {round}")]
    Leaf {
        /// The round.
        round: u64,
        /// Index of the batch.
        index: u32,
        /// Batches it says the round has.
        leaves: u32,
    },
    /// Batches of the round are still missing.
    #[error("round {round} still waits for batches")]
    Incomplete {
        /// The round.
        round: u64,
    },
    /// A contribution that is to be aggregated is not there.
    #[error("the store lost the contribution of peer {} to round {round}", Digest(*peer))]
    Missing {
        /// The round.
        round: u64,
        /// Whose contribution.
        peer: PeerKey,
    },
    /// The rule refuses the contributions.
    #[error("the contributions to round {round} can not be aggregated")]
    Rule {
        /// The round.
        round: u64,
        /// Why.
        source: skein_kernels::Error,
    },
    /// A round that does not follow the state.
    #[error("round {round} can not be applied to the state of round {state}")]
    OutOfOrder {
        /// Round to apply.
        round: u64,
        /// Round of the state.
        state: u64,
    },
}

/// A peer's store. All rounds are numbered from 1.
#[async_trait]
pub trait Store: Send + Sync {
    /// The current state by its hashes.
    async fn head(&self) -> Result<Head, StoreError>;

    /// The current parameters, and the round after which they are.
    async fn parameters(&self) -> Result<(u64, Values), StoreError>;

    /// The current state with all its values.
    async fn state(&self) -> Result<State, StoreError>;

    /// Replaces the state: at the start of a job, or to resume one.
    async fn set_state(&self, state: State) -> Result<(), StoreError>;

    /// Adds the gradient of one batch to the sum of `round`, weighted by its samples. A batch counts once, in
    /// whatever order and however often batches arrive.
    async fn accumulate(&self, round: u64, leaf: Leaf, gradient: Vec<f32>) -> Result<Accumulated, StoreError>;

    /// Averages the batches of `round`, all of which have arrived, into the contribution of `peer`.
    async fn average(&self, round: u64, peer: PeerKey) -> Result<Average, StoreError>;

    /// Keeps a contribution of another peer and says what it is.
    async fn put_contribution(&self, round: u64, peer: PeerKey, values: Values) -> Result<Statistics, StoreError>;

    /// A contribution, the own one included.
    async fn contribution(&self, round: u64, peer: PeerKey) -> Result<Option<Values>, StoreError>;

    /// Moves the state one round on. A round that was applied before is not applied again: the state that it gave
    /// is returned as it is.
    async fn apply(&self, update: Update) -> Result<Head, StoreError>;

    /// Appends a record for others to read.
    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError>;

    /// Records behind number `after` (0: from the first that is still kept), each with its own number. Waits for
    /// one until `wait` is over, and then gives none.
    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;

    /// Forgets sums and contributions of all rounds before `round`.
    async fn forget(&self, round: u64) -> Result<(), StoreError>;
}
