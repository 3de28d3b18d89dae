//! Compares loss, gradients and running statistics of ONNX models on every engine with reference values.
//!
//! The reference of `NAME.onnx` is `NAME.reference.json` beside it, with the loss and the norms of every gradient and
//! of the new running statistics. Some models also have `NAME.gradients.safetensors`, with the whole gradient.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use skein_engine::{Device, Engine, EngineError, Kind, Options, Stop, Tensor};
use skein_graph::{Lowering, Model};
use skein_job::data::Dataset;
use skein_job::manifest::Data;

use crate::bench::Format;

/// Arguments of `cargo xtask references`.
#[derive(clap::Args)]
pub(crate) struct References {
    /// A folder of ONNX models and their references.
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
    /// CIFAR-10 records; the first 16 are the references' batch.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The engine [default: all that are installed].
    #[arg(long, value_name = "NAME")]
    engine: Option<Kind>,
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Number of samples of the references' batch.
const SAMPLES: u32 = 16;
/// Mean and standard deviation of each channel of CIFAR-10, which normalize the references' inputs.
const MEANS: [f64; 3] = [0.4914, 0.4822, 0.4465];
const DEVIATIONS: [f64; 3] = [0.2470, 0.2435, 0.2616];
/// Gradients whose norm is below this share of the largest are zero except for rounding, and are not compared.
const NORM_MIN: f64 = 1e-4;
/// Added to the norms of running statistics, some of which are zero.
const STATISTIC_OFFSET: f64 = 1e-2;
/// Largest relative errors that count as rounding.
const ERRORS_MAX: Errors = Errors { loss: 1e-5, gradient_norm: 0.02, statistic: 1e-4, gradient: Some(0.01) };

/// Relative errors of one model on one engine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Errors {
    loss: f64,
    gradient_norm: f64,
    statistic: f64,
    /// Error of the whole gradient, if it has a reference.
    gradient: Option<f64>,
}

pub(crate) fn run(options: &References) -> Result<()> {
    let engines = engines(options.engine)?;
    let batch = batch(&options.data)?;
    let mut figures = Map::new();
    let mut failed = Vec::new();
    for path in models(&options.models)? {
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a model has a name")?.to_owned();
        let mut by_engine = Map::new();
        let mut worst = 0.0f64;
        for engine in &engines {
            let errors = check(&path, &**engine, &batch).with_context(|| format!("{name} on {}", engine.kind()))?;
            worst = worst.max(errors.worst());
            if !errors.passes() {
                failed.push(format!("{name} on {}", engine.kind()));
            }
            by_engine.insert(engine.kind().name().to_owned(), errors.to_json());
            if options.output == Format::Text {
                println!("{name:<20} {:<12} {errors}", engine.kind().name());
            }
        }
        figures.insert(name, json!({ "worst_relative_error": worst, "engines": by_engine }));
    }
    if options.output == Format::Json {
        println!("{}", Value::Object(figures));
    }
    ensure!(failed.is_empty(), "errors are larger than rounding ({ERRORS_MAX}): {}", failed.join(", "));
    Ok(())
}

impl Errors {
    fn all(&self) -> [f64; 4] {
        [self.loss, self.gradient_norm, self.statistic, self.gradient.unwrap_or_default()]
    }

    /// The largest error; infinite if one is NaN.
    fn worst(&self) -> f64 {
        let number = |error: f64| if error.is_nan() { f64::INFINITY } else { error };
        self.all().into_iter().map(number).fold(0.0, f64::max)
    }

    /// Whether no error is larger than rounding.
    pub(crate) fn passes(&self) -> bool {
        self.all().iter().zip(ERRORS_MAX.all()).all(|(error, bound)| *error <= bound)
    }

