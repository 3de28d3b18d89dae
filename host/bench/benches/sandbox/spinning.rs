//! How long one client waits for short calls while other calls spin on all processors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use skein_job::manifest::Function as Described;
use skein_peer::pool::ms;
use skein_runtime::gradient::{Batch, GradientFunction, Parameters};
use skein_runtime::{Function, Limits, Options, Runtime, Tensor};
use skein_types::{Layout, Parameter};

const SPINNING: usize = 16;
const CALLS: usize = 1000;
const RUNS: usize = 5;
/// Values of a sample, and classes.
const SIZES: [u32; 2] = [64, 10];
/// Processor time of a short call.
const SHORT: Duration = Duration::from_millis(1);
/// The functions spin until the measurement ends.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// A component that only tests use: it does what its settings say.
const PROBE: &[u8] = include_bytes!("../../../../guest-functions/dist/gradient-probe.wasm");

pub(crate) fn measure() -> Result<Value> {
    let threads = crate::threads(SPINNING + 1)?;
    let runs: Result<Vec<[f64; 3]>> = threads.block_on(async {
        let runtime = Runtime::start(Options { concurrency: SPINNING + 1, ..Options::default() })?;
        let limits = Limits { cpu: FOR_EVER, wall: FOR_EVER, ..Limits::default() };
        let settings = BTreeMap::from([("behaviour".to_owned(), "loop".to_owned())]);
        let spinning = Function { name: "spinning".into(), limits, settings, ..Function::default() };
        let spinning = runtime.gradient_function(spinning, PROBE).await?;
        let short = Short::new(&runtime).await?;
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(run(&spinning, &short).await?);
        }
        Ok(runs)
    });
    // Guests that still spin end with their threads, without a wait for them.
    threads.shutdown_background();
    let mut runs = runs?;
    runs.sort_by(|a, b| a[1].total_cmp(&b[1]));
    let [p50, p99, max] = runs[RUNS / 2];
    let all: Vec<f64> = runs.iter().map(|run| run[1]).collect();
    Ok(json!({ "spinning": SPINNING, "calls": CALLS, "p50": p50, "p99": p99, "max": max, "p99_of_runs": all }))
}

/// Percentiles 50, 99 and 100 of the durations of short calls in milliseconds, each with its wait for a slot.
async fn run(spinning: &GradientFunction, short: &Short) -> Result<[f64; 3]> {
    let spinners: Vec<_> = (0..SPINNING)
        .map(|_| {
            let spinning = spinning.clone();
            let batch = Batch { samples: 1, tensors: Vec::new(), noise_seed: 0 };
            tokio::spawn(async move {
                let slot = spinning.slot().await;
                spinning.compute(&slot, Parameters::default(), batch).await.usage
            })
        })
        .collect();
    // No call tells how much it has used before it ends. After a second, all have used up the time in which a call is
    // served first, 20 ms each, and are in the background.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut durations = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begun = Instant::now();
        short.call().await?;
        durations.push(begun.elapsed());
    }
    for spinner in spinners {
        spinner.abort();
        // It is cancelled at its next tick; the next run begins without it.
        let _ = spinner.await;
    }
    durations.sort();
    Ok([CALLS / 2, CALLS * 99 / 100, CALLS - 1].map(|index| ms(durations[index])))
}

/// A perceptron without hidden layers, and a batch of which it computes the gradient in the time of a short call.
struct Short {
    function: GradientFunction,
    parameters: Parameters,
    samples: u32,
}

impl Short {
    async fn new(runtime: &Runtime) -> Result<Short> {
        let [features, classes] = SIZES;
        let weight = Parameter { name: "layers.0.weight".into(), shape: vec![classes, features] };
        let bias = Parameter { name: "layers.0.bias".into(), shape: vec![classes] };
        let layout = Arc::new(Layout::new(vec![weight, bias]));
        let values = Arc::new(vec![0.01; layout.len()]);
        let mlp = Described::builtin("gradient-mlp").expect("a function that comes with the program").read()?;
        let function = runtime.gradient_function(Function::default(), &mlp).await?;
        let mut short = Short { function, parameters: Parameters { layout, values }, samples: 1 };
        while short.call().await? < SHORT {
            short.samples *= 2;
        }
        // Between half and all of the last doubling, as the call itself says.
        let used = short.call().await?;
        short.samples = (f64::from(short.samples) * SHORT.as_secs_f64() / used.as_secs_f64()).ceil() as u32;
        Ok(short)
    }

    /// Makes one call; returns its processor time.
    async fn call(&self) -> Result<Duration> {
        let Short { function, parameters, samples } = self;
        let len = (samples * SIZES[0]) as usize;
        let input = Tensor::from_floats(vec![*samples, SIZES[0]], Arc::new(vec![0.5; len]), 0..len)?;
        let labels = Tensor::from_integers(vec![3; *samples as usize]);
        let tensors = vec![("input".to_owned(), input), ("labels".to_owned(), labels)];
        let batch = Batch { samples: *samples, tensors, noise_seed: 0 };
        let slot = function.slot().await;
        let call = function.compute(&slot, parameters.clone(), batch).await;
        call.result?;
        Ok(call.usage.cpu)
    }
}
