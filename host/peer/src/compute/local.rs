//! Batches computed in this process, as many at the same time as functions may run.

use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use skein_job::PeerData;
use skein_job::data::Dataset;
use skein_runtime::gradient::{GradientFunction, Parameters};
use skein_store::{GradientSums, Ports, StateStore};
use skein_types::Layout;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::{Compute, PlannedBatch, slot_of};
use crate::pool::{FunctionPool, Purpose};
use crate::prepare::PreparedJob;

/// Computes batches in this process.
pub struct Local {
    pool: Arc<FunctionPool>,
    gradient: GradientFunction,
    layout: Arc<Layout>,
    dataset: Dataset,
    state: Arc<dyn StateStore>,
    sums: Arc<dyn GradientSums>,
}

impl Local {
    /// Computes for the peer of `share`, with its store.
    pub fn new(prepared: &PreparedJob, pool: &Arc<FunctionPool>, store: &Ports, share: &PeerData) -> Local {
        Local {
            pool: pool.clone(),
            gradient: prepared.gradient.clone(),
            layout: prepared.job.layout.clone(),
            dataset: share.dataset.clone(),
            state: store.state.clone(),
            sums: store.sums.clone(),
        }
    }
}

#[async_trait]
impl Compute for Local {
    async fn open(&self) -> Result<()> {
        Ok(())
    }

    async fn compute(&self, round: u64, batches: Vec<PlannedBatch>) -> Result<()> {
        let (_, values) = self.state.parameters().await?;
        let parameters = Parameters { layout: self.layout.clone(), values: values.buffer() };
        let count = u32::try_from(batches.len()).context("a round has fewer batches than 2^32")?;
        let mut tasks = JoinSet::new();
        for (index, planned) in (0..count).zip(batches) {
            let dataset = self.dataset.clone();
            let sums = self.sums.clone();
            let parameters = parameters.clone();
            let function = self.gradient.clone();
            let account = self.pool.account(Purpose::Gradient);
            let batch = async move {
                // Held until the gradient is in the sum: no more batches and gradients are in memory than calls run.
                let slot = function.slot().await;
                let gradient = account.book(function.compute(&slot, parameters, planned.read(&dataset))).await?;
                anyhow::Ok(sums.accumulate(round, slot_of(&gradient, index, count), gradient.flat()?).await?)
            };
            self.pool.spawn(&mut tasks, batch.instrument(tracing::debug_span!("batch", index)));
        }
        while let Some(batch) = tasks.join_next().await {
            batch.context("a batch was lost")??;
        }
        Ok(())
    }
}
