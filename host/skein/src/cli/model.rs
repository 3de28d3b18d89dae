//! `skein model`: what can be trained, and the graphs that train it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use skein_engine::Tensor;
use skein_graph::{Dim, Loss, Lowering, Options, Shape, TrainingGraph};

use crate::data::Dataset;
use crate::engines::Choice;
use crate::manifest::Data;
use crate::model::{loss, read};
use crate::output::Output;

/// Arguments of `skein model`.
#[derive(clap::Subcommand)]
pub(super) enum Model {
    /// Say whether a model can be trained, and what is missing where it can not
    Add(Derivation),
    /// Write the graph that trains a model, for any ONNX engine
    TrainGraph {
        #[command(flatten)]
        derivation: Derivation,
        /// The file to write; `-o FILE.onnx` does the same
        #[arg(long = "out", value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Compare a model's loss, gradients and running statistics with a reference
    Check {
        #[command(flatten)]
        derivation: Derivation,
        /// Loss, gradient norms and norms of statistics, as JSON
        #[arg(long, value_name = "FILE")]
        reference: PathBuf,
        /// The whole reference gradient, as safetensors
        #[arg(long, value_name = "FILE")]
        gradients: Option<PathBuf>,
        /// CIFAR-10 records, of which the first are the reference's batch
        #[arg(long, value_name = "FILE")]
        data: PathBuf,
    },
    /// Print a model's inputs, operators and parameters
    Inspect {
        /// The model
        file: PathBuf,
    },
}

/// A model and how its training graph is to be.
#[derive(clap::Args)]
pub(super) struct Derivation {
    /// The forward model
    file: PathBuf,
    /// `cross-entropy`, `mean-squared-error` or `binary-cross-entropy`
    #[arg(long, default_value = "cross-entropy")]
    loss: String,
    /// Label of samples that count for nothing, with cross-entropy
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    ignore_index: Option<i64>,
    /// What the graph is written for: `portable`, `onnxruntime`, `openvino` or `rten` [default: the engine in use]
    #[arg(long, value_name = "NAME")]
    lowering: Option<String>,
    /// Parameters that are not trained; `*` stands for any characters
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Leave dropout out
    #[arg(long)]
    no_dropout: bool,
    /// A size that the model knows by name only, such as `batch=64`
    #[arg(long, value_name = "NAME=SIZE", value_parser = size)]
    size: Vec<(String, i64)>,
}

fn size(text: &str) -> Result<(String, i64), String> {
    let parsed = text.split_once('=').and_then(|(name, size)| Some((name.to_owned(), size.parse().ok()?)));
    parsed.filter(|(_, size)| *size > 0).ok_or_else(|| "it takes a name and a size, such as `batch=64`".to_owned())
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
        let (mut loss, dropout) = (loss(&self.loss)?, !self.no_dropout);
        if let Some(label) = self.ignore_index {
            let Loss::CrossEntropy { ignore_index } = &mut loss else {
                bail!("`--ignore-index` goes with `cross-entropy`, not with `{}`", self.loss);
            };
            *ignore_index = Some(label);
        }
        Ok(Options { loss, lowering, dropout, frozen: self.freeze.clone(), ..Options::default() })
    }

    fn derive(&self, default: &str) -> Result<(skein_graph::Model, TrainingGraph)> {
        let (model, options) = (self.model()?, self.options(default)?);
        let graph = model.training_graph(&options).with_context(|| self.place())?;
        Ok((model, graph))
    }

    fn place(&self) -> String {
        format!("`{}` can not be trained", self.file.display())
    }
}

