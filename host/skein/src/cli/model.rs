//! `skein model`: checks and inspects ONNX models, and derives the graphs that train them.

mod check;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use skein_graph::{Dim, Loss, Lowering, Options, Shape, TrainingGraph};
use skein_job::model::read;
use skein_types::counted;

use self::check::Check;
pub(super) use self::check::warn_of_removed_parts;
use crate::output::Output;

/// Arguments of `skein model`.
#[derive(clap::Subcommand)]
pub(super) enum Model {
    /// Check that a model can be trained, as training does, and name what is missing if it cannot
    Check(Check),
    /// `model check`, as it was once called
    #[command(hide = true, disable_help_flag = true)]
    Add {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Write the graph that trains a model, for any ONNX engine
    TrainGraph {
        #[command(flatten)]
        derivation: Derivation,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// The file to write, as it was once named
        #[arg(long = "out", hide = true, value_parser = moved)]
        _out: Option<String>,
    },
    /// Print a model's inputs, operators and parameters
    Inspect {
        /// The model, an ONNX file
        file: PathBuf,
    },
}

/// Refuses the value of an option that has another name now.
fn moved(_: &str) -> Result<String, String> {
    Err("use `--to` for a file: `--out` names a folder".into())
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
    /// Leave dropout out of the training graph, which then takes no noise as input
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

    fn derive(&self, default: &str) -> Result<TrainingGraph> {
        let model = self.model()?;
        let options = self.options(default)?;
        model.training_graph(&options).with_context(|| self.place())
    }

    fn place(&self) -> String {
        format!("`{}` cannot be trained", self.file.display())
    }
}

impl Model {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        match self {
            Model::Check(check) => check.run(output),
            Model::Add { .. } => {
                bail!("`skein model add` is `skein model check` now: it checks a model and adds nothing")
            }
            Model::TrainGraph { derivation, to, .. } => train_graph(&derivation, &to, output),
            Model::Inspect { file } => inspect(&file, output),
        }
    }
}

fn train_graph(derivation: &Derivation, to: &Path, output: &mut Output) -> Result<()> {
    let begun = Instant::now();
    let graph = derivation.derive("portable")?;
    let derive_ms = begun.elapsed().as_secs_f64() * 1e3;
    std::fs::write(to, &graph.onnx).with_context(|| format!("failed to write `{}`", to.display()))?;
    let to = to.display().to_string();
    let nodes = graph.nodes;
    Ok(output.result(
        || {
            let gradients = counted(graph.trained.len(), "gradient");
            format!("`{to}` computes the loss and {gradients} with {}\n", counted(nodes, "node"))
        },
        || {
            json!({
                "file": to,
                "nodes": nodes,
                "trained": graph.trained,
                "statistics": graph.statistics,
                "derive_ms": derive_ms,
            })
        },
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