    pub(crate) fn to_json(self) -> Value {
        let Errors { loss, gradient_norm, statistic, gradient } = self;
        json!({ "loss": loss, "gradient_norm": gradient_norm, "statistic": statistic, "gradient": gradient })
    }
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Errors { loss, gradient_norm, statistic, gradient } = self;
        write!(f, "loss {loss:.1e}  gradient norms {gradient_norm:.1e}  statistics {statistic:.1e}")?;
        gradient.map_or(Ok(()), |gradient| write!(f, "  whole gradient {gradient:.1e}"))
    }
}

/// The requested engine, or all that are installed.
fn engines(kind: Option<Kind>) -> Result<Vec<Arc<dyn Engine>>> {
    let Some(kind) = kind else {
        let opened = Kind::ALL.into_iter().map(|kind| skein_engine::open(kind, None));
        let installed = opened.filter(|engine| !matches!(engine, Err(EngineError::Missing { .. })));
        return Ok(installed.collect::<Result<_, _>>()?);
    };
    Ok(vec![skein_engine::open(kind, None)?])
}

/// Models of a folder that have a reference.
fn models(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("failed to read `{}`", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_model = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "onnx");
    let mut models: Vec<PathBuf> =
        paths.filter(|path| is_model(path) && path.with_extension("reference.json").exists()).collect();
    ensure!(!models.is_empty(), "`{}` has no model with a `.reference.json` beside it", folder.display());
    models.sort();
    Ok(models)
}

/// The batch of all references.
pub(crate) struct Batch {
    /// Normalized images, `[16, 3, 32, 32]`.
    images: Tensor,
    labels: Tensor,
}

/// The batch of all references, from CIFAR-10 records.
pub(crate) fn batch(data: &Path) -> Result<Batch> {
    let dataset = Dataset::load(data, &Data { scale: Some(1.0), ..Data::default() })?;
    let is_cifar = dataset.shape() == [3, 32, 32] && dataset.len() >= SAMPLES as usize;
    ensure!(is_cifar, "`{}` does not hold {SAMPLES} records of CIFAR-10", data.display());
    let batch = dataset.batch(&(0..SAMPLES).collect::<Vec<_>>());
    let normal = batch.inputs.iter().enumerate().map(|(index, pixel)| {
        let channel = index / 1024 % 3;
        ((f64::from(*pixel) / 255.0 - MEANS[channel]) / DEVIATIONS[channel]) as f32
    });
    let images = Arc::new(normal.collect::<Vec<_>>());
    let len = images.len();
    let images = Tensor::from_floats(vec![SAMPLES, 3, 32, 32], images, 0..len)?;
    Ok(Batch { images, labels: Tensor::from_integers(batch.labels) })
}

