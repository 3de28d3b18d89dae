//! `skein eval`: how a checkpoint does on the job's validation samples and on those held out.

use anyhow::Result;
use serde_json::json;
use skein_runtime::gradient::Parameters;
use skein_workflow::announcement::Evaluation;

use super::Host;
use super::trained::{Trained, TrainedArguments};
use crate::evaluation::evaluate;
use crate::output::Output;
use crate::report::{evaluation_json, evaluation_text};
use crate::session::validate;

/// Arguments of `skein eval`.
#[derive(clap::Args)]
pub(super) struct Eval {
    #[command(flatten)]
    trained: TrainedArguments,
}

impl Eval {
    pub(super) async fn run(self, host: Host, output: &mut Output) -> Result<()> {
        let Trained { job, checkpoint, .. } = self.trained.load(&host, output).await?;
        let parameters = Parameters { layout: job.layout.clone(), values: checkpoint.state.parameters().buffer() };
        let validation = validate(&job, &host.workers, &parameters).await?;
        let test = match &job.test {
            Some(part) => evaluate(&host.workers, &job.gradient, parameters, &part.dataset, &part.samples).await?,
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
