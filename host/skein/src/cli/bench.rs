//! `skein bench`: speed of this machine, measured on the code paths of training.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use skein_bench::gradient::{GradientBench, GradientFigures};
use skein_bench::store::StoreBench;

use super::compute::{Computing, Host, in_host, on_threads};
use crate::output::Output;

/// Arguments of `skein bench`.
#[derive(clap::Subcommand)]
pub(super) enum Bench {
    /// Time one gradient call: batch, WebAssembly function, engine, checked gradients
    Gradient(Computing<Gradient>),
    /// Time averaging and updating in a database with Skein's module, against clients and scripts
    Store(Store),
}

/// Arguments of `skein bench gradient`.
#[derive(clap::Args)]
pub(super) struct Gradient {
    /// The forward model, an ONNX file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Samples of a batch
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Shape of a sample
    #[arg(long, value_name = "CxHxW", default_value = "3x32x32", value_parser = shape)]
    input: Shape,
    /// Calls to measure, for each function that runs at the same time
    #[arg(long, default_value_t = 10)]
    calls: u32,
}

/// Channels, height and width.
type Shape = [u32; 3];

fn shape(text: &str) -> Result<Shape, String> {
    let sizes: Option<Vec<u32>> = text.split('x').map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    sizes.and_then(|sizes| sizes.try_into().ok()).ok_or_else(|| "expected three sizes, such as `3x32x32`".to_owned())
}

/// Arguments of `skein bench store`.
#[derive(clap::Args)]
pub(super) struct Store {
    /// Parameters of the model
    #[arg(long, default_value_t = 2_500_000, value_parser = clap::value_parser!(u32).range(1..=500_000_000))]
    parameters: u32,
    /// Gradients to average in each measurement, from 1 to 250
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=250))]
    gradients: u16,
    /// Measurements of each path; the median counts
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
}

impl Bench {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        match self {
            Bench::Gradient(Computing { command, options }) => {
                in_host(&options, async |host| command.run(&host, output).await)
            }
            Bench::Store(store) => on_threads(store.run(output)),
        }
    }
}

impl Gradient {
    async fn run(self, host: &Host, output: &mut Output) -> Result<()> {
        let Gradient { model, batch, input, calls } = self;
        let bench = GradientBench { model: model.clone(), batch, input, calls };
        let width = host.pool.concurrency() as u32;
        let figures = output.during(&host.status, bench.run(host.tools(), width)).await?;
        let GradientFigures { median_ms, min_ms, per_second, .. } = figures;
        let GradientFigures { function_cost_share, parameter_bytes_crossed, peak_memory_mib, .. } = figures;
        Ok(output.result(
            || {
                format!(
                    "{} at {batch} samples, {width} at a time\nmedian {median_ms:.1} ms, minimum {min_ms:.1} ms, \
                     {per_second:.2} gradients per second\nthe function's own share {:.2} %, \
                     {parameter_bytes_crossed} bytes of parameters crossed into it, peak memory \
                     {peak_memory_mib:.0} MiB\n",
                    figures.model,
                    function_cost_share * 100.0
                )
            },
            || {
                json!({
                    "model": model.display().to_string(),
                    "engine": host.engine.open().map(|engine| engine.kind().name()).unwrap_or_default(),
                    "batch": batch,
                    "concurrency": width,
                    "threads": host.engine.options.threads,
                    "median_ms": median_ms,
                    "min_ms": min_ms,
                    "gradients_per_second": per_second,
                    "function_cost_share": function_cost_share,
                    "parameter_bytes_crossed": parameter_bytes_crossed,
                    "peak_memory_mib": peak_memory_mib,
                })
            },
        )?)
    }
}

impl Store {
    async fn run(self, output: &mut Output) -> Result<()> {
        let Store { parameters, gradients, repetitions } = self;
        let figures = StoreBench { parameters, gradients, repetitions }.run().await?;
        let text = || figures.iter().map(|(name, value)| format!("{name:<28} {value}\n")).collect::<String>();
        Ok(output.result(text, || Value::Object(figures.clone()))?)
    }
}
