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
use skein_types::{Layout, Status};

use crate::engines::EngineConfig;

/// Tools that make jobs ready to run.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Compiles, loads and calls the job's functions.
    pub runtime: &'a Runtime,
    /// Selects the engine that computes the model's graphs.
    pub engine: &'a EngineConfig,
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
        let model = CompiledModel { graphs, values: job.layout.len() };
        let gradient = load_gradient(manifest, &job.gradient, model, tools).await?;
        let compiling = tools.status.begin(compiling(&job.aggregate.name));
        let aggregate = tools.runtime.aggregate_function(function(&job.aggregate), &job.aggregate.bytes).await?;
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
    let compiled = CompiledModel { graphs, values: model.layout.len() };
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

/// A model as its gradient function uses it.
struct CompiledModel {
    graphs: Graphs,
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
    let mut function = function(component);
    if !model.graphs.named.is_empty() {
        function.graphs = model.graphs;
        function.settings.entry("loss".into()).or_insert_with(|| manifest.model.loss.to_string());
        if component.function.limits.memory_mib.is_none() {
            // The gradients of one call, and as much again while they are computed.
            let mib = u32::try_from((2 * 4 * model.values).div_ceil(1 << 20)).unwrap_or(u32::MAX);
            function.limits.memory_mib = function.limits.memory_mib.saturating_add(mib);
        }
    }
    if component.function.load_graphs {
        function.graphs.loader = Some((tools.engine.open()?, tools.engine.options));
    }
    let _compiling = tools.status.begin(compiling(&component.name));
    Ok(tools.runtime.gradient_function(function, &component.bytes).await?)
}

/// Status text while a function is loaded, which takes long only if it was never compiled here before.
fn compiling(name: &str) -> String {
    format!("compiling `{name}`")
}

/// The function as the runtime takes it.
fn function(component: &Component) -> Function {
    let default = Limits::default();
    let skein_job::manifest::function::Limits { memory_mib, cpu, wall, hostcall_mib, handles } =
        component.function.limits;
    let limits = Limits {
        memory_mib: memory_mib.unwrap_or(default.memory_mib),
        cpu: cpu.unwrap_or(default.cpu),
        wall: wall.unwrap_or(default.wall),
        hostcall_mib: hostcall_mib.unwrap_or(default.hostcall_mib),
        handles: handles.unwrap_or(default.handles),
    };
    let settings = component.function.settings.clone();
    Function { name: component.name.clone(), limits, settings, ..Function::default() }
}
