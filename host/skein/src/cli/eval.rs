//! `skein eval`: accuracy and loss of a checkpoint on the job's validation samples and on its test samples.

use anyhow::Result;
use serde_json::{Value, json};
use skein_peer::evaluation::evaluate;
use skein_peer::evaluation::validate;
use skein_peer::prepare::PreparedJob;
use skein_peer::report::evaluation_json;
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
        let evaluated = json!({
            "round": checkpoint.state.round(),
            "state_hash": checkpoint.state_hash().to_string(),
            "validation": validation.as_ref().map(evaluation_json),
            "test": test.as_ref().map(evaluation_json),
        });
        Ok(output.result(|| text(&evaluated), || evaluated.clone())?)
    }
}

fn text(evaluated: &Value) -> String {
    let rows = ["validation", "test"].into_iter().filter(|name| evaluated[name].is_object());
    let rows = rows.map(|name| format!("{name:<10}  {}\n", evaluation_text(&evaluated[name])));
    format!("round       {}\n{}", evaluated["round"], rows.collect::<String>())
}
