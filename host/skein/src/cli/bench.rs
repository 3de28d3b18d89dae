//! `skein bench`: what this machine does, measured through the way that training goes.

mod queue;
mod store;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skein_runtime::gradient::Parameters;
use skein_runtime::{Call, CallError};
use tokio::task::JoinSet;

use super::Host;
use crate::data::Dataset;
use crate::job::Job;
use crate::manifest::{Application, Data, Manifest, Model, Train};
use crate::output::Output;

/// Arguments of `skein bench`.
#[derive(clap::Subcommand)]
pub(super) enum Bench {
    /// Time one gradient call: batch, WebAssembly function, engine, checked gradients
    Gradient(Gradient),
    /// Time averaging and updating in a database with Skein's module, against clients and scripts that do it
    Store(store::Store),
    /// Take tasks off a queue and say that they are done, until killed: one of the workers of `cargo xtask queue-bench`
    Queue(queue::Queue),
}

/// Arguments of `skein bench gradient`.
#[derive(clap::Args)]
pub(super) struct Gradient {
    /// The forward model
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Samples of a batch
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Shape of a sample
    #[arg(long, value_name = "CxHxW", default_value = "3x32x32", value_parser = shape)]
    input: Shape,
    /// Calls that are measured, for each function that runs at the same time
    #[arg(long, default_value_t = 10)]
    calls: u32,
}

/// Channels, height and width.
type Shape = [u32; 3];

fn shape(text: &str) -> Result<Shape, String> {
    let sizes: Option<Vec<u32>> = text.split('x').map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    sizes.and_then(|sizes| sizes.try_into().ok()).ok_or_else(|| "it takes three sizes, such as `3x32x32`".to_owned())
}

/// Calls before those that are measured, by which every session is compiled and warm.
const WARM_UP_CALLS: u32 = 3;
/// No call takes longer, even of a large net on a slow machine.
const CALL_MAX: Duration = Duration::from_secs(600);

impl Bench {
    pub(super) async fn run(self, host: &Host, output: &mut Output) -> Result<()> {
        match self {
            Bench::Gradient(gradient) => gradient.run(host, output).await,
            Bench::Store(store) => store.run(output).await,
            Bench::Queue(queue) => queue.run(output).await,
        }
    }
}

/// What one call took.
struct Sample {
    total: Duration,
    engine: Duration,
    parameter_bytes: u64,
}

impl Gradient {
    async fn run(self, host: &Host, output: &mut Output) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let data = self.write_samples(folder.path())?;
        let manifest = self.manifest(data);
        let job = output.during(&host.status, Job::prepare(&manifest, host.tools())).await?;
        let share = job.shares.values().next().context("a job has a peer")?;
        let parameters = Parameters { layout: job.layout.clone(), values: job.initial.clone().into() };
        let width = host.workers.concurrency() as u32;
        measure(&job, &share.dataset, &parameters, (width, WARM_UP_CALLS, self.batch)).await?;
        let begun = Instant::now();
        let samples = measure(&job, &share.dataset, &parameters, (width, self.calls, self.batch)).await?;
        let elapsed = begun.elapsed();
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let mut totals: Vec<f64> = samples.iter().map(|sample| ms(sample.total)).collect();
        totals.sort_by(f64::total_cmp);
        let own: f64 = samples.iter().map(|sample| ms(sample.total - sample.engine)).sum();
        let (median, minimum) = (totals[totals.len() / 2], totals[0]);
        let per_second = samples.len() as f64 / elapsed.as_secs_f64();
        let cost = own / totals.iter().sum::<f64>();
        let crossed: u64 = samples.iter().map(|sample| sample.parameter_bytes).sum();
        let peak = peak_memory_mib();
        Ok(output.result(
            || {
                format!(
                    "{} at {} samples, {width} at a time\nmedian {median:.1} ms, minimum {minimum:.1} ms, \
                     {per_second:.2} gradients per second\nthe function's own share {:.2} %, {crossed} bytes of \
                     parameters crossed into it, peak memory {peak:.0} MiB\n",
                    job.model,
                    self.batch,
                    cost * 100.0
                )
            },
            || {
                json!({
                    "model": self.model.display().to_string(),
                    "engine": host.engine.open().map(|engine| engine.kind().name()).unwrap_or_default(),
                    "batch": self.batch,
                    "concurrency": width,
                    "threads": host.engine.options.threads,
                    "median_ms": median,
                    "min_ms": minimum,
                    "gradients_per_second": per_second,
                    "function_cost_share": cost,
                    "parameter_bytes_crossed": crossed,
                    "peak_memory_mib": peak,
                })
            },
        )?)
    }

    /// Random samples as a data set, which is read the way that every other is.
    fn write_samples(&self, folder: &std::path::Path) -> Result<PathBuf> {
        let [channels, height, width] = self.input;
        let mut stream = skein_workflow::random::Stream::new("skein 2026-11 benchmark", 1, &[]);
        let count = self.batch as usize * 2;
        let mut bytes = vec![0, 0, 8, 4];
        for size in [count as u32, channels, height, width] {
            bytes.extend(size.to_be_bytes());
        }
        let values = (channels * height * width) as usize * count;
        bytes.extend((0..values).map(|_| stream.next_u64() as u8));
        std::fs::write(folder.join("samples-idx4-ubyte"), bytes)?;
        let mut labels = vec![0, 0, 8, 1];
        labels.extend((count as u32).to_be_bytes());
        labels.extend((0..count).map(|index| (index % 10) as u8));
        std::fs::write(folder.join("labels-idx1-ubyte"), labels)?;
        Ok(folder.join("samples-idx4-ubyte"))
    }

    fn manifest(&self, data: PathBuf) -> Manifest {
        let labels = data.with_file_name("labels-idx1-ubyte");
        Manifest {
            skein_manifest_version: crate::manifest::VERSION,
            application: Application { name: "bench".into(), version: None, description: None },
            model: Model { onnx: Some(self.model.clone()), ..Model::default() },
            data: Data { source: Some(data), labels: Some(labels), validation: 0.0, ..Data::default() },
            train: Train { peers: 1, faults: 0, batch_size: self.batch, ..Train::default() },
            function: [("gradient-onnx".to_owned(), bench_function())].into(),
        }
    }
}

/// The built-in function with time enough for any engine.
fn bench_function() -> crate::manifest::Function {
    let mut function = crate::manifest::Function::builtin("gradient-onnx").expect("it comes with the program");
    function.limits.wall = Some(CALL_MAX);
    function
}

/// `calls` calls in each of `width` lanes.
async fn measure(
    job: &Job,
    dataset: &Dataset,
    parameters: &Parameters,
    (width, calls, batch): (u32, u32, u32),
) -> Result<Vec<Sample>> {
    let mut lanes = JoinSet::new();
    for _ in 0..width {
        let (function, parameters, dataset) = (job.gradient.clone(), parameters.clone(), dataset.clone());
        lanes.spawn(async move {
            let mut samples = Vec::new();
            for _ in 0..calls {
                let batch = dataset.batch(&(0..batch).collect::<Vec<_>>());
                let Call { result, usage } = function.compute(parameters.clone(), batch).await;
                result?;
                let skein_runtime::Usage { duration: total, engine, parameter_bytes, .. } = usage;
                samples.push(Sample { total, engine, parameter_bytes });
            }
            Ok::<_, CallError>(samples)
        });
    }
    let mut all = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        all.extend(lane??);
    }
    ensure!(!all.is_empty(), "no call was measured");
    Ok(all)
}

/// The most memory that this process has held, in MiB.
fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}
