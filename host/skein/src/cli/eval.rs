//! `skein eval`: accuracy and loss of a checkpoint on the job's validation samples and on its test samples.

use anyhow::Result;
use serde_json::json;
use skein_peer::evaluation::evaluate;
use skein_peer::evaluation::validate;
use skein_peer::prepare::PreparedJob;
use skein_peer::report::evaluation_json;
use skein_protocol::announcement::Evaluation;
use skein_runtime::gradient::Parameters;

use super::compute::Host;
use super::trained::TrainedArguments;
use crate::output::Output;
use crate::output::summary::evaluation_text;

/// Arguments of `skein eval`.
#[derive(clap::Args)]
pub(super) struct Eval {
    #[command(flatten)]
    trained: TrainedArguments,
}

impl Eval {
    pub(super) async fn run(self, host: Host, output: &mut Output) -> Result<()> {
        let (manifest, members) = self.trained.job()?;
        let prepared = output.during(&host.status, PreparedJob::new(&manifest, &members, host.tools())).await?;
        let PreparedJob { job, gradient, .. } = &prepared;
        let checkpoint = self.trained.checkpoint(job, output)?;
        let parameters = Parameters { layout: job.layout.clone(), values: checkpoint.state.parameters().buffer() };
        let validation = validate(&host.pool, job, gradient, &parameters).await?;
        let test = match &job.test {
            Some(part) => evaluate(&host.pool, gradient, parameters, &part.dataset, &part.samples).await?,
            None => None,
        };
        let round = checkpoint.state.round();
        let line = |name: &str, evaluation: Option<Evaluation>| {
            evaluation.map_or_else(String::new, |e| format!("{name:<10}  {}\n", evaluation_text(&e)))
        };
        Ok(output.result(
            || format!("round       {round}\n{}{}", line("validation", validation), line("test", test)),
            || {
                json!({
                    "round": round,
                    "state_hash": checkpoint.state_hash().to_string(),
                    "validation": validation.as_ref().map(evaluation_json),
                    "test": test.as_ref().map(evaluation_json),
                })
            },
        )?)
    }
}
