//! `skein export`: the trained model as ONNX for evaluation, and its values as safetensors.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::json;
use skein_graph::Lowering;
use skein_job::Job;
use skein_peer::export;

use super::trained::TrainedArguments;
use crate::output::Output;

/// Arguments of `skein export`.
#[derive(clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    trained: TrainedArguments,
    /// The file to write: `.onnx` for the model, `.safetensors` for its values alone
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Export {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        let (manifest, members) = self.trained.job()?;
        // The values are the same for every engine, and none computes them here.
        let job = Job::prepare(&manifest, &members, || Ok(Lowering::portable()))?;
        let checkpoint = self.trained.checkpoint(&job, output)?;
        let values = checkpoint.state.parameters().buffer();
        let bytes = match self.to.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => export::safetensors(&job, &values)?,
            Some("onnx") => export::onnx(&manifest, &job, &values)?,
            _ => bail!("`{}` ends in neither `.onnx` nor `.safetensors`", self.to.display()),
        };
        std::fs::write(&self.to, &bytes).with_context(|| format!("failed to write `{}`", self.to.display()))?;
        let round = checkpoint.state.round();
        let to = self.to.display().to_string();
        Ok(output.result(
            || format!("`{to}` holds the model after round {round}\n"),
            || json!({ "file": to, "round": round, "bytes": bytes.len() }),
        )?)
    }
}
