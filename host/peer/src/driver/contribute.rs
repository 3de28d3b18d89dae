//! The peer's own part of a round: gradients of its batches, in parallel, and the evaluation if it is due.

use anyhow::{Context, Result, ensure};
use skein_protocol::node::Contribution;
use skein_protocol::random::Stream;
use skein_protocol::shards::EpochSampler;
use skein_runtime::gradient::Parameters;
use skein_store::Average;
use tokio::time::Instant;

use super::Work;
use crate::compute::{PlannedBatch, state_before};
use crate::evaluation::{Evaluation, evaluate};
use crate::phases::{Phase, Phases};

/// A contribution that is in the store.
pub(super) struct Contributed {
    pub(super) contribution: Contribution,
    pub(super) phases: Phases,
}

impl Work {
    /// Computes the batches of the round in parallel, and the evaluation if it is due; averages the batches.
    pub(super) async fn contribute(
        &self,
        number: u64,
        planned: Vec<PlannedBatch>,
        is_evaluated: bool,
        last_loss: Option<f64>,
    ) -> Result<Contributed> {
        let failed = || failed(self.me, number, last_loss);
        let mut phases = Phases::default();
        let begun = Instant::now();
        state_before(&*self.store.state, number).await?;
        let computed = tokio::try_join!(self.compute.compute(number, planned), self.evaluate(is_evaluated));
        let ((), evaluation) = computed.with_context(failed)?;
        phases.add(Phase::Compute, begun);
        let begun = Instant::now();
        let Average { hash, samples, loss, finite } = self.store.sums.average(number, self.me).await?;
        phases.add(Phase::Average, begun);
        // The others would refuse it.
        ensure!(
            finite,
            "{}: the gradients are finite, but their sum, weighted by samples, is not; lower `train.learning_rate`, or \
             scale the data by `data.scale`",
            failed()
        );
        let evaluation = evaluation.and_then(|evaluation| evaluation.announced());
        tracing::debug!(samples, loss, "computed");
        let contribution = Contribution { values: hash, samples, loss, evaluation };
        Ok(Contributed { contribution, phases })
    }

    /// Evaluates the state before the round on the peer's validation samples, if that is due.
    async fn evaluate(&self, is_due: bool) -> Result<Option<Evaluation>> {
        if !is_due {
            return Ok(None);
        }
        let (_, values) = self.store.state.parameters().await?;
        let parameters = Parameters { layout: self.job.layout.clone(), values: values.buffer() };
        let share = &self.job.shares[&self.me];
        evaluate(&self.pool, &self.prepared.gradient, parameters, &share.dataset, &share.validation).await
    }

    /// Samples and noise seed of every batch of the round.
    pub(super) fn plan(&self, order: &mut EpochSampler, number: u64) -> Vec<PlannedBatch> {
        let leaves = self.job.train.batches_per_round;
        let size = self.job.train.batch_size;
        let seed = self.job.train.seed;
        let member = self.job.shares[&self.me].index;
        let planned = (0..leaves).map(|index| {
            let position = ((number - 1) * u64::from(leaves) + u64::from(index)) * u64::from(size);
            let parts = [&member.to_le_bytes()[..], &position.to_le_bytes()];
            let noise_seed = Stream::new("skein 2026-11 noise of a batch", seed, &parts).next_u64();
            PlannedBatch { samples: order.take(position, size as usize), noise_seed }
        });
        planned.collect()
    }
}

/// Context of an error while the round is computed. A loss that rises tells of divergence.
fn failed(me: skein_types::PeerId, number: u64, last_loss: Option<f64>) -> String {
    let before = match last_loss {
        None => String::new(),
        Some(loss) if loss < 1e6 => format!(" (the last loss was {loss:.4})"),
        Some(loss) => format!(" (the last loss was {loss:.1e})"),
    };
    format!("peer {me:?} failed to compute round {number}{before}")
}
