//! Measures a gradient call as training makes it: batch, WebAssembly function, engine, checked gradients.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::BoxFuture;
use skein_job::manifest::{Application, Data, Function, Model, Train, VERSION};
use skein_job::{Manifest, Members};
use skein_peer::compute::tensors;
use skein_peer::pool::ms;
use skein_peer::prepare::{PreparedJob, Tools};
use skein_runtime::gradient::Parameters;
use skein_runtime::{Call, CallError, Usage};
use tokio::task::JoinSet;

/// The model, batch and number of calls to measure.
#[derive(Debug, Clone)]
pub struct GradientBench {
    /// File of the forward model, in ONNX.
    pub model: PathBuf,
    /// Number of samples of a batch.
    pub batch: u32,
    /// Channels, height and width of a sample.
    pub input: [u32; 3],
    /// Number of measured calls of each concurrent function.
    pub calls: u32,
}

/// The figures of all measured calls.
#[derive(Debug, Clone)]
pub struct GradientFigures {
    /// Description of the model and of the engine that computes it.
    pub model: String,
    /// Number of concurrent calls.
    pub concurrency: u32,
    /// Median duration of a call, in milliseconds.
    pub median_ms: f64,
    /// Shortest duration of a call, in milliseconds.
    pub min_ms: f64,
    /// Gradients per second of all calls together.
    pub per_second: f64,
    /// Share of the calls' time that is spent outside the engine.
    pub function_cost_share: f64,
    /// Bytes of parameters that functions read, in all calls together.
    pub parameter_bytes_crossed: u64,
    /// Peak memory of this process, in MiB.
    pub peak_memory_mib: f64,
}

/// Calls before the measured ones, which compile and warm every session.
const WARM_UP_CALLS: u32 = 3;
/// No call takes longer, not even of a large model on a slow machine.
const CALL_MAX: Duration = Duration::from_secs(600);

/// The function that is measured.
const FUNCTION: &str = "gradient-onnx";

/// The calls of one measurement.
#[derive(Clone, Copy)]
struct Load {
    /// Number of functions that are called at the same time.
    lanes: u32,
    /// Number of calls of each lane.
    calls: u32,
    /// Number of samples of a call.
    batch: u32,
}

/// The usage of one call.
struct Sample {
    total: Duration,
    engine: Duration,
    parameter_bytes: u64,
}

impl GradientBench {
    /// Measures the calls, `concurrency` at the same time.
    ///
    /// # Errors
    /// The model cannot be trained, or a call fails.
    pub fn run<'a>(&'a self, tools: Tools<'a>, concurrency: u32) -> BoxFuture<'a, Result<GradientFigures>> {
        Box::pin(async move {
            let prepared = self.prepare(CALL_MAX, tools).await?;
            let job = &prepared.job;
            let parameters = Parameters { layout: job.layout.clone(), values: job.initial.clone().into() };
            let load = Load { lanes: concurrency, calls: self.calls, batch: self.batch };
            measure(&prepared, &parameters, Load { calls: WARM_UP_CALLS, ..load }).await?;
            let begun = Instant::now();
            let samples = measure(&prepared, &parameters, load).await?;
            let elapsed = begun.elapsed();
            let mut totals: Vec<f64> = samples.iter().map(|sample| ms(sample.total)).collect();
            totals.sort_by(f64::total_cmp);
            let own: f64 = samples.iter().map(|sample| ms(sample.total - sample.engine)).sum();
            Ok(GradientFigures {
                model: prepared.description(),
                concurrency,
                median_ms: totals[totals.len() / 2],
                min_ms: totals[0],
                per_second: samples.len() as f64 / elapsed.as_secs_f64(),
                function_cost_share: own / totals.iter().sum::<f64>(),
                parameter_bytes_crossed: samples.iter().map(|sample| sample.parameter_bytes).sum(),
                peak_memory_mib: peak_memory_mib(),
            })
        })
    }

    /// Prepares the job whose gradients are measured, with random samples. No call runs longer than `wall`.
    ///
    /// # Errors
    /// The model cannot be trained.
    pub fn prepare<'a>(&'a self, wall: Duration, tools: Tools<'a>) -> BoxFuture<'a, Result<PreparedJob>> {
        Box::pin(async move {
            let folder = tempfile::tempdir()?;
            let mut manifest = self.manifest(self.write_samples(folder.path())?);
            manifest.function.values_mut().for_each(|function| function.limits.wall = Some(wall));
            PreparedJob::new(&manifest, &Members::derived(&manifest.train, 0), tools).await
        })
    }

    /// Writes random samples as an IDX data set, which is read like any other.
    fn write_samples(&self, folder: &std::path::Path) -> Result<PathBuf> {
        let [channels, height, width] = self.input;
        let mut stream = skein_protocol::random::Stream::new("skein 2026-11 benchmark", 1, &[]);
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
            skein_manifest_version: VERSION,
            application: Application { name: "bench".into(), version: None, description: None },
            model: Model { onnx: Some(self.model.clone()), ..Model::default() },
            data: Data { source: Some(data), labels: Some(labels), validation: 0.0, ..Data::default() },
            train: Train { peers: 1, byzantine: Some(0), batch_size: self.batch, ..Train::default() },
            function: [FUNCTION].map(|name| (name.to_owned(), builtin(name))).into(),
        }
    }
}

fn builtin(name: &str) -> Function {
    Function::builtin(name).expect("a function that comes with the program")
}

/// Makes the calls of all lanes, and returns the usage of each call.
async fn measure(prepared: &PreparedJob, parameters: &Parameters, load: Load) -> Result<Vec<Sample>> {
    let share = prepared.job.shares.values().next().context("the job has no peer")?;
    let mut lanes = JoinSet::new();
    for _ in 0..load.lanes {
        let function = prepared.gradient.clone();
        let parameters = parameters.clone();
        let dataset = share.dataset.clone();
        lanes.spawn(async move {
            let mut samples = Vec::new();
            for _ in 0..load.calls {
                let batch = tensors(&dataset, &(0..load.batch).collect::<Vec<_>>());
                let Call { result, usage } = function.compute(&function.slot().await, parameters.clone(), batch).await;
                result?;
                let Usage { duration: total, engine, parameter_bytes, .. } = usage;
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

/// Peak memory of this process, in MiB; 0 if the system does not report it.
fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}
