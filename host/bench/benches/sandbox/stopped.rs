//! What is left of calls that run out of time inside an engine: sessions, threads, and processor time after their end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};
use skein_bench::gradient::GradientBench;
use skein_engine::{Engine, Kind};
use skein_peer::ceilings::Ceilings;
use skein_peer::compute::tensors;
use skein_peer::engines::EngineConfig;
use skein_peer::pool::ms;
use skein_peer::prepare::{PreparedJob, Tools};
use skein_runtime::gradient::Parameters;
use skein_runtime::{CallError, Limit, Options, Runtime};
use skein_types::Status;

const CALLS: usize = 200;
const CONCURRENCY: usize = 2;
/// Time of a call: far below that of a batch.
const WALL: Duration = Duration::from_millis(100);
/// Samples of a batch, for which a small network takes about a second.
const BATCH: u32 = 256;
/// Until when all threads that a run has started are gone.
const QUIET: Duration = Duration::from_secs(2);
/// How long the processor time after that is measured.
const AFTER: Duration = Duration::from_secs(1);

/// Measures every engine of this machine.
pub(crate) fn measure(model: &Path) -> Result<Value> {
    let mut figures = Map::new();
    for kind in Kind::ALL {
        let config = EngineConfig { kind: Some(kind), ..EngineConfig::automatic() };
        let measured = match config.open() {
            Ok(engine) => crate::threads(CONCURRENCY)?.block_on(of(&*engine, config, model))?,
            Err(error) => json!({ "error": error.to_string() }),
        };
        figures.insert(kind.name().to_owned(), measured);
    }
    Ok(figures.into())
}

async fn of(engine: &dyn Engine, config: EngineConfig, model: &Path) -> Result<Value> {
    let runtime = Runtime::start(Options { concurrency: CONCURRENCY, ..Options::default() })?;
    let status = Status::default();
    let tools = Tools { runtime: &runtime, engine: &config, ceilings: Ceilings::default(), status: &status };
    let bench = GradientBench { model: model.to_owned(), batch: BATCH, input: [3, 32, 32], calls: 1 };
    let others = skein_engine::sessions();
    let prepared = bench.prepare(WALL, tools).await?;
    stop(&prepared, CONCURRENCY).await?;
    // The threads of an engine and of the executor exist now.
    tokio::time::sleep(QUIET).await;
    let threads_before = threads()?;
    let begun = Instant::now();
    let sessions_most = stop(&prepared, CALLS).await? - others;
    let elapsed = begun.elapsed();
    tokio::time::sleep(QUIET).await;
    let threads_after = threads()?;
    let used = processor_time();
    tokio::time::sleep(AFTER).await;
    let used = processor_time() - used;
    Ok(json!({
        "engine": engine.kind().name(),
        "calls": CALLS,
        "milliseconds_a_call": ms(elapsed) * CONCURRENCY as f64 / CALLS as f64,
        "concurrency": CONCURRENCY,
        // One graph for training, one for evaluation, which has its first session from the start.
        "graphs": 2,
        "sessions_most": sessions_most,
        "threads_before": threads_before,
        "threads_after": threads_after,
        "cpu_share_after": used.as_secs_f64() / AFTER.as_secs_f64(),
    }))
}

/// Makes calls that all run out of time; returns the most sessions that existed meanwhile.
async fn stop(prepared: &PreparedJob, calls: usize) -> Result<usize> {
    let job = &prepared.job;
    let share = job.shares.values().next().context("the job has a peer")?;
    let parameters = Parameters { layout: job.layout.clone(), values: job.initial.clone().into() };
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..calls {
        let function = prepared.gradient.clone();
        let parameters = parameters.clone();
        let dataset = share.dataset.clone();
        running.spawn(async move {
            let slot = function.slot().await;
            let batch = tensors(&dataset, &(0..BATCH).collect::<Vec<_>>());
            let result = function.compute(&slot, parameters, batch).await.result;
            (result.err(), skein_engine::sessions())
        });
    }
    let mut most = 0;
    while let Some(ended) = running.join_next().await {
        let (error, sessions) = ended?;
        let hit = matches!(&error, Some(CallError::Limit { hit, .. }) if hit.limit == Limit::Wall);
        ensure!(hit, "a call of {BATCH} samples did not run out of {WALL:?}: {error:?}");
        most = most.max(sessions);
    }
    Ok(most)
}

fn threads() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
