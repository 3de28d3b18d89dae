//! The peer's own part of a round: gradients of its batches, in parallel, and the evaluation where it is due.

use anyhow::{Result, anyhow, bail, ensure};
use skein_runtime::gradient::{Batch, Parameters};
use skein_store::redis::queue::Outcome;
use skein_store::{Average, Leaf};
use skein_workflow::announcement::Evaluation;
use skein_workflow::random::Stream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Peer;
use crate::data::Dataset;
use crate::evaluation::evaluate;
use crate::phases::{Phase, Phases};
use crate::worker::desk::Desk;
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
        let planned = self.plan(number);
        let is_due = self.is_evaluation_due(number);
        let evaluated = parameters.clone();
        let evaluation = async {
            match is_due {
                true => {
                    let share = self.share();
                    evaluate(&self.workers, &self.job.gradient, evaluated, &share.dataset, &share.validation).await
                }
                false => Ok(None),
            }
        };
        let batches = self.compute(number, planned, parameters);
        let ((), evaluation) = tokio::try_join!(batches, evaluation)?;
        phases.add(Phase::Compute, begun);
        let begun = Instant::now();
        let average = self.store.average(number, self.me().0).await?;
        phases.add(Phase::Average, begun);
        // The others would take it for the work of a liar.
        ensure!(
            average.finite,
            "the gradients of round {number} are finite, and weighted by their samples they add up to values that are \
             not: lower `train.learning_rate`, or scale the data"
        );
        Ok((average, evaluation))
    }

    /// Whether the state before the round is evaluated beside its gradients.
    pub(super) fn is_evaluation_due(&self, number: u64) -> bool {
        number > 1 && (number - 1).is_multiple_of(u64::from(self.job.train.evaluate_every))
    }

    /// Samples and noise of every batch of the round.
    fn plan(&mut self, number: u64) -> Vec<Planned> {
        let (leaves, size) = (self.job.train.batches_per_round, self.job.train.batch_size);
        let (seed, me) = (self.job.train.seed, self.me());
        let planned = (0..leaves).map(|index| {
            let position = ((number - 1) * u64::from(leaves) + u64::from(index)) * u64::from(size);
            let parts = [&me.0[..], &position.to_le_bytes()];
            let noise_seed = Stream::new("skein 2026-11 noise of a batch", seed, &parts).next_u64();
            Planned { samples: self.order.take(position, size as usize), noise_seed }
        });
        planned.collect()
    }

    /// Computes the batches and adds their gradients to the sum: by whoever is at the queue, or here.
    async fn compute(&self, number: u64, batches: Vec<Planned>, parameters: Parameters) -> Result<()> {
        let dataset = self.share().dataset.clone();
        if let Some(desk) = &self.desk {
            desk.lay_out(number, batches.into_iter().map(|planned| planned.batch(&dataset))).await?;
            return self.wait_for_workers(number, desk).await;
        }
        let leaves = self.job.train.batches_per_round;
        let mut tasks = JoinSet::new();
        for (index, planned) in (0..leaves).zip(batches) {
            let (dataset, store) = (dataset.clone(), self.store.clone());
            let (parameters, function) = (parameters.clone(), self.job.gradient.clone());
            let account = self.workers.account(Purpose::Gradient);
            let task = async move {
                let gradient = account.book(function.compute(parameters, planned.batch(&dataset))).await?;
                let leaf = Leaf { index, leaves, samples: gradient.samples, loss: gradient.loss };
                store.accumulate(number, leaf, gradient.flat()).await?;
                Ok::<_, anyhow::Error>(())
            };
            self.workers.spawn(&mut tasks, task);
        }
        while let Some(batch) = tasks.join_next().await {
            batch.map_err(|error| anyhow!("a batch was lost: {error}"))??;
        }
        Ok(())
    }
}

impl Peer {
    /// Waits until workers have computed all batches.
    async fn wait_for_workers(&self, number: u64, desk: &Desk) -> Result<()> {
        loop {
            let outcome = desk.wait(number).await?;
            if outcome == Some(Outcome::Done) {
                return Ok(());
            }
            // Workers can do nothing with a database that came back without the state, and do not say so.
            self.state_before(number).await?;
            if let Some(Outcome::Dead { index, reason }) = outcome {
                bail!(
                    "batch {index} of round {number} can be computed neither by a worker nor by this host: {reason}; \
                     remove the cause, post the batch again with `skein queue redrive`, and start the host again"
                );
            }
        }
    }
}

/// A batch before its samples are read, which happens when it is computed or written to the queue.
struct Planned {
    samples: Vec<u32>,
    noise_seed: u64,
}

impl Planned {
    fn batch(&self, dataset: &Dataset) -> Batch {
        Batch { noise_seed: self.noise_seed, ..dataset.batch(&self.samples) }
    }
}
