//! A peer's store: the state of the job, the contributions of the round, the records that peers exchange.
//!
//! [`Store`] is the contract; [`Embedded`] keeps everything in this process, [`redis`] in a database of the peer's own.
//! Work on tensors happens in the
//! store and not beside it, so that a store inside a database can do it where the values are. Every store gives
//! the same bits: sums over batches follow the tree of [`skein_kernels::tree`] whatever the order of arrival, and
//! averages and updates are the kernels'.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! use skein_store::{Embedded, Leaf, Published, State, Store};
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

mod blocking;
mod embedded;
mod error;
pub mod redis;
mod step;
mod values;

use std::time::Duration;

use async_trait::async_trait;
use skein_kernels::Digest;
use skein_kernels::rule::Rule;
use skein_kernels::update::Change;

pub use embedded::Embedded;
pub use error::StoreError;
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
    /// Whether all values are finite. Gradients that are finite each may overflow when they are weighted and added; what
    /// came of it is refused by every other peer.
    pub finite: bool,
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

/// What a peer publishes, as the others read it. All rounds are numbered from 1.
#[async_trait]
pub trait Published: Send + Sync {
    /// A contribution that the peer holds: its own, or another's that it has copied.
    async fn contribution(&self, round: u64, peer: PeerKey) -> Result<Option<Values>, StoreError>;

    /// Records behind number `after` (0: from the first that is still kept), each with its own number. Waits for
    /// one until `wait` is over, and then gives none.
    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
}

/// A peer's own store.
#[async_trait]
pub trait Store: Published {
    /// Whether rules run where the contributions are, so that [`Aggregate::Contributions`] saves their way out.
    fn aggregates(&self) -> bool;

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

    /// Moves the state one round on. A round that was applied before is not applied again: the state that it gave
    /// is returned as it is.
    async fn apply(&self, update: Update) -> Result<Head, StoreError>;

    /// Keeps what the peer has to know of a round when it goes on from there; forgotten with the round.
    async fn remember(&self, round: u64, note: Vec<u8>) -> Result<(), StoreError>;

    /// What was kept of a round.
    async fn recall(&self, round: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Appends a record for others to read.
    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError>;

    /// Forgets sums, contributions and notes of all rounds before `round`.
    async fn forget(&self, round: u64) -> Result<(), StoreError>;
}
