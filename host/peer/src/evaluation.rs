//! Evaluates parameters on samples, in batches, in parallel.

use anyhow::{Result, anyhow};
use futures_util::future::BoxFuture;
use skein_job::data::Dataset;
use skein_job::{Job, PeerData};
use skein_protocol::round::announcement::Evaluation;
use skein_runtime::gradient::{GradientFunction, Parameters};
use tokio::task::JoinSet;

use crate::compute::tensors;
use crate::pool::{FunctionPool, Purpose};
use crate::prepare::EVALUATION_BATCH;

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
