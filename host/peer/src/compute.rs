//! Computes the batches of a round, behind a port with two implementations: in this process, and through the queue of
//! the peer's database.

mod local;
mod queued;

use anyhow::Result;
use async_trait::async_trait;
use skein_engine::Tensor;
use skein_job::data::Dataset;
use skein_runtime::gradient::{Batch, Gradient};
use skein_store::{BatchSlot, StateDigests, StateStore, StoreError};

pub use local::Local;
pub use queued::Queued;

/// Computes the batches of a peer.
#[async_trait]
pub trait Compute: Send + Sync {
    /// Publishes what others need to compute for the peer; called again after the database lost it.
    async fn open(&self) -> Result<()>;

    /// Computes all batches of `round`, each at the parameters of the round before, and adds their gradients to the
    /// sum. A round that was begun before resumes.
    async fn compute(&self, round: u64, batches: Vec<PlannedBatch>) -> Result<()>;
}

/// A batch before its samples are read, which happens when it is computed or written to the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBatch {
    /// Indices into the peer's data set.
    pub samples: Vec<u32>,
    /// Seed of the dropout noise.
    pub noise_seed: u64,
}

impl PlannedBatch {
    fn read(&self, dataset: &Dataset) -> Batch {
        Batch { noise_seed: self.noise_seed, ..tensors(dataset, &self.samples) }
    }
}

/// Samples as functions take them: `input` (FP32, shape `[samples, …]`) and `labels` (I64).
pub fn tensors(dataset: &Dataset, indices: &[u32]) -> Batch {
    let skein_job::data::Batch { shape, inputs, labels } = dataset.batch(indices);
    let samples = u32::try_from(labels.len()).expect("a data set has fewer samples than 2^32");
    let dimensions = [&[samples], &shape[..]].concat();
    let len = inputs.len();
    let input = Tensor::from_floats(dimensions, inputs.into(), 0..len).expect("as many values as the shape has");
    let tensors = vec![("input".to_owned(), input), ("labels".to_owned(), Tensor::from_integers(labels))];
    Batch { samples, tensors, noise_seed: 0 }
}

/// The place of a gradient in the sum of its round: that of batch `index` of `count`.
pub(crate) fn slot_of(gradient: &Gradient, index: u32, count: u32) -> BatchSlot {
    BatchSlot { index, count, samples: gradient.samples, loss: gradient.loss }
}

/// The state that a round builds on; a database that came back empty or with an older state does not hold it.
pub(crate) async fn state_before(state: &dyn StateStore, round: u64) -> Result<StateDigests, StoreError> {
    match state.digests().await? {
        digests if digests.round + 1 == round => Ok(digests),
        digests => Err(StoreError::OutOfOrder { round, state: digests.round }),
    }
}
