//! `skein model`: checks and inspects ONNX models, and derives the graphs that train them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use skein_graph::{Dim, Loss, Lowering, Options, Shape, TrainingGraph};
use skein_job::model::read;

use crate::output::Output;

/// Arguments of `skein model`.
#[derive(clap::Subcommand)]
pub(super) enum Model {
    /// Check whether a model can be trained, and name what is missing if it cannot
    Add(Derivation),
    /// Write the graph that trains a model, for any ONNX engine
    TrainGraph {
        #[command(flatten)]
        derivation: Derivation,
        /// The file to write; `-o FILE.onnx` does the same
        #[arg(long = "out", value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Print a model's inputs, operators and parameters
    Inspect {
        /// The model, an ONNX file
        file: PathBuf,
    },
}

/// A model and the options of its training graph.
#[derive(clap::Args)]
pub(super) struct Derivation {
    /// The forward model, an ONNX file
    file: PathBuf,
    /// `cross-entropy`, `mean-squared-error` or `binary-cross-entropy`
    #[arg(long, default_value = "cross-entropy")]
    loss: String,
    /// Label of samples to ignore, with cross-entropy
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    ignore_index: Option<i64>,
    /// Target of the graph: `portable`, `onnxruntime`, `openvino` or `rten` [default: portable]
    #[arg(long, value_name = "NAME")]
    lowering: Option<String>,
    /// Parameters to keep unchanged; `*` matches any characters
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Leave dropout out
    #[arg(long)]
    no_dropout: bool,
    /// Value of a named size of the model, such as `batch=64`
    #[arg(long, value_name = "NAME=SIZE", value_parser = size)]
    size: Vec<(String, i64)>,
}

fn size(text: &str) -> Result<(String, i64), String> {
    let parsed = text.split_once('=').and_then(|(name, size)| Some((name.to_owned(), size.parse().ok()?)));
    parsed.filter(|(_, size)| *size > 0).ok_or_else(|| "expected a name and a size, such as `batch=64`".to_owned())
}

impl Derivation {
    fn model(&self) -> Result<skein_graph::Model> {
        let (model, _) = read(&self.file)?;
        let sizes = self.size.iter().cloned().collect();
        model.with_sizes(&sizes).with_context(|| self.place())
    }

    fn options(&self, default: &str) -> Result<Options> {
        let name = self.lowering.as_deref().unwrap_or(default);
        let lowering = Lowering::named(name)
            .with_context(|| format!("there is no lowering `{name}`: choose `portable` or the name of an engine"))?;
        let mut loss = self.loss.parse()?;
        let dropout = !self.no_dropout;
        if let Some(label) = self.ignore_index {
            let Loss::CrossEntropy { ignore_index } = &mut loss else {
                bail!("`--ignore-index` goes with `cross-entropy`, not with `{}`", self.loss);
            };
            *ignore_index = Some(label);
        }
        Ok(Options { loss, lowering, dropout, frozen: self.freeze.clone(), ..Options::default() })
    }

    fn derive(&self, default: &str) -> Result<(skein_graph::Model, TrainingGraph)> {
        let model = self.model()?;
        let options = self.options(default)?;
        let graph = model.training_graph(&options).with_context(|| self.place())?;
        Ok((model, graph))
    }

    fn place(&self) -> String {
        format!("`{}` cannot be trained", self.file.display())
    }
}

impl Model {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        match self {
            Model::Add(derivation) => add(&derivation, output),
            Model::TrainGraph { derivation, to } => {
                let to = to.context("no file to write the graph to: add `-o FILE.onnx`")?;
                train_graph(&derivation, &to, output)
            }
            Model::Inspect { file } => inspect(&file, output),
        }
    }
}

fn add(derivation: &Derivation, output: &mut Output) -> Result<()> {
    let begun = Instant::now();
    let (model, graph) = derivation.derive("portable")?;
    let derive_ms = begun.elapsed().as_secs_f64() * 1e3;
    let parameters: i64 = model.parameters().iter().map(|tensor| tensor.initial.dims().iter().product::<i64>()).sum();
    let file = derivation.file.display();
    Ok(output.result(
        || {
            let trained = graph.trained.len();
            let statistics = graph.statistics.len();
            let nodes = graph.nodes;
            format!(
                "`{file}` can be trained: {parameters} parameters in {trained} tensors, {statistics} running \
                 statistics, {nodes} nodes in the training graph, derived in {derive_ms:.0} ms\n\
                 set `model.onnx = \"{file}\"` in `skein.toml`, or run `skein train --model {file}`\n"
            )
        },
        || {
            json!({
                "file": file.to_string(),
                "parameters": parameters,
                "trained": graph.trained,
                "statistics": graph.statistics,
                "noise": graph.noise.iter().map(|(name, _)| name).collect::<Vec<_>>(),
                "nodes": graph.nodes,
                "derive_ms": derive_ms,
            })
        },
    )?)
}

fn train_graph(derivation: &Derivation, to: &Path, output: &mut Output) -> Result<()> {
    let (_, graph) = derivation.derive("portable")?;
    std::fs::write(to, &graph.onnx).with_context(|| format!("failed to write `{}`", to.display()))?;
    let to = to.display().to_string();
    let nodes = graph.nodes;
    Ok(output.result(
        || format!("`{to}` computes the loss and {} gradients with {nodes} nodes\n", graph.trained.len()),
        || json!({ "file": to, "nodes": nodes, "trained": graph.trained, "statistics": graph.statistics }),
    )?)
}

fn inspect(file: &Path, output: &mut Output) -> Result<()> {
    let (model, _) = read(file)?;
    let shape = |shape: &Shape| shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ");
    let tensors =
        || model.parameters().iter().map(|t| (t, "parameter")).chain(model.buffers().iter().map(|t| (t, "statistic")));
    Ok(output.result(
        || {
            let inputs = model.inputs().map(|(name, sizes)| format!("input      {name} [{}]\n", shape(sizes)));
            let operators = model.operators().into_iter().map(|(name, count)| format!("operator   {name} ×{count}\n"));
            let tensors = tensors().map(|(tensor, what)| format!("{what:<10} {} {:?}\n", tensor.name, tensor.initial.dims()));
            inputs.chain(operators).chain(tensors).collect()
        },
        || {
            let row = |(tensor, what): (&skein_graph::Tensor, &str)| {
                json!({ "name": tensor.name, "shape": tensor.initial.dims(), "kind": what })
            };
            json!({
                "inputs": model.inputs().map(|(name, sizes)| json!({ "name": name, "shape": sizes.iter().map(Dim::to_string).collect::<Vec<_>>() })).collect::<Vec<_>>(),
                "operators": model.operators(),
                "tensors": tensors().map(row).collect::<Vec<_>>(),
            })
        },
    )?)
}