/// Runs the training graph of a model, and compares all its outputs with the reference.
pub(crate) fn check(path: &Path, engine: &dyn Engine, batch: &Batch) -> Result<Errors> {
    let (model, _) = skein_job::model::read(path)?;
    let lowering = Lowering::named(engine.kind().name()).context("the engine has no lowering")?;
    let graph = model.training_graph(&skein_graph::Options { lowering, ..skein_graph::Options::default() })?;
    let inputs = inputs(&model, batch)?;
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let trained = graph.trained.iter().map(|name| format!("grad.{name}"));
    let statistics = graph.statistics.iter().map(|name| format!("new.{name}"));
    let names: Vec<String> = ["loss".to_owned()].into_iter().chain(trained).chain(statistics).collect();
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut session = engine.compile(&graph.onnx, Options { threads: 1, device: Device::Cpu })?;
    let found = session.run(&inputs, &wanted, &Stop::default())?;
    let outputs: HashMap<&str, Vec<f32>> = wanted
        .iter()
        .zip(&found)
        .map(|(name, tensor)| {
            Ok((*name, tensor.floats().with_context(|| format!("`{name}` is not FP32"))?.into_owned()))
        })
        .collect::<Result<_>>()?;
    let reference = path.with_extension("reference.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(&reference)?)
        .with_context(|| format!("`{}` is not valid JSON", reference.display()))?;
    let errors =
        compare(&expected, &outputs).with_context(|| format!("`{}` is not a reference", reference.display()))?;
    let whole = path.with_extension("gradients.safetensors");
    let gradient = if whole.exists() { Some(whole_gradient(&whole, &outputs)?) } else { None };
    Ok(Errors { gradient, ..errors })
}

/// Inputs of the training graph: the batch, and the parameters and running statistics from the file.
fn inputs(model: &Model, batch: &Batch) -> Result<BTreeMap<String, Tensor>> {
    let (input, _) = model.inputs().next().context("the model has no input")?;
    let images = (input.to_owned(), batch.images.clone());
    let labels = ("labels".to_owned(), batch.labels.clone());
    let mut inputs = BTreeMap::from([images, labels]);
    for tensor in model.parameters().iter().chain(model.buffers()) {
        let values = Arc::new(tensor.initial.to_floats().with_context(|| format!("`{}` is not FP32", tensor.name))?);
        let dims = tensor.initial.dims().iter().map(|size| u32::try_from(*size)).collect::<Result<Vec<_>, _>>()?;
        let len = values.len();
        inputs.insert(tensor.name.clone(), Tensor::from_floats(dims, values, 0..len)?);
    }
    Ok(inputs)
}

fn compare(expected: &Value, outputs: &HashMap<&str, Vec<f32>>) -> Result<Errors> {
    let number = |value: &Value, key: &str| value[key].as_f64().with_context(|| format!("it has no `{key}`"));
    let output = |name: &str| outputs.get(name).with_context(|| format!("the model has no output `{name}`"));
    let reference = number(expected, "loss_value")?;
    let loss = f64::from(*output("loss")?.first().context("the loss has no value")?);
    let mut errors = Errors { loss: ((loss - reference) / reference).abs(), ..Errors::default() };
    let parameters = expected["parameters"].as_object().context("it has no `parameters`")?;
    let norms = parameters.values().map(|value| number(value, "grad_l2")).collect::<Result<Vec<_>>>()?;
    let largest = norms.iter().copied().fold(0.0, f64::max);
    for (name, reference) in parameters.keys().zip(norms) {
        let own = norm(output(&format!("grad.{name}"))?);
        if reference >= NORM_MIN * largest {
            errors.gradient_norm = larger(errors.gradient_norm, (own - reference).abs() / reference);
        }
    }
    for (name, value) in expected["batch_norm_running_after_one_step"].as_object().into_iter().flatten() {
        if let Some(own) = outputs.get(format!("new.{name}").as_str()) {
            let reference = number(value, "l2")?;
            let error = (norm(own) - reference).abs() / (reference + STATISTIC_OFFSET);
            errors.statistic = larger(errors.statistic, error);
        }
    }
    Ok(errors)
}

/// The larger of two errors; NaN if one is NaN.
fn larger(one: f64, other: f64) -> f64 {
    if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) }
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// Relative error |g − ref| / |ref| of all gradients together.
fn whole_gradient(file: &Path, outputs: &HashMap<&str, Vec<f32>>) -> Result<f64> {
    let bytes = std::fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    let reference = SafeTensors::deserialize(&bytes);
    let reference = reference.with_context(|| format!("`{}` is not a safetensors file", file.display()))?;
    let mut difference = 0.0;
    let mut whole = 0.0;
    for (name, view) in reference.tensors() {
        let own = outputs.get(format!("grad.{name}").as_str());
        let own = own.with_context(|| format!("the model has no trained parameter `{name}`"))?;
        let expected: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        let len = own.len();
        ensure!(expected.len() == len, "`{name}` has {} values in `{}`, not {len}", expected.len(), file.display());
        for (expected, own) in expected.iter().zip(own) {
            difference += (f64::from(*own) - f64::from(*expected)).powi(2);
            whole += f64::from(*expected).powi(2);
        }
    }
    ensure!(whole > 0.0, "`{}` holds no gradient", file.display());
    Ok((difference / whole).sqrt())
}
