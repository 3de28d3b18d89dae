//! The peer's own part of a round: gradients of its batches, in parallel, and the evaluation where it is due.

use anyhow::{Result, anyhow};
use skein_runtime::gradient::{Batch, Gradient, Parameters};
use skein_store::{Average, Leaf};
use skein_workflow::announcement::Evaluation;
use skein_workflow::random::Stream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Peer;
use crate::evaluation::evaluate;
use crate::phases::{Phase, Phases};
use crate::workers::Purpose;

impl Peer {
    /// Computes the batches of the round in parallel, and the evaluation if it is due; averages the batches.
    pub(super) async fn contribute(
        &mut self,
        number: u64,
        phases: &mut Phases,
    ) -> Result<(Average, Option<Evaluation>)> {
        let begun = Instant::now();
        let (_, values) = self.store.parameters().await?;
        let parameters = Parameters { layout: self.job.layout.clone(), values: values.buffer() };
        let mut batches = self.spawn_batches(number, &parameters);
        let is_due = number > 1 && (number - 1).is_multiple_of(u64::from(self.job.train.evaluate_every));
        let evaluation = async {
            match is_due {
                true => {
                    let share = self.share();
                    evaluate(&self.workers, &self.job.gradient, parameters, &share.dataset, &share.validation).await
                }
                false => Ok(None),
            }
        };
        let batches = async {
            while let Some(batch) = batches.join_next().await {
                batch.map_err(|error| anyhow!("a batch was lost: {error}"))??;
            }
            Ok(())
        };
        let ((), evaluation) = tokio::try_join!(batches, evaluation)?;
        phases.add(Phase::Compute, begun);
        let begun = Instant::now();
        let average = self.store.average(number, self.me().0).await?;
        phases.add(Phase::Average, begun);
        Ok((average, evaluation))
    }

    fn spawn_batches(&mut self, number: u64, parameters: &Parameters) -> JoinSet<Result<()>> {
        let (leaves, size) = (self.job.train.batches_per_round, self.job.train.batch_size);
        let mut tasks = JoinSet::new();
        for index in 0..leaves {
            let position = ((number - 1) * u64::from(leaves) + u64::from(index)) * u64::from(size);
            let samples = self.order.take(position, size as usize);
            let (dataset, store) = (self.share().dataset.clone(), self.store.clone());
            let (parameters, function) = (parameters.clone(), self.job.gradient.clone());
            let parts = [&self.me().0[..], &position.to_le_bytes()];
            let noise_seed = Stream::new("skein 2026-11 noise of a batch", self.job.train.seed, &parts).next_u64();
            let account = self.workers.account(Purpose::Gradient);
            let task = async move {
                let batch = Batch { noise_seed, ..dataset.batch(&samples) };
                let call = function.compute(parameters, batch);
                let gradient = account.book(call).await?;
                let leaf = Leaf { index, leaves, samples: gradient.samples, loss: gradient.loss };
                store.accumulate(number, leaf, flatten(&gradient)).await?;
                Ok(())
            };
            self.workers.spawn(&mut tasks, task);
        }
        tasks
    }
}

/// The gradient as one vector in the layout's order.
fn flatten(gradient: &Gradient) -> Vec<f32> {
    let parts: Vec<_> = gradient.tensors.iter().filter_map(|tensor| tensor.floats()).collect();
    let mut flat = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| flat.extend_from_slice(part));
    flat
}
