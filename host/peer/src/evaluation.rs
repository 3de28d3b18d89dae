//! Evaluates parameters on samples, in batches, in parallel.

use anyhow::{Result, anyhow};
use futures_util::future::BoxFuture;
use skein_job::data::Dataset;
use skein_job::{Job, PeerData};
use skein_protocol::record::payload::{self, Sum};
use skein_runtime::gradient::{GradientFunction, Parameters};
use tokio::task::JoinSet;

use crate::compute::tensors;
use crate::pool::{FunctionPool, Purpose};
use crate::prepare::EVALUATION_BATCH;

/// Names of the sums that peers announce.
const LOSS: &str = "loss";
const ACCURACY: &str = "accuracy";

/// Sums over samples; sums of parts add up to the sums of the whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Samples evaluated, at least 1.
    pub samples: u64,
    /// Samples classified correctly; `None` if the task is not a classification.
    pub correct: Option<u64>,
    /// Loss summed over the samples.
    pub loss_sum: f64,
}

impl Evaluation {
    /// Adds up all parts, in the order given; `None` if there are none.
    pub fn total(parts: impl IntoIterator<Item = Evaluation>) -> Option<Evaluation> {
        parts.into_iter().reduce(|sum, part| Evaluation {
            samples: sum.samples + part.samples,
            correct: sum.correct.zip(part.correct).map(|(sum, part)| sum + part),
            loss_sum: sum.loss_sum + part.loss_sum,
        })
    }

    /// Mean loss over the samples.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Share of samples classified correctly, from 0 to 1; `None` if the task is not a classification.
    pub fn accuracy(&self) -> Option<f64> {
        self.correct.map(|correct| correct as f64 / self.samples as f64)
    }

    /// The sums as a peer announces them; `None` if the loss is not finite.
    pub(crate) fn announced(&self) -> Option<payload::Evaluation> {
        let weight = self.samples as f64;
        let correct = self.correct.map(|correct| (ACCURACY.to_owned(), Sum { sum: correct as f64, weight }));
        let loss = (LOSS.to_owned(), Sum { sum: self.loss_sum, weight });
        let sums = [Some(loss), correct].into_iter().flatten().collect();
        self.loss_sum.is_finite().then_some(payload::Evaluation { samples: self.samples, sums })
    }

    /// Reads what a peer announced; `None` if the loss is missing.
    pub(crate) fn read(announced: &payload::Evaluation) -> Option<Evaluation> {
        let payload::Evaluation { samples, sums } = announced;
        let correct = sums.get(ACCURACY).map(|sum| (sum.mean() * *samples as f64).round() as u64);
        let loss = sums.get(LOSS)?;
        let correct = correct.map(|correct| correct.min(*samples));
        Some(Evaluation { samples: *samples, correct, loss_sum: loss.mean() * *samples as f64 })
    }
}

/// Sums over all `samples`, added up in their order whatever the order of arrival; `None` without samples.
///
/// # Errors
/// A call failed.
pub fn evaluate<'a>(
    pool: &'a FunctionPool,
    function: &'a GradientFunction,
    parameters: Parameters,
    dataset: &'a Dataset,
    samples: &'a [u32],
) -> BoxFuture<'a, Result<Option<Evaluation>>> {
    Box::pin(async move {
        let mut tasks = JoinSet::new();
        for (index, chunk) in samples.chunks(EVALUATION_BATCH).enumerate() {
            let chunk = chunk.to_vec();
            let dataset = dataset.clone();
            let parameters = parameters.clone();
            let function = function.clone();
            let account = pool.account(Purpose::Evaluate);
            let task = async move {
                let slot = function.slot().await;
                let metrics = account.book(function.evaluate(&slot, parameters, tensors(&dataset, &chunk))).await?;
                let part = Evaluation {
                    samples: u64::from(metrics.samples),
                    correct: metrics.correct.map(u64::from),
                    loss_sum: f64::from(metrics.loss) * f64::from(metrics.samples),
                };
                Ok::<_, anyhow::Error>((index, part))
            };
            pool.spawn(&mut tasks, task);
        }
        let mut parts = Vec::new();
        while let Some(part) = tasks.join_next().await {
            parts.push(part.map_err(|error| anyhow!("an evaluation was lost: {error}"))??);
        }
        parts.sort_by_key(|(index, _)| *index);
        Ok(Evaluation::total(parts.into_iter().map(|(_, part)| part)))
    })
}

/// Evaluates parameters on all peers' validation samples.
///
/// # Errors
/// A call failed.
pub async fn validate(
    pool: &FunctionPool,
    job: &Job,
    function: &GradientFunction,
    parameters: &Parameters,
) -> Result<Option<Evaluation>> {
    let mut parts = Vec::new();
    for PeerData { dataset, validation, .. } in job.shares.values() {
        parts.push(evaluate(pool, function, parameters.clone(), dataset, validation).await?);
    }
    Ok(Evaluation::total(parts.into_iter().flatten()))
}
