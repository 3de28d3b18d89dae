//! A job made ready to run: its functions loaded, its graphs compiled by the engine of this machine.

use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use skein_engine::{Engine, Kind, Pool, Tensor};
use skein_graph::Lowering;
use skein_job::identity::Ancestor;
use skein_job::model::{self, Model};
use skein_job::{Component, Job, Manifest, Members};
use skein_runtime::aggregate::AggregateFunction;
use skein_runtime::gradient::GradientFunction;
use skein_runtime::graphs::{Graph, GraphInput, Graphs};
use skein_runtime::{Function, Limits, Runtime};
use skein_types::{Busy, Layout, Status};

use crate::ceilings::Ceilings;
use crate::engines::EngineConfig;

/// Samples of one call of an evaluation: enough to make the call's overhead negligible, few enough to bound its memory.
pub(crate) const EVALUATION_BATCH: usize = 256;

/// Tools that make jobs ready to run.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Compiles, loads and calls the job's functions.
    pub runtime: &'a Runtime,
    /// Selects the engine that computes the model's graphs.
    pub engine: &'a EngineConfig,
    /// Highest values of the functions' limits.
    pub ceilings: Ceilings,
    /// Shows which function is being compiled.
    pub status: &'a Status,
}

/// A job that can run here. Cloning shares it.
#[derive(Clone)]
pub struct PreparedJob {
    /// The job as it was read and checked.
    pub job: Arc<Job>,
    /// The job's gradient function.
    pub gradient: GradientFunction,
    /// The job's aggregation function.
    pub aggregate: AggregateFunction,
    /// The engine that computes its graphs; `None` if it has none.
    pub engine: Option<Kind>,
}

impl PreparedJob {
    /// Makes the job of a manifest ready.
    ///
    /// # Errors
    /// A file, key or function does not fit; the error names it.
    pub fn new<'a>(
        manifest: &'a Manifest,
        members: &'a Members,
        tools: Tools<'a>,
    ) -> BoxFuture<'a, Result<PreparedJob>> {
        Box::pin(async move {
            let mut engine = None;
            let job = Job::prepare(manifest, members, || lowering(tools.engine, &mut engine))?;
            PreparedJob::load(manifest, job, engine, tools).await
        })
    }

    async fn load(
        manifest: &Manifest,
        job: Job,
        engine: Option<Arc<dyn Engine>>,
        tools: Tools<'_>,
    ) -> Result<PreparedJob> {
        let graphs = graphs(job.graphs.as_ref(), &job.layout, engine.as_ref(), tools.engine)?;
        let engine_mib = job.graphs.as_ref().map_or(0, engine_mib);
        let model = CompiledModel { graphs, engine_mib, values: job.layout.len() };
        let gradient = load_gradient(manifest, &job.gradient, model, tools).await?;
        let compiling = compiling(tools.status, &job.aggregate.name, job.aggregate.bytes.len());
        let function = function(&job.aggregate, Limits::default(), tools)?;
        let aggregate = tools.runtime.aggregate_function(function, &job.aggregate.bytes).await?;
        drop(compiling);
        Ok(PreparedJob { job: Arc::new(job), gradient, aggregate, engine: engine.map(|engine| engine.kind()) })
    }

    /// The job as part of the run that continues `ancestor`.
    pub fn continuing(self, ancestor: &Ancestor) -> PreparedJob {
        PreparedJob { job: Arc::new(self.job.continuing(ancestor)), ..self }
    }

    /// Describes the model and the engine in a few words.
    pub fn description(&self) -> String {
        let model = &self.job.model;
        self.engine.map_or_else(|| model.clone(), |engine| format!("{model} on {engine}"))
    }
}

/// The gradient function of a job as a worker loads it, for a manifest and a component that its host names.
///
/// # Errors
/// The model or the function does not run here.
pub(crate) async fn gradient_function(
    manifest: &Manifest,
    component: &Component,
    samples: &skein_job::data::SampleKind,
    tools: Tools<'_>,
) -> Result<(GradientFunction, Arc<Layout>)> {
    let mut engine = None;
    let model = Model::prepare(manifest, samples, || lowering(tools.engine, &mut engine))?;
    let graphs = graphs(model.graphs.as_ref(), &model.layout, engine.as_ref(), tools.engine)?;
    let engine_mib = model.graphs.as_ref().map_or(0, engine_mib);
    let compiled = CompiledModel { graphs, engine_mib, values: model.layout.len() };
    let function = load_gradient(manifest, component, compiled, tools).await?;
    Ok((function, Arc::new(model.layout)))
}

