//! The peer's own part of a round: gradients of its batches, in parallel, and the evaluation if it is due.

use anyhow::{Context, Result, ensure};
use skein_protocol::random::Stream;
use skein_protocol::round::announcement::Evaluation;
use skein_runtime::gradient::Parameters;
use skein_store::Average;
use tokio::time::Instant;

use super::Peer;
use crate::compute::PlannedBatch;
use crate::evaluation::evaluate;
use crate::phases::{Phase, Phases};

impl Peer {
    /// Computes the batches of the round in parallel, and the evaluation if it is due; averages the batches.
    pub(super) async fn contribute(
        &mut self,
        number: u64,
        phases: &mut Phases,
    ) -> Result<(Average, Option<Evaluation>)> {
        let begun = Instant::now();
        let planned = self.plan(number);
        let computed = tokio::try_join!(self.compute.compute(number, planned), self.evaluate(number));
        let ((), evaluation) = computed.with_context(|| self.failed(number))?;
        phases.add(Phase::Compute, begun);
        let begun = Instant::now();
        let average = self.store.sums.average(number, self.me()).await?;
        phases.add(Phase::Average, begun);
        // The others would accuse this peer for it.
        ensure!(
            average.finite,
            "{}: the gradients are finite, but their sum, weighted by samples, is not; lower `train.learning_rate`, or \
             scale the data by `data.scale`",
            self.failed(number)
        );
        Ok((average, evaluation))
    }

    /// Context of an error while the round is computed. A loss that rises tells of divergence.
    fn failed(&self, number: u64) -> String {
        let me = self.me();
        let before = match self.last_loss {
            None => String::new(),
            Some(loss) if loss < 1e6 => format!(" (the last loss was {loss:.4})"),
            Some(loss) => format!(" (the last loss was {loss:.1e})"),
        };
        format!("peer {me:?} failed to compute round {number}{before}")
    }

    /// Whether the state before the round is evaluated along with its gradients.
    pub(super) fn is_evaluation_due(&self, number: u64) -> bool {
        number > 1 && (number - 1).is_multiple_of(u64::from(self.job.train.evaluate_every))
    }

    /// Evaluates the state before the round on the peer's validation samples, if that is due.
    async fn evaluate(&self, number: u64) -> Result<Option<Evaluation>> {
        if !self.is_evaluation_due(number) {
            return Ok(None);
        }
        let (_, values) = self.store.state.parameters().await?;
        let parameters = Parameters { layout: self.job.layout.clone(), values: values.buffer() };
        let share = self.share();
        evaluate(&self.pool, &self.prepared.gradient, parameters, &share.dataset, &share.validation).await
    }

    /// Samples and noise seed of every batch of the round.
    fn plan(&mut self, number: u64) -> Vec<PlannedBatch> {
        let leaves = self.job.train.batches_per_round;
        let size = self.job.train.batch_size;
        let seed = self.job.train.seed;
        let member = self.share().index;
        let planned = (0..leaves).map(|index| {
            let position = ((number - 1) * u64::from(leaves) + u64::from(index)) * u64::from(size);
            let parts = [&member.to_le_bytes()[..], &position.to_le_bytes()];
            let noise_seed = Stream::new("skein 2026-11 noise of a batch", seed, &parts).next_u64();
            PlannedBatch { samples: self.order.take(position, size as usize), noise_seed }
        });
        planned.collect()
    }
}
