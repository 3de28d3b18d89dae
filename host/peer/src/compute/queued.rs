//! Batches put into the queue of the peer's database, for its own worker and for any other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use skein_job::data::Dataset;
use skein_redis::Scope;
use skein_redis::queue::{Outcome, Queue, Task};
use skein_store::StateStore;

use super::{Compute, PlannedBatch, state_before};
use crate::bundle::{JobBundle, TaskPayload, encode_batch};

/// How long the host waits for an outcome before it checks that its database still has the state.
const WAIT: Duration = Duration::from_secs(1);

/// Computes batches by the workers at the peer's queue.
pub struct Queued {
    /// Queue in the peer's database.
    pub queue: Queue,
    /// Job and peer of the batches.
    pub scope: Scope,
    /// The job as workers receive it.
    pub bundle: JobBundle,
    /// The peer's data set.
    pub dataset: Dataset,
    /// The state that batches are computed at.
    pub state: Arc<dyn StateStore>,
}

#[async_trait]
impl Compute for Queued {
    async fn open(&self) -> Result<()> {
        self.bundle.publish(&self.queue).await?;
        Ok(self.queue.advertise(self.scope).await?)
    }

    async fn compute(&self, round: u64, batches: Vec<PlannedBatch>) -> Result<()> {
        let count = u32::try_from(batches.len()).context("a round has fewer batches than 2^32")?;
        for (index, planned) in (0..count).zip(batches) {
            // Posted as soon as its bytes are there: workers begin with the first while the others are still written.
            let batch = format!("batch:{round}:{index}");
            self.queue.put(Some(round), &batch, &encode_batch(&planned.read(&self.dataset))?).await?;
            let payload = serde_json::to_string(&TaskPayload { batch, batches: count })?;
            self.queue.post(round, count, &[Task { round, index, payload }]).await?;
        }
        self.wait(round).await
    }
}

impl Queued {
    /// Waits until workers have computed all batches.
    async fn wait(&self, round: u64) -> Result<()> {
        loop {
            let outcome = self.queue.wait(round, WAIT).await?;
            if outcome == Some(Outcome::Done) {
                return Ok(());
            }
            // Workers cannot use a database that came back without the state, and do not report it.
            state_before(&*self.state, round).await?;
            if let Some(Outcome::Dead { index, reason }) = outcome {
                bail!(
                    "neither a worker nor this host can compute batch {index} of round {round}: {reason}; fix the \
                     cause, post the batch again with `skein queue redrive`, and restart the host"
                );
            }
        }
    }
}
