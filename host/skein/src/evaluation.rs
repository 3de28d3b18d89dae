//! Evaluates parameters on samples, in batches, in parallel.

use anyhow::{Result, anyhow};
use skein_runtime::gradient::{GradientFunction, Parameters};
use skein_workflow::announcement::Evaluation;
use tokio::task::JoinSet;

use crate::data::Dataset;
use crate::workers::{Purpose, Workers};

/// Samples of one call: enough to make the call's own cost vanish, few enough to bound its memory.
const BATCH_SIZE: usize = 256;

/// Sums over all `samples`, added up in their order whatever the order of arrival; none without a sample.
///
/// # Errors
/// A call failed.
pub async fn evaluate(
    workers: &Workers,
    function: &GradientFunction,
    parameters: Parameters,
    dataset: &Dataset,
    samples: &[u32],
) -> Result<Option<Evaluation>> {
    let mut tasks = JoinSet::new();
    for (index, chunk) in samples.chunks(BATCH_SIZE).enumerate() {
        let (chunk, dataset) = (chunk.to_vec(), dataset.clone());
        let (parameters, function) = (parameters.clone(), function.clone());
        let account = workers.account(Purpose::Evaluate);
        let task = async move {
            let metrics = account.book(function.evaluate(parameters, dataset.batch(&chunk))).await?;
            let part = Evaluation {
                samples: u64::from(metrics.samples),
                correct: metrics.correct.map(u64::from),
                loss_sum: f64::from(metrics.loss) * f64::from(metrics.samples),
            };
            Ok::<_, anyhow::Error>((index, part))
        };
        workers.spawn(&mut tasks, task);
    }
    let mut parts = Vec::new();
    while let Some(part) = tasks.join_next().await {
        parts.push(part.map_err(|error| anyhow!("an evaluation was lost: {error}"))??);
    }
    parts.sort_by_key(|(index, _)| *index);
    Ok(Evaluation::total(parts.into_iter().map(|(_, part)| part)))
}