impl Model {
    pub(super) fn run(self, choice: &Choice, output: &mut Output) -> Result<()> {
        match self {
            Model::Add(derivation) => add(&derivation, output),
            Model::TrainGraph { derivation, to } => {
                let to = to.context("say where the graph goes: `-o FILE.onnx`")?;
                train_graph(&derivation, &to, output)
            }
            Model::Check { derivation, reference, gradients, data } => {
                let expected = Expected { reference, gradients, data };
                check(&derivation, &expected, choice, output)
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
            let (trained, statistics, nodes) = (graph.trained.len(), graph.statistics.len(), graph.nodes);
            format!(
                "`{file}` can be trained: {parameters} parameters in {trained} tensors, {statistics} running \
                 statistics, {nodes} nodes in the training graph, derived in {derive_ms:.0} ms\n\
                 set `model.onnx = \"{file}\"` in `skein.toml`, or `skein train --model {file}`\n"
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
    let (to, nodes) = (to.display().to_string(), graph.nodes);
    Ok(output.result(
        || format!("`{to}` gives the loss and {} gradients, by {nodes} nodes\n", graph.trained.len()),
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

/// Files that a model is checked against.
struct Expected {
    reference: PathBuf,
    gradients: Option<PathBuf>,
    data: PathBuf,
}

/// How far a graph is from a reference.
struct Difference {
    loss: f64,
    gradient_norm: (f64, String),
    statistic: f64,
}

/// Largest relative error that passes: of the loss, of the norm of a gradient, of a running statistic.
const TOLERANCES: [f64; 3] = [1e-5, 0.02, 1e-4];
/// Smallest cosine of the angle between the whole gradient and the reference's that passes.
const COSINE_MIN: f64 = 0.9999;

fn check(derivation: &Derivation, files: &Expected, choice: &Choice, output: &mut Output) -> Result<()> {
    let Expected { reference, gradients, data } = files;
    let text = std::fs::read(reference).with_context(|| format!("failed to read `{}`", reference.display()))?;
    let expected: Value =
        serde_json::from_slice(&text).with_context(|| format!("`{}` is no JSON", reference.display()))?;
    let engine = choice.open()?;
    let (model, graph) = derivation.derive(engine.kind().name())?;
    let inputs = reference_inputs(&model, data)?;
    let statistics = graph.statistics.iter().map(|name| format!("new.{name}"));
    let trained = graph.trained.iter().map(|name| format!("grad.{name}"));
    let names: Vec<String> = ["loss".to_owned()].into_iter().chain(trained).chain(statistics).collect();
    let mut session = engine.compile(&graph.onnx, choice.options)?;
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = session.run(&inputs, &wanted)?;
    let norm = |tensor: &Tensor| {
        let values = tensor.floats().unwrap_or_default();
        values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
    };
    let norms: HashMap<&str, f64> = wanted.iter().copied().zip(found.iter().map(norm)).collect();
    let loss = f64::from(found[0].floats().and_then(|loss| loss.first().copied()).unwrap_or(f32::NAN));
    let difference =
        compare(&expected, loss, &norms).with_context(|| format!("`{}` is no reference", reference.display()))?;
    let Difference { loss: by_loss, gradient_norm: (by_norm, worst), statistic } = &difference;
    let cosine = gradients.as_deref().map(|file| cosine(file, &wanted, &found)).transpose()?;
    let passes = [*by_loss, *by_norm, *statistic].iter().zip(TOLERANCES).all(|(error, bound)| *error <= bound)
        && cosine.is_none_or(|cosine| cosine >= COSINE_MIN);
    let angle = cosine.map_or_else(String::new, |cosine| format!("cosine of the whole gradient {cosine:.9}\n"));
    output.result(
        || {
            format!(
                "loss {loss:.7}, relative error {by_loss:.1e}\nworst gradient norm {by_norm:.1e} ({worst})\nworst \
                 running statistic {statistic:.1e}\n{angle}"
            )
        },
        || {
            json!({
                "engine": engine.kind().name(), "loss": loss, "loss_error": by_loss, "gradient_norm_error": by_norm,
                "worst_parameter": worst, "statistic_error": statistic, "cosine": cosine, "passes": passes,
            })
        },
    )?;
    ensure!(passes, "the model does not agree with its reference within {TOLERANCES:?} and a cosine of {COSINE_MIN}");
    Ok(())
}

/// Cosine of the angle between all gradients together and the file's.
fn cosine(file: &Path, names: &[&str], found: &[Tensor]) -> Result<f64> {
    let bytes = std::fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    let reference = safetensors::SafeTensors::deserialize(&bytes)
        .with_context(|| format!("`{}` is no safetensors file", file.display()))?;
    let (mut product, mut own, mut others) = (0.0, 0.0, 0.0);
    for (name, view) in reference.tensors() {
        let at = names.iter().position(|known| known.strip_prefix("grad.") == Some(&name));
        let at = at.with_context(|| format!("the model has no trained parameter `{name}`"))?;
        let actual = found[at].floats().unwrap_or_default();
        let expected: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        ensure!(expected.len() == actual.len(), "`{name}` has {} values in `{}`", expected.len(), file.display());
        for (expected, actual) in expected.iter().zip(&*actual) {
            let (expected, actual) = (f64::from(*expected), f64::from(*actual));
            product += expected * actual;
            own += actual * actual;
            others += expected * expected;
        }
    }
    Ok(product / (own * others).sqrt())
}

/// The file's values, and the first 16 records of CIFAR-10, normalized by the data set's mean and deviation.
fn reference_inputs(model: &skein_graph::Model, data: &Path) -> Result<BTreeMap<String, Tensor>> {
    const SAMPLES: u32 = 16;
    let (means, deviations) = ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]);
    let dataset = Dataset::load(data, &Data { scale: Some(1.0), ..Data::default() })?;
    ensure!(
        dataset.shape() == [3, 32, 32] && dataset.len() >= SAMPLES as usize,
        "`{}` is no CIFAR-10 data",
        data.display()
    );
    let batch = dataset.batch(&(0..SAMPLES).collect::<Vec<_>>());
    let mut inputs = BTreeMap::new();
    for (name, tensor) in batch.tensors {
        let Some(pixels) = tensor.floats() else {
            inputs.insert(name, tensor);
            continue;
        };
        let normal = pixels.iter().enumerate().map(|(index, pixel)| {
            let channel = index / 1024 % 3;
            ((f64::from(*pixel) / 255.0 - means[channel]) / deviations[channel]) as f32
        });
        let normal = Arc::new(normal.collect::<Vec<_>>());
        let len = normal.len();
        let (input, _) = model.inputs().next().context("the model has no input")?;
        inputs.insert(input.to_owned(), Tensor::from_floats(vec![SAMPLES, 3, 32, 32], normal, 0..len)?);
    }
    for tensor in model.parameters().iter().chain(model.buffers()) {
        let values = Arc::new(tensor.initial.to_floats().unwrap_or_default());
        let dims = tensor.initial.dims().iter().map(|size| u32::try_from(*size)).collect::<Result<Vec<_>, _>>()?;
        let len = values.len();
        inputs.insert(tensor.name.clone(), Tensor::from_floats(dims, values, 0..len)?);
    }
    Ok(inputs)
}

fn compare(expected: &Value, loss: f64, norms: &HashMap<&str, f64>) -> Result<Difference> {
    let reference_loss = expected["loss_value"].as_f64().context("it has no `loss_value`")?;
    let parameters = expected["parameters"].as_object().context("it has no `parameters`")?;
    let norm_of = |value: &Value, key: &str| value[key].as_f64().with_context(|| format!("a tensor has no `{key}`"));
    let norms_of = parameters.values().map(|value| norm_of(value, "grad_l2")).collect::<Result<Vec<_>>>()?;
    let largest = norms_of.iter().copied().fold(0.0, f64::max);
    let mut worst = (0.0, String::new());
    for ((name, _), reference) in parameters.iter().zip(norms_of) {
        let own = norms.get(format!("grad.{name}").as_str());
        let Some(own) = own else { bail!("the model has no trained parameter `{name}`") };
        let error = (own - reference).abs() / reference;
        // What is zero but for rounding says nothing.
        if reference >= 1e-4 * largest && error > worst.0 {
            worst = (error, name.clone());
        }
    }
    let mut statistic = 0.0f64;
    for (name, value) in expected["batch_norm_running_after_one_step"].as_object().into_iter().flatten() {
        if let Some(own) = norms.get(format!("new.{name}").as_str()) {
            let reference = norm_of(value, "l2")?;
            statistic = statistic.max((own - reference).abs() / (reference + 1e-2));
        }
    }
    Ok(Difference { loss: ((loss - reference_loss) / reference_loss).abs(), gradient_norm: worst, statistic })
}
