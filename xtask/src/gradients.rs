//! Measures gradients per second of ONNX models on every engine, against PyTorch in the same run.
//!
//! PyTorch uses all cores for one batch; Skein computes one batch per core at the same time, each on one thread. The
//! machine's throughput is compared. PyTorch is measured before and after the engines, because machines change their
//! speed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::bench::output;
use crate::{cargo, references};

/// Runs the script that is its first argument, then prints the peak memory of the process, in MiB.
const WITH_PEAK: &str = "import resource, runpy, sys; sys.argv = sys.argv[1:]; \
    runpy.run_path(sys.argv[0], run_name='__main__'); \
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)";

/// Arguments of `cargo xtask gradients`.
#[derive(clap::Args)]
pub(crate) struct Gradients {
    /// A folder of ONNX models, each named as in torchvision
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
    /// A script with the arguments MODEL BATCH THREADS, which prints `median_ms` of PyTorch as JSON
    #[arg(long, value_name = "FILE")]
    pytorch: Option<PathBuf>,
    /// The Python that has PyTorch
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// CIFAR-10 records, to check models that have a `.reference.json` beside them against it
    #[arg(long, value_name = "FILE")]
    reference_data: Option<PathBuf>,
    /// Number of samples of a batch
    #[arg(long, default_value_t = 64)]
    batch: u32,
}

/// What all models are measured with.
struct Comparison<'a> {
    /// Path of the `skein` program that was just built.
    program: &'a Path,
    engines: &'a [String],
    options: &'a Gradients,
    cores: usize,
}

pub(crate) fn run(root: &Path, options: &Gradients) -> Result<()> {
    output(cargo().args(["build", "--quiet", "--release"]).current_dir(root))?;
    let program = crate::program(root)?;
    let cores = std::thread::available_parallelism()?.get();
    let mut models: Vec<PathBuf> = std::fs::read_dir(&options.models)
        .with_context(|| format!("failed to read `{}`", options.models.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    models.sort();
    let engines = ready_engines(&program)?;
    let comparison = Comparison { program: &program, engines: &engines, options, cores };
    let mut figures = Map::new();
    let mut best_ratios = Vec::new();
    for model in &models {
        let name = model.file_stem().and_then(|stem| stem.to_str()).context("a model has a name")?.to_owned();
        eprintln!("{name}");
        let figure = comparison.run(model, &name)?;
        best_ratios.extend(figure["best_ratio"].as_f64());
        figures.insert(name, figure);
    }
    if !best_ratios.is_empty() {
        let mean = best_ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / best_ratios.len() as f64;
        figures.insert("geometric_mean_of_best_ratios".into(), json!(mean.exp()));
    }
    println!("{:#}", Value::Object(figures));
    Ok(())
}

pub(crate) fn ready_engines(program: &Path) -> Result<Vec<String>> {
    let listed = printed(Command::new(program).args(["engine", "list", "--output", "json"]))?;
    let rows = listed.as_array().context("`skein engine list` printed no list")?.iter();
    let ready = rows.filter(|row| row["state"] == "ready").filter_map(|row| row["engine"].as_str());
    Ok(ready.map(str::to_owned).collect())
}

impl Comparison<'_> {
    /// Measures one model on every engine, between two runs of PyTorch.
    fn run(&self, model: &Path, name: &str) -> Result<Value> {
        let Comparison { program, engines, options, cores } = *self;
        let batch = options.batch.to_string();
        let pytorch = || -> Result<Option<(f64, f64)>> {
            let Some(script) = &options.pytorch else { return Ok(None) };
            let mut command = Command::new(&options.python);
            let text = output(command.args(["-c", WITH_PEAK]).arg(script).args([name, &batch, &cores.to_string()]))?;
            let (timed, peak) = text.trim().rsplit_once('\n').context("PyTorch's script printed nothing")?;
            let timed: Value =
                serde_json::from_str(timed).with_context(|| format!("PyTorch's script printed `{timed}`"))?;
            let median = timed["median_ms"].as_f64().context("PyTorch's script printed no `median_ms`")?;
            Ok(Some((median, peak.parse::<f64>()?)))
        };
        let before = pytorch()?;
        let mut figure = Map::new();
        for engine in engines {
            let bench = |concurrency: usize| {
                let mut command = Command::new(program);
                command
                    .args(["bench", "gradient", "--output", "json", "--batch", &batch, "--engine", engine, "--model"]);
                printed(command.arg(model).args(["--concurrency", &concurrency.to_string()]))
            };
            let mut wide = bench(cores)?;
            wide["peak_memory_mib_of_one"] = bench(1)?["peak_memory_mib"].clone();
            if let Some(checked) = agreement(model, engine, options)? {
                wide["reference"] = checked;
            }
            figure.insert(engine.clone(), wide);
        }
        let mut derive = Command::new(program);
        let written = tempfile::NamedTempFile::new().context("failed to create a file")?;
        derive.args(["model", "train-graph", "--output", "json", "--to"]).arg(written.path());
        let derived = printed(derive.arg(model))?;
        figure.insert("derive_ms".into(), derived["derive_ms"].clone());
        if let (Some((before, peak)), Some((after, _))) = (before, pytorch()?) {
            let per_second = 2e3 / (before + after);
            let ratios = engines.iter().map(|engine| {
                let own = figure[engine]["gradients_per_second"].as_f64().unwrap_or(f64::NAN);
                (engine.clone(), own / per_second)
            });
            let ratios: Vec<(String, f64)> = ratios.collect();
            for (engine, ratio) in &ratios {
                let memory = figure[engine]["peak_memory_mib_of_one"].as_f64().unwrap_or(f64::NAN) / peak;
                figure[engine]["ratio"] = json!(ratio);
                figure[engine]["memory_ratio"] = json!(memory);
            }
            figure.insert("pytorch_ms".into(), json!([before, after]));
            figure.insert("pytorch_peak_memory_mib".into(), json!(peak));
            let best = ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max);
            figure.insert("best_ratio".into(), json!(best));
        }
        Ok(Value::Object(figure))
    }
}

/// Relative errors of loss, gradients and running statistics; `None` if the model has no reference.
fn agreement(model: &Path, engine: &str, options: &Gradients) -> Result<Option<Value>> {
    let Some(data) = options.reference_data.as_ref().filter(|_| model.with_extension("reference.json").exists()) else {
        return Ok(None);
    };
    let engine = skein_engine::open(engine.parse()?, None)?;
    let errors = references::check(model, &*engine, &references::batch(data)?)?;
    ensure!(errors.passes(), "`{}` on {} differs from its reference: {errors}", model.display(), engine.kind());
    Ok(Some(errors.to_json()))
}

/// Runs a command and parses its output as JSON.
fn printed(command: &mut Command) -> Result<Value> {
    let text = output(command)?;
    serde_json::from_str(&text).with_context(|| format!("{command:?} printed `{text}`"))
}
