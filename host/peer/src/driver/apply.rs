//! Changes the state by a decision: aggregates the decided contributions, and updates the parameters.

use anyhow::{Context, Result};
use skein_job::Job;
use skein_kernels::optimizer::Step as OptimizerStep;
use skein_kernels::update::Change;
use skein_protocol::node::Application;
use skein_protocol::random::Stream;
use skein_protocol::record::payload::Announcement;
use skein_runtime::aggregate::Contribution;
use skein_store::{Aggregate, State, StoreError, Update};
use skein_types::{Digest, PeerId};
use tokio::time::Instant;

use super::Work;
use crate::checkpoint::{encode_metadata, hash_of};
use crate::evaluation::Evaluation;
use crate::phases::{Phase, Phases};
use crate::pool::Purpose;

/// The state after a round, and what the contributions said.
pub(super) struct Applied {
    pub(super) state: State,
    pub(super) state_hash: Digest,
    /// Mean training loss over the decided contributions.
    pub(super) loss: f64,
    pub(super) evaluation: Option<Evaluation>,
    pub(super) phases: Phases,
}

impl Work {
    /// Aggregates the decided contributions, which the store holds, and updates the state.
    pub(super) async fn apply(&self, application: &Application) -> Result<Applied> {
        let Application { position, announcements, standing, .. } = application;
        let number = position.round;
        let context = || format!("failed to aggregate round {number}");
        let mut phases = Phases::default();
        let begun = Instant::now();
        let aggregate = self.aggregate(application).await?;
        phases.add(Phase::Aggregate, begun);

        let begun = Instant::now();
        let progress = standing.progress;
        let learning_rate = progress.learning_rate as f32;
        let change = Change {
            trained: self.job.layout.trained(),
            clip_norm: self.job.train.clip_norm,
            clip_value: self.job.train.clip_value,
            optimizer: self.job.train.optimizer,
            step: OptimizerStep { number: number - progress.optimizer_since, learning_rate },
        };
        // Before the state it belongs to: a state never lacks its metadata.
        self.store.state.put_round_metadata(number, encode_metadata(*position, standing)).await?;
        let applied = self.store.state.apply(Update { round: number, aggregate, change }).await;
        let digests = applied.with_context(context)?;
        phases.add(Phase::Update, begun);
        let samples: u64 = announcements.iter().map(|(_, announcement)| announcement.samples).sum();
        let loss_sum: f64 = announcements.iter().map(|(_, a)| a.loss * a.samples as f64).sum();
        let state_hash = hash_of(&digests);
        tracing::debug!(state = %state_hash, "applied");
        Ok(Applied {
            state: self.store.state.state().await?,
            state_hash,
            loss: loss_sum / samples as f64,
            evaluation: evaluation(&self.job, number, announcements),
            phases,
        })
    }

    /// The aggregate of the decided contributions: a rule for a store that aggregates by itself, or the values that the
    /// aggregation function returns.
    async fn aggregate(&self, application: &Application) -> Result<Aggregate> {
        let Application { position, announcements, byzantine, .. } = application;
        let number = position.round;
        if let Some(rule) = self.job.rule.as_ref().filter(|_| self.store.state.aggregates()) {
            let samples: Vec<u64> = announcements.iter().map(|(_, announcement)| announcement.samples).collect();
            let peers = announcements.iter().map(|(peer, _)| *peer).collect();
            return Ok(Aggregate::Contributions { rule: rule.kernel(&samples), peers });
        }
        let mut contributions = Vec::with_capacity(announcements.len());
        for (peer, announcement) in announcements {
            let values = self.store.contributions.contribution(number, *peer).await?;
            let values = values.ok_or(StoreError::Missing { round: number, peer: *peer })?;
            contributions.push(Contribution {
                peer: peer.to_string(),
                samples: announcement.samples,
                values: values.buffer(),
            });
        }
        let function = self.prepared.aggregate.clone();
        let byzantine = *byzantine;
        let parts = [&self.job.digest.0[..], &number.to_le_bytes()];
        let seed = Stream::new("skein 2026-11 random numbers of a rule", self.job.train.seed, &parts).next_u64();
        let account = self.pool.account(Purpose::Aggregate);
        let call = async move {
            let slot = function.slot().await;
            account.book(function.aggregate(&slot, contributions, byzantine, seed)).await
        };
        let aggregated = self.pool.run(call).await?;
        let aggregated = aggregated.with_context(|| format!("failed to aggregate round {number}"))?;
        Ok(Aggregate::Values(aggregated.values.into()))
    }
}

/// Evaluation of the state before the round, if it was due: the total of the peers' sums. One over other samples than the
/// peer is known to have does not count.
pub(super) fn evaluation(job: &Job, number: u64, announcements: &[(PeerId, Announcement)]) -> Option<Evaluation> {
    if number < 2 || !(number - 1).is_multiple_of(u64::from(job.train.evaluate_every)) {
        return None;
    }
    let sound = announcements.iter().filter_map(|(peer, announcement)| {
        let announced = announcement.evaluation.as_ref()?;
        let is_whole = job.shares.get(peer)?.validation.len() as u64 == announced.samples;
        Evaluation::read(announced).filter(|_| is_whole)
    });
    // Sums that are finite may overflow when added up.
    Evaluation::total(sound).filter(|total| total.loss_sum.is_finite())
}
