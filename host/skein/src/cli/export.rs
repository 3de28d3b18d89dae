//! `skein export`: the trained model as ONNX for evaluation, and its values as safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::Host;
use super::trained::{Trained, TrainedArguments};
use crate::model;
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
    pub(super) async fn run(self, host: &Host, output: &mut Output) -> Result<()> {
        let Trained { manifest, job, checkpoint } = self.trained.load(host, output).await?;
        let values = checkpoint.state.parameters().buffer();
        let ranges = job.layout.parameters().iter().filter_map(|parameter| job.layout.find(&parameter.name));
        let named: BTreeMap<String, (Vec<u32>, &[f32])> = ranges
            .map(|(parameter, range)| (parameter.name.clone(), (parameter.shape.clone(), &values[range])))
            .collect();
        let bytes = match self.to.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => safetensors(&named)?,
            Some("onnx") => {
                let first = &job.shares.values().next().context("a job has a peer")?.dataset;
                ensure!(job.is_graph, "the job's model is no graph: export its values as `.safetensors`");
                let (_, file) = match &manifest.model.onnx {
                    Some(path) => model::read(path)?,
                    None => model::convolutional(first.shape(), first.classes())?,
                };
                let values = named.iter().map(|(name, (_, values))| (name.clone(), values.to_vec())).collect();
                skein_graph::trained_file(file, &values)?
            }
            _ => bail!("`{}` ends in neither `.onnx` nor `.safetensors`", self.to.display()),
        };
        write(&self.to, &bytes)?;
        let (round, to) = (checkpoint.state.round(), self.to.display().to_string());
        Ok(output.result(
            || format!("`{to}` holds the model after round {round}\n"),
            || json!({ "file": to, "round": round, "bytes": bytes.len() }),
        )?)
    }
}

fn safetensors(named: &BTreeMap<String, (Vec<u32>, &[f32])>) -> Result<Vec<u8>> {
    let mut views = Vec::with_capacity(named.len());
    for (name, (shape, values)) in named {
        let shape = shape.iter().map(|size| *size as usize).collect();
        views.push((name, TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))?));
    }
    Ok(safetensors::serialize(views, None)?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("failed to write `{}`", path.display()))
}