/// Prepares a model by `prepare`, which gets the lowering, and compiles its graphs for the engine of this machine, as
/// training does. Returns what `prepare` returned, and the engine if the model needs one.
///
/// # Errors
/// The error of `prepare`, or the engine cannot be used or cannot run a graph.
pub fn check<M>(
    config: &EngineConfig,
    prepare: impl FnOnce(&mut dyn FnMut() -> Result<Lowering>) -> Result<M>,
    parts: impl FnOnce(&M) -> (Option<&model::Graphs>, &Layout),
) -> Result<(M, Option<Kind>)> {
    let mut engine = None;
    let prepared = prepare(&mut || lowering(config, &mut engine))?;
    let (sources, layout) = parts(&prepared);
    graphs(sources, layout, engine.as_ref(), config)?;
    Ok((prepared, engine.map(|engine| engine.kind())))
}

/// Opens the engine, and returns the lowering for its graphs.
fn lowering(config: &EngineConfig, opened: &mut Option<Arc<dyn Engine>>) -> Result<Lowering> {
    let engine = opened.insert(config.open()?);
    Lowering::named(engine.kind().name()).context("the engine has no lowering")
}

/// Graphs of a model, compiled for the engine of this machine.
fn graphs(
    sources: Option<&model::Graphs>,
    layout: &Layout,
    engine: Option<&Arc<dyn Engine>>,
    config: &EngineConfig,
) -> Result<Graphs> {
    let (Some(sources), Some(engine)) = (sources, engine) else { return Ok(Graphs::default()) };
    let compile = |source: &model::Graph| {
        let failed = || format!("`{engine}` cannot run the graph `{}`", source.name, engine = engine.kind());
        let pool = Pool::new(engine.clone(), source.onnx.clone(), config.options).with_context(failed)?;
        let inputs = source.inputs.iter().map(input).collect::<Result<_>>()?;
        Ok((source.name.clone(), Arc::new(Graph::new(pool, inputs, source.outputs.clone(), layout))))
    };
    let named = [&sources.evaluate, &sources.train].into_iter().map(compile).collect::<Result<_>>()?;
    Ok(Graphs { named, loader: None })
}

fn input(input: &model::GraphInput) -> Result<GraphInput> {
    let fixed = input.fixed.as_ref().map(|(shape, values)| {
        let len = values.len();
        Tensor::from_floats(shape.clone(), values.clone(), 0..len)
    });
    Ok(GraphInput { name: input.name.clone(), shape: input.shape.clone(), fixed: fixed.transpose()? })
}

/// Memory in MiB that an engine takes for a run of one of the graphs.
fn engine_mib(sources: &model::Graphs) -> u32 {
    let evaluation = sources.evaluate.peak_bytes.saturating_mul(EVALUATION_BATCH as u64);
    mib(evaluation.max(sources.train.peak_bytes))
}

/// Bytes as MiB, rounded up.
fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
}

/// A model as its gradient function uses it.
struct CompiledModel {
    graphs: Graphs,
    /// Memory in MiB that an engine takes for a run of one of the graphs.
    engine_mib: u32,
    /// Number of parameters and running statistics, each a 32-bit float.
    values: usize,
}

/// Loads the gradient function of a model.
async fn load_gradient(
    manifest: &Manifest,
    component: &Component,
    model: CompiledModel,
    tools: Tools<'_>,
) -> Result<GradientFunction> {
    let mut default = Limits::default();
    if !model.graphs.named.is_empty() {
        // The gradients of one call, and as much again while they are computed.
        default.memory_mib = default.memory_mib.saturating_add(mib(2 * 4 * model.values as u64));
    }
    let mut function = function(component, default, tools)?;
    if !model.graphs.named.is_empty() {
        function.graphs = model.graphs;
        function.engine_mib = model.engine_mib;
        function.settings.entry("loss".into()).or_insert_with(|| manifest.model.loss.to_string());
    }
    if component.function.load_graphs {
        function.graphs.loader = Some(tools.engine.loader()?);
    }
    let _compiling = compiling(tools.status, &component.name, component.bytes.len());
    Ok(tools.runtime.gradient_function(function, &component.bytes).await?)
}

/// Shows that a function of this size is loaded, which takes long only if it was never compiled here before.
pub fn compiling(status: &Status, name: &str, bytes: usize) -> Busy {
    status.begin(format!("compiling `{name}`, {:.1} MB", bytes as f64 / 1e6))
}

/// The function as the runtime takes it. Limits that its manifest leaves out are those of `default`.
fn function(component: &Component, default: Limits, tools: Tools<'_>) -> Result<Function> {
    let limits = tools.ceilings.limits(&component.name, &component.function.limits, default)?;
    let settings = component.function.settings.clone();
    Ok(Function { name: component.name.clone(), limits, settings, ..Function::default() })
}
